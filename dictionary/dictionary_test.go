package dictionary_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/dictionary"
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

func TestEveryMetricHasAFigure(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	read := make(map[string]bool)
	var samples strings.Builder
	for _, f := range d.Figures() {
		read[f.Metric] = true
		q, err := d.Samples(f.Name, dictionary.Scope{})
		if err != nil {
			t.Error(err)
		}
		samples.WriteString(q)
	}
	for _, m := range d.Metrics() {
		if !read[m.Name] && !strings.Contains(samples.String(), m.Prometheus) {
			t.Errorf("nothing reads %s", m.Name)
		}
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
		{"alert without owner", preamble + "    brief: b\n    instrument: counter\n    unit: '1'\n    annotations: {headgate: {direction: neutral, alerts: [{name: A, figure: api_p95_s, above: 1, severity: P1, runbook: r}]}}\n", "alert A: owner is required"},
		{"alert used twice", strings.Replace(valid, "%s", ", alerts: [{name: ApiSlow, figure: api_p95_s, above: 1, severity: P1, runbook: r}]", 1), "alert ApiSlow: the name is already used"},
		{"objective without runbook", strings.Replace(valid, "%s", ", objectives: [{name: O, figure: api_error_rate, target: 0.9, severity: P1}]", 1), "objective O: runbook is required"},
		{"figure without unit", strings.Replace(figure("query: 'sum(rate(my_thing_total[5m]))'"), "brief: b, unit: '1', group", "brief: b, group", 1), "figure my_figure: unit is required"},
		{"alias used twice", "file_format: definition/2\nattributes:\n  - key: my.model\n    brief: b\n    annotations: {headgate: {aliases: [llm.request.model]}}\n", "already stands for gen_ai.request.model"},
		{"alert on nothing", strings.Replace(valid, "%s", ", alerts: [{name: A, figure: none, above: 1, severity: P1, runbook: r}]", 1), `no figure "none"`},
		{"objective without a count", strings.Replace(valid, "%s", ", objectives: [{name: O, figure: api_request_rate, target: 0.9, severity: P1, runbook: r}]", 1), `figure "api_request_rate" has no samples`},
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

func TestHistogramSelectsRawSeries(t *testing.T) {
	t.Parallel()
	got, err := load(t, "acme").Histogram("task.cost", dictionary.Scope{Service: "shop", Version: "v1", Environment: "production"})
	want := `{__name__=~"acme_task_cost_bucket|acme_task_cost_sum",deployment_environment_name="production",service_name="shop",service_version="v1"}`
	if err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if _, err := load(t, "").Histogram("jobs.completed", dictionary.Scope{}); err == nil {
		t.Error("a counter is no histogram")
	}
}
