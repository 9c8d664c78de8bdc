package events_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
)

const childEnv = "HEADGATE_EVENTS_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		appendForever(dir)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string, o events.Options) *events.Store {
	t.Helper()
	s, err := events.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func trace(n int) pcommon.TraceID {
	var id pcommon.TraceID
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	id[0] = 0xab
	return id
}

func span(n int) pcommon.SpanID {
	var id pcommon.SpanID
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

func resource(res pcommon.Resource, version string) {
	res.Attributes().PutStr("service.name", "bidding")
	res.Attributes().PutStr("service.version", version)
	res.Attributes().PutStr("deployment.environment.name", "staging")
}

// spans makes n spans, numbered from first, five to a trace.
func spans(first, n int, attrs map[string]any) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	resource(rs.Resource(), "v1")
	out := rs.ScopeSpans().AppendEmpty().Spans()
	for i := first; i < first+n; i++ {
		s := out.AppendEmpty()
		s.SetTraceID(trace(i / 5))
		s.SetSpanID(span(i))
		s.SetName("work")
		at := start.Add(time.Duration(i) * time.Millisecond)
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(at))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(at.Add(time.Millisecond)))
		_ = s.Attributes().FromRaw(attrs)
		s.Attributes().PutStr("request_id", fmt.Sprintf("req_%d", i/5))
	}
	return td
}

func mustTraces(t testing.TB, s *events.Store, tenant string, td ptrace.Traces) {
	t.Helper()
	if r, err := s.AppendTraces(t.Context(), tenant, td); err != nil || r.Count != 0 {
		t.Fatal(r, err)
	}
}

func find(t testing.TB, s *events.Store, q telemetry.Query) []telemetry.Event {
	t.Helper()
	got, err := s.Find(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSpanComesBackWhole(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	td := spans(0, 1, map[string]any{"tenant_id": "acme", "job_id": "job_1", "error_code": "E1", "n": int64(7), "list": []any{"a", "b"}})
	sp := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	sp.SetParentSpanID(span(9))
	sp.Status().SetCode(ptrace.StatusCodeError)
	sp.Status().SetMessage("boom")
	sp.Links().AppendEmpty().SetTraceID(trace(99))
	ev := sp.Events().AppendEmpty()
	ev.SetName("db.insert")
	ev.SetTimestamp(sp.StartTimestamp() + 10)
	ev.Attributes().PutStr("db.table", "jobs")
	mustTraces(t, s, "", td)

	want := []telemetry.Event{
		{
			Kind: telemetry.Span, Time: start, End: start.Add(time.Millisecond),
			TraceID: trace(0).String(), SpanID: span(0).String(), ParentID: span(9).String(),
			Service: "bidding", Version: "v1", Environment: "staging", TenantID: "acme", RequestID: "req_0", JobID: "job_1", ErrorCode: "E1",
			Name: "work", Status: "error", Message: "boom",
			Attributes: map[string]string{"n": "7", "list": `["a","b"]`}, Links: []string{trace(99).String()},
		},
		{
			Kind: telemetry.Log, Time: start.Add(10), TraceID: trace(0).String(), SpanID: span(0).String(),
			Service: "bidding", Version: "v1", Environment: "staging", TenantID: "acme", RequestID: "req_0", JobID: "job_1",
			Name: "db.insert", Status: "INFO", Attributes: map[string]string{"db.table": "jobs"},
		},
	}
	for _, q := range []telemetry.Query{
		{TraceID: trace(0).String()}, {RequestID: "req_0"}, {JobID: "job_1"},
		{TenantID: "acme", Service: "bidding", Version: "v1", From: start, To: start.Add(time.Second)},
	} {
		if diff := cmp.Diff(want, find(t, s, q)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", q, diff)
		}
	}
	if diff := cmp.Diff(want[:1], find(t, s, telemetry.Query{ErrorCode: "E1"})); diff != "" {
		t.Errorf("by error code (-want +got):\n%s", diff)
	}
	for _, q := range []telemetry.Query{
		{TraceID: trace(1).String()}, {TraceID: trace(0).String(), TenantID: "globex"}, {ErrorCode: "E1", TenantID: "globex"},
		{JobID: "job_1", Version: "v2"}, {JobID: "job_1", From: start.Add(time.Second)}, {ErrorCode: "E1", To: start.Add(-1)},
	} {
		if got := find(t, s, q); len(got) != 0 {
			t.Errorf("%+v found %v", q, got)
		}
	}
	if _, err := s.Find(t.Context(), telemetry.Query{Service: "bidding"}); err == nil {
		t.Error("a query without an identifier was accepted")
	}
}

func TestLogRecordComesBackWhole(t *testing.T) {
	t.Parallel()
	now := start.Add(time.Hour)
	s := open(t, t.TempDir(), events.Options{Now: func() time.Time { return now }})
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	resource(rl.Resource(), "v2")
	rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	rec.SetTraceID(trace(3))
	rec.SetSeverityNumber(plog.SeverityNumberError)
	rec.Body().SetStr("解析失败")
	rec.SetEventName("db.parse_failed")
	rec.Attributes().PutStr("request_id", "req_9")
	rec.Attributes().PutStr("long", strings.Repeat("x", 20<<10))
	if r, err := s.AppendLogs(t.Context(), "acme", ld); err != nil || r.Count != 0 {
		t.Fatal(r, err)
	}
	got := find(t, s, telemetry.Query{RequestID: "req_9", TenantID: "acme"})
	if len(got) != 1 || got[0].Name != "解析失败" || got[0].Status != "ERROR" || !got[0].Failed() || got[0].TraceID != trace(3).String() || !got[0].Time.Equal(now) {
		t.Fatalf("got %+v", got)
	}
	if name := got[0].Attributes["event.name"]; name != "db.parse_failed" {
		t.Errorf("the event is named %q", name)
	}
	if v := got[0].Attributes["long"]; len(v) > 17<<10 || !strings.HasSuffix(v, "[cut]") {
		t.Errorf("the long value has %d bytes", len(v))
	}
}

func TestOtherTenantsRecordsAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	r, err := s.AppendTraces(t.Context(), "acme", spans(0, 3, map[string]any{"tenant_id": "globex"}))
	if err != nil || r.Count != 3 || !strings.Contains(r.Reason, "another tenant") {
		t.Fatal(r, err)
	}
	if got := find(t, s, telemetry.Query{TenantID: "globex"}); len(got) != 0 {
		t.Errorf("%d stored", len(got))
	}
}

func TestRepeatedBatchIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	for range 3 {
		mustTraces(t, s, "", spans(0, 10, nil))
	}
	if got := find(t, s, telemetry.Query{RequestID: "req_1"}); len(got) != 5 {
		t.Errorf("%d spans, want 5", len(got))
	}
}

func TestLimitKeepsTheNewest(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	for first := 0; first < 1000; first += 100 {
		mustTraces(t, s, "acme", spans(first, 100, map[string]any{"error_code": "E"}))
	}
	for _, q := range []telemetry.Query{{TenantID: "acme", Limit: 10}, {ErrorCode: "E", Limit: 10}} {
		got := find(t, s, q)
		if len(got) != 10 || got[9].SpanID != span(999).String() || got[0].SpanID != span(990).String() {
			t.Errorf("%+v: %d events from %s", q, len(got), got[0].SpanID)
		}
	}
}

func TestPackingKeepsEveryRow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, events.Options{})
	const batches, each = 60, 100
	for i := range batches {
		mustTraces(t, s, "acme", spans(i*each, each, map[string]any{"k": i}))
	}
	before := find(t, s, telemetry.Query{TenantID: "acme", Limit: 10_000})
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	after := find(t, s, telemetry.Query{TenantID: "acme", Limit: 10_000})
	if len(before) != batches*each {
		t.Fatalf("%d rows", len(before))
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	for i := 0; i < batches*each/5; i += 97 {
		if got := find(t, s, telemetry.Query{TraceID: trace(i).String()}); len(got) != 5 {
			t.Errorf("trace %d has %d spans", i, len(got))
		}
	}
}

// Few rows can be many bytes, such as prompts: a block that is read as a whole
// must not have all of them, and one that is full is not packed again.
func TestPackingBoundsABlocksBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := events.Open(dir, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{})
	const batches = 14
	for i := range batches { // of 1 MiB and more each
		attrs := map[string]any{}
		for j := range 100 {
			raw := make([]byte, 8<<10)
			_, _ = random.Read(raw)
			attrs[fmt.Sprint("prompt", j)] = hex.EncodeToString(raw)
		}
		mustTraces(t, s, "", spans(i, 1, attrs))
	}
	for range 2 {
		if err := s.Compact(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, events.Options{})
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	found := 0
	for i := range (batches + 4) / 5 {
		found += len(find(t, s, telemetry.Query{TraceID: trace(i).String()}))
	}
	if found != batches {
		t.Errorf("%d of %d spans are there", found, batches)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	db, err := sql.Open("sqlite", files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var blocks, most int
	if err := db.QueryRow("SELECT count(*), max(n) FROM blocks").Scan(&blocks, &most); err != nil {
		t.Fatal(err)
	}
	if blocks >= batches || most > 12 {
		t.Errorf("%d blocks, the largest of %d rows of more than 1 MiB", blocks, most)
	}
}

func TestRetentionDropsWholeDays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var mu sync.Mutex
	now := start
	s := open(t, dir, events.Options{Retention: 48 * time.Hour, Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	for range 5 {
		mustTraces(t, s, "acme", spans(0, 5, nil))
		mu.Lock()
		now = now.Add(24 * time.Hour)
		mu.Unlock()
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil || len(files) != 2 {
		t.Errorf("files %v, %v; want two days", files, err)
	}
}

func TestReopenedStoreAnswers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := events.Open(dir, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustTraces(t, s, "", spans(0, 10, nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AppendTraces(t.Context(), "", spans(10, 10, nil)); err == nil {
		t.Error("a closed store acknowledged a batch")
	}
	if got := find(t, open(t, dir, events.Options{}), telemetry.Query{RequestID: "req_1"}); len(got) != 5 {
		t.Errorf("%d spans", len(got))
	}
}

func TestConcurrentAppendFindAndPack(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 30 {
				n := (w*30 + i) * 20
				mustTraces(t, s, "", spans(n, 20, nil))
				if got := find(t, s, telemetry.Query{TraceID: trace(n / 5).String()}); len(got) != 5 {
					t.Errorf("trace %d has %d spans right after the acknowledgement", n/5, len(got))
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := s.Compact(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}

// appendForever prints how many spans are acknowledged.
func appendForever(dir string) {
	s, err := events.Open(dir, events.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for {
			if err := s.Compact(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	first, _ := strconv.Atoi(os.Getenv(childEnv + "_FROM"))
	for n := first; ; n += 50 {
		if _, err := s.AppendTraces(context.Background(), "", spans(n, 50, nil)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n + 50)
	}
}

// The sender repeats the batch that was not acknowledged; it may be on the disk
// already, and must not be twice in an answer.
func TestKill9LosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	const kills = 20
	dir := t.TempDir()
	last := 0
	for kill := range kills {
		from := last
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir, childEnv+"_FROM="+strconv.Itoa(from))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if last, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if last >= from+500+50*kill {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait() // the kill is the expected end
		if last < from+500 {
			t.Fatalf("the child ended by itself after %d spans", last-from)
		}
	}
	s := open(t, dir, events.Options{})
	for n := 0; n < last; n += 5 {
		if got := find(t, s, telemetry.Query{TraceID: trace(n / 5).String()}); len(got) != 5 {
			t.Errorf("trace %d has %d spans", n/5, len(got))
		}
	}
	t.Logf("%d kills, %d spans acknowledged", kills, last)
}

func TestErrorsAreCountedByVersion(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	for range 2 { // a repeated batch counts once
		mustTraces(t, s, "", spans(0, 5, map[string]any{"error_code": "E1", "tenant_id": "acme"}))
	}
	mustTraces(t, s, "", spans(5, 2, map[string]any{"error_code": "E2", "tenant_id": "globex"}))
	got, err := s.Errors(t.Context(), events.ErrorQuery{Service: "bidding", Version: "v1", Environment: "staging", From: start, To: start.Add(time.Minute)})
	if err != nil || len(got) != 2 || got[0].Code != "E1" || got[0].Count != 5 || got[0].TraceID != trace(0).String() || got[1].Count != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, q := range []events.ErrorQuery{
		{Service: "bidding", Version: "v2"}, {Service: "other"}, {Service: "bidding", To: start.Add(-1)}, {Service: "bidding", TenantID: "x"},
		{Service: "bidding", Environment: "production"},
	} {
		if got, err := s.Errors(t.Context(), q); err != nil || len(got) != 0 {
			t.Errorf("%+v: %+v, %v", q, got, err)
		}
	}
	if _, err := s.Errors(t.Context(), events.ErrorQuery{}); err == nil {
		t.Error("a query without a service was accepted")
	}
}

func TestAFailureIsCountedOnceWhereItEntered(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	failed := map[string]any{"error_code": "E1", "tenant_id": "acme"}
	td := spans(0, 4, failed)
	out := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	for i, name := range []string{"POST /evaluations", "score", "db.insert", "db.insert"} {
		out.At(i).SetName(name)
		out.At(i).SetStartTimestamp(pcommon.NewTimestampFromTime(start.Add(time.Duration(i) * time.Millisecond)))
	}
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	resource(rl.Resource(), "v1")
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for i, of := range []pcommon.TraceID{trace(0), trace(0), trace(1), {}, {}} {
		r := records.AppendEmpty()
		r.SetTraceID(of)
		r.SetTimestamp(pcommon.NewTimestampFromTime(start.Add(-time.Duration(i) * time.Second)))
		r.Body().SetStr([]string{"request failed", "request_failed", "job failed", "no trace", "no trace"}[i])
		if err := r.Attributes().FromRaw(failed); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.AppendLogs(t.Context(), "", ld); err != nil {
		t.Fatal(err)
	}
	mustTraces(t, s, "", td)
	got, err := s.Errors(t.Context(), events.ErrorQuery{Service: "bidding", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, g := range got {
		counted = append(counted, fmt.Sprint(g.Name, " ", g.Count, " ", g.TraceID))
	}
	want := []string{"no trace 2 ", "POST /evaluations 1 " + trace(0).String(), "job failed 1 " + trace(1).String()}
	if diff := cmp.Diff(want, counted); diff != "" {
		t.Error(diff)
	}
}

// What fails without an error code counts by the pattern of its log line, or
// where its trace entered; not where something else in the trace has a code.
func TestErrorsWithoutACodeAreCountedByPattern(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	td := spans(0, 2, map[string]any{"tenant_id": "acme"})
	failed := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	for i, name := range []string{"GET /a", "GET /b"} {
		failed.At(i).SetName(name)
		failed.At(i).Status().SetCode(ptrace.StatusCodeError)
	}
	failed.At(1).SetTraceID(trace(1))
	failed.At(1).Attributes().PutStr("error_code", "E1")
	mustTraces(t, s, "", td)
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	resource(rl.Resource(), "v1")
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for i, line := range []struct {
		severity plog.SeverityNumber
		trace    pcommon.TraceID
		body     string
	}{
		{plog.SeverityNumberError, pcommon.TraceID{}, "no answer from 10.0.0.7:5432 after 3 tries"},
		{plog.SeverityNumberFatal, pcommon.TraceID{}, "no answer from 10.0.0.9:5432 after 12 tries"},
		{plog.SeverityNumberWarn, pcommon.TraceID{}, "slow"},
		{plog.SeverityNumberError, trace(0), "request failed"},
		{plog.SeverityNumberError, trace(1), "request failed"},
	} {
		r := records.AppendEmpty()
		r.SetTraceID(line.trace)
		r.SetSeverityNumber(line.severity)
		r.SetTimestamp(pcommon.NewTimestampFromTime(start.Add(time.Duration(i) * time.Second)))
		r.Body().SetStr(line.body)
		r.Attributes().PutStr("tenant_id", "acme")
	}
	if _, err := s.AppendLogs(t.Context(), "", ld); err != nil {
		t.Fatal(err)
	}
	got, err := s.Errors(t.Context(), events.ErrorQuery{Service: "bidding", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, g := range got {
		counted = append(counted, fmt.Sprint(g.Code, " ", g.Name, " ", g.Count))
	}
	want := []string{" no answer from # after # tries 2", " GET /a 1", "E1 GET /b 1"}
	if diff := cmp.Diff(want, counted); diff != "" {
		t.Error(diff)
	}
}

func TestEventsAreFoundByTheirName(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), events.Options{})
	add := func(service, name string, at time.Duration) {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		resource(rl.Resource(), "v1")
		rl.Resource().Attributes().PutStr("service.name", service)
		rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		rec.SetEventName(name)
		rec.SetTimestamp(pcommon.NewTimestampFromTime(start.Add(at)))
		rec.Attributes().PutStr("n", fmt.Sprint(at))
		if _, err := s.AppendLogs(t.Context(), "", ld); err != nil {
			t.Fatal(err)
		}
	}
	add("bidding", "audit.evaluated", time.Minute)
	add("bidding", "audit.reviewed", 2*time.Minute)
	add("bidding", "audit.effective", 3*time.Minute)
	add("bidding", "audit.evaluated", time.Hour) // later than asked
	add("other", "audit.evaluated", time.Minute)
	add("bidding", "", time.Minute)
	ask := func() (got []string) {
		q := events.NamedQuery{Service: "bidding", Names: []string{"audit.evaluated", "audit.effective"}, From: start, To: start.Add(10 * time.Minute)}
		if err := s.EachNamed(t.Context(), q, func(e telemetry.Event) { got = append(got, e.Attributes["event.name"]+" "+e.Attributes["n"]) }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []string{"audit.evaluated 1m0s", "audit.effective 3m0s"}
	if diff := cmp.Diff(want, ask()); diff != "" {
		t.Error(diff)
	}
	for range 8 { // enough blocks to be packed into one
		add("bidding", "db.else", time.Minute)
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, ask()); diff != "" {
		t.Error("packed: ", diff)
	}
}
