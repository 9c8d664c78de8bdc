package server_test

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/dictionary"
)

// everyMetric is one export of everything that the dictionary knows, under
// every outcome.
func everyMetric(t *testing.T, d *dictionary.Dictionary, at time.Time) string {
	t.Helper()
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "shop")
	out := rm.ScopeMetrics().AppendEmpty().Metrics()
	begun, now := pcommon.NewTimestampFromTime(at.Add(-time.Second)), pcommon.NewTimestampFromTime(at)
	for i, def := range d.Metrics() {
		m := out.AppendEmpty()
		m.SetName(def.Name)
		m.SetUnit(def.Unit)
		for j, outcome := range []string{"succeeded", "failed", "hit", "miss"} {
			var attributes pcommon.Map
			if def.Instrument == "histogram" {
				if j == 0 {
					m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				}
				p := m.Histogram().DataPoints().AppendEmpty()
				p.ExplicitBounds().FromRaw([]float64{0.1, 0.5, 1})
				p.BucketCounts().FromRaw([]uint64{uint64(i), 40, 7, 0})
				p.SetCount(uint64(i) + 47)
				p.SetSum(float64(i) + 20)
				p.SetTimestamp(now)
				p.SetStartTimestamp(begun)
				attributes = p.Attributes()
			} else {
				var p pmetric.NumberDataPoint
				if def.Instrument == "gauge" {
					if j == 0 {
						m.SetEmptyGauge()
					}
					p = m.Gauge().DataPoints().AppendEmpty()
				} else {
					if j == 0 {
						m.SetEmptySum().SetIsMonotonic(true)
						m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
					}
					p = m.Sum().DataPoints().AppendEmpty()
					p.SetStartTimestamp(begun)
				}
				p.SetIntValue(int64(10*i + j))
				p.SetTimestamp(now)
				attributes = p.Attributes()
			}
			attributes.PutStr("outcome", outcome)
			attributes.PutStr("queue_name", "jobs")
		}
	}
	body, err := new(pmetric.JSONMarshaler).MarshalMetrics(md)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The contract's summary says of each figure what a dashboard reads by the
// dictionary's query, with the tenant's own credential.
func TestSummaryIsWhatADashboardReads(t *testing.T) {
	t.Parallel()
	w := startBare(t, nil)
	t.Cleanup(func() { w.stop(t) })
	d, err := dictionary.Load("")
	if err != nil {
		t.Fatal(err)
	}
	for i, who := range []string{"acme", "globex"} {
		body := everyMetric(t, d, time.Now().Add(time.Duration(-i)*time.Second))
		if status, said := w.ship(t, "metrics", w.token(t, access.Releaser, who), body); status != http.StatusOK || strings.Contains(said, "rejected") {
			t.Fatalf("%d %s", status, said)
		}
	}
	acme := bearer(w.token(t, access.Viewer, "acme"))
	summary := w.data(t, w.do(t, "GET", "/internal/ops/metrics/summary?queue_name=jobs", nil, tenant("acme")))
	if missing := summary.in("observability.no_data").([]any); len(missing) > 0 {
		t.Errorf("no data for %v", missing)
	}
	compared := 0
	for _, f := range d.Figures() {
		for _, section := range []string{"api", "worker", "quality", "cost", "parse_retrieval", "slo"} {
			shown, ok := summary.in(section + "." + f.Name).(float64)
			if !ok {
				continue
			}
			compared++
			q, err := d.Query(f.Name, dictionary.Scope{})
			if err != nil {
				t.Fatal(err)
			}
			read, _ := w.number(t, q, acme)
			if want, err := strconv.ParseFloat(read, 64); err != nil || math.Abs(want-shown) > 1e-9 || shown == 0 {
				t.Errorf("%s is %v in the summary and %q by its query", f.Name, shown, read)
			}
		}
	}
	if compared != 19 {
		t.Errorf("compared %d figures, the summary has 19", compared)
	}
}
