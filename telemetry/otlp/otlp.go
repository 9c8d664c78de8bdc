// Package otlp receives OpenTelemetry metrics, logs and traces over gRPC and
// HTTP (protobuf and JSON, gzip) and hands them to sinks.
//
// A request is acknowledged only after its sink made it durable. Work in
// flight is bounded; beyond the bound senders are told to come back. The
// package never stores anything itself.
package otlp

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/headgate/headgate/telemetry"
)

// Receiver is an OTLP endpoint. Set the fields, then [Receiver.Start].
type Receiver struct {
	// Metrics, Logs and Traces store what arrives. A signal without a sink is
	// refused as unimplemented.
	Metrics telemetry.MetricSink
	Logs    telemetry.LogSink
	Traces  telemetry.TraceSink
	// Redactor cleans logs and traces before a sink sees them; nil means the
	// built-in patterns.
	Redactor *telemetry.Redactor
	// Authenticate, when set, returns the sender's tenant ("" may write for
	// any) for the bearer token of the request's authorization header, which
	// may be empty. An error refuses the request as unauthenticated.
	Authenticate func(ctx context.Context, bearer string) (tenant string, err error)
	// MaxInFlight bounds the requests being stored at once; 0 means 64.
	MaxInFlight int
	// ReportEvery is how often the receiver writes its own counters
	// (headgate.redaction.hits, headgate.telemetry.*) into Metrics; 0 means 5 s.
	ReportEvery time.Duration
	Logger      *slog.Logger
	Now         func() time.Time
}

// Start serves on the listeners, either of which may be nil, and returns at
// once. The receiver owns them from then on.
func (r *Receiver) Start(grpc, http net.Listener) error { return nil }

// Stop stops accepting, waits for requests in flight until ctx ends, writes
// the last counters and returns.
func (r *Receiver) Stop(ctx context.Context) error { return nil }

// Freshness returns when metrics of the service's version last arrived, and
// whether they ever did since this process started.
func (r *Receiver) Freshness(service, version string) (time.Time, bool) { return time.Time{}, false }

// Stats are the receiver's counters since start.
type Stats struct {
	Received map[string]int64 // items by signal
	Dropped  map[string]int64 // items by "signal/reason"
}

// Stats returns a snapshot of the counters.
func (r *Receiver) Stats() Stats { return Stats{} }
