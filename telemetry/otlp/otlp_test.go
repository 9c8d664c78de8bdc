package otlp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/telemetry/otlp"
)

// sink keeps logs and spans in memory.
type sink struct {
	mu     sync.Mutex
	logs   []plog.Logs
	traces []ptrace.Traces
	err    error
	block  chan struct{} // when set, every append waits for it
}

func (s *sink) AppendLogs(_ context.Context, _ string, ld plog.Logs) (telemetry.Rejected, error) {
	if s.block != nil {
		<-s.block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = append(s.logs, ld)
	return telemetry.Rejected{}, s.err
}

func (s *sink) AppendTraces(_ context.Context, _ string, td ptrace.Traces) (telemetry.Rejected, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.traces = append(s.traces, td)
	return telemetry.Rejected{}, s.err
}

type bundle struct {
	*otlp.Receiver
	store *metrics.Store
	sink  *sink
	grpc  string
	http  string
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func setup(t testing.TB, change func(*bundle)) *bundle {
	t.Helper()
	store, err := metrics.Open(t.TempDir(), metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := new(sink)
	b := &bundle{
		Receiver: &otlp.Receiver{Metrics: store, Logs: s, Traces: s, ReportEvery: time.Hour},
		store:    store, sink: s,
	}
	if change != nil {
		change(b)
	}
	g, h := listen(t), listen(t)
	b.grpc, b.http = g.Addr().String(), h.Addr().String()
	if err := b.Start(g, h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.stop(t)
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

var stopped sync.Map

// stop stops the receiver once.
func (b *bundle) stop(t testing.TB) {
	if _, done := stopped.LoadOrStore(b, true); done {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func (b *bundle) number(t *testing.T, query string) (float64, bool) {
	t.Helper()
	v, ok, err := b.store.Number(t.Context(), query, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return v, ok
}

func (b *bundle) post(t testing.TB, path, contentType string, body []byte, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+b.http+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, answer
}

func TestSDKMetricsComeBackByPromQL(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for _, protocol := range []string{"grpc", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			var exporter sdkmetric.Exporter
			var err error
			if protocol == "grpc" {
				exporter, err = otlpmetricgrpc.New(t.Context(), otlpmetricgrpc.WithEndpoint(b.grpc), otlpmetricgrpc.WithInsecure(), otlpmetricgrpc.WithCompressor("gzip"))
			} else {
				exporter, err = otlpmetrichttp.New(t.Context(), otlpmetrichttp.WithEndpoint(b.http), otlpmetrichttp.WithInsecure(), otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression))
			}
			if err != nil {
				t.Fatal(err)
			}
			provider := sdkmetric.NewMeterProvider(
				sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(time.Hour))),
				sdkmetric.WithResource(resource.NewSchemaless(
					attribute.String("service.name", "bidding"),
					attribute.String("service.version", protocol),
					attribute.String("service.instance.id", "i-1"))))
			meter := provider.Meter("test")
			jobs, err := meter.Int64Counter("bea.jobs.completed", metric.WithUnit("{job}"))
			if err != nil {
				t.Fatal(err)
			}
			latency, err := meter.Float64Histogram("bea.api.request.duration", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(0.1, 1, 10))
			if err != nil {
				t.Fatal(err)
			}
			tenant := metric.WithAttributes(attribute.String("tenant_id", "acme"))
			jobs.Add(t.Context(), 41, tenant)
			for range 100 {
				latency.Record(t.Context(), 0.5, tenant)
			}
			before := time.Now()
			if err := provider.ForceFlush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if v, ok := b.number(t, fmt.Sprintf(`bea_jobs_completed_total{tenant_id="acme",service_name="bidding",service_version=%q,instance="i-1"}`, protocol)); !ok || v != 41 {
				t.Errorf("counter = %v, %v", v, ok)
			}
			if v, ok := b.number(t, fmt.Sprintf(`histogram_quantile(0.5, sum by (le) (rate(bea_api_request_duration_seconds_bucket{service_version=%q}[1m])))`, protocol)); !ok || math.Abs(v-0.55) > 1e-9 {
				t.Errorf("median = %v, %v; want it in the first export already", v, ok)
			}
			if at, ok := b.Freshness("bidding", protocol); !ok || at.Before(before) {
				t.Errorf("freshness = %v, %v", at, ok)
			}
			if _, ok := b.Freshness("bidding", "v0"); ok {
				t.Error("a version that never sent is fresh")
			}
			if err := provider.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSDKSpansArrive(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpoint(b.grpc), otlptracegrpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	_, span := provider.Tracer("test").Start(t.Context(), "work")
	span.SetAttributes(attribute.String("http.request.header.cookie", "sid=very-secret"))
	span.End()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.sink.traces) != 1 {
		t.Fatalf("%d batches", len(b.sink.traces))
	}
	got := b.sink.traces[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	if got.TraceID().String() != span.SpanContext().TraceID().String() {
		t.Errorf("trace id %s, want %s", got.TraceID(), span.SpanContext().TraceID())
	}
	if v, _ := got.Attributes().Get("http.request.header.cookie"); v.Str() != telemetry.Redacted {
		t.Errorf("cookie is %q", v.Str())
	}
}

const (
	jsonTrace = `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"x","startTimeUnixNano":"1","endTimeUnixNano":"2"}]}]}]}`
	jsonLog   = `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"bidding"}},{"key":"service.version","value":{"stringValue":"v2"}}]},"scopeLogs":[{"logRecords":[{"traceId":"5b8efff798038103d269b633813fc60c","body":{"stringValue":"login with password=hunter2222"}}]}]}]}`
)

func TestJSONTraceIDsSurvive(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	if resp, answer := b.post(t, "/v1/traces", "application/json; charset=utf-8", []byte(jsonTrace)); resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %s", resp.Status, answer)
	}
	if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(jsonLog)); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, answer)
	}
	const want = "5b8efff798038103d269b633813fc60c"
	if got := b.sink.traces[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID().String(); got != want {
		t.Errorf("span's trace id is %s", got)
	}
	if got := b.sink.logs[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).TraceID().String(); got != want {
		t.Errorf("log's trace id is %s", got)
	}
}

func TestRedactionHitsCanBeQueried(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	clean := strings.Replace(strings.Replace(jsonLog, "password=hunter2222", "a name", 1), `"v2"`, `"v3"`, 1)
	for _, body := range []string{jsonLog, clean} {
		if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(body)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, answer)
		}
	}
	if body := b.sink.logs[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().Str(); strings.Contains(body, "hunter") {
		t.Errorf("stored body is %q", body)
	}
	for version, want := range map[string]float64{"v2": 1, "v3": 0} {
		q := fmt.Sprintf(`sum(headgate_redaction_hits_total{service_name="bidding",service_version=%q,signal="logs"})`, version)
		if v, ok := b.number(t, q); !ok || v != want {
			t.Errorf("%s = %v, %v; want %v", q, v, ok, want)
		}
	}
	if v, ok := b.number(t, `increase(headgate_redaction_hits_total{service_version="v2"}[1m])`); !ok || v < 0.9 {
		t.Errorf("increase = %v, %v; want the first hit to count", v, ok)
	}
}

// A server that is killed after an acknowledgement has lost no hit of it.
func TestRedactionHitsAreKeptBeforeTheAcknowledgement(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var acknowledged atomic.Int64
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for range 25 {
				if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(jsonLog)); resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", resp.Status, answer)
				}
				least := float64(acknowledged.Add(1))
				if v, _, err := b.store.Number(t.Context(), `headgate_redaction_hits_total`, time.Now().Add(time.Second)); err != nil || v < least {
					t.Errorf("%v hits are kept, %v; %v were acknowledged", v, err, least)
				}
			}
		})
	}
	senders.Wait()
}

func deltaBatch() pmetric.Metrics {
	md := pmetric.NewMetrics()
	ms := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	for _, temporality := range []pmetric.AggregationTemporality{pmetric.AggregationTemporalityDelta, pmetric.AggregationTemporalityCumulative} {
		m := ms.AppendEmpty()
		m.SetName("my." + strings.ToLower(temporality.String()))
		sum := m.SetEmptySum()
		sum.SetAggregationTemporality(temporality)
		dp := sum.DataPoints().AppendEmpty()
		dp.SetIntValue(5)
		dp.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	}
	return md
}

func TestDeltaIsRefusedAndTheRestStored(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	body, err := pmetricotlp.NewExportRequestFromMetrics(deltaBatch()).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	resp, answer := b.post(t, "/v1/metrics", "application/x-protobuf", body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, answer)
	}
	er := pmetricotlp.NewExportResponse()
	if err := er.UnmarshalProto(answer); err != nil {
		t.Fatal(err)
	}
	if p := er.PartialSuccess(); p.RejectedDataPoints() != 1 || !strings.Contains(p.ErrorMessage(), "TEMPORALITY_PREFERENCE=cumulative") {
		t.Errorf("partial success: %d, %q", p.RejectedDataPoints(), p.ErrorMessage())
	}
	if v, ok := b.number(t, "my_cumulative"); !ok || v != 5 {
		t.Errorf("the good point is %v, %v", v, ok)
	}
	if n := b.Stats().Dropped["metrics/refused"]; n != 1 {
		t.Errorf("%d dropped points counted", n)
	}
}

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

// client is a bare gRPC client of the metrics service.
func (b *bundle) client(t testing.TB) pmetricotlp.GRPCClient {
	t.Helper()
	conn, err := grpc.NewClient(b.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pmetricotlp.NewGRPCClient(conn)
}

func TestCredentialDecidesTheTenant(t *testing.T) {
	t.Parallel()
	b := setup(t, func(b *bundle) {
		b.Authenticate = func(_ context.Context, bearer string) (string, error) {
			if bearer == "acme-token" {
				return "acme", nil
			}
			return "", errors.New("unknown token")
		}
	})
	req := pmetricotlp.NewExportRequestFromMetrics(deltaBatch())
	c := b.client(t)
	if _, err := c.Export(t.Context(), req); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without credential: %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer acme-token")
	if _, err := c.Export(ctx, req); err != nil {
		t.Fatal(err)
	}
	if v, ok := b.number(t, `my_cumulative{tenant_id="acme"}`); !ok || v != 5 {
		t.Errorf("got %v, %v", v, ok)
	}
	if resp, _ := b.post(t, "/v1/traces", "application/json", []byte(jsonTrace), "Authorization", "Bearer nope"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("HTTP with a bad token: %s", resp.Status)
	}
	if n := b.Stats().Dropped["metrics/unauthenticated"]; n != 1 {
		t.Errorf("%d unauthenticated requests counted", n)
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
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, _ := b.post(t, "/v1/traces", "application/json", []byte(jsonTrace))
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("last answer %s", resp.Status)
		}
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

func TestSinkErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"disk full": {headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient, "full"), http.StatusServiceUnavailable},
		"unknown":   {errors.New("secret detail"), http.StatusInternalServerError},
		"invalid":   {headgate.Invalidf("no"), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(b *bundle) { b.sink.err = tt.err })
			resp, answer := b.post(t, "/v1/traces", "application/json", []byte(jsonTrace))
			if resp.StatusCode != tt.want || bytes.Contains(answer, []byte("secret")) {
				t.Errorf("%s: %s", resp.Status, answer)
			}
		})
	}
}

func TestMissingSinkIsUnimplemented(t *testing.T) {
	t.Parallel()
	b := setup(t, func(b *bundle) { b.Logs = nil })
	if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(jsonLog)); resp.StatusCode != http.StatusNotFound || !bytes.Contains(answer, []byte("stores no logs")) {
		t.Errorf("%s: %s", resp.Status, answer)
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

func TestSecretsNeverReachTheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := events.Open(dir, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(b *bundle) { b.Logs, b.Traces = store, store })
	secrets := []string{"s3cr3t-bearer-value", "hunter2222", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"}
	var records, attributes strings.Builder
	for i, s := range []string{"Authorization: Bearer " + secrets[0], "password=" + secrets[1], secrets[2], "jwt " + secrets[3]} {
		if i > 0 {
			records.WriteString(",")
			attributes.WriteString(",")
		}
		fmt.Fprintf(&records, `{"body":{"stringValue":%q},"attributes":[{"key":"request_id","value":{"stringValue":"req_1"}}]}`, s)
		fmt.Fprintf(&attributes, `{"key":"a%d","value":{"stringValue":%q}}`, i, s)
	}
	for path, body := range map[string]string{
		"/v1/logs": `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + records.String() + `]}]}]}`,
		"/v1/traces": `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"x","attributes":[` +
			attributes.String() + `,{"key":"request_id","value":{"stringValue":"req_1"}},{"key":"error_code","value":{"stringValue":"E"}}]}]}]}]}`,
	} {
		if resp, answer := b.post(t, path, "application/json", []byte(body)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, answer)
		}
	}
	b.stop(t)
	found, err := store.Find(t.Context(), telemetry.Query{RequestID: "req_1"})
	if err != nil || len(found) != 5 {
		t.Fatalf("%d events, %v", len(found), err)
	}
	stored := fmt.Sprintf("%+v", found) // blocks are compressed, so the files alone prove nothing
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		stored += string(text)
	}
	for _, s := range secrets {
		if strings.Contains(stored, s) {
			t.Errorf("%s reached the disk", s)
		}
	}
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
