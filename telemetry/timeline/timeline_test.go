package timeline_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/timeline"
)

// memory finds among events held in memory.
type memory []telemetry.Event

func (m memory) Find(_ context.Context, q telemetry.Query) ([]telemetry.Event, error) {
	var out []telemetry.Event
	match := func(want, got string) bool { return want == "" || want == got }
	for _, e := range m {
		if match(q.TraceID, e.TraceID) && match(q.RequestID, e.RequestID) && match(q.JobID, e.JobID) &&
			match(q.ErrorCode, e.ErrorCode) && match(q.TenantID, e.TenantID) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b telemetry.Event) int { return a.Time.Compare(b.Time) })
	return out[max(0, len(out)-q.Limit):], nil
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

// failedRequest is a request that enqueues a job whose second attempt fails
// in the database.
func failedRequest() memory {
	const tenant = "acme"
	return memory{
		{Kind: telemetry.Span, Time: at(0), End: at(0.2), TraceID: "t1", SpanID: "a", RequestID: "req_1", TenantID: tenant, Name: "POST /evaluations"},
		{Kind: telemetry.Span, Time: at(0.1), End: at(0.15), TraceID: "t1", SpanID: "b", ParentID: "a", RequestID: "req_1", JobID: "job_1", TenantID: tenant, Name: "enqueue"},
		{Kind: telemetry.Log, Time: at(0.12), TraceID: "t1", SpanID: "b", JobID: "job_1", TenantID: tenant, Name: "job enqueued", Status: "INFO"},
		{Kind: telemetry.Span, Time: at(1), End: at(2), TraceID: "t2", SpanID: "c", JobID: "job_1", TenantID: tenant, Name: "attempt 1", Links: []string{"t1"}},
		{Kind: telemetry.Span, Time: at(8), End: at(9), TraceID: "t3", SpanID: "d", JobID: "job_1", TenantID: tenant, Name: "attempt 2", Status: "error", Links: []string{"t2"}},
		{Kind: telemetry.Span, Time: at(8.2), End: at(8.4), TraceID: "t3", SpanID: "e", ParentID: "d", TenantID: tenant, Name: "INSERT", Status: "error", ErrorCode: "DB_LOCKED"},
		{Kind: telemetry.Span, Time: at(8.1), End: at(8.2), TraceID: "t9", SpanID: "z", RequestID: "req_9", TenantID: tenant, Name: "unrelated"},
		{Kind: telemetry.Span, Time: at(8.3), End: at(8.4), TraceID: "t3", SpanID: "x", ParentID: "d", TenantID: "globex", Name: "other tenant's"},
	}
}

func names(t timeline.Timeline) (out []string) {
	for _, e := range t.Entries {
		out = append(out, e.Name)
	}
	return out
}

func TestAnyIdentifierLeadsToTheWholeStory(t *testing.T) {
	t.Parallel()
	want := []string{"POST /evaluations", "enqueue", "job enqueued", "attempt 1", "attempt 2", "INSERT"}
	for name, q := range map[string]telemetry.Query{
		"request":    {RequestID: "req_1"},
		"job":        {JobID: "job_1"},
		"trace":      {TraceID: "t3"},
		"error code": {ErrorCode: "DB_LOCKED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q.TenantID = "acme"
			got, err := timeline.Build(t.Context(), failedRequest(), q)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(names(got), want) {
				t.Fatalf("got %v", names(got))
			}
			if e := got.Entries[got.FirstError]; e.Name != "INSERT" || e.Depth != 1 {
				t.Errorf("first error is %q at depth %d; want the cause, not its caller", e.Name, e.Depth)
			}
			if e := got.Entries[4]; e.Gap != 6 || e.Offset != 8 || e.Duration != 1 {
				t.Errorf("attempt 2: gap %v, offset %v, duration %v", e.Gap, e.Offset, e.Duration)
			}
			if e := got.Entries[2]; e.Depth != 2 {
				t.Errorf("the log record has depth %d, want one below its span", e.Depth)
			}
			if !slices.Equal(got.JobIDs, []string{"job_1"}) || len(got.TraceIDs) != 3 {
				t.Errorf("ids: %v %v", got.JobIDs, got.TraceIDs)
			}
		})
	}
}

func TestOtherTenantSeesNothing(t *testing.T) {
	t.Parallel()
	got, err := timeline.Build(t.Context(), failedRequest(), telemetry.Query{RequestID: "req_1", TenantID: "globex"})
	if err != nil || len(got.Entries) != 0 || got.FirstError != -1 {
		t.Errorf("got %v, %v", names(got), err)
	}
}

func TestRingOfParentsEnds(t *testing.T) {
	t.Parallel()
	m := memory{
		{Kind: telemetry.Span, Time: at(0), End: at(1), TraceID: "t", SpanID: "a", ParentID: "b", Name: "a"},
		{Kind: telemetry.Span, Time: at(0), End: at(1), TraceID: "t", SpanID: "b", ParentID: "a", Name: "b"},
	}
	if got, err := timeline.Build(t.Context(), m, telemetry.Query{TraceID: "t"}); err != nil || len(got.Entries) != 2 {
		t.Errorf("got %v, %v", names(got), err)
	}
}

func TestEndlessStoryIsCut(t *testing.T) {
	t.Parallel()
	var m memory
	for i := range 500 {
		id := strings.Repeat("x", i+1)
		m = append(m, telemetry.Event{Kind: telemetry.Span, Time: at(float64(i)), End: at(float64(i)), TraceID: id, SpanID: "s", Name: "n", Links: []string{id + "x"}})
	}
	got, err := timeline.Build(t.Context(), m, telemetry.Query{TraceID: "x"})
	if err != nil || !got.Truncated || len(got.Entries) > 100 {
		t.Errorf("%d entries, truncated %v, %v", len(got.Entries), got.Truncated, err)
	}
}

func TestWaterfall(t *testing.T) {
	t.Parallel()
	m := failedRequest()
	m[3].Name = "attempt\x1b[31m 1"
	got, err := timeline.Build(t.Context(), m, telemetry.Query{RequestID: "req_1", TenantID: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := got.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"job job_1", "nothing for 6.0 s", "▶", "INSERT (0.200 s) error error_code=DB_LOCKED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("a service's name reaches the terminal as an escape sequence")
	}
}

func TestReasonNamesWhatIsWorseOnTheCandidate(t *testing.T) {
	t.Parallel()
	group := func(code, tenant string, n int64) telemetry.ErrorGroup {
		return telemetry.ErrorGroup{ErrorKey: telemetry.ErrorKey{Code: code, TenantID: tenant, Name: "score"}, Count: n, TraceID: "trace-" + code}
	}
	stable := []telemetry.ErrorGroup{group("TIMEOUT", "acme", 90), group("PARSE", "acme", 9)}
	candidate := []telemetry.ErrorGroup{group("TIMEOUT", "acme", 10), group("PARSE", "acme", 4), group("DB_LOCKED", "globex", 30)}
	changes := timeline.Compare(candidate, stable, 100, 900)
	if len(changes) != 2 || changes[0].Code != "DB_LOCKED" || !changes[0].New || changes[1].Code != "PARSE" || changes[1].StableCount != 1 {
		t.Fatalf("changes %+v", changes)
	}
	const want = "DB_LOCKED occurred 30 times on the candidate, at score, and never there on stable; it hit tenant globex only. " +
		"Also new or more frequent: PARSE. Example trace: trace-DB_LOCKED."
	if got := timeline.Reason(changes); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	changes = timeline.Compare([]telemetry.ErrorGroup{group("", "acme", 3)}, nil, 10, 10)
	if got := timeline.Reason(changes); !strings.HasPrefix(got, "an error without a code occurred 3 times on the candidate, at score, and never") {
		t.Errorf("without a code: %s", got)
	}
	if got := timeline.Compare(candidate, stable, 0, 0); len(got) != 1 {
		t.Errorf("without request counts: %+v", got)
	}
	if got := timeline.Reason(nil); got != "" {
		t.Errorf("reason for nothing: %s", got)
	}
}

func TestReasonCountsAnErrorWhereverItCameFrom(t *testing.T) {
	t.Parallel()
	group := func(tenant, name string, n int64) telemetry.ErrorGroup {
		return telemetry.ErrorGroup{ErrorKey: telemetry.ErrorKey{Code: "MIGRATION_FAILED", TenantID: tenant, Name: name}, Count: n, TraceID: "t"}
	}
	candidate := []telemetry.ErrorGroup{group("acme", "GET /report", 37), group("acme", "GET /job", 3), group("globex", "POST /evaluation", 2)}
	for _, tt := range []struct {
		stable []telemetry.ErrorGroup
		want   string
	}{
		{nil, "MIGRATION_FAILED occurred 42 times on the candidate, at GET /report and 2 other places, and never there on stable; it hit 2 tenants. Example trace: t."},
		{candidate[1:2], "MIGRATION_FAILED occurred 39 times on the candidate, at GET /report and one other place, and never there on stable; it hit 2 tenants. Example trace: t."},
		{[]telemetry.ErrorGroup{group("acme", "GET /report", 1)}, "MIGRATION_FAILED occurred 42 times on the candidate, at GET /report and 2 other places, 42.0 times as often per request as there on stable; it hit 2 tenants. Example trace: t."},
	} {
		if got := timeline.Reason(timeline.Compare(candidate, tt.stable, 10, 10)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
