package control_test

import (
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
)

// admissible is a release that has passed gate_d and would be admitted.
func (f *fixture) admissible(t *testing.T, id, digest string) pipeline.Record {
	t.Helper()
	f.release(t, id, digest)
	rec := f.record(t, id)
	rec.Stage, rec.StageStartedAt = headgate.StageGateD, f.now
	f.probe(t, rec)
	f.reports(t, id)
	f.now = f.now.Add(time.Minute)
	if res := f.gateD(t, rec); res.Verdict != headgate.Pass {
		t.Fatalf("gate_d: %+v", res)
	}
	if res := f.ready(t, rec); res.Verdict != headgate.Pass {
		t.Fatalf("rollout: %+v", res)
	}
	return rec
}

func (f *fixture) record(t *testing.T, id string) pipeline.Record {
	t.Helper()
	rec, err := f.db.Release(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// ready is what stage rollout says, which is the only way to users.
func (f *fixture) ready(t *testing.T, rec pipeline.Record) pipeline.Result {
	t.Helper()
	res, err := f.Ready(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

var gateDMissing = []string{"QUALITY_EVIDENCE_MISSING", "PERFORMANCE_EVIDENCE_MISSING", "SECURITY_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING"}

// TestNoWayAround tries to bring a release to users past its gates.
func TestNoWayAround(t *testing.T) {
	t.Parallel()
	all := append(slices.Clone(gateDMissing), "REPLAY_EVIDENCE_MISSING")
	for _, tt := range []struct {
		name string
		// try returns the release that must not be admitted.
		try  func(*testing.T, *fixture, pipeline.Record) pipeline.Record
		want []string
	}{
		{"the same build under another id", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.release(t, "rel-2", r.Digest)
			return f.record(t, "rel-2")
		}, all},
		{"another build where the good one answers", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			v, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{
				ID: "rel-2", Version: r.Version, Digest: digest("e"), StagingURL: r.StagingURL, CandidateURL: r.CandidateURL,
			})
			if err != nil {
				t.Fatal(err)
			}
			return f.record(t, v.ID)
		}, all},
		{"evidence for an id before there is a release of it", func(t *testing.T, f *fixture, _ pipeline.Record) pipeline.Record {
			f.show(t, "rel-2")
			f.release(t, "rel-2", digest("e"))
			return f.record(t, "rel-2")
		}, all},
		{"figures that somebody types in", func(t *testing.T, f *fixture, _ pipeline.Record) pipeline.Record {
			f.release(t, "rel-2", digest("e"))
			f.show(t, "rel-2")
			return f.record(t, "rel-2")
		}, gateDMissing},
		{"every hand that a person can lay on it", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.release(t, "rel-2", digest("e"))
			if err := f.Approve(t.Context(), operator, "rel-2", "please"); code(err) != pipeline.CodeNothingToApprove {
				t.Errorf("approved without being asked: %v", err)
			}
			if err := f.Promote(t.Context(), operator, "rel-2", "now"); code(err) != control.CodeNotInCanary {
				t.Errorf("promoted without a canary: %v", err)
			}
			if err := f.SetShare(t.Context(), operator, "rel-2", 1, "all of them"); err != nil {
				t.Fatal(err)
			}
			if err := f.Resume(t.Context(), operator, "rel-2", "go on"); code(err) != pipeline.CodeNothingToSteer {
				t.Errorf("resumed without a pause: %v", err)
			}
			if _, err := f.Override(t.Context(), operator, control.OverrideRequest{ReleaseID: "rel-2", Gate: headgate.GateSecurity, Reason: "tonight", Expires: time.Hour}); err == nil {
				t.Error("the security gate was overridden")
			}
			rec := f.record(t, "rel-2")
			if rec.Stage == headgate.StageCanary || rec.State.Share != 0 || rec.State.Holding {
				t.Errorf("it moved: %+v", rec.State)
			}
			return rec
		}, all},
		{"figures typed in over a failed check", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.report(t, r.ID, headgate.GateSecurity, "gitleaks", "gitleaks.json", `[{"RuleID":"k","File":"a","StartLine":1,"Match":"m","Secret":"s"}]`)
			if e, err := f.EvaluateRelease(t.Context(), operator, r.ID, headgate.GateSecurity); err != nil || e.Passed {
				t.Fatalf("%+v, %v", e, err)
			}
			if res, err := f.EvaluateGate(t.Context(), operator, headgate.GateSecurity, control.GateRequest{
				ReleaseID: r.ID, DatasetID: "d", Metrics: passing[headgate.GateSecurity],
			}); err != nil || !res.Passed {
				t.Fatalf("%+v, %v", res, err)
			}
			return r
		}, []string{"SECURITY_EVIDENCE_MISSING"}},
		{"a load test that crossed its own threshold", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.report(t, r.ID, headgate.GatePerformance, "k6", "load.json",
				`{"root_group":{},"metrics":{"http_reqs":{"count":9},"http_req_failed":{"passes":1,"fails":8,"thresholds":{"rate<0.01":true}},"http_req_duration":{"p(95)":9}}}`)
			if e, err := f.EvaluateRelease(t.Context(), operator, r.ID, headgate.GatePerformance); err != nil || !slices.Contains(e.FailedChecks, gate.ToolThresholdCrossed) {
				t.Fatalf("%+v, %v", e, err)
			}
			return r
		}, []string{"PERFORMANCE_EVIDENCE_MISSING"}},
		{"a tool's failure that one person accepts", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.report(t, r.ID, headgate.GateSecurity, "junit", "tests.xml", `<testsuite tests="1"><testcase name="a"><failure/></testcase></testsuite>`)
			rules := append(ruleFile(2, 1.5), "accept_tool_codes: {security: [TOOL_TESTS_FAILED]}\n"...)
			if c, err := f.ProposeRules(t.Context(), ada, r.Service, rules); err != nil || !c.InForceAt.IsZero() {
				t.Fatalf("%+v, %v", c, err)
			}
			if e, err := f.EvaluateRelease(t.Context(), operator, r.ID, headgate.GateSecurity); err != nil || e.Passed {
				t.Fatalf("%+v, %v", e, err)
			}
			return r
		}, []string{"SECURITY_EVIDENCE_MISSING"}},
		{"an override by two credentials of one person", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.figures.lose("budget")
			if e, err := f.EvaluateRelease(t.Context(), operator, r.ID, headgate.GateCost); err != nil || e.Passed {
				t.Fatalf("%+v, %v", e, err)
			}
			for _, name := range []string{"ada", "ada-laptop"} {
				who := access.Identity{Name: name, Person: "ada", Role: access.Approver}
				if o, err := f.Override(t.Context(), who, control.OverrideRequest{ReleaseID: r.ID, Gate: headgate.GateCost, Reason: "tonight", Expires: time.Hour}); err != nil || o.ApprovedBy != "" {
					t.Fatalf("%+v, %v", o, err)
				}
			}
			return r
		}, []string{"COST_EVIDENCE_MISSING"}},
		{"rules of its own that changed after gate_d", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			if _, err := f.ProposeRules(t.Context(), ada, r.Service, ruleFile(2, 1.4)); err != nil {
				t.Fatal(err)
			}
			return r
		}, gateDMissing},
		{"rules that changed after gate_d", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			if _, err := f.ProposeRules(t.Context(), ada, "", ruleFile(2, 1.4)); err != nil {
				t.Fatal(err)
			}
			return r
		}, gateDMissing},
		{"waiting until the evidence is old", func(_ *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.now = f.now.Add(6*time.Hour + 2*time.Minute)
			return r
		}, []string{"PERFORMANCE_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING"}},
		{"a clock that was set back", func(_ *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.now = f.now.Add(-time.Hour)
			return r
		}, all},
		{"a failed replay after a passed one", func(t *testing.T, f *fixture, r pipeline.Record) pipeline.Record {
			f.service.broken.Store(true)
			if res, err := f.ReplayE2E(t.Context(), operator, control.ReplayRequest{ReleaseID: r.ID, ProjectID: "p", SupplierID: "s"}); err != nil || res.Passed {
				t.Fatalf("%+v, %v", res, err)
			}
			f.service.broken.Store(false)
			return r
		}, []string{"REPLAY_EVIDENCE_MISSING"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.adopt(t)
			rec := tt.try(t, f, f.admissible(t, "rel-1", digest("a")))
			if res := f.ready(t, rec); res.Verdict != headgate.Fail || !slices.Equal(res.Reasons, tt.want) {
				t.Errorf("got %s %v, want %v", res.Verdict, res.Reasons, tt.want)
			}
		})
	}
}

// Evidence outlives the process, the rules that it was made under do, too, and
// what a changed rule made stale is judged again and not typed in.
func TestRestartBetweenGateDAndRollout(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	rec := f.admissible(t, "rel-1", digest("a"))
	f = f.restart(t, gate.DefaultRules())
	f.adopt(t)
	if res := f.ready(t, rec); res.Verdict != headgate.Pass {
		t.Errorf("restarted: %+v", res)
	}
	looser, err := gate.ParseRules("rules.yaml", ruleFile(2, 99))
	if err != nil {
		t.Fatal(err)
	}
	f = f.restart(t, looser)
	f.adopt(t)
	if res := f.ready(t, rec); res.Verdict != headgate.Pass || f.limit(t) != 1.5 {
		t.Errorf("restarted with a looser file that nobody approved: %+v, limit %v", res, f.limit(t))
	}
	stricter, err := gate.ParseRules("rules.yaml", ruleFile(3, 1.4))
	if err != nil {
		t.Fatal(err)
	}
	f = f.restart(t, stricter)
	f.adopt(t)
	if res := f.ready(t, rec); !slices.Equal(res.Reasons, gateDMissing) {
		t.Errorf("restarted with a stricter file: %+v", res)
	}
	for _, g := range headgate.GateD() {
		e, err := f.EvaluateRelease(t.Context(), operator, "rel-1", g)
		if err != nil || !e.Passed || e.EvidenceDigest == "" || e.Evidence == 0 {
			t.Fatalf("%s: %+v, %v", g, e, err)
		}
	}
	if res := f.ready(t, rec); res.Verdict != headgate.Pass {
		t.Errorf("judged again under the rules in force: %+v", res)
	}
}

// What the server judges itself nobody reports to it, claims move nothing, and
// an approval that nobody asked for is refused.
func TestClaimsMoveNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	f.release(t, "rel-1", digest("a"))
	before := f.record(t, "rel-1")
	for _, stage := range headgate.Stages() {
		if stage == headgate.StageBuild || stage == headgate.StageTest {
			continue
		}
		if err := f.ReportStage(t.Context(), operator, "rel-1", stage, control.StageReport{Verdict: headgate.Pass}); code(err) != headgate.CodeValidation {
			t.Errorf("stage %s was reported: %v", stage, err)
		}
	}
	claims := map[headgate.Gate]bool{}
	for _, g := range headgate.Gates() {
		claims[g] = true
	}
	e, err := f.ExecutePipeline(t.Context(), operator, control.ReadinessRequest{ReleaseID: "rel-1", DatasetVersion: "v1.0.0", ReplayPassed: true, GateResults: claims})
	if err != nil || e.Admitted || e.Stage != "release_blocked" {
		t.Errorf("claims: %+v, %v", e, err)
	}
	if err := f.Approve(t.Context(), operator, "rel-1", "please"); code(err) != pipeline.CodeNothingToApprove {
		t.Errorf("approved: %v", err)
	}
	after := f.record(t, "rel-1")
	if after.Stage != before.Stage || after.State.Holding || after.State.Share != 0 {
		t.Errorf("the release moved: %+v", after)
	}
	if res := f.ready(t, after); res.Verdict != headgate.Fail {
		t.Errorf("admitted: %+v", res)
	}
}

// A build that was rolled back stays out, whatever it is called.
func TestRolledBackBuildStaysOut(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	f.release(t, "rel-1", digest("a"))
	f.end(t, headgate.RolledBack)
	for _, id := range []string{"rel-2", ""} {
		_, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{ID: id, Version: "v3", Digest: digest("a"), CandidateURL: "http://127.0.0.1:9"})
		if code(err) != headgate.CodeDigestQuarantined {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if _, err := f.EvaluateRelease(t.Context(), operator, "rel-1", headgate.GateCost); code(err) != headgate.CodeReleaseDone {
		t.Errorf("judging a release that has ended: %v", err)
	}
}
