package instrument

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Carrier takes a request's identity through a queue. It is a plain map, so
// that it fits a JSON column or message headers.
type Carrier map[string]string

const (
	carrierRequest  = "request_id"
	carrierTenant   = "tenant_id"
	carrierPrevious = "retry_of"
)

// Inject returns the carrier to store beside a job at enqueue.
func (t *Telemetry) Inject(ctx context.Context) Carrier {
	c := Carrier{}
	t.propagator.Inject(ctx, propagation.MapCarrier(c))
	f := FieldsOf(ctx)
	if f.RequestID != "" {
		c[carrierRequest] = f.RequestID
	}
	if f.TenantID != "" {
		c[carrierTenant] = f.TenantID
	}
	return c
}

// InjectRetry returns the carrier to store when the job of ctx is tried
// again: it stays in the original trace, and the next attempt's span links to
// this one's.
func (t *Telemetry) InjectRetry(ctx context.Context, c Carrier) Carrier {
	next := make(Carrier, len(c)+1)
	for k, v := range c {
		next[k] = v
	}
	now := propagation.MapCarrier{}
	t.propagator.Inject(ctx, now)
	next[carrierPrevious] = now["traceparent"]
	return next
}

// StartJob begins the span of one attempt at a job, as a child of the request
// that queued it, linked to the attempt before it. The returned function ends
// the span; a non-nil error marks it as failed.
func (t *Telemetry) StartJob(ctx context.Context, c Carrier, jobType, jobID string, attempt int) (context.Context, func(error)) {
	ctx = t.propagator.Extract(ctx, propagation.MapCarrier(c))
	f := Fields{RequestID: c[carrierRequest], TenantID: c[carrierTenant], JobID: jobID}
	ctx = withFields(ctx, f)
	opts := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(f.attributes()...),
		trace.WithAttributes(attribute.String("job.type", jobType), attribute.Int("job.attempt", attempt)),
	}
	if prev := c[carrierPrevious]; prev != "" {
		sc := trace.SpanContextFromContext(t.propagator.Extract(context.Background(), propagation.MapCarrier{"traceparent": prev}))
		opts = append(opts, trace.WithLinks(trace.Link{
			SpanContext: sc, Attributes: []attribute.KeyValue{attribute.String("link.kind", "retry_of")},
		}))
	}
	ctx, span := t.Tracer.Start(ctx, "job "+jobType, opts...)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, FieldsOf(ctx).ErrorCode)
		}
		span.End()
	}
}
