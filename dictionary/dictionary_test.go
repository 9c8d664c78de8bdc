package dictionary_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry/metrics"
)

func load(t testing.TB, namespace string) *dictionary.Dictionary {
	t.Helper()
	d, err := dictionary.Load(namespace)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestStoreNamesOfTheReferenceService(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	for name, want := range map[string]string{
		"bea.api.request.duration":     "bea_api_request_duration_seconds",
		"bea.jobs.completed":           "bea_jobs_completed_total",
		"bea.jobs.pending":             "bea_jobs_pending",
		"bea.task.cost":                "bea_task_cost",
		"bea.report.citation.coverage": "bea_report_citation_coverage",
		"bea.high_risk.evaluations":    "bea_high_risk_evaluations_total",
		"headgate.redaction.hits":      "headgate_redaction_hits_total",
	} {
		if m, ok := d.Metric(name); !ok || m.Prometheus != want {
			t.Errorf("%s is %q in the store, want %q", name, m.Prometheus, want)
		}
	}
}

func TestQueryText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		namespace string
		figure    string
		scope     dictionary.Scope
		by        []string
		want      string
	}{
		{name: "default", figure: "report_count",
			want: `sum(max_over_time(bea_report_citation_coverage_count[1d]))`},
		{name: "scoped", figure: "api_request_rate",
			scope: dictionary.Scope{Tenant: "acme", Service: "bidding", Version: "v2", Environment: "staging", Queue: "jobs", Window: 90 * time.Second},
			want:  `sum(rate(bea_api_request_duration_seconds_count{deployment_environment_name="staging",service_name="bidding",service_version="v2",tenant_id="acme"}[1m30s]))`},
		{name: "queue only where there is one", figure: "queue_pending", scope: dictionary.Scope{Queue: "jobs", Window: time.Minute},
			want: `sum(max by (service_name, deployment_environment_name, tenant_id, queue_name) (bea_jobs_pending{queue_name="jobs"}))`},
		{name: "per tenant", figure: "task_cost_total", by: []string{"tenant_id"},
			want: `sum by (tenant_id) (max_over_time(bea_task_cost_sum[1d]))`},
		{name: "namespace", namespace: "acme.bids", figure: "task_count",
			want: `sum(max_over_time(acme_bids_task_cost_count[1d]))`},
		{name: "hostile tenant", figure: "task_count", scope: dictionary.Scope{Tenant: "a\"}) or vector(1) # \\ \n"},
			want: `sum(max_over_time(bea_task_cost_count{tenant_id="a\"}) or vector(1) # \\ \n"}[1d]))`},
		{name: "short window", figure: "task_count", scope: dictionary.Scope{Window: 1500 * time.Millisecond},
			want: `sum(max_over_time(bea_task_cost_count[2s]))`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := load(t, tt.namespace).QueryBy(tt.figure, tt.scope, tt.by...)
			if err != nil || got != tt.want {
				t.Errorf("got  %s\nwant %s\nerror %v", got, tt.want, err)
			}
		})
	}
}

func TestEveryQueryParsesUnderEveryScope(t *testing.T) {
	t.Parallel()
	d := load(t, "x")
	p := parser.NewParser(parser.Options{})
	for _, f := range d.Figures() {
		q, err := d.QueryBy(f.Name, dictionary.Scope{Tenant: `"`, Service: `\`, Version: "v", Environment: "e", Window: time.Second}, "tenant_id", "service_version")
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		expr, err := p.ParseExpr(q)
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if vs, ok := n.(*parser.VectorSelector); ok && !strings.Contains(vs.String(), `tenant_id="\""`) {
				t.Errorf("%s reads %s without the tenant", f.Name, vs)
			}
			return nil
		})
	}
}

func TestUnknownNamesAreRefused(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	if _, err := d.Query("api_p95", dictionary.Scope{}); !errors.Is(err, headgate.Invalidf("")) || !strings.Contains(err.Error(), "api_p95_s") {
		t.Errorf("unknown figure: %v", err)
	}
	if _, err := d.QueryBy("api_p95_s", dictionary.Scope{}, "a b"); !errors.Is(err, headgate.Invalidf("")) {
		t.Errorf("bad label: %v", err)
	}
}

const preamble = "file_format: definition/2\nmetrics:\n  - name: my.thing\n"

func TestBadDefinitionsAreNamed(t *testing.T) {
	t.Parallel()
	valid := preamble + "    brief: b\n    instrument: counter\n    unit: '1'\n    annotations: {headgate: {owner: o, direction: neutral%s}}\n"
	figure := func(fields string) string {
		return strings.Replace(valid, "%s", ", figures: [{name: my_figure, brief: b, unit: '1', group: api, window: 5m, "+fields+"}]", 1)
	}
	tests := []struct{ name, file, want string }{
		{"valid", strings.Replace(valid, "%s", "", 1), ""},
		{"format", "file_format: definition/1\n", "extra.yaml: file_format must be definition/2"},
		{"unknown field", preamble + "    colour: red\n", `line 4, column 5`},
		{"not YAML", "a: [", "extra.yaml"},
		{"no unit", preamble + "    brief: b\n    instrument: counter\n", "metric my.thing: unit is required"},
		{"instrument", preamble + "    unit: s\n    instrument: timer\n", "instrument must be"},
		{"no owner", preamble + "    brief: b\n    unit: s\n    instrument: counter\n", "owner is required"},
		{"attribute", preamble + "    brief: b\n    unit: s\n    instrument: counter\n    attributes: [{ref: nope}]\n", `"nope", which is not defined`},
		{"name used twice", strings.NewReplacer("my.thing", "bea.jobs.pending", "counter", "gauge", "%s", "").Replace(valid), "is defined twice"},
		{"query syntax", figure("query: 'sum('"), "figure my_figure: query: does not parse"},
		{"unknown metric", figure("query: 'sum(rate(nothing_total[5m]))'"), "not a series of any metric"},
		{"window", figure("query: 'sum(rate(my_thing_total[1m]))'"), "looks back 1m0s where the figure's window is 5m0s"},
		{"not aggregated", figure("query: 'rate(my_thing_total[5m])'"), "must aggregate"},
		{"scalar", figure("query: '1'"), "instant vector"},
		{"figure used twice", strings.Replace(figure("query: 'sum(rate(my_thing_total[5m]))'"), "my_figure", "api_p95_s", 1), "already used"},
		{"alert without runbook", strings.Replace(valid, "%s", ", alerts: [{name: A, figure: api_p95_s, above: 1, severity: P1}]", 1), "alert A: runbook is required"},
		{"alert on nothing", strings.Replace(valid, "%s", ", alerts: [{name: A, figure: none, above: 1, severity: P1, runbook: r}]", 1), `no figure "none"`},
		{"objective of one", strings.Replace(valid, "%s", ", objectives: [{name: O, figure: api_error_rate, target: 1, severity: P1, runbook: r}]", 1), "between 0 and 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := dictionary.Load("", fstest.MapFS{"extra.yaml": {Data: []byte(tt.file)}})
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := dictionary.Load("9lives"); err == nil || !strings.Contains(err.Error(), "OBS_METRICS_NAMESPACE") {
		t.Errorf("namespace: %v", err)
	}
}

// service writes the reference service's metrics as OTLP.
type service struct {
	t       *testing.T
	d       *dictionary.Dictionary
	md      pmetric.Metrics
	metrics pmetric.MetricSlice
	at      time.Time
}

func newService(t *testing.T, d *dictionary.Dictionary, version string, at time.Time) *service {
	s := &service{t: t, d: d, md: pmetric.NewMetrics(), at: at}
	rm := s.md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr("service.name", "bidding")
	a.PutStr("service.version", version)
	a.PutStr("deployment.environment.name", "staging")
	a.PutStr("service.instance.id", version+"-1")
	s.metrics = rm.ScopeMetrics().AppendEmpty().Metrics()
	return s
}

func (s *service) metric(name string) (pmetric.Metric, dictionary.Metric) {
	def, ok := s.d.Metric(name)
	if !ok {
		s.t.Fatalf("no metric %s", name)
	}
	m := s.metrics.AppendEmpty()
	m.SetName(def.Name)
	m.SetUnit(def.Unit)
	return m, def
}

func (s *service) number(name string, v float64, attrs map[string]any) *service {
	m, def := s.metric(name)
	var dp pmetric.NumberDataPoint
	if def.Instrument == "gauge" {
		dp = m.SetEmptyGauge().DataPoints().AppendEmpty()
	} else {
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		dp = sum.DataPoints().AppendEmpty()
	}
	dp.SetDoubleValue(v)
	s.stamp(dp.SetTimestamp, dp.SetStartTimestamp, dp.Attributes(), attrs)
	return s
}

// histogram has the bounds 1, 2 and 4 and 50, 45 and 5 values below each.
func (s *service) histogram(name string, scale float64, attrs map[string]any) *service {
	m, _ := s.metric(name)
	h := m.SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	dp := h.DataPoints().AppendEmpty()
	dp.ExplicitBounds().FromRaw([]float64{1 * scale, 2 * scale, 4 * scale})
	dp.BucketCounts().FromRaw([]uint64{50, 45, 5, 0})
	dp.SetCount(100)
	dp.SetSum(120 * scale)
	s.stamp(dp.SetTimestamp, dp.SetStartTimestamp, dp.Attributes(), attrs)
	return s
}

func (s *service) stamp(at, start func(pcommon.Timestamp), to pcommon.Map, attrs map[string]any) {
	at(pcommon.NewTimestampFromTime(s.at))
	start(pcommon.NewTimestampFromTime(s.at.Add(-30 * time.Second)))
	if err := to.FromRaw(attrs); err != nil {
		s.t.Fatal(err)
	}
	if _, ok := to.Get("tenant_id"); !ok {
		to.PutStr("tenant_id", "acme")
	}
}

type attrs = map[string]any

// TestEveryFigureFromOTLP sends what the reference service sends and reads
// every figure back by its query.
func TestEveryFigureFromOTLP(t *testing.T) {
	t.Parallel()
	for _, namespace := range []string{"bea", "my.app"} {
		t.Run(namespace, func(t *testing.T) {
			t.Parallel()
			d := load(t, namespace)
			store, err := metrics.Open(t.TempDir(), metrics.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			now := time.Now()
			n := func(name string) string { return namespace + "." + name }
			for _, version := range []string{"v1", "v2"} {
				s := newService(t, d, version, now).
					histogram(n("api.request.duration"), 1, attrs{"http.response.status_code": 200}).
					histogram(n("retrieval.duration"), 1, nil).
					histogram(n("parse.duration"), 10, nil).
					histogram(n("evaluation.duration"), 20, nil).
					histogram(n("task.cost"), 0.01, attrs{"job_type": "parse"}).
					histogram(n("report.citation.coverage"), 0.5, nil).
					number(n("jobs.completed"), 97, attrs{"outcome": "succeeded", "queue_name": "jobs"}).
					number(n("jobs.completed"), 3, attrs{"outcome": "failed", "queue_name": "jobs"}).
					number(n("jobs.completed"), 9, attrs{"outcome": "retried", "queue_name": "jobs"}).
					number(n("jobs.pending"), 7, attrs{"queue_name": "jobs"}).
					number(n("jobs.pending"), 100, attrs{"queue_name": "other"}).
					number(n("jobs.retrying"), 2, attrs{"queue_name": "jobs"}).
					number(n("dlq.open"), 3, attrs{"queue_name": "jobs"}).
					number(n("outbox.pending"), 4, attrs{"queue_name": "jobs"}).
					number(n("cache.requests"), 80, attrs{"outcome": "hit"}).
					number(n("cache.requests"), 20, attrs{"outcome": "miss"}).
					number(n("degrade.requests"), 999, attrs{"outcome": "served"}).
					number(n("degrade.requests"), 1, attrs{"outcome": "failed"}).
					number(n("degrade.drills"), 1, attrs{"outcome": "passed"}).
					number(n("budget.tenants"), 3, attrs{"alerted": true}).
					number(n("budget.tenants"), 1, attrs{"alerted": false}).
					number(n("high_risk.evaluations"), 5, attrs{"reviewed": true}).
					histogram("gen_ai.client.token.usage", 100, attrs{"gen_ai.token.type": "input", "gen_ai.request.model": "m"}).
					histogram("gen_ai.client.token.usage", 10, attrs{"gen_ai.token.type": "output", "gen_ai.request.model": "m"}).
					number("headgate.redaction.hits", 0, attrs{"signal": "logs"}).
					number("headgate.telemetry.received", 60, attrs{"signal": "logs"}).
					number("headgate.telemetry.dropped", 6, attrs{"reason": "logs/refused"})
				if r, err := store.AppendMetrics(t.Context(), "", s.md); err != nil || r.Count != 0 {
					t.Fatal(r, err)
				}
			}
			want := map[string]float64{
				"api_p95_s": 2, "retrieval_p95_s": 2, "parse_50p_p95_s": 20, "evaluation_p95_s": 40,
				"api_error_rate": 0, "api_request_rate": 100. / 60,
				"queue_dlq_rate": 0.03, "cache_hit_rate": 0.8,
				"task_cost_p95": 0.02, "task_cost_avg": 0.012, "task_cost_total": 1.2, "task_count": 100,
				"input_tokens": 12_000, "output_tokens": 1_200,
				"routing_degrade_passed": 1, "degrade_availability": 0.999, "budget_alert_coverage": 0.75,
				"high_risk_approval_coverage": 1, "log_redaction_failures": 0,
				"total_jobs": 100, "succeeded_jobs": 97, "failed_jobs": 3, "error_rate": 0.03, "success_rate": 0.97,
				"retrying_jobs": 2, "dlq_open": 3, "outbox_pending": 4, "queue_pending": 7,
				"report_count": 100, "citation_coverage_avg": 0.6, "parse_runs_total": 100,
				"telemetry_received_rate": 1, "telemetry_dropped_rate": 0.1,
			}
			scope := dictionary.Scope{Tenant: "acme", Service: "bidding", Version: "v2", Environment: "staging", Queue: "jobs", Window: time.Minute}
			for _, f := range d.Figures() {
				w, known := want[f.Name]
				if !known {
					t.Errorf("%s: the test expects no value", f.Name)
				}
				q, err := d.Query(f.Name, scope)
				if err != nil {
					t.Fatal(err)
				}
				v, ok, err := store.Number(t.Context(), q, now)
				if err != nil || !ok || math.Abs(v-w) > 0.001*max(1, w) {
					t.Errorf("%s = %v, %v, %v; want %v\n%s", f.Name, v, ok, err, w, q)
				}
				for what, other := range map[string]dictionary.Scope{
					"another tenant":  {Tenant: "globex"},
					"another version": {Version: "v3"},
				} {
					if q, err = d.Query(f.Name, other); err != nil {
						t.Fatal(err)
					}
					if v, ok, err := store.Number(t.Context(), q, now); ok || err != nil {
						t.Errorf("%s of %s = %v, %v; want no data", f.Name, what, v, err)
					}
				}
				if q, err = d.QueryBy(f.Name, dictionary.Scope{Service: "bidding"}, "service_version", "tenant_id"); err != nil {
					t.Fatal(err)
				}
				if got, err := store.Instant(t.Context(), q, now); err != nil || len(got) != 2 || got[0].Labels["tenant_id"] != "acme" {
					t.Errorf("%s per version = %v, %v; want two", f.Name, got, err)
				}
			}
		})
	}
}

func TestFailedDrillOutweighsPassedOnes(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	for name, tt := range map[string]struct {
		outcomes map[string]float64
		want     float64
	}{
		"only passed": {map[string]float64{"passed": 2}, 1},
		"one failed":  {map[string]float64{"passed": 2, "failed": 1}, 0},
		"only failed": {map[string]float64{"failed": 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := metrics.Open(t.TempDir(), metrics.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			now := time.Now()
			s := newService(t, d, "v1", now)
			for outcome, v := range tt.outcomes {
				s.number("bea.degrade.drills", v, attrs{"outcome": outcome})
			}
			if _, err := store.AppendMetrics(t.Context(), "", s.md); err != nil {
				t.Fatal(err)
			}
			q, err := d.Query("routing_degrade_passed", dictionary.Scope{})
			if err != nil {
				t.Fatal(err)
			}
			if v, ok, err := store.Number(t.Context(), q, now); err != nil || !ok || v != tt.want {
				t.Errorf("got %v, %v, %v; want %v", v, ok, err, tt.want)
			}
		})
	}
}
