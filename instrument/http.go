package instrument

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Headers that carry the identifiers over HTTP.
const (
	HeaderTraceID   = "x-trace-id"
	HeaderRequestID = "x-request-id"
	HeaderTenantID  = "x-tenant-id"
)

// maxRequestID bounds a request id that a client chose; a longer one, or one
// with characters outside of printable ASCII, is replaced.
const maxRequestID = 128

// Middleware gives every request a span, a request id and the response
// headers x-trace-id and x-request-id, and records its duration by tenant,
// route, status and error code. A valid traceparent wins over x-trace-id,
// which counts when it is 32 hex digits. next is best an [http.ServeMux],
// whose pattern becomes the route.
func (t *Telemetry) Middleware(next http.Handler) http.Handler {
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := r.Header.Get(HeaderRequestID)
		if !printable(id) {
			id = randomHex(16)
		}
		ctx := withFields(r.Context(), Fields{})
		Annotate(ctx, Fields{RequestID: id})
		w.Header().Set(HeaderRequestID, id)
		w.Header().Set(HeaderTraceID, TraceID(ctx))
		r = r.WithContext(ctx)
		sw := &statusWriter{ResponseWriter: w}
		defer func() {
			f, route := FieldsOf(ctx), routeOf(r.Pattern)
			span := trace.SpanFromContext(ctx)
			span.SetName(r.Method + " " + route)
			span.SetAttributes(attribute.String("http.route", route))
			t.requests.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(
				attribute.String("tenant_id", f.TenantID),
				attribute.String("http.request.method", r.Method),
				attribute.String("http.route", route),
				attribute.Int("http.response.status_code", sw.code()),
				attribute.String("error_code", f.ErrorCode)))
		}()
		next.ServeHTTP(sw, r)
	})
	// Our own histogram has the tenant; otelhttp's would only double the cost.
	traced := otelhttp.NewHandler(inner, "http.server", otelhttp.WithTracerProvider(t.traces),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()), otelhttp.WithPropagators(t.propagator))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, err := trace.TraceIDFromHex(r.Header.Get(HeaderTraceID)); err == nil {
			r = r.WithContext(context.WithValue(r.Context(), wishedKey{}, id))
		}
		traced.ServeHTTP(w, r)
	})
}

func routeOf(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		return path
	}
	if pattern == "" {
		return "unmatched"
	}
	return pattern
}

func printable(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= maxRequestID
}

func randomHex(n int) string {
	b := make([]byte, n)
	crand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(code int) {
	if w.status == 0 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Transport returns a client transport that continues the caller's trace and
// passes x-request-id and x-tenant-id on. A nil base is
// [http.DefaultTransport].
func (t *Telemetry) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return otelhttp.NewTransport(fieldTransport{base}, otelhttp.WithTracerProvider(t.traces),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()), otelhttp.WithPropagators(t.propagator))
}

type fieldTransport struct{ base http.RoundTripper }

func (t fieldTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	f := FieldsOf(r.Context())
	r = r.Clone(r.Context())
	setMissing(r.Header, HeaderRequestID, f.RequestID)
	setMissing(r.Header, HeaderTenantID, f.TenantID)
	setMissing(r.Header, HeaderTraceID, TraceID(r.Context()))
	return t.base.RoundTrip(r)
}

func setMissing(h http.Header, key, value string) {
	if value != "" && h.Get(key) == "" {
		h.Set(key, value)
	}
}

type wishedKey struct{}

// wishedIDs makes random ids, except that a root span takes the trace id that
// the client asked for in x-trace-id.
type wishedIDs struct{}

var _ sdktrace.IDGenerator = wishedIDs{}

func (g wishedIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, ok := ctx.Value(wishedKey{}).(trace.TraceID)
	if !ok {
		crand.Read(id[:])
	}
	return id, g.NewSpanID(ctx, id)
}

func (wishedIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	crand.Read(id[:])
	return id
}
