package pipeline_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

// A router that is far ahead has been told by a controller with later state:
// this one's data is an older copy, so it takes the share away and overtakes the
// router only to put users on stable.
func TestOlderDataGivesNoShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.start()
	w.create("older", undecided)
	w.awaitTicks("older", 3)
	stop()
	before := 0
	w.router.do(func(r *router) {
		r.highest += 1000
		r.split.Epoch = r.highest
		before = len(r.applied)
	})
	w.start()
	w.wantOutcome(w.awaitDone("older"), headgate.Inconclusive, headgate.StageCanary, pipeline.ReasonOutdated)
	w.router.do(func(r *router) {
		if slices.ContainsFunc(r.applied[before:], func(s rollout.Split) bool { return s.Share > 0 }) {
			t.Errorf("a share was given again: %+v", r.applied[before:])
		}
		if r.split.Share != 0 || r.split.Epoch < r.highest {
			t.Errorf("the router is left with %+v", r.split)
		}
	})
}

// A control plane that was away for longer than the lease finds the users on
// stable, and leaves them there.
func TestLapsedLeaseIsNeverResumed(t *testing.T) {
	t.Parallel()
	lapses := map[string]func(*router){
		"time":    func(r *router) { r.clock = r.clock.Add(leaseTTL) },
		"restart": func(r *router) { r.restart() },
		"time, and the first look fails": func(r *router) {
			r.clock = r.clock.Add(leaseTTL)
			r.down["status"] = true
		},
		"time, and counts are missing": func(r *router) {
			r.clock = r.clock.Add(leaseTTL)
			r.down["counts"] = true
		},
	}
	for name, lapse := range lapses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			stop := w.start()
			w.create("left", undecided)
			w.awaitTicks("left", 3)
			stop()
			before := 0
			w.router.do(func(r *router) {
				lapse(r)
				before = len(r.applied)
			})
			ticks := w.get("left").State.Ticks
			w.start()
			if name == "time, and the first look fails" {
				r := w.awaitTicks("left", ticks+2)
				if d := r.State.Canary; d.Verdict != headgate.Broken || !strings.Contains(d.Reason, "out of reach") || !strings.Contains(d.Reason, "cannot be renewed") {
					t.Errorf("verdict %s while the router cannot be asked: %s", d.Verdict, d.Reason)
				}
				w.router.do(func(r *router) { r.down["status"] = false })
			}
			r := w.awaitDone("left")
			w.wantOutcome(r, headgate.Inconclusive, headgate.StageCanary, pipeline.ReasonLeaseLapsed)
			if w.quarantined(r) {
				t.Error("a digest that nothing was found against is in quarantine")
			}
			w.router.do(func(r *router) {
				if slices.ContainsFunc(r.applied[before:], func(s rollout.Split) bool { return s.Share > 0 }) {
					t.Error("the candidate got a share again")
				}
			})
		})
	}
}

func TestSecondReleaseWaitsForTheTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("first", undecided)
	w.awaitTicks("first", 2)
	w.create("second")
	w.create("third")
	waits := func(r pipeline.Record) bool { return r.Stage == headgate.StageCanary && r.State.Note != "" }
	w.await("second", "it waits", waits)
	w.await("third", "it waits", waits)

	// Stopping one that waits concerns nobody else.
	w.signal("third", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "not needed"})
	third := w.awaitDone("third")
	w.wantOutcome(third, headgate.Aborted, headgate.StageCanary, pipeline.ReasonAborted)
	if w.router.met("third") || w.allCalls()["rollback third 1"] != 0 || w.quarantined(third) {
		t.Error("a release that met nobody was rolled back")
	}
	first := w.get("first")
	w.awaitTicks("first", first.State.Ticks+2)

	w.signal("first", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "make room"})
	w.wantOutcome(w.awaitDone("first"), headgate.RolledBack, headgate.StageCanary, pipeline.ReasonAborted)
	w.wantOutcome(w.awaitDone("second"), headgate.Promoted, "")
}

// Evidence ages while a release waits for the traffic, so that its admission is
// asked again when it gets it.
func TestReleaseThatWaitedIsAdmittedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.admission = time.Nanosecond
	var asked atomic.Int32
	w.runners[headgate.StageRollout] = func(_ context.Context, r pipeline.Record) (pipeline.Result, error) {
		if r.ID == "second" && asked.Add(1) > 1 {
			return pipeline.Result{Verdict: headgate.Fail, Reasons: []string{"REPLAY_EVIDENCE_MISSING"}, Summary: "the replay is too old"}, nil
		}
		return pipeline.Result{Verdict: headgate.Pass}, nil
	}
	w.start()
	w.create("first", undecided)
	w.awaitTicks("first", 2)
	w.create("second")
	waits := w.await("second", "it waits", func(r pipeline.Record) bool { return r.Stage == headgate.StageCanary && r.State.Note != "" })
	if !strings.Contains(waits.State.Note, "first") {
		t.Errorf("it does not say for what it waits: %s", waits.State.Note)
	}
	w.awaitTicks("first", 20)
	if n := asked.Load(); n != 1 {
		t.Errorf("admitted %d times before its turn; each time leaves evidence", n)
	}
	w.signal("first", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "make room"})
	w.wantOutcome(w.awaitDone("second"), headgate.Blocked, headgate.StageCanary, "REPLAY_EVIDENCE_MISSING")
	if w.router.met("second") {
		t.Error("a release without fresh evidence met users")
	}
}

// Evidence ages and rules change also while a router does not answer, or takes
// no order, and while there is no control plane.
func TestAdmissionThatHasAgedIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"status", "apply", "no control plane"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.admission = 10 * sweep
			var aged atomic.Bool
			w.runners[headgate.StageRollout] = func(context.Context, pipeline.Record) (pipeline.Result, error) {
				if aged.Load() {
					return pipeline.Result{Verdict: headgate.Fail, Reasons: []string{"REPLAY_EVIDENCE_MISSING"}, Summary: "the replay is too old"}, nil
				}
				return pipeline.Result{Verdict: headgate.Pass}, nil
			}
			w.router.do(func(r *router) { r.down[what] = true })
			w.create("good")
			if what == "no control plane" {
				ctx, cancel := context.WithCancel(t.Context())
				w.engine(&mortal{Store: w.db, die: cancel, at: func(c pipeline.Commit) bool { return c.Record.Stage == headgate.StageCanary }}).Run(ctx)
				w.expire()
			} else {
				w.start()
				w.await("good", "it waits", func(r pipeline.Record) bool { return strings.Contains(r.State.Note, "the canary does not begin") })
			}
			aged.Store(true)
			time.Sleep(2 * w.admission) // what ages it
			if what == "no control plane" {
				w.start()
			}
			w.router.do(func(r *router) { r.down[what] = false })
			w.wantOutcome(w.awaitDone("good"), headgate.Blocked, headgate.StageCanary, "REPLAY_EVIDENCE_MISSING")
			if w.router.met("good") {
				t.Error("a release without fresh evidence met users")
			}
		})
	}
}

// A release that was compared with a stable that is gone goes no further: its
// plan would send everybody back to it.
func TestReleaseAgainstAnOldStableIsBlocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	gate := make(chan struct{})
	w.runners[headgate.StageRollout] = func(_ context.Context, r pipeline.Record) (pipeline.Result, error) {
		if r.ID == "second" {
			<-gate
		}
		return pipeline.Result{Verdict: headgate.Pass}, nil
	}
	w.create("second")
	w.create("first")
	w.wantOutcome(w.awaitDone("first"), headgate.Promoted, "")
	close(gate)
	w.wantOutcome(w.awaitDone("second"), headgate.Blocked, headgate.StageCanary, pipeline.CodeStableMoved)
	w.router.do(func(r *router) {
		if r.split.Stable.Version != "v-first" {
			t.Errorf("the router serves %s", r.split.Stable.Version)
		}
	})
}

// While stable is out of service and the candidate is not, leaving the
// candidate would leave users with nothing: the ordered rollback, which asks
// stable, decides when they go.
func TestUsersStayWhereTheyAreServed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		sick []headgate.Arm
		stay bool
	}{
		{"both serve", nil, false},
		{"stable is down", []headgate.Arm{headgate.Stable}, true},
		{"both are down", []headgate.Arm{headgate.Stable, headgate.Candidate}, false},
		{"the candidate is down", []headgate.Arm{headgate.Candidate}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.rollback = func(context.Context, pipeline.Record) (pipeline.RollbackResult, error) {
				return pipeline.RollbackResult{Summary: "stable cannot take the traffic"}, nil
			}
			w.start()
			w.create("r", undecided)
			w.awaitTicks("r", 3)
			w.router.do(func(r *router) {
				for _, arm := range c.sick {
					r.sick[arm] = true
				}
				r.errors[headgate.Stable], r.errors[headgate.Candidate] = 0.9, 0.9
			})
			r := w.awaitDone("r")
			if r.Outcome != headgate.RolledBack || !slices.Equal(r.Reasons, []string{canary.CodeSLOExceeded}) {
				t.Errorf("%s because of %v", r.Outcome, r.Reasons)
			}
			stays := false
			w.router.do(func(r *router) { stays = r.split.Share > 0 })
			if stays != c.stay || r.State.Rollback.StoppedAt.IsZero() != c.stay {
				t.Errorf("the candidate keeps its users: %v, traffic back at %v", stays, r.State.Rollback.StoppedAt)
			}
		})
	}
}
