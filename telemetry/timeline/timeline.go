// Package timeline tells the story of one request: its spans and logs, and
// those of the jobs and retries that it led to, in order of time.
//
// It owns the joining. It never stores anything; it reads through
// [telemetry.Finder].
package timeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/telemetry"
)

// Timeline is one request's events in order of time.
type Timeline struct {
	TraceIDs   []string `json:"trace_ids"`
	RequestIDs []string `json:"request_ids"`
	JobIDs     []string `json:"job_ids"`
	Entries    []Entry  `json:"entries"`
	// FirstError is the index in Entries of what failed first, -1 when nothing
	// did. A span fails at its end, so this is the cause and not its callers.
	FirstError int `json:"first_error"`
	// Truncated says that a bound was reached and there is more.
	Truncated bool `json:"truncated,omitempty"`
}

// Entry is one event with its place in the story.
type Entry struct {
	telemetry.Event
	// Depth is the distance from the root of its trace.
	Depth int `json:"depth"`
	// Offset is the time since the first event, in seconds.
	Offset float64 `json:"offset_s"`
	// Duration is how long a span took, in seconds.
	Duration float64 `json:"duration_s,omitempty"`
	// Gap is the silence before this event, in seconds, when it is long enough
	// to matter: more than a second during which no span was running.
	Gap float64 `json:"gap_s,omitempty"`
}

const (
	silence    = time.Second // the shortest gap that is marked
	maxLookups = 64
	maxEvents  = 5_000
)

// Build starts from the identifiers in q and follows the ids that it
// discovers. From an error code alone it takes the latest event that carries
// it. A non-empty q.TenantID is enforced on everything it follows. Finding
// nothing is an empty timeline.
func Build(ctx context.Context, f telemetry.Finder, q telemetry.Query) (Timeline, error) {
	b := &build{tenant: q.TenantID, asked: make(map[telemetry.Query]bool), seen: make(map[string]bool)}
	q.Limit = maxEvents
	if q.TraceID == "" && q.RequestID == "" && q.JobID == "" {
		q.Limit = 1
	}
	b.todo = []telemetry.Query{q}
	for len(b.todo) > 0 {
		next := b.todo[0]
		b.todo = b.todo[1:]
		if b.lookups == maxLookups || len(b.events) >= maxEvents {
			b.Truncated = true
			break
		}
		b.lookups++
		found, err := f.Find(ctx, next)
		if err != nil {
			return Timeline{}, fmt.Errorf("look up the timeline: %w", err)
		}
		if next.Limit > 1 && len(found) >= next.Limit {
			b.Truncated = true
		}
		for _, e := range found {
			b.add(e)
		}
	}
	b.arrange()
	return b.Timeline, nil
}

// build is a timeline in the making.
type build struct {
	Timeline
	tenant  string
	todo    []telemetry.Query
	asked   map[telemetry.Query]bool
	lookups int
	events  []telemetry.Event
	seen    map[string]bool
}

func (b *build) add(e telemetry.Event) {
	// Backends keep microseconds or nanoseconds of the same event.
	id := fmt.Sprint(e.Kind, e.TraceID, e.SpanID, e.Time.UnixMicro(), e.Name)
	if b.seen[id] {
		return
	}
	b.seen[id] = true
	b.events = append(b.events, e)
	b.follow(&b.TraceIDs, e.TraceID, telemetry.Query{TraceID: e.TraceID})
	b.follow(&b.RequestIDs, e.RequestID, telemetry.Query{RequestID: e.RequestID})
	b.follow(&b.JobIDs, e.JobID, telemetry.Query{JobID: e.JobID})
	for _, link := range e.Links {
		b.follow(&b.TraceIDs, link, telemetry.Query{TraceID: link})
	}
}

func (b *build) follow(ids *[]string, id string, q telemetry.Query) {
	q.TenantID, q.Limit = b.tenant, maxEvents
	if id == "" || b.asked[q] {
		return
	}
	b.asked[q] = true
	*ids = append(*ids, id)
	b.todo = append(b.todo, q)
}

// arrange sorts the events and works out depth, gaps and the first failure.
func (b *build) arrange() {
	slices.SortStableFunc(b.events, func(x, y telemetry.Event) int {
		// A span comes before what happened inside it.
		return cmp.Or(x.Time.Compare(y.Time), y.End.Compare(x.End))
	})
	depth := b.depths()
	b.FirstError = -1
	var first, busyUntil time.Time
	for i, e := range b.events {
		entry := Entry{Event: e, Depth: depth(e)}
		if i == 0 {
			first, busyUntil = e.Time, e.Time
		}
		entry.Offset = e.Time.Sub(first).Seconds()
		if gap := e.Time.Sub(busyUntil); gap > silence {
			entry.Gap = gap.Seconds()
		}
		if e.Kind == telemetry.Span {
			entry.Duration = e.End.Sub(e.Time).Seconds()
		}
		if end := settled(e); end.After(busyUntil) {
			busyUntil = end
		}
		b.Entries = append(b.Entries, entry)
		if e.Failed() && (b.FirstError < 0 || earlier(entry, b.Entries[b.FirstError])) {
			b.FirstError = i
		}
	}
}

// settled is when an event's outcome was known.
func settled(e telemetry.Event) time.Time {
	if e.Kind == telemetry.Span {
		return e.End
	}
	return e.Time
}

func earlier(x, y Entry) bool {
	at, other := settled(x.Event), settled(y.Event)
	return at.Before(other) || at.Equal(other) && x.Depth > y.Depth
}

// depths returns each event's distance from its trace's root. A log record is
// one deeper than its span.
func (b *build) depths() func(telemetry.Event) int {
	parent := make(map[string]string)
	for _, e := range b.events {
		if e.Kind == telemetry.Span {
			parent[e.TraceID+e.SpanID] = e.TraceID + e.ParentID
		}
	}
	return func(e telemetry.Event) int {
		n := 0
		if e.Kind == telemetry.Log && e.SpanID != "" {
			n = 1
		}
		at := e.TraceID + e.SpanID
		for range len(parent) { // bounded even when parents form a ring
			up, ok := parent[at]
			if _, known := parent[up]; !ok || !known {
				break
			}
			at = up
			n++
		}
		return n
	}
}
