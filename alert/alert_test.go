package alert_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
)

var start = time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)

var bidding = alert.Service{
	Name: "bidding", OnCall: "bid-platform-primary",
	Runbooks:     map[string]string{"telemetry_broken": "https://wiki.example.com/telemetry"},
	LatestChange: alert.Change{ReleaseID: "rel_1", Version: "2.1.0"},
}

func of(headgate.Event) alert.Service { return bidding }

// event is an event of release rel_1, and data its Data as the database gives
// it back.
func event(kind string, v headgate.Verdict, message string, data map[string]any) headgate.Event {
	ev := headgate.Event{Time: start, Kind: kind, ReleaseID: "rel_1", Service: "bidding", Verdict: v, Message: message, Data: data}
	b, err := json.Marshal(ev)
	if err != nil {
		panic(err)
	}
	var back headgate.Event
	if err := json.Unmarshal(b, &back); err != nil {
		panic(err)
	}
	return back
}

func because(codes ...string) map[string]any { return map[string]any{"reasons": codes} }

func TestWhichEventsAreAlerts(t *testing.T) {
	t.Parallel()
	const leak = "TENANT_SCOPE_VIOLATION_FOUND"
	for _, c := range []struct {
		ev       headgate.Event
		name     string // empty: no alert
		severity alert.Severity
	}{
		{event("gate_evaluated", headgate.Fail, "security gate: fail "+leak, nil), "tenant_leak", alert.P0},
		{event("stage_finished", headgate.Fail, "stopped", because("API_P95_EXCEEDED", leak)), "tenant_leak", alert.P0},
		{event("rollback_triggered", headgate.Fail, "", because("CANARY_CONSECUTIVE_BREACHES", leak)), "tenant_leak", alert.P0},
		{event("stage_finished", headgate.Fail, "", because("AUTH_BYPASS_FOUND")), "auth_bypass", alert.P0},
		{event("stage_finished", headgate.Fail, "", because("HIGH_RISK_APPROVAL_COVERAGE_LOW")), "high_risk_without_approval", alert.P0},
		{event("rollback_finished", headgate.Fail, "frozen", nil), "rollback_failed_replay", alert.P0},
		{event("rollback_finished", headgate.Fail, "", map[string]any{"escalations": []string{"model_config"}}), "rollback_step_escalated", alert.P0},
		{event("rollback_replay_verified", headgate.Fail, "", nil), "rollback_failed_replay", alert.P0},
		{event("rollback_step_escalated", headgate.Fail, "model_config: 503", nil), "rollback_step_escalated", alert.P0},
		{event("rollback_deadline_exceeded", headgate.Fail, "", nil), "rollback_overdue", alert.P0},
		{event("rollback_triggered", headgate.Fail, "", because("CANARY_ERRORS_WORSE")), "rollback_triggered", alert.P1},
		{event("rollback_retry", headgate.Broken, "", nil), "rollback_stuck", alert.P1},
		{event("canary_verdict", headgate.Broken, "", nil), "telemetry_broken", alert.P1},
		{event("release_inconclusive", headgate.Fail, "", nil), "release_inconclusive", alert.P2},
		{event("rollback_drill_finished", headgate.Fail, "the replay has not passed", nil), "rollback_drill_failed", alert.P2},

		{ev: event("gate_evaluated", headgate.Fail, "performance gate: fail API_P95_EXCEEDED", nil)},
		{ev: event("gate_evaluated", headgate.Insufficient, "security gate: insufficient TENANT_SCOPE_DATA_MISSING", nil)},
		{ev: event("stage_finished", headgate.Fail, "talks about "+leak, because("TEST_FAILED"))},
		{ev: event("canary_verdict", headgate.Insufficient, "", nil)},
		{ev: event("canary_verdict", headgate.Pass, "", nil)},
		{ev: event("rollback_finished", headgate.Pass, "", nil)},
		{ev: event("rollback_replay_verified", headgate.Pass, "", nil)},
		{ev: event("release_blocked", headgate.Fail, "", nil)},
		{ev: event("release_aborted", headgate.Fail, "", nil)},
		{ev: event("rollback_drill_finished", headgate.Pass, "", nil)},
		{ev: event("rollback_drill_finished", headgate.Insufficient, "a rollback ended it", nil)},
		{ev: event("something_new", headgate.Fail, "", map[string]any{"reasons": 7})},
	} {
		a, ok := alert.FromEvent(c.ev, bidding)
		if ok != (c.name != "") || a.Name != c.name || a.Severity != c.severity {
			t.Errorf("%s %s %v: %q %s, want %q %s", c.ev.Kind, c.ev.Verdict, c.ev.Data, a.Name, a.Severity, c.name, c.severity)
		}
	}
}

func TestAlertCarriesWhatAPersonNeeds(t *testing.T) {
	t.Parallel()
	a, ok := alert.FromEvent(event("canary_verdict", headgate.Broken, "no telemetry for 20 s", nil), bidding)
	if !ok {
		t.Fatal("no alert")
	}
	want := alert.Alert{
		Name: "telemetry_broken", Severity: alert.P1, Service: "bidding", ReleaseID: "rel_1",
		Summary: "the canary cannot be judged, its telemetry is broken: no telemetry for 20 s",
		Runbook: "https://wiki.example.com/telemetry", OnCall: "bid-platform-primary",
		LatestChange: alert.Change{ReleaseID: "rel_1", Version: "2.1.0"},
		StartedAt:    start, Deadline: start.Add(15 * time.Minute), Fingerprint: a.Fingerprint,
	}
	if a != want {
		t.Errorf("got  %+v\nwant %+v", a, want)
	}
	if len(a.Fingerprint) != 16 {
		t.Errorf("fingerprint %q", a.Fingerprint)
	}
	again := event("canary_verdict", headgate.Broken, "still none", nil)
	again.Time = start.Add(time.Hour)
	if b, _ := alert.FromEvent(again, bidding); b.Fingerprint != a.Fingerprint {
		t.Error("the same alert an hour later has another fingerprint")
	}
	again.ReleaseID = "rel_2"
	if b, _ := alert.FromEvent(again, bidding); b.Fingerprint == a.Fingerprint {
		t.Error("another release has the same fingerprint")
	}
}

func TestEveryAlertHasARunbookThatExists(t *testing.T) {
	t.Parallel()
	bare := alert.Service{Name: "bidding", OnCall: "somebody"}
	events := []headgate.Event{
		event("stage_finished", headgate.Fail, "", because("TENANT_SCOPE_VIOLATION_FOUND")),
		event("stage_finished", headgate.Fail, "", because("AUTH_BYPASS_FOUND")),
		event("stage_finished", headgate.Fail, "", because("HIGH_RISK_APPROVAL_COVERAGE_LOW")),
		event("rollback_replay_verified", headgate.Fail, "", nil),
		event("rollback_step_escalated", headgate.Fail, "", nil),
		event("rollback_deadline_exceeded", headgate.Fail, "", nil),
		event("rollback_retry", headgate.Broken, "", nil),
		event("canary_verdict", headgate.Broken, "", nil),
		event("release_inconclusive", headgate.Fail, "", nil),
		event("rollback_drill_finished", headgate.Fail, "", nil),
	}
	for _, code := range []string{
		canary.CodeErrorsWorse, canary.CodeSLOExceeded, canary.CodeLatencyWorse, canary.CodeCostWorse,
		canary.CodeBrokenTooLong, pipeline.ReasonTelemetryBroken, pipeline.ReasonCanaryUndecided, pipeline.ReasonAborted,
	} {
		events = append(events, event("rollback_triggered", headgate.Fail, "", because(code)))
	}
	used := map[string]int{}
	for _, ev := range events {
		a, ok := alert.FromEvent(ev, bare)
		if !ok {
			t.Errorf("%s %v is no alert", ev.Kind, ev.Data)
			continue
		}
		used[a.Runbook]++
		if _, err := os.Stat(filepath.Join("..", a.Runbook)); err != nil || a.Runbook == "" {
			t.Errorf("%s: runbook %q does not exist", a.Name, a.Runbook)
		}
		if a.LatestChange.ReleaseID == "" {
			t.Errorf("%s: no latest change", a.Name)
		}
	}
	// A rollback sends people to the page about its cause; only that of the
	// abort has none of its own.
	if used["docs/runbooks/README.md"] != 1 {
		t.Errorf("runbooks %v", used)
	}
}

func TestWhatEndsAnAlert(t *testing.T) {
	t.Parallel()
	leak := event("stage_finished", headgate.Fail, "", because("TENANT_SCOPE_VIOLATION_FOUND"))
	triggered := event("rollback_triggered", headgate.Fail, "", because("CANARY_ERRORS_WORSE"))
	escalated := event("rollback_step_escalated", headgate.Fail, "", nil)
	unverified := event("rollback_replay_verified", headgate.Fail, "", nil)
	overdue := event("rollback_deadline_exceeded", headgate.Fail, "", nil)
	retry := event("rollback_retry", headgate.Broken, "", nil)
	broken := event("canary_verdict", headgate.Broken, "", nil)
	inconclusive := event("release_inconclusive", headgate.Fail, "", nil)
	verified := event("rollback_replay_verified", headgate.Pass, "", nil)
	restored := event("rollback_finished", headgate.Pass, "", nil)
	executed := event("rollback_executed", headgate.Pass, "", nil)
	next := func(kind string) headgate.Event {
		ev := event(kind, "", "", nil)
		ev.ReleaseID = "rel_2"
		return ev
	}
	drill := func(v headgate.Verdict) headgate.Event { return event("rollback_drill_finished", v, "", nil) }
	elsewhere := next("canary_started")
	elsewhere.Service = "billing"
	ofAnother := verified
	ofAnother.ReleaseID = "rel_2"
	earlier := verified
	earlier.Time = start.Add(-time.Second)
	for _, c := range []struct {
		what  string
		trail []headgate.Event
		open  []string
	}{
		{"a leak lasts", []headgate.Event{leak}, []string{"tenant_leak"}},
		{"a leak ends with the release", []headgate.Event{leak, event("release_blocked", headgate.Fail, "", nil)}, nil},
		{"a leak ends with a security gate that passes", []headgate.Event{leak, event("gate_evaluated", headgate.Pass, "security gate: pass", nil)}, nil},
		{"not with another gate", []headgate.Event{leak, event("gate_evaluated", headgate.Pass, "cost gate: pass", nil)}, []string{"tenant_leak"}},
		{"not with another release", []headgate.Event{leak, next("release_blocked")}, []string{"tenant_leak"}},

		{"a rollback ends restored", []headgate.Event{triggered, executed, verified, restored}, nil},
		{"a rollback that failed is a P0 instead", []headgate.Event{triggered, unverified, event("rollback_finished", headgate.Fail, "", nil)}, []string{"rollback_failed_replay"}},
		{"until a replay passes", []headgate.Event{unverified, verified}, nil},
		{"not that of another release", []headgate.Event{unverified, ofAnother}, []string{"rollback_failed_replay"}},
		{"not one before", []headgate.Event{unverified, earlier}, []string{"rollback_failed_replay"}},
		{"a frozen service that takes a canary is frozen no more", []headgate.Event{unverified, escalated, overdue, next("canary_started")}, nil},
		{"another service says nothing", []headgate.Event{unverified, elsewhere}, []string{"rollback_failed_replay"}},

		{"a step waits for its read-back, not for the replay", []headgate.Event{escalated, verified}, []string{"rollback_step_escalated"}},
		{"a step is back", []headgate.Event{escalated, executed}, nil},
		{"escalation is told once", []headgate.Event{escalated, verified, event("rollback_finished", headgate.Fail, "", map[string]any{"escalations": []string{"model_config"}})}, []string{"rollback_step_escalated"}},
		{"a late rollback ends restored", []headgate.Event{overdue, verified}, nil},
		{"a stuck rollback gets on", []headgate.Event{triggered, retry, event("traffic_on_stable", "", "", nil)}, []string{"rollback_triggered"}},

		{"telemetry is back", []headgate.Event{broken, event("canary_verdict", headgate.Insufficient, "", nil)}, nil},
		{"telemetry no longer matters", []headgate.Event{broken, event("release_rolled_back", headgate.Fail, "", nil)}, nil},
		{"an undecided release waits for the next", []headgate.Event{inconclusive}, []string{"release_inconclusive"}},
		{"the next is there", []headgate.Event{inconclusive, next("release_created")}, nil},
		{"a drill that fails lasts until one passes", []headgate.Event{drill(headgate.Fail), drill(headgate.Insufficient), next("release_created")}, []string{"rollback_drill_failed"}},
		{"a drill passes", []headgate.Event{drill(headgate.Fail), drill(headgate.Pass)}, nil},
		{"order is kept", []headgate.Event{triggered, broken, overdue}, []string{"rollback_triggered", "telemetry_broken", "rollback_overdue"}},
	} {
		var got []string
		for _, a := range alert.Open(c.trail, of) {
			got = append(got, a.Name)
		}
		if !slices.Equal(got, c.open) {
			t.Errorf("%s: open %q, want %q", c.what, got, c.open)
		}
	}
}

// TestRepeatKeepsItsDeadline: saying it again does not give more time.
func TestRepeatKeepsItsDeadline(t *testing.T) {
	t.Parallel()
	first := event("rollback_retry", headgate.Broken, "", nil)
	second := first
	second.Time = start.Add(10 * time.Minute)
	open := alert.Open([]headgate.Event{first, second}, of)
	if len(open) != 1 || !open[0].Deadline.Equal(start.Add(15*time.Minute)) {
		t.Errorf("open %+v", open)
	}
}

// TestKindsAreThoseOfTheTrail fails when whoever writes the trail renames what
// this package reads.
func TestKindsAreThoseOfTheTrail(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, dir := range []string{"../pipeline", "../control"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
	}
	written := []string{rollback.EventExecuted, rollback.EventVerified, rollback.EventEscalated, rollback.EventOverdue}
	for _, o := range []headgate.Outcome{headgate.Promoted, headgate.Blocked, headgate.Aborted, headgate.RolledBack, headgate.Inconclusive} {
		written = append(written, "release_"+string(o))
	}
	for _, kind := range alert.Kinds {
		if !slices.Contains(written, kind) && !strings.Contains(source.String(), strconv.Quote(kind)) {
			t.Errorf("nobody writes events of kind %s", kind)
		}
	}
}

func TestDocumentationNamesEveryAlert(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, severity := range alert.Severities() {
		if !strings.Contains(string(b), "| `"+name+"` | "+string(severity)+" |") {
			t.Errorf("docs/alerts.md has no row for %s, %s", name, severity)
		}
	}
}
