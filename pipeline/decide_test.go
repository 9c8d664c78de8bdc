package pipeline

import (
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	abort := Fact{Kind: FactAbort, Reason: "changed my mind"}
	takeBack := Fact{Kind: FactRollback, Reason: "breach"}
	approval := Fact{Kind: FactApproval}
	result := func(s headgate.Stage, v headgate.Verdict) Fact {
		return Fact{Kind: FactStageResult, Stage: s, Verdict: v, Summary: string(s) + " " + string(v)}
	}
	said := func(v headgate.Verdict) func(*Record) {
		return func(r *Record) {
			r.State = State{Holding: true, Granted: true, Canary: &canary.Decision{Verdict: v, ElapsedSeconds: 100, Reason: "why"}}
		}
	}
	holding := func(r *Record) { r.State.Holding = true }
	late := func(r *Record) { r.DeadlineAt = now }
	needsApproval := func(r *Record) { r.Plan.ApprovalRequired = true }
	canaryMax := func(d time.Duration) func(*Record) { return func(r *Record) { r.Plan.CanaryMax = d } }
	phase := func(p Phase) func(*Record) { return func(r *Record) { r.Phase = p } }
	with := func(changes ...func(*Record)) []func(*Record) { return changes }

	for _, tt := range []struct {
		name    string
		stage   headgate.Stage
		change  []func(*Record)
		facts   []Fact
		do      kind
		outcome headgate.Outcome
		reasons []string
	}{
		{name: "build waits for the client", stage: headgate.StageBuild, do: doWait},
		{name: "build ignores another stage's result", stage: headgate.StageBuild, facts: []Fact{result(headgate.StageTest, headgate.Fail)}, do: doWait},
		{name: "build passes", stage: headgate.StageBuild, facts: []Fact{result(headgate.StageBuild, headgate.Pass)}, do: doAdvance},
		{name: "build fails", stage: headgate.StageBuild, facts: []Fact{result(headgate.StageBuild, headgate.Fail)}, do: doFinish, outcome: headgate.Blocked, reasons: []string{"BUILD_FAILED"}},
		{name: "no evidence is no pass", stage: headgate.StageTest, facts: []Fact{result(headgate.StageTest, headgate.Insufficient)}, do: doFinish, outcome: headgate.Blocked, reasons: []string{"TEST_FAILED"}},
		{name: "the newest result counts", stage: headgate.StageTest, facts: []Fact{result(headgate.StageTest, headgate.Fail), result(headgate.StageTest, headgate.Pass)}, do: doAdvance},
		{name: "test waits", stage: headgate.StageTest, facts: []Fact{result(headgate.StageBuild, headgate.Pass)}, do: doWait},
		{name: "contract runs", stage: headgate.StageContract, do: doRun},
		{name: "replay runs", stage: headgate.StageReplay, do: doRun},
		{name: "gate_d runs", stage: headgate.StageGateD, do: doRun},
		{name: "gate_d needs no approval", stage: headgate.StageGateD, change: with(needsApproval), do: doRun},
		{name: "rollout runs", stage: headgate.StageRollout, do: doRun},
		{name: "rollout waits for an approval", stage: headgate.StageRollout, change: with(needsApproval), facts: []Fact{result(headgate.StageBuild, headgate.Pass)}, do: doWait},
		{name: "rollout is approved", stage: headgate.StageRollout, change: with(needsApproval), facts: []Fact{approval}, do: doRun},
		{name: "canary looks", stage: headgate.StageCanary, do: doTick},
		{name: "canary looks on", stage: headgate.StageCanary, change: with(said(headgate.Insufficient)), do: doTick},
		{name: "full promotes", stage: headgate.StageFull, change: with(holding), do: doPromote},
		{name: "feedback runs", stage: headgate.StageFeedback, change: with(holding), do: doRun},

		{name: "deadline before users", stage: headgate.StageReplay, change: with(late), do: doFinish, outcome: headgate.Blocked, reasons: []string{"REPLAY_DEADLINE_EXCEEDED"}},
		{name: "deadline beats a pass", stage: headgate.StageBuild, change: with(late), facts: []Fact{result(headgate.StageBuild, headgate.Pass)}, do: doFinish, outcome: headgate.Blocked, reasons: []string{"BUILD_DEADLINE_EXCEEDED"}},
		{name: "deadline beats an abort", stage: headgate.StageBuild, change: with(late), facts: []Fact{abort}, do: doFinish, outcome: headgate.Blocked, reasons: []string{"BUILD_DEADLINE_EXCEEDED"}},
		{name: "deadline of a canary without the traffic", stage: headgate.StageCanary, change: with(late), do: doFinish, outcome: headgate.Blocked, reasons: []string{"CANARY_DEADLINE_EXCEEDED"}},
		{name: "deadline of a canary that never looked", stage: headgate.StageCanary, change: with(holding, late), do: doRollback, outcome: headgate.Inconclusive, reasons: []string{ReasonCanaryUndecided, "CANARY_DEADLINE_EXCEEDED"}},
		{name: "deadline, too little data", stage: headgate.StageCanary, change: with(said(headgate.Insufficient), late), do: doRollback, outcome: headgate.Inconclusive, reasons: []string{ReasonCanaryUndecided, "CANARY_DEADLINE_EXCEEDED"}},
		{name: "deadline, telemetry broken", stage: headgate.StageCanary, change: with(said(headgate.Broken), late), do: doRollback, outcome: headgate.Inconclusive, reasons: []string{ReasonTelemetryBroken, "CANARY_DEADLINE_EXCEEDED"}},
		{name: "deadline, failed", stage: headgate.StageCanary, change: with(said(headgate.Fail), late), do: doRollback, outcome: headgate.RolledBack, reasons: []string{"CANARY_DEADLINE_EXCEEDED"}},
		{name: "deadline of full", stage: headgate.StageFull, change: with(said(headgate.Pass), late), do: doRollback, outcome: headgate.Inconclusive, reasons: []string{"FULL_DEADLINE_EXCEEDED"}},
		{name: "deadline of feedback takes nobody back", stage: headgate.StageFeedback, change: with(said(headgate.Pass), late), do: doFinish, outcome: headgate.Blocked, reasons: []string{"FEEDBACK_DEADLINE_EXCEEDED"}},
		{name: "one moment before the deadline", stage: headgate.StageReplay, change: with(func(r *Record) { r.DeadlineAt = now.Add(1) }), do: doRun},
		{name: "canary at its limit", stage: headgate.StageCanary, change: with(said(headgate.Insufficient), canaryMax(100*time.Second)), do: doRollback, outcome: headgate.Inconclusive, reasons: []string{ReasonCanaryUndecided, "CANARY_DEADLINE_EXCEEDED"}},
		{name: "canary before its limit", stage: headgate.StageCanary, change: with(said(headgate.Insufficient), canaryMax(101*time.Second)), do: doTick},
		{name: "broken telemetry has its own limit", stage: headgate.StageCanary, change: with(said(headgate.Broken), canaryMax(time.Second)), do: doTick},

		{name: "abort before users", stage: headgate.StageBuild, facts: []Fact{abort}, do: doFinish, outcome: headgate.Aborted, reasons: []string{ReasonAborted}},
		{name: "abort beats a pass", stage: headgate.StageBuild, facts: []Fact{result(headgate.StageBuild, headgate.Pass), abort}, do: doFinish, outcome: headgate.Aborted, reasons: []string{ReasonAborted}},
		{name: "abort while waiting for approval", stage: headgate.StageRollout, change: with(needsApproval), facts: []Fact{abort}, do: doFinish, outcome: headgate.Aborted, reasons: []string{ReasonAborted}},
		{name: "abort while waiting for the traffic", stage: headgate.StageCanary, facts: []Fact{abort}, do: doFinish, outcome: headgate.Aborted, reasons: []string{ReasonAborted}},
		{name: "abort under traffic", stage: headgate.StageCanary, change: with(holding), facts: []Fact{abort}, do: doRollback, outcome: headgate.RolledBack, reasons: []string{ReasonAborted}},
		{name: "abort of a promotion", stage: headgate.StageFull, change: with(holding), facts: []Fact{abort}, do: doRollback, outcome: headgate.RolledBack, reasons: []string{ReasonAborted}},
		{name: "rollback by hand before users", stage: headgate.StageGateD, facts: []Fact{takeBack}, do: doFinish, outcome: headgate.RolledBack, reasons: []string{ReasonManualRollback}},
		{name: "rollback by hand under traffic", stage: headgate.StageCanary, change: with(said(headgate.Insufficient)), facts: []Fact{takeBack}, do: doRollback, outcome: headgate.RolledBack, reasons: []string{ReasonManualRollback}},
		{name: "rollback by hand during feedback", stage: headgate.StageFeedback, change: with(holding), facts: []Fact{takeBack}, do: doRollback, outcome: headgate.RolledBack, reasons: []string{ReasonManualRollback}},

		{name: "rolling back goes on past a deadline", stage: headgate.StageCanary, change: with(phase(PhaseRollingBack), late), facts: []Fact{abort}, do: doContinue},
		{name: "done is done", stage: headgate.StageCanary, change: with(phase(PhaseDone), late), facts: []Fact{abort}, do: doNothing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := Record{Phase: PhaseRunning, DeadlineAt: now.Add(time.Hour)}
			r.ID, r.Stage = "rel-1", tt.stage
			for _, change := range tt.change {
				change(&r)
			}
			got := decide(r, tt.facts, now)
			if got.do != tt.do || got.outcome != tt.outcome || !slices.Equal(got.reasons, tt.reasons) {
				t.Errorf("decided %+v, want do %d, outcome %q, reasons %v", got, tt.do, tt.outcome, tt.reasons)
			}
			if (got.do == doWait || got.do == doFinish || got.do == doRollback) && got.message == "" {
				t.Error("a person is told nothing")
			}
		})
	}
}
