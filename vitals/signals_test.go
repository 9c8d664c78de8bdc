package vitals_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/vitals"
)

// collected is what a collector was sent: names of spans with their trace, and
// bodies of records with theirs.
type collected struct {
	mu           sync.Mutex
	spans, lines map[string]string
	codes        map[string]string
}

func collectSignals(t *testing.T) (*collected, string) {
	t.Helper()
	c := &collected{spans: map[string]string{}, lines: map[string]string{}, codes: map[string]string{}}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		w.Header().Set("Content-Type", "application/x-protobuf")
		if r.URL.Path == "/v1/traces" {
			req := ptraceotlp.NewExportRequest()
			if err := req.UnmarshalProto(body); err != nil {
				t.Error(err)
				return
			}
			for _, span := range req.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
				id := span.TraceID()
				c.spans[span.Name()] = hex.EncodeToString(id[:])
				c.codes[span.Name()] = span.Status().Message()
			}
			return
		}
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			t.Error(err)
			return
		}
		for _, rec := range req.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			id := rec.TraceID()
			c.lines[rec.Body().AsString()] = hex.EncodeToString(id[:])
		}
	}))
	t.Cleanup(h.Close)
	return c, h.URL
}

// Requests, effects and log lines arrive under the caller's trace; what the
// log does not say is not sent either, and of an error its code is.
func TestSignalsReachTheCollector(t *testing.T) {
	t.Parallel()
	c, url := collectSignals(t)
	var log bytes.Buffer
	s, err := vitals.NewSignals(t.Context(), url, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	v, err := vitals.New(t.Context(), vitals.Options{Sink: &sink{seen: map[string]pmetric.Metric{}}, Every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	logger := s.Logger(slog.New(slog.NewTextHandler(&log, nil)))
	const trace = "0af7651916cd43dd8448eb211c80319c"
	h := s.Requests(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		logger.InfoContext(r.Context(), "worth a line")
		logger.DebugContext(r.Context(), "not worth one")
		_, end := s.Effect(r.Context(), "stage replay", map[string]string{"release_id": "rel-1"})
		end(headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "s3cret"))
		v.Request(r.Context(), "GET", "/things/{id}", 200, time.Millisecond)
	}))
	r := httptest.NewRequest(http.MethodGet, "/things/7?token=s3cret", nil)
	r.Header.Set("traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	h.ServeHTTP(httptest.NewRecorder(), r)
	s.Stop(t.Context())
	if err := v.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spans["GET /things/{id}"] != trace || c.spans["stage replay"] != trace || len(c.spans) != 2 {
		t.Errorf("spans: %v", c.spans)
	}
	if c.lines["worth a line"] != trace || len(c.lines) != 1 || !strings.Contains(log.String(), "worth a line") {
		t.Errorf("log records: %v", c.lines)
	}
	if got := c.codes["stage replay"]; got != headgate.CodeUnavailable {
		t.Errorf("the effect's error is %q", got)
	}
}

// Without a trace of the caller's, a request's answer names the one that the
// collector has; without a collector nothing is done.
func TestRequestsGetATrace(t *testing.T) {
	t.Parallel()
	_, url := collectSignals(t)
	for endpoint, traced := range map[string]bool{url: true, "": false} {
		s, err := vitals.NewSignals(t.Context(), endpoint, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var got string
		s.Requests(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("traceparent") })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		if traced != (got != "") {
			t.Errorf("traceparent %q", got)
		}
		s.Stop(t.Context())
	}
}

// A collector that hangs does not hold up the end.
func TestStopDoesNotWaitForACollectorThatHangs(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	t.Cleanup(func() { close(stop); h.Close() })
	s, err := vitals.NewSignals(t.Context(), h.URL, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, end := s.Effect(t.Context(), "publish", nil)
	end(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	s.Stop(ctx)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
