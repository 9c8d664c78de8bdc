package server

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/telemetry/metrics"
)

// told is what a webhook was sent of one alert.
type told struct {
	Status string
	Labels map[string]string
}

// A figure past its bound where users are reaches people with what they need,
// and so does its end; one in staging does not.
func TestFiguresPastTheirBoundReachPeople(t *testing.T) {
	t.Parallel()
	heard := make(chan told, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct{ Alerts []told }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
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
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	a := metrics.Alert{
		Name: "QueueBacklog", Annotations: map[string]string{"summary": "queue_pending is 1200", "runbook": "docs/runbooks/queue-backlog.md"},
		Labels: map[string]string{"severity": "P1", "owner": "platform", "service_name": "shop", "service_version": "v1", "deployment_environment_name": "staging"},
	}
	s.figureAlert(a)
	a.Labels["deployment_environment_name"] = "production"
	s.figureAlert(a)
	s.figureAlert(a) // rules repeat themselves
	next := func() told {
		select {
		case got := <-heard:
			return got
		case <-time.After(10 * time.Second):
			t.Fatal("nobody was told")
			return told{}
		}
	}
	got := next()
	if got.Status != "firing" || got.Labels["alertname"] != "QueueBacklog" || got.Labels["service"] != "shop" || got.Labels["severity"] != "P1" {
		t.Errorf("first told %+v", got)
	}
	a.Resolved = time.Now()
	s.figureAlert(a)
	if got := next(); got.Status != "resolved" || got.Labels["alertname"] != "QueueBacklog" {
		t.Errorf("then told %+v", got)
	}
	if n := len(heard); n != 0 {
		t.Errorf("%d more alerts were told", n)
	}
}
