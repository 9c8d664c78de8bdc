// Package metrics is the metric store: an embedded Prometheus TSDB that takes
// OTLP metrics and answers PromQL.
//
// A batch is in the operating system's hands before it is acknowledged, so
// that kill -9 of the process loses nothing that was acknowledged. The
// package never listens on a port and knows no metric by name; names and
// queries live in package dictionary.
package metrics

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate/telemetry"
)

// Options tune a [Store]. The zero value of every field means its default.
type Options struct {
	Retention    time.Duration // 15 days
	MaxBytes     int64         // of blocks on disk; 0 is no limit
	OutOfOrder   time.Duration // how late a point may be; 1 minute
	QueryTimeout time.Duration // 30 s
	QuerySamples int           // samples one query may load; 20 million
	// TenantSeries bounds the active series per tenant_id (and those without
	// one), so that one tenant cannot drown the others; 100 000.
	TenantSeries int
	Logger       *slog.Logger
	Now          func() time.Time
}

// Sample is one series' value at one instant.
type Sample struct {
	Labels map[string]string
	Time   time.Time
	Value  float64
}

// Point is one value of a series.
type Point struct {
	Time  time.Time
	Value float64
}

// Series is a labelled line of points in order of time.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Store is the metric store. It is safe for concurrent use.
type Store struct{}

// Open opens or creates the store in dir and takes its lock file. Only one
// process can have it open.
func Open(dir string, o Options) (*Store, error) { return nil, nil }

// Close waits for running compactions and releases the directory.
func (s *Store) Close() error { return nil }

// AppendMetrics stores a batch; see [telemetry.MetricSink]. Delta temporality,
// points that are too old or too far ahead, points of another tenant and
// series beyond the tenant's limit are refused by count.
func (s *Store) AppendMetrics(ctx context.Context, tenant string, md pmetric.Metrics) (telemetry.Rejected, error) {
	return telemetry.Rejected{}, nil
}

// Instant evaluates a PromQL query at one time. The order of the answer is by
// labels. A query that does not parse is REQ_VALIDATION_FAILED.
func (s *Store) Instant(ctx context.Context, query string, at time.Time) ([]Sample, error) {
	return nil, nil
}

// Number evaluates a query whose answer is at most one value. ok is false
// when there is no data; NaN is returned as it is. More than one series is
// REQ_VALIDATION_FAILED.
func (s *Store) Number(ctx context.Context, query string, at time.Time) (v float64, ok bool, err error) {
	return 0, false, nil
}

// Range evaluates a PromQL query at every step from start to end, both
// inclusive, at most 11 000 steps.
func (s *Store) Range(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]Series, error) {
	return nil, nil
}
