package otlp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/telemetry/otlp"
)

func zipped(t testing.TB, n int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := io.CopyN(w, zeros{}, int64(n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	const proto = "application/x-protobuf"
	tests := []struct {
		name, path, contentType string
		body                    []byte
		headers                 []string
		want                    int
	}{
		{"gzip bomb", "/v1/traces", proto, zipped(t, 200<<20), []string{"Content-Encoding", "gzip"}, http.StatusRequestEntityTooLarge},
		{"large body", "/v1/logs", proto, make([]byte, otlp.MaxBodyBytes+1), nil, http.StatusRequestEntityTooLarge},
		{"not gzip", "/v1/metrics", proto, []byte("hello"), []string{"Content-Encoding", "gzip"}, http.StatusBadRequest},
		{"cut gzip", "/v1/metrics", proto, zipped(t, 1000)[:20], []string{"Content-Encoding", "gzip"}, http.StatusBadRequest},
		{"other encoding", "/v1/metrics", proto, nil, []string{"Content-Encoding", "br"}, http.StatusUnsupportedMediaType},
		{"no content type", "/v1/metrics", "", nil, nil, http.StatusUnsupportedMediaType},
		{"text", "/v1/metrics", "text/plain", nil, nil, http.StatusUnsupportedMediaType},
		{"not protobuf", "/v1/metrics", proto, []byte("\xff\xff"), nil, http.StatusBadRequest},
		{"not JSON", "/v1/metrics", "application/json", []byte("{"), nil, http.StatusBadRequest},
		{"unknown path", "/v1/profiles", proto, nil, nil, http.StatusNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			resp, answer := b.post(t, tt.path, tt.contentType, tt.body, tt.headers...)
			if resp.StatusCode != tt.want {
				t.Errorf("%s: %s; want %d", resp.Status, answer, tt.want)
			}
		})
	}
	resp, err := http.Get("http://" + b.http + "/v1/logs")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != http.MethodPost {
		t.Errorf("GET: %s", resp.Status)
	}
}

func TestFullQueueTellsTheSenderToComeBack(t *testing.T) {
	t.Parallel()
	block := make(chan struct{})
	b := setup(t, func(b *bundle) {
		b.MaxInFlight = 1
		b.sink.block = block
	})
	var first sync.WaitGroup
	first.Go(func() {
		if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(jsonLog)); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", resp.Status, answer)
		}
	})
	block <- struct{}{} // the first request is there
	if resp, answer := b.post(t, "/v1/traces", "application/json", []byte(jsonTrace)); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%s: %s", resp.Status, answer)
	}
	_, err := b.client(t).Export(t.Context(), pmetricotlp.NewExportRequest())
	st := status.Convert(err)
	if st.Code() != codes.Unavailable || len(st.Details()) != 1 {
		t.Fatalf("gRPC: %v", err)
	}
	if info, ok := st.Details()[0].(*errdetails.RetryInfo); !ok || info.GetRetryDelay().AsDuration() != time.Second {
		t.Errorf("details: %v", st.Details())
	}
	close(block)
	first.Wait()
	if b.Stats().Dropped["metrics/busy"] != 1 {
		t.Errorf("dropped: %v", b.Stats().Dropped)
	}
}

func FuzzHTTP(f *testing.F) {
	b := setup(f, nil)
	h := b.Handler()
	body, err := pmetricotlp.NewExportRequestFromMetrics(deltaBatch()).MarshalProto()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("metrics", false, body)
	f.Add("traces", true, []byte(jsonTrace))
	f.Add("logs", true, []byte(jsonLog))
	f.Add("logs", true, []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"arrayValue":{"values":[{}]}}}]}]}]}`))
	f.Fuzz(func(t *testing.T, signal string, json bool, body []byte) {
		if signal != "metrics" && signal != "logs" && signal != "traces" {
			t.Skip()
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/"+signal, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", map[bool]string{true: "application/json", false: "application/x-protobuf"}[json])
		w := &recorder{header: http.Header{}}
		h.ServeHTTP(w, req)
		if w.code != http.StatusOK && w.code != http.StatusBadRequest {
			t.Errorf("status %d", w.code)
		}
	})
}

type recorder struct {
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(code int) {
	r.code = code
}
func (r *recorder) Write(p []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return len(p), nil
}

// nested is a log body of lists within lists, deep enough to exhaust a stack.
func nested(depth int) (asProto, asJSON []byte) {
	var back []byte // built from the innermost value outwards, in reverse
	wrap := func(field protowire.Number) {
		size := protowire.AppendVarint(nil, uint64(len(back)))
		tag := protowire.AppendTag(nil, field, protowire.BytesType)
		slices.Reverse(size)
		slices.Reverse(tag)
		back = append(append(back, size...), tag...)
	}
	for range depth {
		wrap(1) // ArrayValue.values
		wrap(5) // AnyValue.array_value
	}
	for _, field := range []protowire.Number{5, 2, 2, 1} { // body, log_records, scope_logs, resource_logs
		wrap(field)
	}
	slices.Reverse(back)
	asJSON = fmt.Appendf(nil, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":%s{}%s}]}]}]}`,
		strings.Repeat(`{"arrayValue":{"values":[`, depth), strings.Repeat(`]}}`, depth))
	return back, asJSON
}

func TestDeepNestingIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	asProto, asJSON := nested(500_000)
	if resp, _ := b.post(t, "/v1/logs", "application/x-protobuf", asProto); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("protobuf: %s", resp.Status)
	}
	if resp, _ := b.post(t, "/v1/logs", "application/json", asJSON); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("JSON: %s", resp.Status)
	}
}

func TestOneTenantCannotDrownTheOthers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := setup(t, func(b *bundle) {
		b.ItemsPerSecond = 1
		b.Now = func() time.Time { return now }
		b.Authenticate = func(_ context.Context, bearer string) (string, error) { return bearer, nil }
	})
	send := func(tenant string) *http.Response {
		resp, _ := b.post(t, "/v1/traces", "application/json", []byte(jsonTrace), "Authorization", "Bearer "+tenant)
		return resp
	}
	for i := range 10 {
		if resp := send("noisy"); resp.StatusCode != http.StatusOK {
			t.Fatalf("span %d of a burst of ten: %s", i+1, resp.Status)
		}
	}
	if resp := send("noisy"); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("beyond the burst: %s", resp.Status)
	}
	if resp := send("quiet"); resp.StatusCode != http.StatusOK {
		t.Errorf("another tenant: %s", resp.Status)
	}
	if n := b.Stats().Dropped["traces/rate_limited"]; n != 1 {
		t.Errorf("%d limited requests counted", n)
	}
}
