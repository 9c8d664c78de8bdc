package vitals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/headgate/headgate/telemetry"
)

// exportTimeout bounds one export.
const exportTimeout = 3 * time.Second

// ownStore exports into the server's own sink, as OTLP, without a connection.
func ownStore(ctx context.Context, o Options) (sdkmetric.Reader, error) {
	return reader(ctx, o, "the own store",
		otlpmetrichttp.WithEndpointURL("http://own.invalid/v1/metrics"),
		otlpmetrichttp.WithHTTPClient(&http.Client{Transport: inProcess{o.Sink}}),
		otlpmetrichttp.WithCompression(otlpmetrichttp.NoCompression))
}

func collector(ctx context.Context, o Options) (sdkmetric.Reader, error) {
	u, err := parseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	return reader(ctx, o, "the collector", otlpmetrichttp.WithEndpointURL(u.JoinPath("v1", "metrics").String()))
}

// parseEndpoint does not repeat the address, which may hold a secret.
func parseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return nil, errors.New("the endpoint of the own telemetry is not a URL; correct OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	return u, nil
}

func reader(ctx context.Context, o Options, to string, options ...otlpmetrichttp.Option) (sdkmetric.Reader, error) {
	exporter, err := otlpmetrichttp.New(ctx, append(options,
		otlpmetrichttp.WithTimeout(exportTimeout),
		// The next export says all that this one could not.
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{}),
		// Whatever the environment prefers: the store takes nothing else.
		otlpmetrichttp.WithTemporalitySelector(func(sdkmetric.InstrumentKind) metricdata.Temporality {
			return metricdata.CumulativeTemporality
		}))...)
	if err != nil {
		return nil, fmt.Errorf("exporter of the own telemetry: %w", err)
	}
	return sdkmetric.NewPeriodicReader(&discreet{exporter, &complaint{to: to, log: o.Logger}},
		sdkmetric.WithInterval(o.Every), sdkmetric.WithTimeout(exportTimeout)), nil
}

// discreet is an exporter that keeps its errors to itself: it logs that it
// fails, once, and that it works again. An error's own text may hold the
// address, and with it a secret.
type discreet struct {
	sdkmetric.Exporter
	*complaint
}

// Export implements [sdkmetric.Exporter].
func (d *discreet) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	d.report(ctx, d.Exporter.Export(ctx, rm))
	return nil
}

// Shutdown implements [sdkmetric.Exporter].
func (d *discreet) Shutdown(ctx context.Context) error {
	d.report(ctx, d.Exporter.Shutdown(ctx))
	return nil
}

// complaint says once that a receiver does not take what it is sent.
type complaint struct {
	to      string
	log     *slog.Logger
	failing atomic.Bool
}

func (c *complaint) report(ctx context.Context, err error) {
	if c.failing.Swap(err != nil) == (err != nil) {
		return
	}
	if err == nil {
		c.log.InfoContext(ctx, "own telemetry arrives again", slog.String("receiver", c.to))
		return
	}
	c.log.WarnContext(ctx, "own telemetry does not arrive; nothing else depends on it",
		slog.String("receiver", c.to), slog.String("why", cause(err)))
}

// cause says what an export failed of, without the address.
func cause(err error) string {
	var u *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "no answer in time"
	case errors.As(err, &u):
		return u.Err.Error()
	}
	return "the receiver refuses it"
}

// inProcess hands OTLP requests to a sink.
type inProcess struct{ sink telemetry.MetricSink }

// RoundTrip implements [http.RoundTripper].
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return nil, err
	}
	req := pmetricotlp.NewExportRequest()
	if err := req.UnmarshalProto(body); err != nil {
		return nil, err
	}
	rejected, err := t.sink.AppendMetrics(r.Context(), "", req.Metrics())
	if err != nil {
		return nil, err
	}
	answer := pmetricotlp.NewExportResponse()
	if rejected.Count > 0 {
		answer.PartialSuccess().SetRejectedDataPoints(rejected.Count)
		answer.PartialSuccess().SetErrorMessage(rejected.Reason)
	}
	if body, err = answer.MarshalProto(); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/x-protobuf"}},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}
