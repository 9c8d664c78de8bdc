package vitals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/headgate/headgate"
)

// Signals send Headgate's own traces and logs to a collector, in batches from
// queues of bounded length; what does not fit is dropped. Without a collector
// they do nothing. They carry names, ids and codes, never a body, a query or
// the text of an error. Stop them.
type Signals struct {
	tracer trace.Tracer
	spans  *sdktrace.TracerProvider
	logs   *sdklog.LoggerProvider
	log    *slog.Logger
}

const scope = "github.com/headgate/headgate/vitals"

// NewSignals starts to export to the base URL of an OTLP/HTTP receiver, empty
// for none; see [Options]. What is wrong with the export is said to log.
func NewSignals(ctx context.Context, endpoint, version string, log *slog.Logger) (*Signals, error) {
	if endpoint == "" {
		return &Signals{tracer: noop.NewTracerProvider().Tracer(scope)}, nil
	}
	base, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base.JoinPath("v1", "traces").String()),
		otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}))
	if err != nil {
		return nil, fmt.Errorf("exporter of the own traces: %w", err)
	}
	logs, err := otlploghttp.New(ctx, otlploghttp.WithEndpointURL(base.JoinPath("v1", "logs").String()),
		otlploghttp.WithTimeout(exportTimeout), otlploghttp.WithRetry(otlploghttp.RetryConfig{}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("exporter of the own logs: %w", err), spans.Shutdown(ctx))
	}
	s := &Signals{
		log: log,
		spans: sdktrace.NewTracerProvider(sdktrace.WithResource(identity(version)),
			sdktrace.WithBatcher(quietSpans{spans, &complaint{to: "the collector of traces", log: log}})),
		logs: sdklog.NewLoggerProvider(sdklog.WithResource(identity(version)),
			sdklog.WithProcessor(sdklog.NewBatchProcessor(quietLogs{logs, &complaint{to: "the collector of logs", log: log}}))),
	}
	s.tracer = s.spans.Tracer(scope)
	return s, nil
}

// Logger returns a logger that does what l does and sends the same records.
func (s *Signals) Logger(l *slog.Logger) *slog.Logger {
	if s.logs == nil {
		return l
	}
	return slog.New(mirror{l.Handler(), otelslog.NewHandler(scope, otelslog.WithLoggerProvider(s.logs))})
}

// Effect begins a span of the control plane's own work. end takes the work's
// error, of which it keeps the code.
func (s *Signals) Effect(ctx context.Context, name string, attributes map[string]string) (_ context.Context, end func(error)) {
	ctx, span := s.tracer.Start(ctx, name)
	for k, v := range attributes {
		span.SetAttributes(attribute.String(k, v))
	}
	return ctx, func(err error) {
		if err != nil {
			code := headgate.AsError(err).Code
			span.SetStatus(codes.Error, code)
			span.SetAttributes(attribute.String("error_code", code))
		}
		span.End()
	}
}

// Requests makes a span of every request. A request that brings no trace gets
// this one's; [Vitals.Request] says what became of it.
func (s *Signals) Requests(next http.Handler) http.Handler {
	if s.spans == nil {
		return next
	}
	w3c := propagation.TraceContext{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		carrier := propagation.HeaderCarrier(r.Header)
		ctx, span := s.tracer.Start(w3c.Extract(r.Context(), carrier), r.Method, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		if r = r.WithContext(ctx); r.Header.Get("traceparent") == "" && r.Header.Get("x-trace-id") == "" {
			r.Header = r.Header.Clone()
			w3c.Inject(ctx, propagation.HeaderCarrier(r.Header))
		}
		next.ServeHTTP(w, r)
	})
}

// answered completes the request's span, if it has one.
func answered(ctx context.Context, method, route string, status int) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetName(method + " " + route)
	span.SetAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route), attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

// Stop sends what is left and ends, within what ctx allows. What cannot be sent
// by then is lost.
func (s *Signals) Stop(ctx context.Context) {
	if s.spans == nil {
		return
	}
	if err := errors.Join(s.spans.Shutdown(ctx), s.logs.Shutdown(ctx)); err != nil {
		s.log.WarnContext(ctx, "the last of the own traces and logs was not sent", slog.String("why", cause(err)))
	}
}

// mirror is a handler whose records another one gets too.
type mirror struct {
	slog.Handler
	to slog.Handler
}

// Handle implements [slog.Handler].
func (m mirror) Handle(ctx context.Context, r slog.Record) error {
	return errors.Join(m.Handler.Handle(ctx, r.Clone()), m.to.Handle(ctx, r))
}

// WithAttrs implements [slog.Handler].
func (m mirror) WithAttrs(attrs []slog.Attr) slog.Handler {
	return mirror{m.Handler.WithAttrs(attrs), m.to.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (m mirror) WithGroup(name string) slog.Handler {
	return mirror{m.Handler.WithGroup(name), m.to.WithGroup(name)}
}

// quietSpans and quietLogs keep the exporters' errors to themselves, as
// [discreet] does.
type quietSpans struct {
	sdktrace.SpanExporter
	*complaint
}

// ExportSpans implements [sdktrace.SpanExporter].
func (q quietSpans) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	q.report(ctx, q.SpanExporter.ExportSpans(ctx, spans))
	return nil
}

type quietLogs struct {
	sdklog.Exporter
	*complaint
}

// Export implements [sdklog.Exporter].
func (q quietLogs) Export(ctx context.Context, records []sdklog.Record) error {
	q.report(ctx, q.Exporter.Export(ctx, records))
	return nil
}
