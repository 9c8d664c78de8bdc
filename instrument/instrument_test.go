package instrument_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	_ "modernc.org/sqlite"

	"github.com/headgate/headgate/instrument"
)

// collector is an OTLP/HTTP receiver that keeps what it got.
type collector struct {
	mu      sync.Mutex
	spans   []ptrace.Span
	logs    []plog.LogRecord
	metrics map[string]bool
	service pcommon.Map
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		zr, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, "gzip", http.StatusBadRequest)
			return
		}
		body = zr
	}
	data, err := io.ReadAll(body)
	if err != nil {
		http.Error(w, "body", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.URL.Path {
	case "/v1/traces":
		req := ptraceotlp.NewExportRequest()
		err = req.UnmarshalProto(data)
		for _, rs := range req.Traces().ResourceSpans().All() {
			c.service = rs.Resource().Attributes()
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					c.spans = append(c.spans, s)
				}
			}
		}
	case "/v1/logs":
		req := plogotlp.NewExportRequest()
		err = req.UnmarshalProto(data)
		for _, rl := range req.Logs().ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, l := range sl.LogRecords().All() {
					c.logs = append(c.logs, l)
				}
			}
		}
	case "/v1/metrics":
		req := pmetricotlp.NewExportRequest()
		err = req.UnmarshalProto(data)
		for _, rm := range req.Metrics().ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					c.metrics[m.Name()+" "+m.Unit()] = true
				}
			}
		}
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, "protobuf", http.StatusBadRequest)
	}
}

func attr(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

func setup(t *testing.T) (*instrument.Telemetry, *collector) {
	t.Helper()
	c := &collector{metrics: map[string]bool{}}
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	tel, err := instrument.Setup(t.Context(), instrument.Options{
		Service: "shop", Version: "v1.2.3", Environment: "staging", InstanceID: "i1", Endpoint: srv.URL, Interval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return tel, c
}

func flush(t *testing.T, tel *instrument.Telemetry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tel.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestOneRequestIsFoundEverywhere follows one identifier from the API over
// the queue, a retry and the worker to the database, as a receiver sees it.
func TestOneRequestIsFoundEverywhere(t *testing.T) {
	t.Parallel()
	tel, got := setup(t)
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "t.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), instrument.EventSchema); err != nil {
		t.Fatal(err)
	}
	var carrier instrument.Carrier
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		instrument.Annotate(r.Context(), instrument.Fields{TenantID: "acme", JobID: "job_1"})
		carrier = tel.Inject(r.Context())
		instrument.Annotate(r.Context(), instrument.Fields{ErrorCode: "ORDER_LATE"})
		tel.Logger.WarnContext(r.Context(), "order is late")
		w.WriteHeader(http.StatusTeapot)
	})
	req := httptest.NewRequest("POST", "/orders/7", nil)
	req.Header.Set("traceparent", traceparent)
	req.Header.Set("x-trace-id", strings.Repeat("1", 32)) // loses against traceparent
	req.Header.Set("x-request-id", "req-1")
	res := httptest.NewRecorder()
	tel.Middleware(mux).ServeHTTP(res, req)
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	if res.Header().Get("x-trace-id") != traceID || res.Header().Get("x-request-id") != "req-1" {
		t.Errorf("headers %v", res.Header())
	}
	// Through JSON, as a queue would store it.
	text, err := json.Marshal(carrier)
	if err != nil {
		t.Fatal(err)
	}
	var stored instrument.Carrier
	if err := json.Unmarshal(text, &stored); err != nil {
		t.Fatal(err)
	}
	ctx, end := tel.StartJob(t.Context(), stored, "ship", "job_1", 1)
	stored = tel.InjectRetry(ctx, stored)
	end(context.DeadlineExceeded)
	ctx, end = tel.StartJob(t.Context(), stored, "ship", "job_1", 2)
	if err := tel.RecordEvent(ctx, db, "order_shipped", map[string]string{"order": "7"}); err != nil {
		t.Fatal(err)
	}
	end(nil)
	if n, err := tel.PublishEvents(t.Context(), db, 10); n != 1 || err != nil {
		t.Errorf("published %d, %v", n, err)
	}
	if n, err := tel.PublishEvents(t.Context(), db, 10); n != 0 || err != nil {
		t.Errorf("published %d again, %v", n, err)
	}
	flush(t, tel)

	if v := attr(got.service, "service.name") + " " + attr(got.service, "service.version") + " " + attr(got.service, "deployment.environment.name") + " " + attr(got.service, "service.instance.id"); v != "shop v1.2.3 staging i1" {
		t.Errorf("resource %q", v)
	}
	if !got.metrics["bea.api.request.duration s"] {
		t.Errorf("metrics %v", got.metrics)
	}
	names := map[string]ptrace.Span{}
	for _, s := range got.spans {
		if s.TraceID().String() != traceID || attr(s.Attributes(), "request_id") != "req-1" || attr(s.Attributes(), "tenant_id") != "acme" || attr(s.Attributes(), "job_id") != "job_1" {
			t.Errorf("span %s is not found: trace %s, %v", s.Name(), s.TraceID(), s.Attributes().AsRaw())
		}
		names[s.Name()+" "+attr(s.Attributes(), "job.attempt")] = s
	}
	api, first, second := names["POST /orders/{id} "], names["job ship 1"], names["job ship 2"]
	if len(names) != 3 || first.ParentSpanID() != api.SpanID() || second.ParentSpanID() != api.SpanID() {
		t.Fatalf("spans %v", names)
	}
	if attr(api.Attributes(), "error_code") != "ORDER_LATE" {
		t.Errorf("the request's span has no error_code: %v", api.Attributes().AsRaw())
	}
	if second.Links().Len() != 1 || second.Links().At(0).SpanID() != first.SpanID() {
		t.Errorf("the retry does not link the first try")
	}
	if len(got.logs) != 2 {
		t.Fatalf("%d log records, want the warning and the event", len(got.logs))
	}
	for _, l := range got.logs {
		if l.TraceID().String() != traceID || attr(l.Attributes(), "trace_id") != traceID || attr(l.Attributes(), "request_id") != "req-1" ||
			attr(l.Attributes(), "tenant_id") != "acme" || attr(l.Attributes(), "job_id") != "job_1" {
			t.Errorf("log %q is not found: %v", l.Body().AsString(), l.Attributes().AsRaw())
		}
		if event := l.EventName() == "db.order_shipped"; event != (attr(l.Attributes(), "order") == "7") || event == (attr(l.Attributes(), "error_code") == "ORDER_LATE") {
			t.Errorf("log %q: event %q, %v", l.Body().AsString(), l.EventName(), l.Attributes().AsRaw())
		}
	}
}

func TestIncomingIdentifiers(t *testing.T) {
	t.Parallel()
	tel, _ := setup(t)
	h := tel.Middleware(http.NotFoundHandler())
	for _, tc := range []struct {
		name, traceparent, traceID, requestID string
		wantTrace, wantRequest                string
	}{
		{name: "x-trace-id is taken", traceID: "0af7651916cd43dd8448eb211c80319c", wantTrace: "0af7651916cd43dd8448eb211c80319c"},
		{name: "traceparent wins", traceparent: traceparent, traceID: strings.Repeat("2", 32), wantTrace: "0af7651916cd43dd8448eb211c80319c"},
		{name: "a broken traceparent does not", traceparent: "00-zz", traceID: strings.Repeat("2", 32), wantTrace: strings.Repeat("2", 32)},
		{name: "x-request-id is echoed", requestID: "abc-1", wantRequest: "abc-1"},
		{name: "a hostile one is not", requestID: "a\nb"},
		{name: "nor an endless one", requestID: strings.Repeat("a", 200)},
		{name: "nor a trace id of zeros", traceID: strings.Repeat("0", 32)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			req := httptest.NewRequest("GET", "/", nil)
			for k, v := range map[string]string{"traceparent": tc.traceparent, "x-trace-id": tc.traceID, "x-request-id": tc.requestID} {
				if v != "" {
					req.Header[http.CanonicalHeaderKey(k)] = []string{v}
				}
			}
			res := httptest.NewRecorder()
			h.ServeHTTP(res, req)
			trace, request := res.Header().Get("x-trace-id"), res.Header().Get("x-request-id")
			if len(trace) != 32 || request == "" || tc.wantTrace != "" && trace != tc.wantTrace || tc.wantRequest != "" && request != tc.wantRequest {
				t.Errorf("trace %q, request %q", trace, request)
			}
			if tc.wantRequest == "" && request == tc.requestID || trace == strings.Repeat("0", 32) {
				t.Errorf("a bad identifier was echoed: %q, %q", trace, request)
			}
		})
	}
}

func TestTransportPassesIdentifiersOn(t *testing.T) {
	t.Parallel()
	tel, _ := setup(t)
	var seen http.Header
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }))
	defer backend.Close()
	h := tel.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		instrument.Annotate(r.Context(), instrument.Fields{TenantID: "acme"})
		out, err := http.NewRequestWithContext(r.Context(), "GET", backend.URL, nil)
		if err != nil {
			t.Error(err)
			return
		}
		res, err := (&http.Client{Transport: tel.Transport(nil)}).Do(out)
		if err != nil {
			t.Error(err)
			return
		}
		_ = res.Body.Close()
	}))
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("traceparent", traceparent)
	req.Header.Set("x-request-id", "req-1")
	h.ServeHTTP(httptest.NewRecorder(), req)
	if !strings.HasPrefix(seen.Get("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-") || seen.Get("x-request-id") != "req-1" || seen.Get("x-tenant-id") != "acme" {
		t.Errorf("the backend sees %v", seen)
	}
}

func TestHandlerAddsFieldsBesideGroups(t *testing.T) {
	t.Parallel()
	tel, _ := setup(t)
	var out bytes.Buffer
	log := slog.New(instrument.Handler(slog.NewJSONHandler(&out, nil))).With("a", 1)
	ctx, end := tel.StartJob(t.Context(), instrument.Carrier{"tenant_id": "acme"}, "x", "job_1", 1)
	defer end(nil)
	log.InfoContext(ctx, "hello", "error_code", "MINE")
	log.Info("no context")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var first map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	if first["tenant_id"] != "acme" || first["job_id"] != "job_1" || first["error_code"] != "MINE" || first["a"] != 1. || first["trace_id"] == nil {
		t.Errorf("record %v", first)
	}
	if strings.Contains(lines[1], "tenant_id") {
		t.Errorf("a record without a context has fields: %s", lines[1])
	}
}

func TestAbsentReceiverCostsNoRequest(t *testing.T) {
	t.Parallel()
	tel, err := instrument.Setup(t.Context(), instrument.Options{Service: "shop", Endpoint: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	res := httptest.NewRecorder()
	tel.Middleware(http.NotFoundHandler()).ServeHTTP(res, httptest.NewRequest("GET", "/", nil))
	if res.Code != http.StatusNotFound {
		t.Errorf("status %d", res.Code)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_ = tel.Shutdown(ctx) // says that telemetry was lost
	if _, err := instrument.Setup(t.Context(), instrument.Options{}); err == nil {
		t.Error("a service without a name is accepted")
	}
}

// TestRecordsOutliveTheReceiversRestart: a record of the audit log that is sent
// while the receiver restarts is sent again.
func TestRecordsOutliveTheReceiversRestart(t *testing.T) {
	t.Parallel()
	var cut atomic.Int64
	got := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/logs" && cut.Add(1) <= 2 {
			panic(http.ErrAbortHandler)
		}
		got <- r.URL.Path
	}))
	t.Cleanup(srv.Close)
	tel, err := instrument.Setup(t.Context(), instrument.Options{Service: "shop", Endpoint: srv.URL, Interval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	tel.Logger.InfoContext(t.Context(), "reviewed")
	await := time.After(time.Minute)
	for path := ""; path != "/v1/logs"; {
		select {
		case path = <-got:
		case <-await:
			t.Fatal("the record was not sent again")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := tel.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}
