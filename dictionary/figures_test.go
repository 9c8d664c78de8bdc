package dictionary_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/telemetry/otlp"
)

// service writes the reference service's metrics as OTLP.
type service struct {
	t       *testing.T
	d       *dictionary.Dictionary
	md      pmetric.Metrics
	metrics pmetric.MetricSlice
	at      time.Time
	tenant  string
}

func newService(t *testing.T, d *dictionary.Dictionary, tenant, version string, at time.Time) *service {
	s := &service{t: t, d: d, md: pmetric.NewMetrics(), at: at, tenant: tenant}
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
		to.PutStr("tenant_id", s.tenant)
	}
}

// reference adds what the reference service sends.
func (s *service) reference(namespace string) *service {
	n := func(name string) string { return namespace + "." + name }
	return s.
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
		number("headgate.gen_ai.cost", 0.25, attrs{"gen_ai.token.type": "input", "gen_ai.request.model": "m"}).
		number("headgate.gen_ai.unpriced", 40, attrs{"gen_ai.token.type": "input", "gen_ai.request.model": "other"}).
		histogram("headgate.gen_ai.evaluation.score", 0.5, attrs{"gen_ai.evaluation.name": "Relevance"}).
		number("headgate.redaction.hits", 0, attrs{"signal": "logs"}).
		number("headgate.decisions", 30, attrs{"event_kind": "canary_verdict", "stage": "canary", "verdict": "pass"}).
		number("headgate.gate.evaluations", 12, attrs{"verdict": "pass"}).
		histogram("headgate.canary.tick.duration", 0.01, nil).
		histogram("headgate.rollback.duration", 10, attrs{"outcome": "restored"}).
		number("headgate.queue.depth", 5, attrs{"queue_name": "jobs"}).
		histogram("headgate.http.request.duration", 0.1, attrs{"http.route": "/api/v1/releases"}).
		number("headgate.telemetry.received", 60, attrs{"signal": "logs"}).
		number("headgate.telemetry.dropped", 6, attrs{"reason": "logs/refused"})
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
			for _, version := range []string{"v1", "v2"} {
				s := newService(t, d, "acme", version, now).reference(namespace)
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
				"model_cost_total": 0.25, "unpriced_tokens": 40, "evaluation_score_avg": 0.6,
				"control_decision_rate": 0.5, "gate_evaluation_rate": 0.2, "canary_tick_p95_s": 0.02, "rollback_p95_s": 20,
				"control_queue_depth": 5, "control_api_p95_s": 0.2,
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
			s := newService(t, d, "acme", "v1", now)
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

// send posts the service's metrics to an OTLP receiver.
func (s *service) send(url string) {
	s.t.Helper()
	body, err := pmetricotlp.NewExportRequestFromMetrics(s.md).MarshalProto()
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, url+"/v1/metrics", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatal(resp.Status)
	}
}

// receive starts an OTLP receiver in front of a new store.
func receive(t *testing.T) (*metrics.Store, string) {
	t.Helper()
	store, err := metrics.Open(t.TempDir(), metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &otlp.Receiver{Metrics: store, ReportEvery: time.Hour}
	if err := r.Start(nil, l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store, "http://" + l.Addr().String()
}

// recorded waits until the store's own rule evaluation has recorded every
// figure and returns when each was.
func recorded(t *testing.T, store *metrics.Store, d *dictionary.Dictionary, match string) map[string]time.Time {
	t.Helper()
	text, err := d.Rules()
	if err != nil {
		t.Fatal(err)
	}
	if err := store.RunRules(text, time.Second, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	at := make(map[string]time.Time)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, f := range d.Figures() {
			stamp, ok, err := store.Number(t.Context(), "timestamp("+dictionary.RecordName(f.Name)+match+")", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, known := at[f.Name]; ok && !known {
				at[f.Name] = time.UnixMilli(int64(math.Round(stamp * 1000)))
			}
		}
		if len(at) == len(d.Figures()) {
			return at
		}
	}
	for _, f := range d.Figures() {
		if _, ok := at[f.Name]; !ok {
			t.Errorf("%s is not recorded", f.Name)
		}
	}
	return at
}

// panels returns what a dashboard asks by figure, with its variables filled in
// as Grafana does.
func panels(t *testing.T, d *dictionary.Dictionary, name string) map[string]string {
	t.Helper()
	boards, err := d.Dashboards()
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(boards[name], &board); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			out[p.Title] = strings.NewReplacer("$service", "bidding", "$environment", "staging").Replace(target.Expr)
		}
	}
	return out
}

// TestOneFigureIsOneNumberEverywhere feeds two versions of a service, each
// with a tenant of its own, through OTLP, lets the store evaluate the recording
// rules, and asks for every figure of one of them in all the ways there are, at
// the moment at which the rule recorded it.
func TestOneFigureIsOneNumberEverywhere(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	store, url := receive(t)
	now := time.Now()
	newService(t, d, "acme", "v2", now).reference("bea").send(url)
	other := newService(t, d, "globex", "v1", now).reference("bea")
	other.number("bea.jobs.completed", 50, attrs{"outcome": "failed", "queue_name": "other"})
	other.send(url)

	const match = `{service_name="bidding",service_version="v2",deployment_environment_name="staging"}`
	times := recorded(t, store, d, match)
	byVersion, byTenant := panels(t, d, "headgate-versions.json"), panels(t, d, "headgate-tenants.json")
	query := func(figure string, s dictionary.Scope) string {
		q, err := d.Query(figure, s)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	for _, f := range d.Figures() {
		at := times[f.Name]
		ask := func(what, q, label, value string) float64 {
			samples, err := store.Instant(t.Context(), q, at)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range samples {
				if label == "" || s.Labels[label] == value {
					return s.Value
				}
			}
			t.Errorf("%s has no %s: %s", f.Name, what, q)
			return math.NaN()
		}
		want := ask("recording", dictionary.RecordName(f.Name)+match, "", "")
		summary := query(f.Name, dictionary.Scope{Tenant: "acme"})
		for what, got := range map[string]float64{
			"summary":              ask("summary", summary, "", ""),
			"gate":                 ask("gate", query(f.Name, dictionary.Scope{Service: "bidding", Version: "v2", Environment: "staging"}), "", ""),
			"dashboard by version": ask("dashboard", byVersion[f.Name], "service_version", "v2"),
			"dashboard by tenant":  ask("dashboard", byTenant[f.Name], "tenant_id", "acme"),
		} {
			if got != want {
				t.Errorf("%s is %v by the %s and %v by the recording rule", f.Name, got, what, want)
			}
		}
		chart, err := store.Range(t.Context(), summary, at, at, time.Second)
		if err != nil || len(chart) != 1 || len(chart[0].Points) != 1 || chart[0].Points[0].Value != want {
			t.Errorf("%s is %v, %v in a chart and %v by the recording rule", f.Name, chart, err, want)
		}
	}
}
