package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/server"
)

// startPrometheus runs Debian's Prometheus until the test ends.
func startPrometheus(t *testing.T) (address string) {
	t.Helper()
	program, addr, dir := needs.Program(t, "prometheus", "prometheus"), needs.Addrs(t, 1)[0], t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte("global: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--web.enable-remote-write-receiver", "--log.level=error")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the kill is the expected end
	})
	address = "http://" + addr
	eventually(t, "Prometheus is ready", func() bool {
		res, err := http.Get(address + "/-/ready")
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
	return address
}

// With a metric server of somebody else's, what services send is kept there,
// and everything that asks for figures asks there.
func TestMetricsInARealPrometheus(t *testing.T) {
	t.Parallel()
	prometheus := startPrometheus(t)
	gate, token := tokenGate(t, prometheus)
	w := startBare(t, func(o *server.Options) {
		o.Settings.Metrics.URL, o.Settings.Metrics.TokenFile = gate, token
	})
	t.Cleanup(func() { w.stop(t) })
	now := time.Now()
	jobs := func(outcome string, n int) string {
		return fmt.Sprintf(`{"asInt":"%d","startTimeUnixNano":"%d","timeUnixNano":"%d","attributes":[{"key":"outcome","value":{"stringValue":%q}}]}`,
			n, now.UnixNano(), now.Add(time.Second).UnixNano(), outcome)
	}
	body := `{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeMetrics":[{"metrics":[
		{"name":"bea.jobs.completed","unit":"{job}","sum":{"isMonotonic":true,"aggregationTemporality":2,"dataPoints":[` + jobs("succeeded", 97) + `,` + jobs("failed", 3) + `]}}]}]}]}`
	if status, said := w.ship(t, "metrics", w.token(t, access.Releaser, "acme"), body); status != http.StatusOK || strings.Contains(said, "rejected") {
		t.Fatalf("%d %s", status, said)
	}
	const query = `sum(bea_jobs_completed_total{tenant_id="acme"})`
	eventually(t, "the figures come back through Headgate", func() bool {
		v, _ := w.number(t, query)
		return v == "100"
	})
	if v, ok := w.number(t, query, bearer(w.token(t, access.Viewer, "globex"))); ok {
		t.Errorf("another tenant sees %s", v)
	}
	res, series := w.send(t, "GET", "/prometheus/api/v1/series?match[]=bea_jobs_completed_total", nil, bearer(w.token(t, access.Viewer, "globex")))
	if res.StatusCode != http.StatusOK || strings.Contains(series, "acme") {
		t.Errorf("another tenant's series: %d %s", res.StatusCode, series)
	}
	if _, names := w.send(t, "GET", "/prometheus/api/v1/label/tenant_id/values", nil); !strings.Contains(names, `"acme"`) {
		t.Errorf("values of tenant_id: %s", names)
	}
	summary := w.data(t, w.do(t, "GET", "/internal/ops/metrics/summary", nil, tenant("acme")))
	if got := fmt.Sprint(summary); !strings.Contains(got, "total_jobs:100") || !strings.Contains(got, "failed_jobs:3") {
		t.Errorf("summary: %s", got)
	}
	if _, raw := w.send(t, "GET", "/prometheus/api/v1/rules", nil); !strings.Contains(raw, "QueueBacklog") {
		t.Errorf("the dictionary's rules are not evaluated: %.300s", raw)
	}
	if _, err := os.Stat(filepath.Join(w.options.Settings.DataDir, "metrics")); !os.IsNotExist(err) {
		t.Errorf("there is a metric store in the data folder: %v", err)
	}
}

// tokenGate lets requests with a token through to a server.
func tokenGate(t *testing.T, to string) (address, tokenFile string) {
	t.Helper()
	const token = "metric-server-token"
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(target)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	tokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return h.URL, tokenFile
}

// Requests are found in other people's trace and log servers too: these answer
// as a Jaeger and a VictoriaLogs did.
func TestTimelineFromJaegerAndVictoriaLogs(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"/api/services": "../telemetry/tempo/testdata/jaeger-services.json", "/api/traces": "../telemetry/tempo/testdata/jaeger-traces.json",
		"/api/traces/0af7651916cd43dd8448eb211c80319c": "../telemetry/tempo/testdata/jaeger-traces.json",
		"/select/logsql/query":                         "../telemetry/loki/testdata/victorialogs-query.jsonl",
	}
	ln, err := net.Listen("tcp", needs.Addrs(t, 1)[0]) // nobody else's once it is closed
	if err != nil {
		t.Fatal(err)
	}
	h := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(answers[r.URL.Path])
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(text)
	})}}
	h.Start()
	t.Cleanup(h.Close)
	w := startBare(t, func(o *server.Options) {
		o.Settings.Traces.URL, o.Settings.Traces.API = h.URL, "jaeger"
		o.Settings.Logs.URL, o.Settings.Logs.API = h.URL, "victorialogs"
	})
	t.Cleanup(func() { w.stop(t) })
	story := w.data(t, w.do(t, "GET", "/timeline?id=req_1", nil, tenant("acme")))
	entries, _ := story["entries"].([]any)
	if len(entries) != 5 || story["matched_by"] != "request_id" { // two spans, an event of one, two records
		t.Errorf("the story has %d entries: %v", len(entries), story)
	}
	if strings.Contains(fmt.Sprint(story), "of another tenant") {
		t.Error("the story tells of another tenant")
	}
	h.Close()
	w.refuse(t, "GET", "/timeline?id=req_1", nil, 503, "UNAVAILABLE", tenant("acme"))
}

// The price table turns tokens into cost.
func TestTokensHaveAPrice(t *testing.T) {
	t.Parallel()
	prices := filepath.Join(t.TempDir(), "prices.yaml")
	if err := os.WriteFile(prices, []byte("currency: USD\nper_tokens: 1000\nmodels:\n  - {model: small-1, input: 0.5, output: 1.5}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := startBare(t, func(o *server.Options) { o.Settings.Prices = prices })
	t.Cleanup(func() { w.stop(t) })
	now := time.Now().UnixNano()
	body := fmt.Sprintf(`{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeMetrics":[{"metrics":[
		{"name":"gen_ai.client.token.usage","unit":"{token}","histogram":{"aggregationTemporality":2,"dataPoints":[{"count":"1","sum":4000,"explicitBounds":[10000],"bucketCounts":["1","0"],
		"startTimeUnixNano":"%d","timeUnixNano":"%d","attributes":[{"key":"gen_ai.request.model","value":{"stringValue":"small-1"}},{"key":"gen_ai.token.type","value":{"stringValue":"input"}}]}]}}]}]}]}`,
		now, now)
	if status, said := w.ship(t, "metrics", w.token(t, access.Releaser, "acme"), body); status != http.StatusOK {
		t.Fatalf("%d %s", status, said)
	}
	if v, _ := w.number(t, `sum(max_over_time(headgate_gen_ai_cost_total{tenant_id="acme"}[1h]))`); v != "2" {
		t.Errorf("4000 tokens cost %s dollars", v)
	}
}

// A figure of the operator's own definitions is evaluated as the built-in ones.
func TestOwnDefinitionsAreServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const own = "file_format: definition/2\nmetrics:\n" +
		"  - {name: shop.orders, brief: Orders., instrument: counter, unit: '{order}', annotations: {headgate: {owner: shop, direction: neutral, figures: [\n" +
		"      {name: order_count, brief: Orders., unit: '{order}', group: api, window: 1h, used_by: [dashboard], query: 'sum(max_over_time(shop_orders_total[1h]))'}]}}}\n"
	if err := os.WriteFile(filepath.Join(dir, "own.yaml"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	w := startBare(t, func(o *server.Options) { o.Settings.Dictionary = dir })
	t.Cleanup(func() { w.stop(t) })
	if _, raw := w.send(t, "GET", "/prometheus/api/v1/rules", nil); !strings.Contains(raw, "headgate:order_count") {
		t.Errorf("the own figure is not evaluated: %.300s", raw)
	}
}

// What cannot be used is said at the start, not found out later.
func TestBackendsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for want, change := range map[string]func(*server.Options){
		"credential file": func(o *server.Options) {
			o.Settings.Traces.URL, o.Settings.Traces.TokenFile = "http://127.0.0.1:1", missing
		},
		"price table":                  func(o *server.Options) { o.Settings.Prices = missing },
		"folder of metric definitions": func(o *server.Options) { o.Settings.Dictionary = missing },
	} {
		o := server.Options{Settings: settings(t.TempDir()), Logger: slog.New(slog.DiscardHandler)}
		change(&o)
		if _, err := server.New(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
