package dictionary_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/template"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/telemetry/metrics"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what the dictionary says; run go test ./dictionary -update (-want +got):\n%s", path, diff)
	}
}

func TestDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	golden(t, filepath.Join("..", "docs", "metrics.md"), load(t, "").Markdown())
}

func rules(t *testing.T, d *dictionary.Dictionary) []rulefmt.RuleGroup {
	t.Helper()
	text, err := d.Rules()
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatalf("Prometheus refuses the rules: %v\n%s", errs, text)
	}
	return groups.Groups
}

func TestRulesAreWhatPrometheusReads(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	records := make(map[string]string)
	alerts := make(map[string]rulefmt.Rule)
	for _, g := range rules(t, d) {
		for _, r := range g.Rules {
			if r.Record != "" {
				records[r.Record] = r.Expr
				continue
			}
			alerts[r.Alert] = r
			if r.Labels["severity"] == "" || r.Labels["owner"] == "" || r.Annotations["runbook"] == "" {
				t.Errorf("alert %s has no severity, owner or runbook", r.Alert)
			}
		}
	}
	for _, f := range d.Figures() {
		want, err := d.QueryBy(f.Name, dictionary.Scope{}, "service_name", "service_version", "deployment_environment_name")
		if err != nil || records[dictionary.RecordName(f.Name)] != want {
			t.Errorf("%s is recorded as %s, asked as %s, %v", f.Name, records[dictionary.RecordName(f.Name)], want, err)
		}
	}
	for _, tt := range []struct {
		alert, version string
		value          float64
		want           string
	}{
		{"ApiSlow", "v2", 2.6387959866220734, "api_p95_s of bidding v2 is 2.639s, the bound is > 1.5s"},
		{"ApiSlow", "", 90, "api_p95_s of bidding is 1m 30s, the bound is > 1.5s"},
		{"DeadLetterShareHigh", "", 0.0123456789, "queue_dlq_rate of bidding is 1.235%, the bound is > 1%"},
		{"QueueBacklog", "", 12345, "queue_pending of bidding is 12.35k, the bound is > 1k"},
	} {
		data := template.AlertTemplateData(map[string]string{"service_name": "bidding", "service_version": tt.version}, nil, "", promql.Sample{F: tt.value})
		text := "{{ $labels := .Labels }}{{ $value := .Value }}" + alerts[tt.alert].Annotations["summary"]
		got, err := template.NewTemplateExpander(t.Context(), text, tt.alert, data, 0, nil, &url.URL{}, nil).Expand()
		if err != nil || got != tt.want {
			t.Errorf("summary %q, %v; want %q", got, err, tt.want)
		}
	}
	burn, ok := alerts["api-availability-burn-1h"]
	if !ok || !strings.Contains(burn.Expr, "[1h]") || !strings.Contains(burn.Expr, "[5m]") || strings.Count(burn.Expr, "> 0.072") != 2 {
		t.Errorf("fast burn of a 99.5 %% objective: %s", burn.Expr)
	}
	if slow := alerts["api-availability-burn-3d"]; slow.Labels["severity"] != "P2" {
		t.Errorf("slow burn is %s", slow.Labels["severity"])
	}
}

// Debian's promtool runs the exported rules: slow requests and dead letters wake
// somebody where there is traffic, and a few of them at night nobody.
func TestThresholdsWaitForSamples(t *testing.T) {
	t.Parallel()
	promtool := needs.Program(t, "promtool", "prometheus")
	text, err := load(t, "").Rules()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	var series strings.Builder
	for service, n := range map[string]struct{ good, bad int }{"night": {2, 1}, "busy": {20, 10}} { // a minute
		for name, each := range map[string]int{
			`bea_api_request_duration_seconds_bucket{le="1",`: n.good, `bea_api_request_duration_seconds_bucket{le="10",`: n.good + n.bad,
			`bea_api_request_duration_seconds_bucket{le="+Inf",`: n.good + n.bad, `bea_api_request_duration_seconds_count{`: n.good + n.bad,
			`bea_jobs_completed_total{outcome="succeeded",`: n.good, `bea_jobs_completed_total{outcome="failed",`: n.bad,
		} {
			fmt.Fprintf(&series, "      - {series: '%sservice_name=%q}', values: '0+%dx20'}\n", name, service, each)
		}
	}
	tests := `rule_files: [rules.yaml]
evaluation_interval: 30s
tests:
  - interval: 1m
    input_series:
` + series.String() + `
    promql_expr_test:
      - expr: count by (alertname, service_name) (ALERTS{alertname=~"ApiSlow|DeadLetterShareHigh",alertstate="firing"})
        eval_time: 15m
        exp_samples:
          - {labels: '{alertname="ApiSlow",service_name="busy"}', value: 1}
          - {labels: '{alertname="DeadLetterShareHigh",service_name="busy"}', value: 1}
`
	if err := os.WriteFile(filepath.Join(dir, "tests.yaml"), []byte(tests), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", filepath.Join(dir, "tests.yaml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Most jobs fail in the last two minutes. What fires depends on how many, and on
// how long there were jobs before.
func TestBurnRatesWaitForHistory(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	for name, tt := range map[string]struct {
		history time.Duration
		failing float64 // a minute
		want    []string
	}{
		"none":                      {0, 100, nil},
		"10 minutes":                {10 * time.Minute, 100, []string{"1h"}},
		"45 minutes":                {45 * time.Minute, 100, []string{"1h", "6h"}},
		"45 minutes, some failures": {45 * time.Minute, 3, []string{"6h"}},
		"45 minutes, few failures":  {45 * time.Minute, 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := metrics.Open(t.TempDir(), metrics.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			now := time.Now().Truncate(time.Second)
			failing := now.Add(-2 * time.Minute)
			begun := failing.Add(-tt.history)
			var succeeded, failed float64
			for at := begun; !at.After(now); at = at.Add(time.Minute) {
				succeeded++
				if at.After(failing) {
					failed += tt.failing
				}
				s := newService(t, d, "acme", "v1", at).
					number("bea.jobs.completed", succeeded, attrs{"outcome": "succeeded"}).
					number("bea.jobs.completed", failed, attrs{"outcome": "failed"})
				for _, m := range s.metrics.All() {
					m.Sum().DataPoints().At(0).SetStartTimestamp(pcommon.NewTimestampFromTime(begun))
				}
				if r, err := store.AppendMetrics(t.Context(), "", s.md); err != nil || r.Count != 0 {
					t.Fatal(r, err)
				}
			}
			var fired []string
			for _, window := range []string{"1h", "6h", "1d", "3d"} {
				got, err := store.Instant(t.Context(), alert(t, d, "job-success-burn-"+window), now)
				if err != nil {
					t.Fatal(err)
				}
				if len(got) > 0 {
					fired = append(fired, window)
				}
			}
			if !slices.Equal(fired, tt.want) {
				t.Errorf("%v fire, want %v", fired, tt.want)
			}
		})
	}
}

func TestDashboardsAskTheSameQueries(t *testing.T) {
	t.Parallel()
	d := load(t, "acme")
	boards, err := d.Dashboards()
	if err != nil {
		t.Fatal(err)
	}
	p := parser.NewParser(parser.Options{})
	for name, by := range map[string]string{"headgate-versions.json": "service_version", "headgate-tenants.json": "tenant_id"} {
		var board struct {
			UID    string
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(boards[name], &board); err != nil {
			t.Fatal(err)
		}
		shown := make(map[string]string)
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				shown[panel.Title] = target.Expr
				if _, err := p.ParseExpr(target.Expr); err != nil {
					t.Errorf("%s: %v", panel.Title, err)
				}
			}
		}
		for _, f := range d.Figures() {
			want, err := d.QueryBy(f.Name, dictionary.Scope{Service: "$service", Environment: "$environment"}, by)
			if err != nil || shown[f.Name] != want {
				t.Errorf("%s shows %s as %q, want %q", name, f.Name, shown[f.Name], want)
			}
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	got, err := d.Describe("api_p95_s")
	if err != nil || !strings.Contains(got, "per tenant:\n  histogram_quantile(0.95, sum by (le, tenant_id)") || !strings.Contains(got, "[1h]") {
		t.Errorf("%v\n%s", err, got)
	}
	if _, err := d.Describe("nope"); err == nil {
		t.Error("an unknown figure is described")
	}
}
