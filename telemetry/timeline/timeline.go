// Package timeline tells the story of one request: its spans and logs, and
// those of the jobs and retries that it led to, in order of time.
//
// It owns the joining. It never stores anything; it reads through
// [telemetry.Finder].
package timeline

import (
	"context"
	"time"

	"github.com/headgate/headgate/telemetry"
)

// Timeline is one request's events in order of time.
type Timeline struct {
	TraceIDs   []string `json:"trace_ids"`
	RequestIDs []string `json:"request_ids"`
	JobIDs     []string `json:"job_ids"`
	Entries    []Entry  `json:"entries"`
	// FirstError is the index in Entries of the first failure, -1 without one.
	FirstError int `json:"first_error"`
	// Truncated says that a bound was reached and there is more.
	Truncated bool `json:"truncated,omitempty"`
}

// Entry is one event with its place in the story.
type Entry struct {
	telemetry.Event
	// Depth is the span's distance from the root of its trace.
	Depth int `json:"depth"`
	// Offset is the time since the first event, in seconds.
	Offset float64 `json:"offset_s"`
	// Gap is the silence before this event, in seconds, when it is long enough
	// to matter: more than a second during which no span was running.
	Gap float64 `json:"gap_s,omitempty"`
}

// Build starts from the identifiers in q and follows the ids that it
// discovers. A non-empty q.TenantID is enforced on everything it follows.
func Build(ctx context.Context, f telemetry.Finder, q telemetry.Query) (Timeline, error) {
	return Timeline{}, nil
}

// silence is the shortest gap that is marked.
const silence = time.Second
