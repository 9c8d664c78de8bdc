package pipeline_test

import (
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/pipeline"
)

// A paused canary that has passed waits, and goes on when it is resumed.
func TestPauseHoldsAPassUntilResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.createUnbuilt("held")
	w.signal("held", pipeline.Fact{Kind: pipeline.FactPause, Reason: "wait for the owner"})
	w.signal("held", pipeline.Fact{Kind: pipeline.FactShare, Share: 0.3, Reason: "more data"})
	w.report("held", headgate.StageBuild, headgate.Pass)
	w.report("held", headgate.StageTest, headgate.Pass)
	r := w.await("held", "it passes", func(r pipeline.Record) bool { return r.State.Canary != nil && r.State.Canary.Verdict == headgate.Pass })
	r = w.awaitTicks("held", r.State.Ticks+5)
	if r.Stage != headgate.StageCanary || !r.State.Paused || r.State.Share != 0.3 || r.State.Note == "" {
		t.Fatalf("paused, it is at %s with share %v: %q", r.Stage, r.State.Share, r.State.Note)
	}
	w.signal("held", pipeline.Fact{Kind: pipeline.FactResume, Reason: "agreed"})
	r = w.awaitDone("held")
	w.wantOutcome(r, headgate.Promoted, "")
	w.wantGaplessTicks(r)
}

// A pause holds a pass, never a failure.
func TestPausedCanaryThatFailsIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.createUnbuilt("held")
	w.signal("held", pipeline.Fact{Kind: pipeline.FactPause, Reason: "wait"})
	w.report("held", headgate.StageBuild, headgate.Pass)
	w.report("held", headgate.StageTest, headgate.Pass)
	w.awaitTicks("held", 3)
	w.router.do(func(r *router) { r.errors[headgate.Candidate] = 0.9 })
	r := w.awaitDone("held")
	if r.Outcome != headgate.RolledBack || !w.quarantined(r) {
		t.Errorf("ended as %s", r.Outcome)
	}
}

// An approver ends a canary that has too little traffic ever to decide.
func TestPromotionByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router.traffic = 0
	w.start()
	w.create("quiet")
	w.awaitTicks("quiet", 3)
	w.signal("quiet", pipeline.Fact{Kind: pipeline.FactPromote, Reason: "nobody uses it at night"})
	r := w.awaitDone("quiet")
	w.wantOutcome(r, headgate.Promoted, "")
	w.wantEventsInOrder("quiet", "canary_started", "canary_promoted_by_hand", "release_promoted")
	runs, err := w.db.StageRuns(t.Context(), "quiet")
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		if run.Stage == headgate.StageCanary && (run.Verdict != headgate.Insufficient || len(run.Reasons) != 1 || run.Reasons[0] != pipeline.ReasonManualPromotion) {
			t.Errorf("the canary is recorded as %s %v; no one may take it for a pass", run.Verdict, run.Reasons)
		}
	}
}
