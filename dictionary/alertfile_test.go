package dictionary_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dictionary"
)

const triedAlerts = `file_format: definition/2
metrics:
  - name: bea.api.request.duration
    annotations:
      headgate:
        alerts:
          - {name: ApiSlow, figure: api_p95_s, above: 0.8, for: 2m, severity: P2, runbook: docs/runbooks/api-slow.md}
`

func TestAlertsAreTriedWithoutBeingLoaded(t *testing.T) {
	t.Parallel()
	d := load(t, "acme")
	before := len(d.Alerts())
	got, err := d.ParseAlerts("alerts.yaml", []byte(triedAlerts))
	if err != nil || len(got) != 1 || got[0].Bound != 0.8 || got[0].For != 2*time.Minute || got[0].Owner != "platform" {
		t.Fatalf("%+v, %v", got, err)
	}
	q, err := d.AlertQuery(got[0], dictionary.Scope{Version: "v2"})
	if err != nil || !strings.HasSuffix(q, "> 0.8") || !strings.Contains(q, `acme_api_request_duration_seconds_bucket{service_version="v2"}`) {
		t.Errorf("%s, %v", q, err)
	}
	got[0].Samples = 30
	if q, err = d.AlertQuery(got[0], dictionary.Scope{Version: "v2"}); err != nil || !strings.HasSuffix(q, `_count{service_version="v2"}[5m]))) >= 30`) {
		t.Errorf("with samples: %s, %v", q, err)
	}
	// A whole definition with another threshold is such a file too.
	whole, err := os.ReadFile(filepath.Join("definitions", "api.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err = d.ParseAlerts("api.yaml", whole); err != nil || len(got) != 1 || got[0].Bound != 1.5 || got[0].Samples != 20 {
		t.Errorf("%+v, %v", got, err)
	}
	if len(d.Alerts()) != before {
		t.Error("the alerts were loaded")
	}
	for name, tt := range map[string]struct{ src, want string }{
		"no alert":         {"file_format: definition/2\nmetrics: [{name: bea.task.cost}]\n", "there are none"},
		"unknown metric":   {strings.Replace(triedAlerts, "bea.api.request", "bea.api.question", 1), "does not know it"},
		"unknown figure":   {strings.Replace(triedAlerts, "api_p95_s", "api_p99_s", 1), `knows no figure "api_p99_s"`},
		"no bound":         {strings.Replace(triedAlerts, "above: 0.8, ", "", 1), "needs one of above and below"},
		"changed figure":   {strings.Replace(string(whole), "0.95, sum", "0.99, sum", 1), "figure api_p95_s: is not the one of the dictionary"},
		"no samples":       {strings.Replace(strings.Replace(triedAlerts, "bea.api.request.duration", "bea.jobs.pending", 1), "api_p95_s, above: 0.8", "queue_pending, above: 9, samples: 5", 1), `asks for 5 samples of figure "queue_pending", which does not say`},
		"negative samples": {strings.Replace(triedAlerts, "above: 0.8", "above: 0.8, samples: -1", 1), "samples must be a number of observations, not -1"},
		"another format":   {strings.Replace(triedAlerts, "definition/2", "v9", 1), "file_format: must be definition/2"},
		"not YAML at all":  {"metrics: [", "alerts.yaml: line"},
	} {
		if _, err := d.ParseAlerts("alerts.yaml", []byte(tt.src)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestSamplesAreAskedInTheSameScope(t *testing.T) {
	t.Parallel()
	d := load(t, "")
	q, err := d.Samples("api_p95_s", dictionary.Scope{Version: "v2", Tenants: []string{"a.b", "c"}, Window: time.Minute})
	if want := `sum(increase(bea_api_request_duration_seconds_count{service_version="v2",tenant_id=~"a\\.b|c"}[1m]))`; err != nil || q != want {
		t.Errorf("%s, %v, want %s", q, err, want)
	}
	if q, err := d.Samples("dlq_open", dictionary.Scope{}); err != nil || q != "" {
		t.Errorf("%s, %v", q, err)
	}
}
