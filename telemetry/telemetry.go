// Package telemetry is the vocabulary of the IN side: what the receiver hands
// to the stores, what the stores answer, and how secrets are kept off the
// disk.
//
// It owns the words and the redactor. It never listens, stores or judges; its
// subpackages do: otlp receives, metrics and events store, timeline joins.
package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// The attribute keys that tie the signals of one request together.
const (
	AttrTenant    = "tenant_id"
	AttrRequest   = "request_id"
	AttrJob       = "job_id"
	AttrErrorCode = "error_code"
)

// AttrEvent is where the name of an event among the log records is kept: the
// attribute that had it before OpenTelemetry gave it a field.
const AttrEvent = "event.name"

// Rejected says how much of a batch was refused and why. The rest of the
// batch is durable. Reason is safe to show to the sender.
type Rejected struct {
	Count  int64
	Reason string
}

// Add merges o into r, keeping the first reason.
func (r *Rejected) Add(o Rejected) {
	if o.Count == 0 {
		return
	}
	r.Count += o.Count
	if r.Reason == "" {
		r.Reason = o.Reason
	}
}

// A MetricSink stores metric points. When it returns nil the accepted points
// survive kill -9. A non-empty tenant is the verified sender: points of any
// other tenant are refused and points without one become its own. An error
// means that nothing was stored and the sender should retry.
type MetricSink interface {
	AppendMetrics(ctx context.Context, tenant string, md pmetric.Metrics) (Rejected, error)
}

// A LogSink stores log records under the same promises as [MetricSink].
type LogSink interface {
	AppendLogs(ctx context.Context, tenant string, ld plog.Logs) (Rejected, error)
}

// A TraceSink stores spans under the same promises as [MetricSink].
type TraceSink interface {
	AppendTraces(ctx context.Context, tenant string, td ptrace.Traces) (Rejected, error)
}

// Kind tells the two sorts of [Event] apart.
type Kind string

// The two kinds of event.
const (
	Span Kind = "span"
	Log  Kind = "log"
)

// Event is one span or one log record as it was received, after redaction.
type Event struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time"`
	// End is the span's end; zero for a log record.
	End time.Time `json:"end,omitzero"`

	TraceID  string `json:"trace_id,omitempty"`
	SpanID   string `json:"span_id,omitempty"`
	ParentID string `json:"parent_id,omitempty"`

	Service     string `json:"service,omitempty"`
	Version     string `json:"version,omitempty"`
	Environment string `json:"environment,omitempty"`
	Instance    string `json:"instance,omitempty"`

	TenantID  string `json:"tenant_id,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	ErrorCode string `json:"error_code,omitempty"`

	// Name is the span's name or the log record's body.
	Name string `json:"name"`
	// Status is "error", "ok" or "" for a span and the severity text in upper
	// case ("INFO", "ERROR") for a log record.
	Status     string            `json:"status,omitempty"`
	Message    string            `json:"message,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	// Links are the trace ids that a span points to, for example the enqueuing
	// request of a job or the first attempt of a retry.
	Links []string `json:"links,omitempty"`
}

// Failed reports whether the event says that something went wrong.
func (e Event) Failed() bool {
	if e.Kind == Span {
		return e.Status == "error" || e.ErrorCode != ""
	}
	return e.Status == "ERROR" || e.Status == "FATAL"
}

// Query selects events. Non-empty fields must all match. At least one of the
// identifiers TraceID, RequestID, JobID, ErrorCode or TenantID is required.
type Query struct {
	TraceID   string
	RequestID string
	JobID     string
	ErrorCode string
	TenantID  string
	// Service and Version narrow further; they are not enough by themselves.
	Service string
	Version string
	// From and To bound the event's time, both inclusive; zero is open.
	From, To time.Time
	// Limit bounds the answer, newest first being kept; 0 means 1000, the most
	// is 10000.
	Limit int
}

// A Finder answers event queries in order of time. No match is an empty
// answer, not an error.
type Finder interface {
	Find(ctx context.Context, q Query) ([]Event, error)
}

// ErrorKey is what errors are grouped by. Name is the span's name or the
// pattern of the log record's body. The code may be empty.
type ErrorKey struct {
	Code     string `json:"error_code"`
	TenantID string `json:"tenant_id,omitempty"`
	Name     string `json:"name"`
}

// ErrorGroup counts the events of one key, with one of their traces.
type ErrorGroup struct {
	ErrorKey
	Count   int64     `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	TraceID string    `json:"trace_id,omitempty"`
}
