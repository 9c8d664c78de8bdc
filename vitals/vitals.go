// Package vitals counts what Headgate itself does, under the names of the
// metric dictionary (headgate.*), through OpenTelemetry's own SDK: into the
// server's own metric store, and to a collector where one is named. The
// collector gets traces and logs of the control plane's own work too.
//
// It owns the instruments and their way out. It never judges, and never makes
// who counts wait: what cannot be sent is sent with the next export, since all
// counts are cumulative. A collector that is away costs a log line.
package vitals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// Options say where the counts go.
type Options struct {
	// Version of this build.
	Version string
	// Sink is the server's own metric store.
	Sink telemetry.MetricSink
	// Endpoint is the base URL of an OTLP/HTTP receiver that gets the same;
	// empty for none. OTEL_EXPORTER_OTLP_HEADERS is honoured. It may hold a
	// secret and is never logged.
	Endpoint string
	// Queues are asked for their depths at every export. A queue that cannot
	// tell returns an error and is left out.
	Queues map[string]func(context.Context) (int64, error)
	// Every is how often is exported; 0 means 5 s.
	Every  time.Duration
	Logger *slog.Logger // discards
}

// Vitals are the instruments. Its methods are safe for concurrent use and do
// not block. Stop it.
type Vitals struct {
	provider  *sdkmetric.MeterProvider
	decisions metric.Int64Counter
	gates     metric.Int64Counter
	ticks     metric.Float64Histogram
	rollbacks metric.Float64Histogram
	requests  metric.Float64Histogram
	answers   sync.Map // the attributes of each answer that was ever given
}

// answer is how requests of a kind were answered. There are few.
type answer struct {
	method, route string
	status        int
}

// New starts to export.
func New(ctx context.Context, o Options) (*Vitals, error) {
	o.Every = cmp.Or(o.Every, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	own, err := ownStore(ctx, o)
	if err != nil {
		return nil, err
	}
	options := []sdkmetric.Option{
		sdkmetric.WithResource(identity(o.Version)),
		sdkmetric.WithReader(own),
	}
	if o.Endpoint != "" {
		collector, err := collector(ctx, o)
		if err != nil {
			return nil, err
		}
		options = append(options, sdkmetric.WithReader(collector))
	}
	v := &Vitals{provider: sdkmetric.NewMeterProvider(options...)}
	if err := v.instruments(o); err != nil {
		return nil, errors.Join(fmt.Errorf("instruments of the own telemetry: %w", err), v.provider.Shutdown(ctx))
	}
	return v, nil
}

// identity says whose telemetry it is.
func identity(version string) *resource.Resource {
	return resource.NewSchemaless(
		attribute.String("service.name", "headgate"), attribute.String("service.version", version),
		attribute.String("service.instance.id", "headgate"),
	)
}

// The histograms' bounds in seconds. Those of rollbacks hold the limits of half
// a minute, ten minutes and half an hour.
var (
	quick = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	slow  = []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600}
)

func (v *Vitals) instruments(o Options) error {
	m := v.provider.Meter("github.com/headgate/headgate/vitals")
	var errs [6]error
	v.decisions, errs[0] = m.Int64Counter("headgate.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Events of the audit trail."))
	v.gates, errs[1] = m.Int64Counter("headgate.gate.evaluations", metric.WithUnit("{evaluation}"),
		metric.WithDescription("Gates evaluated."))
	v.ticks, errs[2] = m.Float64Histogram("headgate.canary.tick.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to observe a canary once."), metric.WithExplicitBucketBoundaries(quick...))
	v.rollbacks, errs[3] = m.Float64Histogram("headgate.rollback.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from a rollback's trigger to its end."), metric.WithExplicitBucketBoundaries(slow...))
	v.requests, errs[4] = m.Float64Histogram("headgate.http.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer a request to the control plane."), metric.WithExplicitBucketBoundaries(quick...))
	_, errs[5] = m.Int64ObservableGauge("headgate.queue.depth", metric.WithUnit("{item}"),
		metric.WithDescription("Items waiting in the control plane."),
		metric.WithInt64Callback(func(ctx context.Context, obs metric.Int64Observer) error {
			for name, depth := range o.Queues {
				if n, err := depth(ctx); err == nil {
					obs.Observe(n, metric.WithAttributes(attribute.String("queue_name", name)))
				}
			}
			return nil
		}))
	return errors.Join(errs[:]...)
}

// Event counts an event of the audit trail.
func (v *Vitals) Event(ev headgate.Event) {
	verdict := attribute.String("verdict", string(ev.Verdict))
	v.decisions.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("event_kind", ev.Kind), attribute.String("stage", string(ev.Stage)), verdict))
	if ev.Kind == "gate_evaluated" {
		v.gates.Add(context.Background(), 1, metric.WithAttributes(verdict))
	}
}

// Tick counts one observation of a canary.
func (v *Vitals) Tick(took time.Duration) {
	v.ticks.Record(context.Background(), took.Seconds())
}

// Rollback counts a rollback that has ended, restored or not.
func (v *Vitals) Rollback(took time.Duration, restored bool) {
	outcome := "restored"
	if !restored {
		outcome = "frozen"
	}
	v.rollbacks.Record(context.Background(), took.Seconds(), metric.WithAttributes(attribute.String("outcome", outcome)))
}

// Request counts an answered HTTP request. Route is the pattern that matched,
// never the path, and empty for none. ctx is the request's, with its span.
func (v *Vitals) Request(ctx context.Context, method, route string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "_OTHER"
	}
	answered(ctx, method, route, status)
	a := answer{method, route, status}
	attributes, ok := v.answers.Load(a)
	if !ok {
		attributes, _ = v.answers.LoadOrStore(a, metric.WithAttributes(attribute.String("http.request.method", method),
			attribute.String("http.route", route), attribute.Int("http.response.status_code", status)))
	}
	v.requests.Record(ctx, took.Seconds(), attributes.(metric.MeasurementOption))
}

// Stop exports once more and ends. It takes as long as ctx allows at most.
func (v *Vitals) Stop(ctx context.Context) error { return v.provider.Shutdown(ctx) }
