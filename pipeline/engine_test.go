package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/pipeline"
)

func TestGoodReleaseIsPromoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("good")
	r := w.awaitDone("good")
	w.wantOutcome(r, headgate.Promoted, "")
	w.wantGaplessTicks(r)
	if !w.router.met("good") {
		t.Error("no user ever met the candidate")
	}
	w.router.do(func(router *router) {
		if got := router.split.Stable; got.Version != "v-good" || router.share() != 0 {
			t.Errorf("the router serves %+v with share %v", got, router.share())
		}
	})
	if st, err := w.db.Service(t.Context(), service); err != nil || st.Stable.Version != "v-good" {
		t.Errorf("stable is %+v, %v", st.Stable, err)
	}
	runs, err := w.db.StageRuns(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	var stages []headgate.Stage
	for _, run := range runs {
		stages = append(stages, run.Stage)
		if run.Verdict != headgate.Pass || run.EndedAt.IsZero() {
			t.Errorf("stage run %+v", run)
		}
	}
	if !slices.Equal(stages, headgate.Stages()) {
		t.Errorf("stages %v, want all in order", stages)
	}
	w.wantEventsInOrder("good", "release_created", "canary_started", "stage_finished", "release_promoted")
	for call, n := range w.allCalls() {
		if n != 1 {
			t.Errorf("%s was done %d times", call, n)
		}
	}
}

func TestFailingStageBlocks(t *testing.T) {
	t.Parallel()
	fail := func(v headgate.Verdict, reasons ...string) pipeline.Runner {
		return func(context.Context, pipeline.Record) (pipeline.Result, error) {
			return pipeline.Result{Verdict: v, Reasons: reasons, Summary: "no"}, nil
		}
	}
	for _, tt := range []struct {
		stage headgate.Stage
		run   pipeline.Runner
		want  string
	}{
		{headgate.StageContract, fail(headgate.Fail, "BREAKING_CHANGE"), "BREAKING_CHANGE"},
		{headgate.StageReplay, fail(headgate.Fail), "REPLAY_FAIL"},
		{headgate.StageGateD, fail(headgate.Insufficient), "GATE_D_INSUFFICIENT"},
		{headgate.StageRollout, fail(headgate.Broken), "ROLLOUT_BROKEN"},
		{headgate.StageReplay, func(context.Context, pipeline.Record) (pipeline.Result, error) {
			return pipeline.Result{}, errors.New("secret cause")
		}, "REPLAY_BROKEN"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.runners[tt.stage] = tt.run
			w.start()
			w.create("bad")
			r := w.awaitDone("bad")
			w.wantOutcome(r, headgate.Blocked, tt.stage, tt.want)
			if w.router.met("bad") || len(w.router.applied) != 0 {
				t.Error("the router heard of a release that was blocked")
			}
			if w.quarantined(r) {
				t.Error("a digest that no user met is in quarantine")
			}
		})
	}
	for _, stage := range []headgate.Stage{headgate.StageBuild, headgate.StageTest} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.start()
			w.createUnbuilt("bad")
			if stage == headgate.StageTest {
				w.report("bad", headgate.StageBuild, headgate.Pass)
			}
			w.report("bad", stage, headgate.Fail)
			r := w.awaitDone("bad")
			if r.Outcome != headgate.Blocked || w.allCalls()["contract bad 1"] != 0 {
				t.Errorf("ended as %s with %v", r.Outcome, w.allCalls())
			}
		})
	}
}

func TestRunnerThatRecoversPasses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.runners[headgate.StageGateD] = func(_ context.Context, r pipeline.Record) (pipeline.Result, error) {
		if r.Attempt == 1 {
			return pipeline.Result{}, errDown
		}
		return pipeline.Result{Verdict: headgate.Pass}, nil
	}
	asked := 0
	w.runners[headgate.StageRollout] = func(context.Context, pipeline.Record) (pipeline.Result, error) {
		if asked++; asked < 3 {
			return pipeline.Result{Waiting: "waits for a report"}, nil
		}
		return pipeline.Result{Verdict: headgate.Pass}, nil
	}
	w.start()
	w.create("good")
	w.await("good", "it says what it waits for", func(r pipeline.Record) bool { return r.State.Note == "waits for a report" })
	w.wantOutcome(w.awaitDone("good"), headgate.Promoted, "")
	w.wantEventsInOrder("good", "stage_retry", "stage_waiting", "release_promoted")
}

func TestStageThatNeverEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.runners[headgate.StageReplay] = func(ctx context.Context, _ pipeline.Record) (pipeline.Result, error) {
		<-ctx.Done() // it was told its deadline
		return pipeline.Result{}, ctx.Err()
	}
	w.start()
	w.create("slow", func(_ *headgate.Release, p *pipeline.Plan) {
		p.StageTimeout = map[headgate.Stage]time.Duration{headgate.StageReplay: 50 * time.Millisecond}
	})
	w.wantOutcome(w.awaitDone("slow"), headgate.Blocked, headgate.StageReplay, "REPLAY_DEADLINE_EXCEEDED")
}

// Too little data and broken telemetry block a release, and its record says that
// they did and not that it is bad.
func TestBlockedStageKeepsItsVerdict(t *testing.T) {
	t.Parallel()
	for _, v := range []headgate.Verdict{headgate.Fail, headgate.Insufficient, headgate.Broken} {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.runners[headgate.StageGateD] = func(context.Context, pipeline.Record) (pipeline.Result, error) {
				return pipeline.Result{Verdict: v, Reasons: []string{"WHY"}}, nil
			}
			w.start()
			w.create("held")
			w.wantOutcome(w.awaitDone("held"), headgate.Blocked, headgate.StageGateD, "WHY")
			runs, err := w.db.StageRuns(t.Context(), "held")
			if err != nil {
				t.Fatal(err)
			}
			if last := runs[len(runs)-1]; last.Stage != headgate.StageGateD || last.Verdict != v {
				t.Errorf("the last stage run is %s %s, want gate_d %s", last.Stage, last.Verdict, v)
			}
		})
	}
}

func TestApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("risky", func(_ *headgate.Release, p *pipeline.Plan) { p.ApprovalRequired = true })
	r := w.await("risky", "it waits", func(r pipeline.Record) bool { return r.Stage == headgate.StageRollout && r.State.Note != "" })
	if want := "waits for an approval: headgate release approve risky"; r.State.Note != want || w.router.met("risky") {
		t.Errorf("note %q, want %q, and no traffic", r.State.Note, want)
	}
	w.signal("risky", pipeline.Fact{Kind: pipeline.FactApproval, At: r.StageStartedAt.Add(-time.Minute)})
	w.await("risky", "an approval from before does not count", func(now pipeline.Record) bool {
		return now.Gen > r.Gen && now.Stage == headgate.StageRollout && now.State.Note != ""
	})
	w.signal("risky", pipeline.Fact{Kind: pipeline.FactApproval})
	w.wantOutcome(w.awaitDone("risky"), headgate.Promoted, "")
}

func TestAbortBeforeUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.createUnbuilt("early")
	w.await("early", "it waits", func(r pipeline.Record) bool { return r.State.Note != "" })
	w.signal("early", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "wrong branch"})
	r := w.awaitDone("early")
	w.wantOutcome(r, headgate.Aborted, headgate.StageBuild, pipeline.ReasonAborted)
	if len(w.router.applied) != 0 || len(w.allCalls()) != 0 || w.quarantined(r) {
		t.Errorf("an early abort did %v, %v", w.router.applied, w.allCalls())
	}
}

// undecided keeps a canary going for as long as the test needs it.
func undecided(_ *headgate.Release, p *pipeline.Plan) { p.Canary.MinDurationSeconds = 3600 }

func TestAbortUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind pipeline.FactKind
		want string
	}{{pipeline.FactAbort, pipeline.ReasonAborted}, {pipeline.FactRollback, pipeline.ReasonManualRollback}} {
		t.Run(string(tt.kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.start()
			w.create("doomed", undecided)
			w.awaitTicks("doomed", 3)
			w.signal("doomed", pipeline.Fact{Kind: tt.kind, Reason: "I saw something"})
			r := w.awaitDone("doomed")
			w.wantOutcome(r, headgate.RolledBack, headgate.StageCanary, tt.want)
			if w.allCalls()["rollback doomed 1"] != 1 || !w.quarantined(r) {
				t.Errorf("calls %v, quarantined %v", w.allCalls(), w.quarantined(r))
			}
			w.wantEventsInOrder("doomed", "canary_started", string(tt.kind), "rollback_triggered", "traffic_on_stable", "rollback_finished", "release_rolled_back")
		})
	}
}

func TestBadCanaryIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router.errors[headgate.Candidate] = 0.3
	w.start()
	w.create("bad")
	r := w.awaitDone("bad")
	w.wantOutcome(r, headgate.RolledBack, headgate.StageCanary, canary.CodeErrorsWorse)
	w.wantGaplessTicks(r)
	if !w.quarantined(r) {
		t.Error("the digest may come again")
	}
	if in := r.State.Rollback; in == nil || in.TriggerGate != headgate.GatePerformance || in.StoppedAt.Before(in.TriggeredAt) {
		t.Errorf("intent %+v", r.State.Rollback)
	}
	w.wantEventsInOrder("bad", "canary_started", "canary_verdict", "rollback_triggered", "traffic_on_stable", "rollback_finished", "release_rolled_back")
}

func TestRollbackIsRepeatedUntilItWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router.errors[headgate.Candidate] = 0.5
	w.rollback = func(_ context.Context, r pipeline.Record) (pipeline.RollbackResult, error) {
		if r.Attempt == 1 {
			return pipeline.RollbackResult{}, errDown
		}
		return pipeline.RollbackResult{Escalations: []string{"model_config"}, Summary: "the service stays frozen"}, nil
	}
	w.start()
	w.create("bad")
	w.wantOutcome(w.awaitDone("bad"), headgate.RolledBack, headgate.StageCanary, canary.CodeErrorsWorse)
	w.wantEventsInOrder("bad", "rollback_triggered", "rollback_retry", "rollback_finished", "release_rolled_back")
}

// The stop-loss comes before everything, and is repeated until the router has
// confirmed it.
func TestRollbackWaitsForTheRouter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("bad", undecided)
	w.awaitTicks("bad", 2)
	w.router.do(func(r *router) { r.down["apply"] = true })
	w.signal("bad", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "x"})
	w.await("bad", "a retry", func(r pipeline.Record) bool { return r.Phase == pipeline.PhaseRollingBack && r.Attempt > 1 })
	if n := w.allCalls()["rollback bad 2"]; n != 0 {
		t.Error("the ordered rollback began before the traffic was on stable")
	}
	w.router.do(func(r *router) { r.down["apply"] = false })
	w.wantOutcome(w.awaitDone("bad"), headgate.RolledBack, headgate.StageCanary, pipeline.ReasonAborted)
}

// A canary that cannot begin says so in the trail, once.
func TestCanaryThatTheRouterKeepsFromBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router.do(func(r *router) { r.down["apply"] = true })
	w.start()
	w.create("good")
	w.await("good", "it says what it waits for", func(r pipeline.Record) bool { return strings.Contains(r.State.Note, "the canary does not begin") })
	w.wantEventsInOrder("good", "stage_waiting")
	w.router.do(func(r *router) { r.down["apply"] = false })
	w.wantOutcome(w.awaitDone("good"), headgate.Promoted, "")
}

func TestStaleTelemetryHoldsUntilItsGraceIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.observe = func(context.Context, pipeline.Record) (pipeline.Observation, error) {
		return pipeline.Observation{Stale: "no telemetry for 20 s"}, nil
	}
	w.start()
	w.create("dark", func(_ *headgate.Release, p *pipeline.Plan) { p.Canary.BrokenGraceSeconds = 0.3 })
	r := w.awaitDone("dark")
	w.wantOutcome(r, headgate.Inconclusive, headgate.StageCanary, canary.CodeTelemetryStale, canary.CodeBrokenTooLong)
	if w.quarantined(r) {
		t.Error("a monitoring outage is no bad release")
	}
	ticks, err := w.db.Ticks(t.Context(), "dark")
	if err != nil {
		t.Fatal(err)
	}
	first, last := ticks[0], ticks[len(ticks)-1]
	if held := last.Tick.Time.Sub(first.Tick.Time); held < 290*time.Millisecond {
		t.Errorf("rolled back after %s, before the grace of 300 ms was over", held)
	}
	for _, row := range ticks[:len(ticks)-1] {
		if row.Decision.Verdict != headgate.Broken || row.Decision.Action != canary.Alert {
			t.Errorf("tick %d: %s, %s; want that a person is called and the share held", row.Seq, row.Decision.Verdict, row.Decision.Action)
		}
	}
	w.router.do(func(r *router) {
		for _, s := range r.applied[:len(ticks)-1] {
			if s.Share != share {
				t.Errorf("share %v while telemetry was stale, want it held at %v", s.Share, share)
			}
		}
	})
}

// What happened while telemetry was stale is judged when it is back.
func TestTelemetryThatComesBackLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.observe = func(_ context.Context, r pipeline.Record) (pipeline.Observation, error) {
		if r.State.Ticks > 2 && r.State.Ticks < 8 {
			return pipeline.Observation{}, errDown
		}
		return pipeline.Observation{}, nil
	}
	w.start()
	w.create("good")
	r := w.awaitDone("good")
	w.wantOutcome(r, headgate.Promoted, "")
	w.wantEventsInOrder("good", "canary_started", "canary_verdict", "canary_verdict", "release_promoted")
	if got, counted := r.State.Canary.Candidate.Requests, r.State.Counts.Arm(headgate.Candidate).Requests; uint64(got) != counted {
		t.Errorf("%d requests judged of %d", got, counted)
	}
}

// A clock that is set back makes a look that cannot be judged, and what happened
// until then is judged at the next one.
func TestClockThatGoesBackLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := &setBack{Store: w.db}
	w.observe = func(_ context.Context, r pipeline.Record) (pipeline.Observation, error) {
		store.by.Store(0)
		if r.State.Ticks == 0 {
			store.by.Store(int64(time.Minute))
		}
		return pipeline.Observation{}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { w.engine(store).Run(ctx) })
	w.create("good")
	r := w.awaitDone("good")
	w.wantOutcome(r, headgate.Promoted, "")
	ticks, err := w.db.Ticks(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	if got := ticks[1].Decision; !slices.Equal(got.Reasons, []string{canary.CodeTimeNotRising}) {
		t.Errorf("the look after the clock was set back: %s %v", got.Verdict, got.Reasons)
	}
	if got, counted := r.State.Canary.Candidate.Requests, r.State.Counts.Arm(headgate.Candidate).Requests; uint64(got) != counted {
		t.Errorf("%d requests judged of %d", got, counted)
	}
}

// setBack is a store whose clock goes slow.
type setBack struct {
	pipeline.Store
	by atomic.Int64
}

func (s *setBack) Now(ctx context.Context) (time.Time, error) {
	now, err := s.Store.Now(ctx)
	return now.Add(-time.Duration(s.by.Load())), err
}

func TestNoTrafficIsNoVerdict(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*pipeline.Plan, time.Duration){
		"stage timeout": func(p *pipeline.Plan, after time.Duration) {
			p.StageTimeout = map[headgate.Stage]time.Duration{headgate.StageCanary: after}
		},
		"canary limit": func(p *pipeline.Plan, after time.Duration) { p.CanaryMax = after / 10 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w *world
			var r pipeline.Record
			// A canary that the machine is too slow even to begin in time is no matter
			// of traffic.
			for after := 500 * time.Millisecond; w == nil || !w.router.met("idle") && after < time.Minute; after *= 4 {
				w = newWorld(t)
				w.router.traffic = 0
				w.start()
				w.create("idle", func(_ *headgate.Release, p *pipeline.Plan) { limit(p, after) })
				r = w.awaitDone("idle")
			}
			// A stage can be over before the first look at its canary.
			if c := r.State.Canary; c != nil && (c.Verdict != headgate.Insufficient || !slices.Equal(c.Reasons, []string{canary.CodeNoTraffic})) {
				t.Errorf("verdict %+v", c)
			}
			w.wantOutcome(r, headgate.Inconclusive, headgate.StageCanary, pipeline.ReasonCanaryUndecided, "CANARY_DEADLINE_EXCEEDED")
			if w.quarantined(r) {
				t.Error("a release that nobody tried is in quarantine")
			}
		})
	}
}

func TestConsecutiveBreachesRollBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.observe = func(context.Context, pipeline.Record) (pipeline.Observation, error) {
		return pipeline.Observation{Checks: []canary.Check{{Gate: headgate.GateCost, MetricCode: "COST_PER_TASK", Breached: true}}}, nil
	}
	w.start()
	w.create("dear")
	r := w.awaitDone("dear")
	w.wantOutcome(r, headgate.RolledBack, headgate.StageCanary, canary.CodeConsecutive)
	if r.State.Rollback.TriggerGate != headgate.GateCost {
		t.Errorf("trigger gate %q", r.State.Rollback.TriggerGate)
	}
}

func TestRollbackDuringFeedbackTakesEverybodyBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.runners[headgate.StageFeedback] = func(context.Context, pipeline.Record) (pipeline.Result, error) {
		return pipeline.Result{Waiting: "waits for reviews"}, nil
	}
	w.start()
	w.create("regret")
	w.await("regret", "feedback", func(r pipeline.Record) bool { return r.Stage == headgate.StageFeedback && r.State.Note != "" })
	w.signal("regret", pipeline.Fact{Kind: pipeline.FactRollback, Reason: "breach"})
	w.wantOutcome(w.awaitDone("regret"), headgate.RolledBack, headgate.StageFeedback, pipeline.ReasonManualRollback)
	if w.allCalls()["rollback regret 1"] != 1 {
		t.Error("the release is said to be rolled back and nothing was done")
	}
}

func TestMissingFeedbackTakesNobodyBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.runners[headgate.StageFeedback] = func(context.Context, pipeline.Record) (pipeline.Result, error) {
		return pipeline.Result{Verdict: headgate.Fail, Reasons: []string{"FEEDBACK_SOURCE_MISSING"}}, nil
	}
	w.start()
	w.create("good")
	w.wantOutcome(w.awaitDone("good"), headgate.Promoted, "", "FEEDBACK_SOURCE_MISSING")
	w.wantEventsInOrder("good", "release_promoted")
}

func TestPromotionThatCannotBeCarriedOutIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish = func(context.Context, pipeline.Record) error { return errDown }
	w.start()
	w.create("stuck")
	r := w.awaitDone("stuck")
	w.wantOutcome(r, headgate.Inconclusive, headgate.StageFull, "FULL_BROKEN")
	if n := w.allCalls()["rollback stuck 3"]; n != 1 || w.quarantined(r) {
		t.Errorf("%d rollbacks of what may be in force, quarantined %v", n, w.quarantined(r))
	}
}

// What a release asks for is not what users get while a router cannot say so.
func TestShareIsUnconfirmedWhileARouterIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("good", undecided)
	if r := w.awaitTicks("good", 3); r.State.Unconfirmed != "" {
		t.Errorf("confirmed, and it says %q", r.State.Unconfirmed)
	}
	silent := func(r pipeline.Record) bool { return r.State.Unconfirmed == errDown.Message && r.State.Share == share }
	confirmed := func(r pipeline.Record) bool { return r.State.Unconfirmed == "" }
	down := func(is bool) { w.router.do(func(r *router) { r.down["status"], r.down["apply"] = is, is }) }
	down(true)
	w.await("good", "it says that the router is silent", silent)
	down(false)
	w.await("good", "it is confirmed", confirmed)
	down(true)
	w.signal("good", pipeline.Fact{Kind: pipeline.FactAbort, Reason: "no"})
	w.await("good", "it says so while it rolls back", func(r pipeline.Record) bool { return r.Phase == pipeline.PhaseRollingBack && silent(r) })
	down(false)
	if r := w.awaitDone("good"); !confirmed(r) || r.State.Share != 0 {
		t.Errorf("%v, %q", r.State.Share, r.State.Unconfirmed)
	}
}

// An outage of the control plane's own is no fault of the release: it waits
// longer than a runner's error, and says for what.
func TestOutageIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, stage := range []headgate.Stage{headgate.StageContract, headgate.StageReplay, headgate.StageGateD, headgate.StageRollout} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var back atomic.Bool
			var asked atomic.Int64
			w.runners[stage] = func(context.Context, pipeline.Record) (pipeline.Result, error) {
				if asked.Add(1); !back.Load() {
					return pipeline.Result{}, fmt.Errorf("%w: %w", pipeline.ErrOutage,
						headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the bucket does not answer"))
				}
				return pipeline.Result{Verdict: headgate.Pass}, nil
			}
			w.start()
			w.create("good", func(_ *headgate.Release, p *pipeline.Plan) {
				p.StageTimeout = map[headgate.Stage]time.Duration{stage: time.Minute}
			})
			r := w.await("good", "more tries than an error gets", func(pipeline.Record) bool { return asked.Load() > 5 })
			if r.Stage != stage || r.Attempt != 1 || w.router.met("good") {
				t.Fatalf("in the outage: %s, attempt %d, met users %v", r.Stage, r.Attempt, w.router.met("good"))
			}
			since := r.State.OutageSince
			if note := r.State.Note; !strings.Contains(note, "waits since "+since.UTC().Format(time.RFC3339)) || !strings.Contains(note, "the bucket does not answer") {
				t.Errorf("it says %q", note)
			}
			if limit := r.DeadlineAt.Sub(since); limit != time.Hour {
				t.Errorf("it waits for %s", limit)
			}
			back.Store(true)
			r = w.awaitDone("good")
			w.wantOutcome(r, headgate.Promoted, "")
			if !r.State.OutageSince.IsZero() {
				t.Errorf("the outage is still on: %s", r.State.OutageSince)
			}
		})
	}
}
