package telemetry

import (
	"cmp"
	"context"
	"slices"

	"github.com/headgate/headgate"
)

// The bounds of [Query.Limit].
const (
	DefaultLimit = 1_000
	MaxLimit     = 10_000
)

// Check returns REQ_VALIDATION_FAILED for a query that names nothing to look
// for, and the limit that is in force.
func (q Query) Check() (limit int, err error) {
	if cmp.Or(q.TraceID, q.RequestID, q.JobID, q.ErrorCode, q.TenantID) == "" {
		return 0, headgate.Invalidf("a query for events needs a trace_id, request_id, job_id, error_code or tenant_id")
	}
	if q.Limit < 0 {
		return 0, headgate.Invalidf("limit must not be negative")
	}
	return min(cmp.Or(q.Limit, DefaultLimit), MaxLimit), nil
}

// Matches reports whether the query selects the event.
func (q Query) Matches(e Event) bool {
	if !q.From.IsZero() && e.Time.Before(q.From) || !q.To.IsZero() && e.Time.After(q.To) {
		return false
	}
	for _, f := range []struct{ want, got string }{
		{q.TraceID, e.TraceID}, {q.RequestID, e.RequestID}, {q.JobID, e.JobID}, {q.ErrorCode, e.ErrorCode},
		{q.TenantID, e.TenantID}, {q.Service, e.Service}, {q.Version, e.Version},
	} {
		if f.want != "" && f.want != f.got {
			return false
		}
	}
	return true
}

// Newest sorts events by time and keeps the newest.
func Newest(events []Event, limit int) []Event {
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return events[max(0, len(events)-limit):]
}

// Finders asks several backends, as one for traces and one for logs, and
// answers with what all of them know. One that fails fails the answer: a story
// with a part missing in silence would mislead.
type Finders []Finder

// Find implements [Finder].
func (f Finders) Find(ctx context.Context, q Query) ([]Event, error) {
	limit, err := q.Check()
	if err != nil {
		return nil, err
	}
	var out []Event
	for _, one := range f {
		found, err := one.Find(ctx, q)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return Newest(out, limit), nil
}
