package otlp_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/headgate/headgate/telemetry"
)

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
					attribute.String("deployment.environment.name", "staging"),
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
			if at, ok := b.Freshness("bidding", protocol, "staging"); !ok || at.Before(before) {
				t.Errorf("freshness = %v, %v", at, ok)
			}
			for _, other := range [][2]string{{"v0", "staging"}, {protocol, "production"}} {
				if _, ok := b.Freshness("bidding", other[0], other[1]); ok {
					t.Errorf("%s in %s never sent and is fresh", other[0], other[1])
				}
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
