package control_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/rollout"
)

var passing = map[headgate.Gate]map[string]any{
	headgate.GateQuality: {
		"ragas":    map[string]any{"context_precision": 0.9, "context_recall": 0.9, "faithfulness": 0.95, "response_relevancy": 0.9},
		"deepeval": map[string]any{"hallucination_rate": 0.01}, "citation": map[string]any{"resolvable_rate": 1.0},
	},
	headgate.GatePerformance: {
		"api_p95_s": 0.5, "retrieval_p95_s": 1.0, "parse_50p_p95_s": 60.0, "evaluation_p95_s": 30.0, "queue_dlq_rate": 0.0, "cache_hit_rate": 0.9,
	},
	headgate.GateSecurity: {
		"tenant_scope_violations": 0, "auth_bypass_findings": 0, "high_risk_approval_coverage": 1.0, "log_redaction_failures": 0, "secret_scan_findings": 0,
	},
	headgate.GateCost: {
		"task_cost_p95": 1.0, "baseline_task_cost_p95": 1.0, "routing_degrade_passed": true, "degrade_availability": 1.0, "budget_alert_coverage": 1.0,
	},
}

// show makes all the evidence that a release needs.
func (f *fixture) show(t *testing.T, id string) {
	t.Helper()
	for _, g := range headgate.GateD() {
		res, err := f.EvaluateGate(t.Context(), operator, g, control.GateRequest{ReleaseID: id, DatasetID: "d", Metrics: passing[g]})
		if err != nil || !res.Passed {
			t.Fatalf("%s: %v %v", g, res.FailedChecks, err)
		}
	}
	f.replay(t, id)
	plan, err := rollout.NewPlan(id, []string{"acme"}, headgate.ProjectSizes(), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.PutPlan(t.Context(), operator, plan); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) replay(t *testing.T, id string) {
	t.Helper()
	res, err := f.ReplayE2E(t.Context(), operator, control.ReplayRequest{ReleaseID: id, ProjectID: "p", SupplierID: "s"})
	if err != nil || !res.Passed {
		t.Fatalf("replay: %v %v", res.Failures, err)
	}
}

// failed returns what keeps a release out when everything is claimed.
func (f *fixture) failed(t *testing.T, id string) []string {
	t.Helper()
	claims := map[headgate.Gate]bool{}
	for _, g := range headgate.Gates() {
		claims[g] = true
	}
	a, err := f.EvaluateReadiness(t.Context(), operator, control.ReadinessRequest{ReleaseID: id, DatasetVersion: "v1.0.0", ReplayPassed: true, GateResults: claims})
	if err != nil {
		t.Fatal(err)
	}
	if a.Admitted != (len(a.FailedChecks) == 0) {
		t.Errorf("admitted %v with %v", a.Admitted, a.FailedChecks)
	}
	return a.FailedChecks
}

func TestEvidenceAges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.show(t, "rel-1")
	hourly := []string{"PERFORMANCE_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING"}
	for _, tt := range []struct {
		age  time.Duration
		want []string
	}{
		{0, []string{}},
		{6 * time.Hour, []string{}},
		{6*time.Hour + time.Second, hourly},
		{24 * time.Hour, hourly},
		{24*time.Hour + time.Second, []string{
			"QUALITY_EVIDENCE_MISSING", "PERFORMANCE_EVIDENCE_MISSING", "SECURITY_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING",
		}},
		// A clock that goes back makes evidence of the future, which proves nothing.
		{-time.Hour, []string{
			"QUALITY_EVIDENCE_MISSING", "PERFORMANCE_EVIDENCE_MISSING", "SECURITY_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING",
		}},
	} {
		f.now = start.Add(tt.age)
		if got := f.failed(t, "rel-1"); !slices.Equal(got, tt.want) {
			t.Errorf("after %s: %v, want %v", tt.age, got, tt.want)
		}
	}
}

// An answer of no names the evidence, why it does not count, and what to do.
func TestAStaleAnswerSaysWhatToDo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.show(t, "rel-1")
	f.now = start.Add(25 * time.Hour)
	claims := map[headgate.Gate]bool{}
	for _, g := range headgate.Gates() {
		claims[g] = true
	}
	a, err := f.EvaluateReadiness(t.Context(), operator, control.ReadinessRequest{
		ReleaseID: "rel-1", DatasetVersion: "v1.0.0", ReplayPassed: true, GateResults: claims,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"quality": "headgate gate evaluate quality FILE… --release rel-1", "cost": "headgate gate evaluate cost FILE… --release rel-1",
		"replay": "POST /api/v1/internal/release/replay/e2e",
	}
	for _, b := range a.Basis {
		if next := want[b.Check]; next != "" && (b.Passed || !strings.Contains(b.Reason, "EVIDENCE_STALE") || !strings.Contains(b.Reason, next) || b.Evidence == nil || b.Evidence.ID == "") {
			t.Errorf("%s: %+v, evidence %+v", b.Check, b, b.Evidence)
		}
	}
}

// A rollback's replay shows that stable is well. It must not pass for a replay
// of the release that was rolled back.
func TestReplayFromBeforeARollbackProvesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.show(t, "rel-1")
	f.now = f.now.Add(time.Minute)
	res, err := f.ExecuteRollback(t.Context(), operator, control.RollbackRequest{
		ReleaseID: "rel-1", ConsecutiveThreshold: 1, Breaches: []headgate.Breach{{Gate: headgate.GateCost, MetricCode: "X", ConsecutiveFailures: 1}},
	})
	if err != nil || !res.ServiceRestored {
		t.Fatalf("rollback %+v, %v", res, err)
	}
	if got := f.failed(t, "rel-1"); !slices.Equal(got, []string{"REPLAY_EVIDENCE_MISSING"}) {
		t.Errorf("after a rollback: %v", got)
	}
	f.now = f.now.Add(time.Minute)
	f.replay(t, "rel-1")
	if got := f.failed(t, "rel-1"); len(got) != 0 {
		t.Errorf("after a replay of its own: %v", got)
	}
}

// The three gates about the server and the description are looked at afresh.
func TestPreparationsAreExamined(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.show(t, "rel-1")
	s, err := f.Service("things")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		lose func()
		want string
	}{
		{"no suite", func() { s.Suite = nil }, "ROLLBACK_EVIDENCE_MISSING"},
		{"nobody on call", func() { s.OnCall = "" }, "OPS_EVIDENCE_MISSING"},
		{"no runbooks", func() { s.Runbooks = nil }, "OPS_EVIDENCE_MISSING"},
	} {
		whole := *s
		tt.lose()
		if got := f.failed(t, "rel-1"); !slices.Equal(got, []string{tt.want}) {
			t.Errorf("%s: %v, want %s", tt.name, got, tt.want)
		}
		*s = whole
		if got := f.failed(t, "rel-1"); len(got) != 0 {
			t.Errorf("%s, repaired: %v", tt.name, got)
		}
	}
}

// An event that no statement can hold does not keep those after it out of the
// evidence log, nor from whoever has to be told.
func TestTooLargeAnEventDoesNotStopTheTrail(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	huge := strings.Repeat("tenant, ", 200_000)
	for _, ev := range []headgate.Event{
		{Kind: "rollout_planned", ReleaseID: "rel-1", Actor: "olga", Message: huge},
		{Kind: "rules_proposed", Actor: "olga", Data: map[string]any{"loosened": huge}},
		{Kind: "release_approved", ReleaseID: "rel-1", Actor: "olga", Message: "after them"},
	} {
		if err := f.Record(t.Context(), "", ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.SealPending(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := f.db.Unsealed(t.Context(), 10); err != nil || len(left) != 0 {
		t.Fatalf("%d events are not sealed, %v", len(left), err)
	}
	entries, err := f.db.EvidenceLog().Entries(t.Context(), evidence.EntryQuery{PredicateType: evidence.TypeAuditEvent})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := evidence.OpenFolder(filepath.Join(f.dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	short := 0
	for _, e := range entries {
		st, err := e.Statement()
		if err != nil {
			t.Fatal(err)
		}
		var ev headgate.Event
		if err := json.Unmarshal(st.Predicate, &ev); err != nil {
			t.Fatal(err)
		}
		digest, ok := ev.Data["whole_event"].(string)
		if !ok {
			continue
		}
		short++
		if whole, err := blobs.Get(t.Context(), digest); err != nil || !bytes.Contains(whole, []byte(huge)) || !bytes.Contains(whole, []byte(ev.Kind)) {
			t.Errorf("the file of %s has %d bytes, %v", ev.Kind, len(whole), err)
		}
	}
	if short != 2 {
		t.Errorf("%d events are shortened, want 2", short)
	}
}

// Evidence that was made under an id before there was a release of it is about
// no digest that runs, and not in the release's bundle, which it would spoil.
func TestBundleIsAboutTheReleaseAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, tenant := range []string{"borealis", "acme"} {
		who := access.Identity{Name: "ann", Role: access.Operator, Tenants: []string{tenant}, TenantID: tenant}
		req := control.GateRequest{ReleaseID: "rel-1", DatasetID: "early", Metrics: passing[headgate.GateQuality]}
		if _, err := f.EvaluateGate(t.Context(), who, headgate.GateQuality, req); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.SealPending(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.release(t, "rel-1", digest("a"))
	if err := f.SealPending(t.Context()); err != nil {
		t.Fatal(err)
	}
	var bundle bytes.Buffer
	if err := f.Bundle(t.Context(), operator, "rel-1", nil, &bundle); err != nil {
		t.Fatal(err)
	}
	v, err := evidence.Verify(bytes.NewReader(bundle.Bytes()), int64(bundle.Len()), evidence.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range v.Findings {
		if found.Code == evidence.FindingSubject {
			t.Errorf("the bundle is spoiled: %+v", found)
		}
	}
}
