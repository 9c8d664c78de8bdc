// Package instrument is what a Go service imports to be found again: one
// request keeps its trace_id, request_id, tenant_id, job_id and error_code
// from the HTTP API over the queue and the worker to the rows it changed.
//
// It owns the wiring of OpenTelemetry's own SDK and contrib packages and the
// five correlation fields. It never touches OpenTelemetry's global providers,
// never keeps its own wire format and never records bodies, credentials or
// header values other than the correlation identifiers.
package instrument

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options say who the service is and where its telemetry goes.
type Options struct {
	// Service, Version, Environment and InstanceID become the resource
	// attributes service.name, service.version, deployment.environment.name
	// and service.instance.id. Service is required.
	Service     string
	Version     string
	Environment string
	InstanceID  string

	// Endpoint is the base URL of an OTLP/HTTP receiver, for example
	// http://127.0.0.1:4318; the signal paths are appended. Empty: telemetry
	// is recorded but not exported. OTEL_EXPORTER_OTLP_HEADERS is honoured.
	Endpoint string

	// Namespace prefixes the metrics of this package; default "bea".
	Namespace string

	// Interval is how often metrics, logs and spans are sent; default 1 s.
	Interval time.Duration

	// Logs receives every record besides the export; nil discards them.
	Logs slog.Handler

	// Reader receives the metrics besides the export, for example a
	// ManualReader in a test; nil adds none.
	Reader sdkmetric.Reader
}

// Telemetry is one process's tracer, meter and logger. Its methods are safe
// for concurrent use.
type Telemetry struct {
	Tracer trace.Tracer
	Meter  metric.Meter
	// Logger adds trace_id, request_id, tenant_id, job_id and error_code to
	// every record logged with a context of a request or job.
	Logger *slog.Logger

	opts       Options
	traces     *sdktrace.TracerProvider
	metrics    *sdkmetric.MeterProvider
	logs       *sdklog.LoggerProvider
	propagator propagation.TextMapPropagator
	requests   metric.Float64Histogram
}

// DurationBuckets are histogram bounds in seconds that resolve 1 ms to 5 min
// and contain the limits of the performance gate.
var DurationBuckets = []float64{
	.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75,
	1, 1.5, 2, 3, 4, 6, 10, 20, 30, 60, 120, 180, 300,
}

// Setup connects the service to its OTLP receiver. It does not wait for the
// receiver: one that is away costs dropped telemetry, never a failed request.
// The caller owns the result and calls [Telemetry.Shutdown].
func Setup(ctx context.Context, opts Options) (*Telemetry, error) {
	if opts.Service == "" {
		return nil, errors.New("instrument: Options.Service is empty; name the service")
	}
	opts.Namespace = cmp.Or(opts.Namespace, "bea")
	opts.Interval = cmp.Or(opts.Interval, time.Second)
	res := resource.NewSchemaless(
		attribute.String("service.name", opts.Service),
		attribute.String("service.version", opts.Version),
		attribute.String("deployment.environment.name", opts.Environment),
		attribute.String("service.instance.id", opts.InstanceID),
	)
	traceOpts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res), sdktrace.WithIDGenerator(wishedIDs{})}
	metricOpts := []sdkmetric.Option{sdkmetric.WithResource(res)}
	logOpts := []sdklog.LoggerProviderOption{sdklog.WithResource(res)}
	if opts.Reader != nil {
		metricOpts = append(metricOpts, sdkmetric.WithReader(opts.Reader))
	}
	if opts.Endpoint != "" {
		base := strings.TrimRight(opts.Endpoint, "/")
		hc := &http.Client{Transport: patient{http.DefaultTransport}, Timeout: exportTimeout}
		spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base+"/v1/traces"), otlptracehttp.WithHTTPClient(hc),
			otlptracehttp.WithRetry(patience))
		if err != nil {
			return nil, fmt.Errorf("instrument: trace exporter: %w", err)
		}
		points, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(base+"/v1/metrics"))
		if err != nil {
			return nil, fmt.Errorf("instrument: metric exporter: %w", err)
		}
		records, err := otlploghttp.New(ctx, otlploghttp.WithEndpointURL(base+"/v1/logs"), otlploghttp.WithHTTPClient(hc),
			otlploghttp.WithRetry(otlploghttp.RetryConfig(patience)))
		if err != nil {
			return nil, fmt.Errorf("instrument: log exporter: %w", err)
		}
		traceOpts = append(traceOpts, sdktrace.WithBatcher(spans,
			sdktrace.WithBatchTimeout(opts.Interval), sdktrace.WithMaxQueueSize(8192)))
		metricOpts = append(metricOpts, sdkmetric.WithReader(
			sdkmetric.NewPeriodicReader(points, sdkmetric.WithInterval(opts.Interval))))
		logOpts = append(logOpts, sdklog.WithProcessor(
			sdklog.NewBatchProcessor(records, sdklog.WithExportInterval(opts.Interval))))
	}
	t := &Telemetry{
		opts:       opts,
		traces:     sdktrace.NewTracerProvider(traceOpts...),
		metrics:    sdkmetric.NewMeterProvider(metricOpts...),
		logs:       sdklog.NewLoggerProvider(logOpts...),
		propagator: propagation.TraceContext{},
	}
	t.Tracer = t.traces.Tracer(opts.Service)
	t.Meter = t.metrics.Meter(opts.Service)
	handlers := []slog.Handler{otelslog.NewHandler(opts.Service, otelslog.WithLoggerProvider(t.logs))}
	if opts.Logs != nil {
		handlers = append(handlers, opts.Logs)
	}
	t.Logger = slog.New(Handler(slog.NewMultiHandler(handlers...)))
	var err error
	t.requests, err = t.Meter.Float64Histogram(opts.Namespace+".api.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Time to answer an API request."),
		metric.WithExplicitBucketBoundaries(DurationBuckets...))
	if err != nil {
		return nil, fmt.Errorf("instrument: request histogram: %w", err)
	}
	return t, nil
}

// Name returns the metric name with the configured namespace in front.
func (t *Telemetry) Name(metric string) string { return t.opts.Namespace + "." + metric }

// Shutdown sends what is still buffered and stops the exporters. Bound it by
// ctx; a receiver that is away then costs that long.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	return errors.Join(t.traces.Shutdown(ctx), t.metrics.Shutdown(ctx), t.logs.Shutdown(ctx))
}
