// Package otlp receives OpenTelemetry metrics, logs and traces over gRPC and
// HTTP (protobuf and JSON, gzip) and hands them to sinks.
//
// A request is acknowledged only after its sink made it durable. Work in
// flight is bounded; beyond the bound senders are told to come back. Secrets
// are removed before a sink sees them. The package never
// stores anything itself.
package otlp

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/genai"
)

// The limits of one request.
const (
	MaxBodyBytes = 16 << 20 // before and after decompression
	storeTimeout = 30 * time.Second
	retryDelay   = time.Second
)

// Receiver is an OTLP endpoint. Set the fields, then [Receiver.Start].
type Receiver struct {
	// Metrics, Logs and Traces store what arrives. A signal without a sink is
	// refused as unimplemented.
	Metrics telemetry.MetricSink
	Logs    telemetry.LogSink
	Traces  telemetry.TraceSink
	// Redactor cleans what arrives before a sink sees it; nil means the built-in
	// patterns.
	Redactor *telemetry.Redactor
	// GenAI counts tokens, their cost and evaluations of model calls; nil means
	// the built-in dictionary and no prices.
	GenAI *genai.Counter
	// Authenticate, when set, returns the sender's tenant ("" may write for
	// any) for the bearer token of the request's authorization header, which
	// may be empty. An error refuses the request as unauthenticated.
	Authenticate func(ctx context.Context, bearer string) (tenant string, err error)
	// MaxInFlight bounds the requests being stored at once; 0 means 64.
	MaxInFlight int
	// ItemsPerSecond bounds the points, records and spans that one tenant's
	// credential may send, with bursts of ten seconds' worth, so that one tenant
	// cannot drown the others; 0 is no limit.
	ItemsPerSecond int
	// ReportEvery is how often the receiver writes its own counters
	// (headgate.telemetry.*, GenAI's) into Metrics; 0 means 5 s. Redaction hits
	// (headgate.redaction.hits) are there before their batch is acknowledged.
	ReportEvery time.Duration
	Logger      *slog.Logger     // discards
	Now         func() time.Time // the wall clock

	slots    chan struct{}
	counters counters
	rates    rates
	warned   atomic.Int64 // Unix seconds of the last warning about a credential
	keeping  sync.Mutex   // one keepHits at a time
	kept     time.Time    // of the last redaction counters; guarded by keeping
	grpc     *grpc.Server
	http     *http.Server
	serving  sync.WaitGroup
	stop     context.CancelFunc
}

// Start serves on the listeners, either of which may be nil, and returns at
// once. The receiver owns them from then on. Start must be called once.
func (r *Receiver) Start(grpcListener, httpListener net.Listener) error {
	if r.Redactor == nil {
		r.Redactor = telemetry.NewRedactor()
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.GenAI == nil {
		d, err := dictionary.Load("")
		if err != nil {
			return err
		}
		r.GenAI = genai.New(d, dictionary.Prices{}, rand.Text()[:8])
	}
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	r.slots = make(chan struct{}, cmp.Or(r.MaxInFlight, 64))
	r.counters.start(r.Now())
	r.rates.perSecond = float64(r.ItemsPerSecond)

	if grpcListener != nil {
		r.grpc = r.grpcServer()
		r.serving.Go(func() {
			if err := r.grpc.Serve(grpcListener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				r.Logger.Error("OTLP gRPC listener ended", "error", err)
			}
		})
	}
	if httpListener != nil {
		r.http = r.httpServer()
		r.serving.Go(func() {
			if err := r.http.Serve(httpListener); !errors.Is(err, http.ErrServerClosed) {
				r.Logger.Error("OTLP HTTP listener ended", "error", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.serving.Go(func() { r.report(ctx, cmp.Or(r.ReportEvery, 5*time.Second)) })
	return nil
}

// Stop stops accepting, waits for requests in flight until ctx ends, writes
// the last counters and returns.
func (r *Receiver) Stop(ctx context.Context) error {
	var err error
	if r.http != nil {
		err = r.http.Shutdown(ctx)
	}
	if r.grpc != nil {
		graceful := make(chan struct{})
		go func() {
			r.grpc.GracefulStop()
			close(graceful)
		}()
		select {
		case <-graceful:
		case <-ctx.Done():
			r.grpc.Stop() // makes GracefulStop return too
			<-graceful
			err = errors.Join(err, ctx.Err())
		}
	}
	r.stop()
	r.serving.Wait()
	return err
}

// errBusy tells a sender to come back.
var errBusy = headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
	"the receiver is busy; send the batch again after the delay")

// admit authenticates a request and takes a slot for it.
func (r *Receiver) admit(ctx context.Context, bearer string) (tenant string, release func(), err error) {
	if r.Authenticate != nil {
		if tenant, err = r.Authenticate(ctx, bearer); err != nil {
			r.warn()
			return "", nil, headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive,
				"the telemetry credential is missing or not valid; set OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%%20<token>").Wrap(err)
		}
	}
	select {
	case r.slots <- struct{}{}:
		return tenant, func() { <-r.slots }, nil
	default:
		return "", nil, errBusy
	}
}

// warn says once a minute that a sender has no good credential: many exporters
// keep such an answer to themselves.
func (r *Receiver) warn() {
	now, last := r.Now().Unix(), r.warned.Load()
	if now-last >= 60 && r.warned.CompareAndSwap(last, now) {
		r.Logger.Warn("telemetry is refused, because its sender has no valid credential; set OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20<token> where the service runs")
	}
}

func errUnimplemented(signal string) error {
	return headgate.Errorf(headgate.CodeNotFound, headgate.ClassPermanent, "this server stores no %s", signal)
}

func (r *Receiver) storeMetrics(ctx context.Context, tenant string, md pmetric.Metrics) (telemetry.Rejected, error) {
	if r.Metrics == nil {
		return telemetry.Rejected{}, errUnimplemented("metrics")
	}
	total := int64(md.DataPointCount())
	if err := r.rates.take(tenant, total, r.Now()); err != nil {
		r.counters.turnedAway("metrics", "rate_limited")
		return telemetry.Rejected{}, err
	}
	r.counters.redacted("metrics", r.Redactor.Metrics(md), r.Now())
	seen := versions(md)
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	costs := r.GenAI.Metrics(md)
	rejected, err := r.Metrics.AppendMetrics(ctx, tenant, md)
	if err == nil && costs.MetricCount() > 0 {
		_, err = r.Metrics.AppendMetrics(ctx, tenant, costs)
	}
	if err == nil {
		err = r.keepHits(ctx)
	}
	r.counters.stored("metrics", total, rejected, err)
	if err == nil && rejected.Count < total {
		r.counters.fresh(seen, r.Now())
	}
	return rejected, err
}

func (r *Receiver) storeLogs(ctx context.Context, tenant string, ld plog.Logs) (telemetry.Rejected, error) {
	if r.Logs == nil {
		return telemetry.Rejected{}, errUnimplemented("logs")
	}
	total := int64(ld.LogRecordCount())
	if err := r.rates.take(tenant, total, r.Now()); err != nil {
		r.counters.turnedAway("logs", "rate_limited")
		return telemetry.Rejected{}, err
	}
	r.counters.redacted("logs", r.Redactor.Logs(ld), r.Now())
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	evaluations := r.GenAI.Logs(tenant, ld)
	rejected, err := r.Logs.AppendLogs(ctx, tenant, ld)
	if err == nil {
		r.GenAI.Add(evaluations, r.Now())
		err = r.keepHits(ctx)
	}
	r.counters.stored("logs", total, rejected, err)
	return rejected, err
}

func (r *Receiver) storeTraces(ctx context.Context, tenant string, td ptrace.Traces) (telemetry.Rejected, error) {
	if r.Traces == nil {
		return telemetry.Rejected{}, errUnimplemented("traces")
	}
	total := int64(td.SpanCount())
	if err := r.rates.take(tenant, total, r.Now()); err != nil {
		r.counters.turnedAway("traces", "rate_limited")
		return telemetry.Rejected{}, err
	}
	r.counters.redacted("traces", r.Redactor.Traces(td), r.Now())
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	usage := r.GenAI.Traces(tenant, td)
	rejected, err := r.Traces.AppendTraces(ctx, tenant, td)
	if err == nil {
		r.GenAI.Add(usage, r.Now())
		err = r.keepHits(ctx)
	}
	r.counters.stored("traces", total, rejected, err)
	return rejected, err
}
