package pipeline

import (
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// Reason codes that the engine itself gives.
const (
	ReasonAborted          = "ABORTED"
	ReasonManualRollback   = "MANUAL_ROLLBACK"
	ReasonSuperseded       = "SUPERSEDED"
	ReasonLeaseLapsed      = "CANARY_LEASE_LAPSED"
	ReasonOutdated         = "CANARY_CONTROLLER_OUTDATED"
	ReasonTelemetryBroken  = "TELEMETRY_BROKEN"
	ReasonCanaryUndecided  = "CANARY_INSUFFICIENT_DATA"
	ReasonDeadlineExceeded = "DEADLINE_EXCEEDED"
)

// CodeStableMoved is the error of a release that was compared with a version
// that is not the stable one any more.
const CodeStableMoved = "STABLE_MOVED"

// kind is one thing the engine can do in a turn.
type kind int

const (
	doNothing  kind = iota
	doWait          // until a fact arrives or the deadline passes
	doRun           // call the stage's runner
	doAdvance       // the stage has passed
	doTick          // look at the canary
	doPromote       // move all traffic to the candidate
	doRollback      // start rolling back
	doContinue      // go on with a rollback
	doFinish        // end the release
)

// step is what decide wants done.
type step struct {
	do      kind
	outcome headgate.Outcome
	// verdict is the stage's; empty is fail.
	verdict headgate.Verdict
	reasons []string
	message string
	want    steering // of a tick
}

// meetsUsers reports whether the candidate may be serving users, so that
// stopping the release needs a rollback. One that still waits for the traffic
// must not touch the routers: they carry somebody else's split.
func meetsUsers(r Record) bool { return r.State.Holding }

// decide says what to do with a release. It is pure: the same record, facts
// and time always give the same step.
func decide(r Record, facts []Fact, now time.Time) step {
	switch r.Phase {
	case PhaseDone:
		return step{do: doNothing}
	case PhaseRollingBack:
		return step{do: doContinue}
	}
	if s, ok := decidePastDeadline(r, now); ok {
		return s
	}
	if s, ok := decideStopped(r, facts); ok {
		return s
	}
	switch r.Stage {
	case headgate.StageBuild, headgate.StageTest:
		return decideReported(r, facts)
	case headgate.StageRollout:
		// One given before there was anything to look at approves nothing.
		if ok := find(facts, FactApproval, ""); r.Plan.ApprovalRequired && (ok == nil || ok.At.Before(r.StageStartedAt)) {
			return step{do: doWait, message: "waits for an approval: headgate release approve " + r.ID}
		}
		return step{do: doRun}
	case headgate.StageCanary:
		want := steer(r, facts)
		if s := r.State; want.promote == nil && s.verdict() == headgate.Insufficient && r.Plan.CanaryMax > 0 && s.Canary.ElapsedSeconds >= r.Plan.CanaryMax.Seconds() {
			return undecided(r, "CANARY_"+ReasonDeadlineExceeded)
		}
		return step{do: doTick, want: want}
	case headgate.StageFull:
		return step{do: doPromote}
	default:
		return step{do: doRun}
	}
}

func decidePastDeadline(r Record, now time.Time) (step, bool) {
	if r.DeadlineAt.IsZero() || now.Before(r.DeadlineAt) {
		return step{}, false
	}
	code := strings.ToUpper(string(r.Stage)) + "_" + ReasonDeadlineExceeded
	if !meetsUsers(r) || r.Stage == headgate.StageFeedback {
		msg := "the stage did not end in time"
		if r.State.Note != "" {
			msg += ": " + r.State.Note
		}
		return step{do: doFinish, outcome: headgate.Blocked, reasons: []string{code}, message: msg}, true
	}
	s := step{do: doRollback, outcome: headgate.RolledBack, reasons: []string{code}, message: "the canary's time is over; traffic goes back to stable"}
	switch v := r.State.verdict(); {
	case r.Stage == headgate.StageFull:
		s.outcome = headgate.Inconclusive
		s.message = "the candidate passed but could not be given all traffic in time; traffic goes back to stable"
	case v == headgate.Insufficient || v == "":
		return undecided(r, code), true
	case v == headgate.Broken:
		s.outcome, s.reasons = headgate.Inconclusive, []string{ReasonTelemetryBroken, code}
		s.message = "the canary's telemetry was broken when its time was over"
	case v == headgate.Pass:
		s.outcome = headgate.Inconclusive
		s.message = "the canary had passed, but nobody had let it go on when its time was over"
	}
	return s, true
}

// undecided ends a canary that nothing speaks against and nothing proves.
func undecided(r Record, code string) step {
	s := step{
		do: doRollback, outcome: headgate.Inconclusive, reasons: []string{ReasonCanaryUndecided, code},
		message: "the canary saw too little traffic to decide in its time",
	}
	if r.State.Canary != nil {
		s.message += ". " + r.State.Canary.Reason
	}
	return s
}

// stops are the facts that end a release, with its reason and its outcome
// before it meets users and after.
var stops = []struct {
	kind          FactKind
	reason        string
	before, after headgate.Outcome
}{
	{FactAbort, ReasonAborted, headgate.Aborted, headgate.RolledBack},
	{FactRollback, ReasonManualRollback, headgate.RolledBack, headgate.RolledBack},
	// Nothing was found against the one that makes way.
	{FactSupersede, ReasonSuperseded, headgate.Aborted, headgate.Inconclusive},
}

// decideStopped honours a person's abort or rollback, and a newer release that
// takes the place of one not yet promoted.
func decideStopped(r Record, facts []Fact) (step, bool) {
	for _, stop := range stops {
		f := find(facts, stop.kind, "")
		if f == nil || (stop.kind == FactSupersede && r.Stage == headgate.StageFeedback) {
			continue
		}
		s := step{do: doFinish, outcome: stop.before, reasons: []string{stop.reason}, message: f.Reason}
		if meetsUsers(r) {
			s.do, s.outcome = doRollback, stop.after
		}
		return s, true
	}
	return step{}, false
}

// decideReported judges a stage whose command ran at the client.
func decideReported(r Record, facts []Fact) step {
	f := find(facts, FactStageResult, r.Stage)
	switch {
	case f == nil:
		return step{do: doWait, message: "waits for the client to report the " + string(r.Stage) + " stage"}
	case f.Verdict == headgate.Pass:
		return step{do: doAdvance, message: f.Summary}
	default:
		return step{
			do: doFinish, outcome: headgate.Blocked, message: f.Summary,
			reasons: []string{strings.ToUpper(string(r.Stage)) + "_FAILED"},
		}
	}
}

// find returns the newest fact of a kind, and of a stage if one is given.
func find(facts []Fact, k FactKind, stage headgate.Stage) *Fact {
	for i := len(facts) - 1; i >= 0; i-- {
		if facts[i].Kind == k && (stage == "" || facts[i].Stage == stage) {
			return &facts[i]
		}
	}
	return nil
}
