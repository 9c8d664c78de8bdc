package metrics_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/metrics"
)

func TestRulesFireAndRecord(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := twoTenants(t, now)
	const text = `
groups:
  - name: g
    interval: 1s
    rules:
      - record: two:series
        expr: x_total * on (service_name) x_total
      - record: tenant:x:sum
        expr: sum by (tenant_id) (x_total)
      - alert: TooMuch
        expr: sum by (tenant_id) (x_total) > 1
        labels: {severity: P1}
        annotations: {summary: "{{ $labels.tenant_id }} has {{ $value }}"}
`
	var mu sync.Mutex
	var fired []metrics.Alert
	logger := slog.New(slog.DiscardHandler)
	if err := s.RunRules([]byte(text), 0, logger, func(a metrics.Alert) {
		mu.Lock()
		defer mu.Unlock()
		fired = append(fired, a)
	}); err != nil {
		t.Fatal(err)
	}
	srv := apiServer(t, s)
	deadline := time.Now().Add(time.Minute)
	for {
		mu.Lock()
		n := len(fired)
		mu.Unlock()
		_, recorded, err := s.Number(t.Context(), `tenant:x:sum{tenant_id="globex"}`, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && recorded {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("fired %d, recorded %v", n, recorded)
		}
		time.Sleep(20 * time.Millisecond)
	}
	mu.Lock()
	a := fired[0]
	mu.Unlock()
	if a.Name != "TooMuch" || a.Labels["tenant_id"] != "globex" || a.Labels["severity"] != "P1" || a.Annotations["summary"] != "globex has 2" || a.Value != 2 || !a.Resolved.IsZero() {
		t.Errorf("alert %+v", a)
	}
	if _, got := get(t, srv, "operator", "alerts", nil); !strings.Contains(got, `"state":"firing"`) {
		t.Errorf("alerts: %s", got)
	}
	if _, got := get(t, srv, "operator", "rules", nil); !strings.Contains(got, `"state":"firing"`) || !strings.Contains(got, `"lastError":"`) {
		t.Errorf("rules: %s", got)
	}
	for _, path := range []string{"alerts", "rules"} {
		if _, got := get(t, srv, "acme", path, nil); strings.Contains(got, "globex") || strings.Contains(got, "firing") {
			t.Errorf("%s of another tenant: %s", path, got)
		}
	}
	if err := s.RunRules([]byte(text), 0, logger, nil); !errors.Is(err, headgate.Invalidf("")) {
		t.Errorf("second rule file: %v", err)
	}
	if err := s.RunRules([]byte("groups: [{name: g, rules: [{record: a, expr: 'sum('}]}]"), 0, logger, nil); err == nil || !strings.Contains(err.Error(), "not valid") {
		t.Errorf("bad rules: %v", err)
	}
}

// A restart within the alert's wait does not let it begin anew, and one while
// it fires does not move when it began to fire. The clock is read at the second
// evaluation; the wait is longer than a machine may stall before it.
func TestAlertsKeepTheirClockOverARestart(t *testing.T) {
	t.Parallel()
	const text = `
groups:
  - name: g
    rules:
      - {alert: Firing, expr: x_total > 1, for: 8s}
      - {alert: Pending, expr: x_total > 1, for: 1h}
`
	dir := t.TempDir()
	run := func() (fires, pending time.Time) {
		s, err := metrics.Open(dir, metrics.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		mustAppend(t, s, "", export("v1", time.Now()).counter("x", 5, nil))
		fired := make(chan metrics.Alert, 100)
		if err := s.RunRules([]byte(text), time.Second, slog.New(slog.DiscardHandler), func(a metrics.Alert) { fired <- a }); err != nil {
			t.Fatal(err)
		}
		select {
		case a := <-fired:
			if a.Name != "Firing" {
				t.Errorf("%s fires", a.Name)
			}
			return a.Fired, activeAt(t, s, "Pending")
		case <-time.After(time.Minute):
			t.Fatal("nothing fires")
			return
		}
	}
	before, _ := run()
	restarted := time.Now()
	after, pending := run()
	if after.Unix() != before.Unix() {
		t.Errorf("fires since %v after the restart, %v before", after, before)
	}
	if !pending.Before(restarted) {
		t.Errorf("pending since %v after a restart at %v", pending, restarted)
	}
}

// activeAt is since when an alert is active, as the API says it.
func activeAt(t *testing.T, s *metrics.Store, name string) time.Time {
	t.Helper()
	_, body := get(t, apiServer(t, s), "operator", "alerts", nil)
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels   map[string]string
				ActiveAt time.Time
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	for _, a := range answer.Data.Alerts {
		if a.Labels["alertname"] == name {
			return a.ActiveAt
		}
	}
	t.Fatalf("%s is not active: %s", name, body)
	return time.Time{}
}
