package metrics_test

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate/telemetry/metrics"
)

// TestImpossiblePointsAreRefused: nothing that no instrument can have counted
// gets into the figures, and it takes nothing else with it.
func TestImpossiblePointsAreRefused(t *testing.T) {
	t.Parallel()
	number := func(counter bool, v float64) func(pmetric.Metric) {
		return func(m pmetric.Metric) {
			points := m.SetEmptyGauge().DataPoints
			if counter {
				s := m.SetEmptySum()
				s.SetIsMonotonic(true)
				s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				points = s.DataPoints
			}
			points().AppendEmpty().SetDoubleValue(v)
		}
	}
	histogram := func(count uint64, sum float64, counts []uint64, bounds ...float64) func(pmetric.Metric) {
		return func(m pmetric.Metric) {
			h := m.SetEmptyHistogram()
			h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := h.DataPoints().AppendEmpty()
			p.SetCount(count)
			p.SetSum(sum)
			p.BucketCounts().FromRaw(counts)
			p.ExplicitBounds().FromRaw(bounds)
		}
	}
	for _, tt := range []struct {
		name   string
		metric func(pmetric.Metric)
		reason string // "" for a point that is stored
	}{
		{"counter", number(true, 1), ""},
		{"NaN", number(true, math.NaN()), "finite"},
		{"infinite", number(true, math.Inf(1)), "finite"},
		{"negative counter", number(true, -1), "negative"},
		{"negative gauge", number(false, -1), ""},
		{"NaN gauge", number(false, math.NaN()), "finite"},
		{"histogram", histogram(6, 2, []uint64{1, 2, 3}, 0.1, 0.5), ""},
		{"histogram without buckets", histogram(6, 2, nil), ""},
		{"more counted than its buckets hold", histogram(600, 2, []uint64{1, 2, 3}, 0.1, 0.5), "count is not that of its buckets"},
		{"a bucket too few", histogram(3, 2, []uint64{1, 2}, 0.1, 0.5), "one bucket more than bounds"},
		{"falling bounds", histogram(6, 2, []uint64{1, 2, 3}, 0.5, 0.1), "not rising"},
		{"NaN bound", histogram(6, 2, []uint64{1, 2, 3}, math.NaN(), 0.5), "not rising"},
		{"NaN sum", histogram(6, math.NaN(), []uint64{1, 2, 3}, 0.1, 0.5), "finite"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, now := open(t, t.TempDir(), metrics.Options{}), time.Now()
			b := export("v1", now).counter("good", 8, nil)
			sm := b.ResourceMetrics().At(0).ScopeMetrics().At(0)
			stamp := sm.Metrics().At(0).Sum().DataPoints().At(0).Timestamp()
			m := sm.Metrics().AppendEmpty()
			m.SetName("odd")
			tt.metric(m)
			switch m.Type() {
			case pmetric.MetricTypeGauge:
				m.Gauge().DataPoints().At(0).SetTimestamp(stamp)
			case pmetric.MetricTypeSum:
				m.Sum().DataPoints().At(0).SetTimestamp(stamp)
			case pmetric.MetricTypeHistogram:
				m.Histogram().DataPoints().At(0).SetTimestamp(stamp)
			}
			r, err := s.AppendMetrics(t.Context(), "", b.Metrics)
			if err != nil || (r.Count == 1) != (tt.reason != "") || !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("rejected %+v, %v; want %q", r, err, tt.reason)
			}
			if v, ok, err := s.Number(t.Context(), `good_total`, now); err != nil || !ok || v != 8 {
				t.Errorf("beside it: %v, %v, %v", v, ok, err)
			}
			if n, err := s.Instant(t.Context(), `{__name__=~"odd.*"}`, now); err != nil || (len(n) == 0) != (tt.reason != "") {
				t.Errorf("stored %d samples, %v", len(n), err)
			}
		})
	}
}

// TestSeriesAreBoundedInAll: a sender that makes tenants up takes no more
// memory than the limit, and what is known goes on.
func TestSeriesAreBoundedInAll(t *testing.T) {
	t.Parallel()
	s, now := open(t, t.TempDir(), metrics.Options{Series: 10}), time.Now()
	mustAppend(t, s, "", export("v1", now.Add(-time.Second)).counter("known", 1, map[string]any{"tenant_id": "acme"}))
	b := export("v1", now)
	for i := range 30 {
		b.counter("x", 1, map[string]any{"tenant_id": "t" + strconv.Itoa(i)})
	}
	b.counter("known", 2, map[string]any{"tenant_id": "acme"})
	r, err := s.AppendMetrics(t.Context(), "", b.Metrics)
	if err != nil || r.Count != 21 || !strings.Contains(r.Reason, "too many series in all") {
		t.Fatalf("rejected %+v, %v", r, err)
	}
	if v, _, err := s.Number(t.Context(), `known_total`, now); err != nil || v != 2 {
		t.Errorf("the known one is %v, %v", v, err)
	}
}
