package pipeline_test

import (
	"context"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/pipeline"
)

// An abort does not wait for a stage that takes long.
func TestAbortCancelsARunningStage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	running := make(chan struct{})
	w.runners[headgate.StageReplay] = func(ctx context.Context, _ pipeline.Record) (pipeline.Result, error) {
		close(running)
		<-ctx.Done()
		return pipeline.Result{}, ctx.Err()
	}
	w.start()
	w.create("long")
	<-running
	w.signal("long", pipeline.Fact{Kind: pipeline.FactEvidence})
	w.signal("long", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "wrong branch"})
	r := w.awaitDone("long")
	w.wantOutcome(r, headgate.Aborted, headgate.StageReplay, pipeline.ReasonAborted)
	if n := w.allCalls()["replay long 1"]; n != 1 {
		t.Errorf("the stage was run %d times", n)
	}
}

func supersedes(_ *headgate.Release, p *pipeline.Plan) { p.OnBusy = pipeline.BusySupersede }

// A newer release takes an older one's place: traffic is on stable before the
// newer one gets any, and nothing is held against the older one's build.
func TestNewerReleaseSupersedes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("older", undecided)
	w.awaitTicks("older", 3)
	w.create("newer", supersedes)
	r := w.awaitDone("older")
	w.wantOutcome(r, headgate.Inconclusive, headgate.StageCanary, pipeline.ReasonSuperseded)
	if w.quarantined(r) {
		t.Error("a build that only made way is in quarantine")
	}
	w.wantEventsInOrder("older", "supersede_requested", "rollback_triggered", "traffic_on_stable", "rollback_finished", "release_inconclusive")
	w.wantOutcome(w.awaitDone("newer"), headgate.Promoted, "")
	w.router.do(func(router *router) {
		stopped := false
		for _, s := range router.applied {
			stopped = stopped || (s.ReleaseID == "older" && s.Share == 0)
			if s.ReleaseID == "newer" && s.Share > 0 && !stopped {
				t.Fatal("the newer release met users before the older one's traffic was back on stable")
			}
		}
	})
}

// Who waits by its policy, and who is older, takes nobody's place.
func TestReleasesWaitForTheTraffic(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]func(*headgate.Release, *pipeline.Plan){
		"by policy": func(*headgate.Release, *pipeline.Plan) {},
		"older":     supersedes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			stop := w.start()
			if name == "older" {
				stop()
				w.create("second", second)
				w.create("first", undecided)
				w.runners[headgate.StageContract] = func(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
					if r.ID == "second" && !w.router.met("first") {
						return pipeline.Result{Waiting: "for the first"}, nil
					}
					return pipeline.Result{Verdict: headgate.Pass}, nil
				}
				w.start()
			} else {
				w.create("first", undecided)
				w.awaitTicks("first", 2)
				w.create("second", second)
			}
			w.await("second", "it waits", func(r pipeline.Record) bool { return r.Stage == headgate.StageCanary && r.State.Note != "" })
			r := w.awaitTicks("first", w.get("first").State.Ticks+10)
			if r.Phase != pipeline.PhaseRunning || w.router.met("second") {
				t.Fatalf("first is %s; second met users: %v", r.Phase, w.router.met("second"))
			}
			w.signal("first", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "done"})
			w.wantOutcome(w.awaitDone("second"), headgate.Promoted, "")
		})
	}
}
