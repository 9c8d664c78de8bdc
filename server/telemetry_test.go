package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/server"
)

// startBare serves without a service behind it.
func startBare(t *testing.T, change func(*server.Options)) *world {
	t.Helper()
	w := &world{log: &lockedBuffer{}, http: &http.Client{Timeout: time.Minute}}
	w.options = server.Options{
		Settings: settings(t.TempDir()), Version: "test",
		Logger: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	w.options.Settings.OTLPHTTP = needs.Addrs(t, 1)[0]
	if change != nil {
		change(&w.options)
	}
	w.serve(t)
	w.as = bearer(w.token(t, access.Operator))
	return w
}

// ship sends telemetry in OTLP's JSON and returns the status and what was said.
func (w *world) ship(t *testing.T, signal, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.options.Settings.OTLPHTTP+"/v1/"+signal, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := w.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(said)
}

// number asks Prometheus's API, as the caller of the headers.
func (w *world) number(t *testing.T, query string, header ...http.Header) (string, bool) {
	t.Helper()
	res, raw := w.send(t, http.MethodGet, "/prometheus/api/v1/query?query="+url.QueryEscape(query), nil, header...)
	var out struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(raw), &out); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", query, res.StatusCode, raw)
	}
	if len(out.Data.Result) == 0 {
		return "", false
	}
	return fmt.Sprint(out.Data.Result[0].Value[1]), true
}

// What one tenant's credential sends counts as that tenant's and nobody else's,
// and the sender is told what was refused.
func TestTelemetryIsTheSendersTenants(t *testing.T) {
	t.Parallel()
	w := startBare(t, nil)
	t.Cleanup(func() { w.stop(t) })
	acme := w.token(t, access.Releaser, "acme")
	now := time.Now()
	attributes := func(tenant string) string {
		if tenant == "" {
			return "[]"
		}
		return fmt.Sprintf(`[{"key":"tenant_id","value":{"stringValue":%q}}]`, tenant)
	}
	const resource = `{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},`
	point := func(tenant string) string {
		return fmt.Sprintf(`{"asInt":"7","timeUnixNano":"%d","attributes":%s}`, now.UnixNano(), attributes(tenant))
	}
	span := func(tenant, trace string) string {
		return fmt.Sprintf(`{"traceId":%q,"spanId":"00f067aa0ba902b7","name":"GET /","startTimeUnixNano":"%d","endTimeUnixNano":"%d","attributes":%s}`,
			trace, now.UnixNano(), now.UnixNano()+1000, attributes(tenant))
	}
	record := func(tenant, trace string) string {
		return fmt.Sprintf(`{"traceId":%q,"timeUnixNano":"%d","body":{"stringValue":"hello"},"attributes":%s}`, trace, now.UnixNano(), attributes(tenant))
	}
	own, foreign := strings.Repeat("a", 32), strings.Repeat("b", 32)
	for _, tt := range []struct{ signal, body, rejected string }{
		{"metrics", `{"resourceMetrics":[` + resource + `"scopeMetrics":[{"metrics":[{"name":"depth","gauge":{"dataPoints":[` + point("globex") + `,` + point("") + `]}}]}]}]}`, "rejectedDataPoints"},
		{"traces", `{"resourceSpans":[` + resource + `"scopeSpans":[{"spans":[` + span("globex", foreign) + `,` + span("acme", own) + `]}]}]}`, "rejectedSpans"},
		{"logs", `{"resourceLogs":[` + resource + `"scopeLogs":[{"logRecords":[` + record("globex", foreign) + `,` + record("", own) + `]}]}]}`, "rejectedLogRecords"},
	} {
		status, said := w.ship(t, tt.signal, acme, tt.body)
		if status != http.StatusOK || !strings.Contains(said, `"`+tt.rejected+`":"1"`) || !strings.Contains(said, "another tenant") {
			t.Errorf("%s: %d %s", tt.signal, status, said)
		}
		for who, token := range map[string]string{
			"nobody": "", "a viewer": w.token(t, access.Viewer, "acme"), "a credential of two tenants": w.token(t, access.Releaser, "acme", "globex"),
		} {
			if status, said := w.ship(t, tt.signal, token, tt.body); status != http.StatusUnauthorized {
				t.Errorf("%s of %s: %d %s", tt.signal, who, status, said)
			}
		}
	}
	if v, ok := w.number(t, `sum by (tenant_id) (depth)`); v != "7" || !ok {
		t.Errorf("depth is %s, %v", v, ok)
	}
	if v, ok := w.number(t, `depth{tenant_id="globex"}`); ok {
		t.Errorf("acme wrote globex's depth: %s", v)
	}
	story := w.data(t, w.do(t, "GET", "/timeline?id="+own, nil))
	if entries, _ := story["entries"].([]any); len(entries) != 2 || story["matched_by"] != "trace_id" {
		t.Errorf("acme's story: %v", story)
	}
	for what, got := range map[string]object{
		"what acme sent for globex": w.data(t, w.do(t, "GET", "/timeline?id="+foreign, nil)),
		"acme's story for globex":   w.data(t, w.do(t, "GET", "/timeline?id="+own, nil, bearer(w.token(t, access.Viewer, "globex")))),
	} {
		if entries, _ := got["entries"].([]any); len(entries) != 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
	res, page := w.send(t, "GET", "/trace/"+own, nil)
	if res.StatusCode != http.StatusOK || !strings.Contains(page, "GET /") || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("page: %d %.300s", res.StatusCode, page)
	}
	if res, _ := w.send(t, "GET", "/trace/"+own, nil, bearer(w.token(t, access.Viewer, "globex"))); res.StatusCode != http.StatusNotFound {
		t.Errorf("another tenant's page: %d", res.StatusCode)
	}
}

// The server counts itself into its own store and sends the same to a
// collector.
func TestServerCountsItself(t *testing.T) {
	t.Parallel()
	var received sync.Map // by what was looked for
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		for path, text := range map[string]string{
			"/base/v1/metrics": "headgate.http.request.duration",
			"/base/v1/traces":  "POST /api/v1/internal/cost-gates/evaluate",
		} {
			if r.URL.Path == path && bytes.Contains(b, []byte(text)) {
				received.Store(path, true)
			}
		}
		if bytes.Contains(b, []byte("confidential")) {
			received.Store("a body or a query", true)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(collector.Close)
	w := startBare(t, func(o *server.Options) { o.Settings.OTLPEndpoint = collector.URL + "/base" })
	w.data(t, w.do(t, "POST", "/internal"+gatePath("cost")+"?q=confidential", passing("cost").with("release_id", "rel-confidential")))
	w.refuse(t, "GET", "/nothing/here", nil, 404, "RESOURCE_NOT_FOUND")
	eventually(t, "a gate's evaluation is counted", func() bool {
		v, _ := w.number(t, `sum(headgate_gate_evaluations_total{verdict="pass",service_name="headgate",service_version="test"})`)
		return v == "1"
	})
	eventually(t, "requests are counted by route", func() bool {
		v, _ := w.number(t, `headgate_http_request_duration_seconds_count{http_route="/api/v1/internal/cost-gates/evaluate",http_response_status_code="200"}`)
		refused, _ := w.number(t, `headgate_http_request_duration_seconds_count{http_route="",http_response_status_code="404"}`)
		return v == "1" && refused == "1"
	})
	if _, ok := w.number(t, `headgate_queue_depth{queue_name="evidence"}`); !ok {
		t.Error("the queue's depth is not there")
	}
	if _, raw := w.send(t, "GET", "/prometheus/api/v1/rules", nil); !strings.Contains(raw, "QueueBacklog") {
		t.Errorf("the dictionary's rules are not evaluated: %.300s", raw)
	}
	w.stop(t)
	for _, path := range []string{"/base/v1/metrics", "/base/v1/traces"} {
		if _, ok := received.Load(path); !ok {
			t.Errorf("the collector received nothing at %s", path)
		}
	}
	if _, ok := received.Load("a body or a query"); ok {
		t.Error("the collector received what a request said")
	}
}

// A collector that is away costs a line in the log, without its address.
func TestServerDoesWithoutItsCollector(t *testing.T) {
	t.Parallel()
	w := startBare(t, func(o *server.Options) {
		o.Settings.OTLPEndpoint = "http://ops:s3cret@127.0.0.1:1/in-s3cret?token=s3cret"
	})
	eventually(t, "the log says so", func() bool { return strings.Contains(w.log.String(), "own telemetry does not arrive") })
	w.data(t, w.do(t, "POST", "/internal"+gatePath("cost"), passing("cost")))
	start := time.Now()
	w.stop(t)
	if took := time.Since(start); took > 25*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
	if strings.Contains(w.log.String(), "s3cret") {
		t.Error("the collector's secret is in the log")
	}
}

// What is older than the settings say is dropped.
func TestTelemetryIsKeptAsLongAsTheSettingsSay(t *testing.T) {
	t.Parallel()
	w := startBare(t, func(o *server.Options) { o.Settings.TelemetryDays = 2 })
	t.Cleanup(func() { w.stop(t) })
	day := func(at time.Time) string {
		return filepath.Join(w.options.Settings.DataDir, "events", "events-"+at.UTC().Format(time.DateOnly)+".db")
	}
	now := time.Now()
	for _, at := range []time.Time{now.Add(-5 * 24 * time.Hour), now} {
		body := fmt.Sprintf(`{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeLogs":[{"logRecords":[
			{"timeUnixNano":"%d","body":{"stringValue":"hello"}}]}]}]}`, at.UnixNano())
		if status, said := w.ship(t, "logs", w.token(t, access.Releaser, "acme"), body); status != http.StatusOK || strings.Contains(said, "rejected") {
			t.Fatalf("%d %s", status, said)
		}
	}
	eventually(t, "the old day is dropped", func() bool {
		_, err := os.Stat(day(now.Add(-5 * 24 * time.Hour)))
		return os.IsNotExist(err)
	})
	if _, err := os.Stat(day(now)); err != nil {
		t.Errorf("today's events: %v", err)
	}
}

// Debian's promtool, which knows passwords only, reads what a tenant may see.
func TestPromtoolReads(t *testing.T) {
	t.Parallel()
	promtool := needs.Program(t, "promtool", "prometheus")
	w := startBare(t, nil)
	t.Cleanup(func() { w.stop(t) })
	for _, who := range []string{"acme", "globex"} {
		body := fmt.Sprintf(`{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeMetrics":[{"metrics":[
			{"name":"bea.dlq.open","unit":"{item}","gauge":{"dataPoints":[{"asInt":"7","timeUnixNano":"%d"}]}}]}]}]}`, time.Now().Add(-10*time.Second).UnixNano())
		if status, said := w.ship(t, "metrics", w.token(t, access.Releaser, who), body); status != http.StatusOK {
			t.Fatalf("%d %s", status, said)
		}
	}
	base := "http://any:" + w.token(t, access.Viewer, "acme") + "@" + strings.TrimPrefix(w.URL(), "http://") + "/prometheus"
	for _, args := range [][]string{
		{"instant", base, "bea_dlq_open"},
		{"range", "--start=" + strconv.FormatInt(time.Now().Add(-time.Minute).Unix(), 10), base, "bea_dlq_open"},
		{"series", "--match=bea_dlq_open", base},
		{"labels", base, "tenant_id"},
	} {
		out, err := exec.CommandContext(t.Context(), promtool, append([]string{"query"}, args...)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "acme") || strings.Contains(string(out), "globex") {
			t.Errorf("promtool query %s: %v\n%s", args[0], err, out)
		}
	}
	w.refuse(t, "GET", "/releases", nil, 401, "AUTH_UNAUTHORIZED", http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("any:"+w.token(t, access.Viewer, "acme")))}})
}
