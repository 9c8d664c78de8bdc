package otlp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/telemetry/otlp"
)

// sink keeps logs and spans in memory.
type sink struct {
	mu     sync.Mutex
	logs   []plog.Logs
	traces []ptrace.Traces
	err    error
	block  chan struct{} // when set, logs take a value of it and wait until it is closed
}

func (s *sink) AppendLogs(_ context.Context, _ string, ld plog.Logs) (telemetry.Rejected, error) {
	if s.block != nil {
		<-s.block
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	var log bytes.Buffer // slog's handler locks it
	b := setup(t, func(b *bundle) {
		b.Logger = slog.New(slog.NewTextHandler(&log, nil))
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
	if n := strings.Count(log.String(), "telemetry is refused"); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
	if n := b.Stats().Dropped["metrics/unauthenticated"]; n != 1 {
		t.Errorf("%d unauthenticated requests counted", n)
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
