package instrument

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Fields are the identifiers, besides the trace id, that a request or a job
// carries everywhere.
type Fields struct {
	RequestID string
	TenantID  string
	JobID     string
	ErrorCode string
}

type fieldsKey struct{}

// scope is shared by everything that runs under one request or job, because
// the tenant and the error code are known only deep inside of it.
type scope struct {
	mu     sync.Mutex
	fields Fields
}

func withFields(ctx context.Context, f Fields) context.Context {
	return context.WithValue(ctx, fieldsKey{}, &scope{fields: f})
}

// Annotate adds the non-empty fields to the request or job of ctx: to its
// span, its metrics and every later log record and database event. Without a
// request or job in ctx it does nothing.
func Annotate(ctx context.Context, f Fields) {
	s, ok := ctx.Value(fieldsKey{}).(*scope)
	if !ok {
		return
	}
	s.mu.Lock()
	merge(&s.fields.RequestID, f.RequestID)
	merge(&s.fields.TenantID, f.TenantID)
	merge(&s.fields.JobID, f.JobID)
	merge(&s.fields.ErrorCode, f.ErrorCode)
	s.mu.Unlock()
	trace.SpanFromContext(ctx).SetAttributes(f.attributes()...)
}

func merge(dst *string, v string) {
	if v != "" {
		*dst = v
	}
}

// FieldsOf returns the fields of ctx's request or job.
func FieldsOf(ctx context.Context) Fields {
	s, ok := ctx.Value(fieldsKey{}).(*scope)
	if !ok {
		return Fields{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fields
}

// TraceID returns the trace id of ctx in hex, or "".
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}

func (f Fields) each(visit func(key, value string)) {
	for _, kv := range [][2]string{
		{"request_id", f.RequestID}, {"tenant_id", f.TenantID}, {"job_id", f.JobID}, {"error_code", f.ErrorCode},
	} {
		if kv[1] != "" {
			visit(kv[0], kv[1])
		}
	}
}

func (f Fields) attributes() []attribute.KeyValue {
	var out []attribute.KeyValue
	f.each(func(k, v string) { out = append(out, attribute.String(k, v)) })
	return out
}

// Handler returns a slog handler that adds the correlation fields of the
// record's context and passes it to next.
func Handler(next slog.Handler) slog.Handler { return &handler{next} }

type handler struct{ next slog.Handler }

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	f := FieldsOf(ctx)
	r.Attrs(func(a slog.Attr) bool {
		// What the call says itself wins over the context.
		if a.Key == "error_code" {
			f.ErrorCode = ""
		}
		return true
	})
	r = r.Clone()
	if id := TraceID(ctx); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	f.each(func(k, v string) { r.AddAttrs(slog.String(k, v)) })
	return h.next.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(attrs)}
}

func (h *handler) WithGroup(name string) slog.Handler { return &handler{h.next.WithGroup(name)} }
