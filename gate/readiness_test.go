package gate_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// ready claims everything and holds evidence for everything.
func ready() gate.ReadinessInput {
	in := gate.ReadinessInput{
		AssessmentID: "ra_1", ReleaseID: "rel_1", TenantID: "t1", DatasetVersion: "v1.0.0", ReplayPassed: true,
		GateResults: map[headgate.Gate]bool{}, Evidence: map[headgate.Gate]gate.Evidence{},
		Replay: &gate.Evidence{ID: "ev_replay", Verdict: headgate.Pass, Fresh: true},
	}
	for _, g := range headgate.Gates() {
		in.GateResults[g] = true
		in.Evidence[g] = gate.Evidence{ID: "ev_" + string(g), Verdict: headgate.Pass, Fresh: true}
	}
	return in
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*gate.ReadinessInput)
		failed []string
	}{
		{"all proven", func(*gate.ReadinessInput) {}, nil},
		{"no dataset", func(in *gate.ReadinessInput) { in.DatasetVersion = "  " }, []string{"DATASET_VERSION_REQUIRED"}},
		{"claim of false beats evidence", func(in *gate.ReadinessInput) { in.GateResults[headgate.GateCost] = false }, []string{"COST_GATE_FAILED"}},
		{"missing gate", func(in *gate.ReadinessInput) { delete(in.GateResults, headgate.GateOps) }, []string{"OPS_GATE_FAILED"}},
		{"unknown gate", func(in *gate.ReadinessInput) { in.GateResults["style"] = false }, nil},
		{"no evidence", func(in *gate.ReadinessInput) { delete(in.Evidence, headgate.GateSecurity) }, []string{"SECURITY_EVIDENCE_MISSING"}},
		{"failing evidence", func(in *gate.ReadinessInput) {
			in.Evidence[headgate.GateQuality] = gate.Evidence{Verdict: headgate.Fail, Fresh: true}
		}, []string{"QUALITY_EVIDENCE_MISSING"}},
		{"insufficient evidence", func(in *gate.ReadinessInput) {
			in.Evidence[headgate.GateQuality] = gate.Evidence{Verdict: headgate.Insufficient, Fresh: true}
		}, []string{"QUALITY_EVIDENCE_MISSING"}},
		{"evidence without a verdict", func(in *gate.ReadinessInput) {
			in.Evidence[headgate.GateRollout] = gate.Evidence{Fresh: true}
		}, []string{"ROLLOUT_EVIDENCE_MISSING"}},
		{"stale evidence", func(in *gate.ReadinessInput) {
			in.Evidence[headgate.GatePerformance] = gate.Evidence{Verdict: headgate.Pass, Reason: "made under other rules"}
		}, []string{"PERFORMANCE_EVIDENCE_MISSING"}},
		{"replay not claimed", func(in *gate.ReadinessInput) { in.ReplayPassed = false }, []string{"REPLAY_E2E_FAILED"}},
		{"replay not proven", func(in *gate.ReadinessInput) { in.Replay = nil }, []string{"REPLAY_EVIDENCE_MISSING"}},
		{"an unknown mode trusts nothing", func(in *gate.ReadinessInput) { in.Mode, in.Evidence, in.Replay = "trusting", nil, nil }, []string{
			"QUALITY_EVIDENCE_MISSING", "PERFORMANCE_EVIDENCE_MISSING", "SECURITY_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING",
			"ROLLOUT_EVIDENCE_MISSING", "ROLLBACK_EVIDENCE_MISSING", "OPS_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING",
		}},
		{"nothing at all", func(in *gate.ReadinessInput) { *in = gate.ReadinessInput{} }, []string{
			"DATASET_VERSION_REQUIRED",
			"QUALITY_GATE_FAILED", "PERFORMANCE_GATE_FAILED", "SECURITY_GATE_FAILED", "COST_GATE_FAILED",
			"ROLLOUT_GATE_FAILED", "ROLLBACK_GATE_FAILED", "OPS_GATE_FAILED", "REPLAY_E2E_FAILED",
		}},
		{"declared", func(in *gate.ReadinessInput) { in.Mode, in.Evidence, in.Replay = gate.Declared, nil, nil }, nil},
		{"declared still blocks on false", func(in *gate.ReadinessInput) {
			in.Mode, in.ReplayPassed = gate.Declared, false
			in.GateResults[headgate.GateRollback] = false
		}, []string{"ROLLBACK_GATE_FAILED", "REPLAY_E2E_FAILED"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := ready()
			tt.change(&in)
			a := gate.Readiness(in)
			if !slices.Equal(a.FailedChecks, tt.failed) || a.FailedChecks == nil {
				t.Errorf("failed checks %v, want %v", a.FailedChecks, tt.failed)
			}
			if a.Admitted != (len(tt.failed) == 0) {
				t.Errorf("admitted = %v", a.Admitted)
			}
			if len(a.GateResults) != 7 || len(a.Basis) != 8 {
				t.Errorf("%d gates and %d bases, want 7 and 8", len(a.GateResults), len(a.Basis))
			}
			if allPassed := !slices.Contains(slices.Collect(maps.Values(a.GateResults)), false) && a.ReplayPassed; a.Admitted && !allPassed {
				t.Error("admitted although a gate did not pass")
			}
		})
	}
}

func TestDeclaredModeSaysSo(t *testing.T) {
	t.Parallel()
	in := ready()
	in.Mode = gate.Declared
	delete(in.Evidence, headgate.GateCost)
	for _, b := range gate.Readiness(in).Basis {
		want := "evidence"
		if b.Check == "cost" {
			want = "declared"
		}
		if b.Support != want || !b.Passed {
			t.Errorf("%s rests on %s (passed %v), want %s", b.Check, b.Support, b.Passed, want)
		}
		if b.Support == "declared" && b.Reason != "only declared: no evidence is held for this release" {
			t.Errorf("%s says %q", b.Check, b.Reason)
		}
	}
}

func TestBacktest(t *testing.T) {
	t.Parallel()
	past := func(id string, o headgate.Outcome, incidents int, p95 float64) gate.PastRelease {
		p := gate.PastRelease{ReleaseID: id, Outcome: o, Incidents: incidents, Inputs: map[headgate.Gate]gate.Input{}}
		for _, g := range headgate.GateD() {
			p.Inputs[g] = gate.Input{DatasetID: "d", Metrics: good(g)}
		}
		set(p.Inputs[headgate.GatePerformance].Metrics, "api_p95_s", p95)
		return p
	}
	incomplete := past("r7", headgate.Promoted, 0, 0.5)
	delete(incomplete.Inputs, headgate.GateCost)
	invalid := past("r8", headgate.Promoted, 0, -1)
	got := gate.Backtest(parse(t, "thresholds: {performance: {api_p95_s_max: 1.0}}"), []gate.PastRelease{
		past("r1", headgate.Promoted, 0, 0.5),
		past("r2", headgate.Promoted, 0, 1.2),
		past("r3", headgate.RolledBack, 0, 1.2),
		past("r4", headgate.Promoted, 2, 0.5),
		past("r5", headgate.Blocked, 0, 0.5),
		past("r6", headgate.Blocked, 0, 1.6),
		incomplete, invalid,
	})
	if got.AdmittedGood != 1 || got.BlockedGood != 1 || got.BlockedBad != 1 || got.AdmittedBad != 1 ||
		got.AdmittedUnobserved != 1 || got.BlockedUnobserved != 1 || got.Unusable != 2 {
		t.Errorf("table %+v", got)
	}
	var changed []string
	for _, r := range got.Releases {
		if r.Changed {
			changed = append(changed, r.ReleaseID+" "+r.Would)
		}
	}
	if want := []string{"r2 blocked", "r3 blocked", "r5 admitted"}; !slices.Equal(changed, want) {
		t.Errorf("changed %v, want %v", changed, want)
	}
}
