package pipeline_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

// mortal is the store of a process that dies at its first commit: before the
// commit is written, so that what was done outside is not known, or after, so
// that what would follow is not done.
type mortal struct {
	pipeline.Store
	die    context.CancelFunc
	before bool
	// at selects the commit; nil takes the first.
	at func(pipeline.Commit) bool

	mu   sync.Mutex
	dead bool
}

func (m *mortal) Commit(ctx context.Context, c pipeline.Commit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return context.Canceled
	}
	if m.at != nil && !m.at(c) {
		return m.Store.Commit(ctx, c)
	}
	m.dead = true
	defer m.die()
	if m.before {
		return context.Canceled
	}
	return m.Store.Commit(ctx, c)
}

// liveAndDie runs a new engine until it has died at a commit; false when
// nothing was left to commit.
func (w *world) liveAndDie(id string, before bool) bool {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	m := &mortal{Store: w.db, die: cancel, before: before}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.engine(m).Run(ctx)
	}()
	for {
		select {
		case <-done:
			if !m.dead {
				w.t.Fatalf("nothing was committed for a minute: %+v", w.get(id).State)
			}
			w.expire()
			return true
		case <-time.After(3 * time.Millisecond):
			if w.get(id).Phase == pipeline.PhaseDone {
				cancel()
				<-done
				return false
			}
		}
	}
}

// The engine dies after each commit, or before and after each in turn, of a
// whole release. Every new engine knows only the database; the release ends as
// it would have.
func TestReleaseSurvivesACrashAtEveryCommit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		errors  float64
		outcome headgate.Outcome
		stage   headgate.Stage
		reasons []string
		// once are done outside at most once an engine's life.
		once []string
	}{
		{
			name: "good", outcome: headgate.Promoted,
			once: []string{"contract", "replay", "gate_d", "rollout", "publish", "feedback"},
		},
		{
			name: "bad", errors: 0.4, outcome: headgate.RolledBack, stage: headgate.StageCanary, reasons: []string{canary.CodeErrorsWorse},
			once: []string{"contract", "replay", "gate_d", "rollout", "rollback"},
		},
	} {
		for _, alternate := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/lost=%v", tt.name, alternate), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.router.errors[headgate.Candidate] = tt.errors
				w.create(tt.name)
				lives := 0
				for before := alternate; w.liveAndDie(tt.name, before); before = alternate && !before {
					if lives++; lives > 500 {
						t.Fatal("the release does not end")
					}
				}
				t.Logf("%d lives", lives)
				r := w.get(tt.name)
				w.wantOutcome(r, tt.outcome, tt.stage, tt.reasons...)
				w.wantGaplessTicks(r)
				w.wantTrailWithoutRepeats(r)

				// An effect whose commit was written is never repeated; one whose
				// commit was lost is done once more.
				most := 1
				if alternate {
					most = 2
				}
				calls := w.allCalls()
				for call, n := range calls {
					if n > most {
						t.Errorf("%s was done %d times, want at most %d", call, n, most)
					}
				}
				for _, what := range tt.once {
					if calls[what+" "+tt.name+" 1"] == 0 {
						t.Errorf("%s was never done: %v", what, slices.Sorted(maps.Keys(calls)))
					}
				}
				w.router.do(func(router *router) { wantRisingEpochs(t, router.applied) })
			})
		}
	}
}

// A share that was granted and never committed is a share all the same.
func TestLostGrantThatLapsedIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("lost")
	ctx, cancel := context.WithCancel(t.Context())
	w.engine(&mortal{Store: w.db, die: cancel, before: true, at: func(c pipeline.Commit) bool { return c.Record.State.Granted }}).Run(ctx)
	if !w.router.met("lost") || w.get("lost").State.Granted {
		t.Fatal("the process did not die between the grant and its commit")
	}
	w.router.do(func(r *router) { r.clock = r.clock.Add(leaseTTL) })
	w.expire()
	w.start()
	w.wantOutcome(w.awaitDone("lost"), headgate.Inconclusive, headgate.StageCanary, pipeline.ReasonLeaseLapsed)
}

// wantTrailWithoutRepeats checks that nothing was told twice.
func (w *world) wantTrailWithoutRepeats(r pipeline.Record) {
	w.t.Helper()
	seen := map[string]int{}
	for _, kind := range w.events(r.ID) {
		seen[kind]++
	}
	for _, kind := range []string{"release_created", "canary_started", "rollback_triggered", "traffic_on_stable", "rollback_finished", "release_" + string(r.Outcome)} {
		if seen[kind] > 1 {
			w.t.Errorf("%s was told %d times", kind, seen[kind])
		}
	}
	runs, err := w.db.StageRuns(w.t.Context(), r.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	if seen["stage_started"] != len(runs) || seen["stage_finished"] != len(runs) {
		w.t.Errorf("%d stages started and %d finished, of %d", seen["stage_started"], seen["stage_finished"], len(runs))
	}
}

// wantRisingEpochs checks that no router was ever told something older.
func wantRisingEpochs(t *testing.T, applied []rollout.Split) {
	t.Helper()
	var last int64
	for _, s := range applied {
		if s.Epoch < last {
			t.Errorf("epoch %d was applied after %d", s.Epoch, last)
		}
		last = s.Epoch
	}
}

// Two processes on one store share the work without doing any twice.
func TestTwoEnginesOnOneStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.start()
	w.create("good")
	r := w.awaitDone("good")
	w.wantOutcome(r, headgate.Promoted, "")
	w.wantGaplessTicks(r)
	w.wantTrailWithoutRepeats(r)
	for call, n := range w.allCalls() {
		if n != 1 {
			t.Errorf("%s was done %d times", call, n)
		}
	}
	w.router.do(func(router *router) { wantRisingEpochs(t, router.applied) })
}

// A turn that hangs loses its lease to another process, is told to stop, and
// leaves nothing behind.
func TestHangingProcessIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cancelled := make(chan struct{})
	w.runners[headgate.StageReplay] = func(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
		if w.called("entered") == 1 {
			<-ctx.Done()
			close(cancelled)
		}
		return pipeline.Result{Verdict: headgate.Pass}, nil
	}
	// The first process cannot reach the database any more once it is in the
	// replay: its lease is not extended.
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	w.lease = 250 * time.Millisecond
	deaf := w.engine(&deafStore{Store: w.db})
	w.lease = time.Hour
	running.Go(func() { deaf.Run(ctx) })
	w.create("good")
	w.await("good", "the replay hangs", func(pipeline.Record) bool { return w.allCalls()["entered"] == 1 })
	w.start()
	w.wantOutcome(w.awaitDone("good"), headgate.Promoted, "")
	select {
	case <-cancelled:
	case <-time.After(time.Minute):
		t.Error("the turn that lost its lease was not told")
	}
	if n := w.allCalls()["gate_d good 1"]; n != 1 {
		t.Errorf("the stage after it was judged %d times", n)
	}
}

// deafStore claims nothing after the replay began and cannot extend a lease
// until somebody else has taken it.
type deafStore struct {
	pipeline.Store
	mu     sync.Mutex
	replay bool
}

func (d *deafStore) Claim(ctx context.Context, owner string, ttl time.Duration, versions ...int) (pipeline.Record, []pipeline.Fact, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.replay {
		return pipeline.Record{}, nil, false, nil
	}
	r, facts, ok, err := d.Store.Claim(ctx, owner, ttl, versions...)
	d.replay = ok && r.Stage == headgate.StageReplay
	return r, facts, ok, err
}

func (d *deafStore) Extend(ctx context.Context, id string, epoch int64, ttl time.Duration) error {
	r, err := d.Release(ctx, id)
	if err == nil && r.Epoch == epoch {
		return errDown
	}
	return d.Store.Extend(ctx, id, epoch, ttl)
}

// While an engine sleeps nothing but a signal or its sweep makes it look: a
// release that it does not understand costs nothing.
func TestForeignPlanIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createUnbuilt("foreign")
	first := pipeline.Begin(headgate.Release{ID: "newer", Service: service, Digest: "sha256:newer"}, w.get("foreign").Plan, time.Now().UTC().Add(-time.Hour))
	first.Record.PlanVersion = pipeline.PlanVersion + 1
	if _, err := w.db.CreateRelease(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	counting := &claimCounter{Store: w.db}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { w.engine(counting).Run(ctx) })
	w.await("foreign", "the known release is seen to", func(r pipeline.Record) bool { return strings.Contains(r.State.Note, "waits") })
	began, before := time.Now(), counting.n.Load()
	time.Sleep(400 * time.Millisecond) // with nothing to do
	claims := counting.n.Load() - before
	if most := 5 + int64(time.Since(began)/sweep); claims > most {
		t.Errorf("%d claims with nothing to do, want at most %d", claims, most)
	}
	w.await("newer", "a sweep", func(pipeline.Record) bool { return counting.n.Load() > before })
	if r := w.get("newer"); r.Epoch != 0 || r.Phase != pipeline.PhaseRunning {
		t.Errorf("the foreign release was touched: %+v", r)
	}
}

type claimCounter struct {
	pipeline.Store
	n atomic.Int64
}

func (c *claimCounter) Claim(ctx context.Context, owner string, ttl time.Duration, versions ...int) (pipeline.Record, []pipeline.Fact, bool, error) {
	c.n.Add(1)
	return c.Store.Claim(ctx, owner, ttl, versions...)
}

// fullStore can be read and not written.
type fullStore struct {
	pipeline.Store
	claims atomic.Int64
}

func (f *fullStore) Claim(context.Context, string, time.Duration, ...int) (pipeline.Record, []pipeline.Fact, bool, error) {
	f.claims.Add(1)
	return pipeline.Record{}, nil, false, headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient, "the disk is full")
}

// A release that is due and cannot be claimed does not make the engine ask, and
// log, as fast as it can.
func TestFailingClaimWaitsForTheSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createUnbuilt("due")
	store := &fullStore{Store: w.db}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	w.engine(store).Run(ctx)
	if most := int64(time.Since(began)/sweep) + 2; store.claims.Load() > most {
		t.Errorf("%d claims in %v; want at most one every %v", store.claims.Load(), time.Since(began), sweep)
	}
}
