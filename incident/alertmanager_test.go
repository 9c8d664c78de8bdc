package incident_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/internal/needs"
)

// webhookMessage is a webhook's message down to the fields that it has.
type webhookMessage struct {
	Version string
	Alerts  []map[string]any
	fields  []string
}

func readMessage(t *testing.T, body []byte) webhookMessage {
	t.Helper()
	var m webhookMessage
	var fields map[string]any
	if err := json.Unmarshal(body, &m); err != nil || len(m.Alerts) == 0 {
		t.Fatalf("%v: %s", err, body)
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Fatal(err)
	}
	m.fields = append(slices.Sorted(maps.Keys(fields)), slices.Sorted(maps.Keys(m.Alerts[0]))...)
	return m
}

// A real Alertmanager's webhook message has the fields that ours has.
func TestAlertmanagerSendsTheSameFields(t *testing.T) {
	t.Parallel()
	program := needs.Program(t, "prometheus-alertmanager", "prometheus-alertmanager")
	bodies := make(chan []byte, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case bodies <- body:
		default: // a repeat
		}
	}))
	defer hook.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "alertmanager.yml")
	text := "route: {receiver: hook, group_wait: 10ms}\nreceivers: [{name: hook, webhook_configs: [{url: '" + hook.URL + "'}]}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := needs.Addrs(t, 1)[0]
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+config, "--storage.path="+dir,
		"--web.listen-address="+addr, "--cluster.listen-address=", "--log.level=error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the kill is the expected end
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Post("http://"+addr+"/api/v2/alerts", "application/json",
			strings.NewReader(`[{"labels": {"alertname": "rollback_triggered"}, "annotations": {"summary": "s"}, "generatorURL": "http://127.0.0.1/"}]`))
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("Alertmanager does not take an alert: ", err)
		}
	}
	var theirs webhookMessage
	select {
	case body := <-bodies:
		theirs = readMessage(t, body)
	case <-time.After(time.Minute):
		t.Fatal("Alertmanager sends nothing")
	}
	golden, err := os.ReadFile("testdata/payload.json")
	if err != nil {
		t.Fatal(err)
	}
	if ours := readMessage(t, golden); ours.Version != theirs.Version || !slices.Equal(ours.fields, theirs.fields) {
		t.Errorf("ours is version %s with\n%v\nAlertmanager's %s with\n%v", ours.Version, ours.fields, theirs.Version, theirs.fields)
	}
}
