package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/telemetry/metrics"
)

// told is what a webhook was sent of one alert.
type told struct {
	Status      string
	Labels      map[string]string
	Annotations map[string]string
}

// serveShop serves a shop that is in production as v1, and hears what the
// webhook for alerts is sent.
func serveShop(t *testing.T) (*Server, <-chan told) {
	t.Helper()
	heard := make(chan told, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct {
			Version string
			Alerts  []told
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Version != "4" {
			t.Errorf("a message of version %q, %v", body.Version, err)
		}
		for _, a := range body.Alerts {
			heard <- a
		}
	}))
	t.Cleanup(hook.Close)
	st := config.DefaultSettings()
	st.DataDir, st.Listen, st.OTLPGRPC, st.OTLPHTTP, st.ProxyListen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	st.AlertWebhook = hook.URL
	s, err := New(t.Context(), Options{Settings: st, Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	svc := config.Service{Name: "shop", OnCall: "shop-primary", Environments: config.Environments{Staging: "staging", Production: "production"}}
	svc.Targets.Stable.Version, svc.Targets.Stable.URL = "v1", "http://127.0.0.1:1"
	if err := s.addService(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	s.rulesEvery = time.Second
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s, heard
}

func next(t *testing.T, heard <-chan told) told {
	t.Helper()
	select {
	case got := <-heard:
		return got
	case <-time.After(time.Minute):
		t.Fatal("nobody was told")
		return told{}
	}
}

// What a service counts comes in by OTLP, the dictionary's own rule sees that
// it is past its bound, and people are told.
func TestMetricsThatArePastABoundReachPeople(t *testing.T) {
	t.Parallel()
	s, heard := serveShop(t)
	token, err := s.IssueToken(t.Context(), "shop", access.Releaser, nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func(reviewed string) string {
		return fmt.Sprintf(`{"asInt": "1", "timeUnixNano": "%d", "attributes": [{"key": "reviewed", "value": {"stringValue": %q}}]}`,
			time.Now().UnixNano(), reviewed)
	}
	req := httptest.NewRequest(http.MethodPost, "/v1/metrics", strings.NewReader(`{"resourceMetrics": [{
		"resource": {"attributes": [
			{"key": "service.name", "value": {"stringValue": "shop"}}, {"key": "service.version", "value": {"stringValue": "v1"}},
			{"key": "deployment.environment.name", "value": {"stringValue": "production"}}]},
		"scopeMetrics": [{"metrics": [{"name": "bea.high_risk.evaluations", "unit": "{evaluation}", "sum": {
			"isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [`+count("true")+`, `+count("false")+`]}}]}]}]}`))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	if s.otlp.Handler().ServeHTTP(w, req); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	got := next(t, heard)
	if got.Status != "firing" || got.Labels["alertname"] != "HighRiskWithoutApproval" || got.Labels["service"] != "shop" || got.Labels["severity"] != "P0" {
		t.Errorf("told %+v", got)
	}
	if a := got.Annotations; a["on_call"] != "shop-primary" || a["runbook_url"] == "" || !strings.Contains(a["summary"], "is 50%, the bound is < 100%") {
		t.Errorf("with %v", a)
	}
}

// A figure past its bound where users are reaches people with what they need,
// and so does its end; one in staging does not.
func TestFiguresPastTheirBoundReachPeople(t *testing.T) {
	t.Parallel()
	s, heard := serveShop(t)
	a := metrics.Alert{
		Name: "QueueBacklog", Fired: time.Now(), Annotations: map[string]string{"summary": "queue_pending is 1200", "runbook": "docs/runbooks/queue-backlog.md"},
		Labels: map[string]string{"severity": "P1", "owner": "platform", "service_name": "shop", "service_version": "v1", "deployment_environment_name": "staging"},
	}
	s.figureAlert(a)
	a.Labels["deployment_environment_name"] = "production"
	s.figureAlert(a)
	s.figureAlert(a) // rules repeat themselves
	got := next(t, heard)
	if got.Status != "firing" || got.Labels["alertname"] != "QueueBacklog" || got.Labels["service"] != "shop" || got.Labels["severity"] != "P1" {
		t.Errorf("first told %+v", got)
	}
	a.Resolved = time.Now()
	s.figureAlert(a)
	if got := next(t, heard); got.Status != "resolved" || got.Labels["alertname"] != "QueueBacklog" {
		t.Errorf("then told %+v", got)
	}
	if n := len(heard); n != 0 {
		t.Errorf("%d more alerts were told", n)
	}
}
