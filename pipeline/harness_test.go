package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/store/sqlite"
)

const (
	service  = "bidding"
	share    = 0.1
	leaseTTL = 10 * time.Second // of the router
	sweep    = 20 * time.Millisecond
)

var stable = rollout.Backend{Version: "v1", URL: "http://127.0.0.1:8001"}

// errDown is what parts of the world answer that are out of reach.
var errDown = headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "out of reach")

// router is a router in memory: it obeys the rules of epochs and leases, its
// clock moves only when a test moves it, and between two looks at its counts
// the users make as many requests as traffic says.
type router struct {
	mu      sync.Mutex
	clock   time.Time
	highest int64
	split   rollout.Split
	until   time.Time
	boot    int
	cells   map[headgate.Arm]*rollout.Cell
	// traffic is the number of requests between two looks, and errors the part
	// of them that fails on an arm.
	traffic uint64
	errors  map[headgate.Arm]float64
	// whole are tenants all of whose requests go to one arm, with the part of
	// them that fails on the candidate; on stable one in a thousand does.
	whole map[string]float64
	seen  map[string]*rollout.Cell
	// sick are the arms that the router finds out of service.
	sick map[headgate.Arm]bool
	// down makes calls fail by name.
	down map[string]bool
	// applied are the splits that were taken, in order.
	applied []rollout.Split
}

func newRouter() *router {
	r := &router{
		clock: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), traffic: 20_000,
		errors: map[headgate.Arm]float64{}, sick: map[headgate.Arm]bool{}, down: map[string]bool{}, split: rollout.Split{Service: service, Stable: stable},
	}
	r.restart()
	return r
}

func (r *router) restart() {
	r.boot++
	r.split.Share, r.until = 0, time.Time{}
	r.cells = map[headgate.Arm]*rollout.Cell{}
	for _, arm := range []headgate.Arm{headgate.Stable, headgate.Candidate} {
		r.cells[arm] = &rollout.Cell{BootID: fmt.Sprint(r.boot), Arm: arm, Tenant: "acme", Latency: make([]uint64, canary.NumBuckets)}
	}
}

// do changes the router under its lock.
func (r *router) do(change func(r *router)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *router) share() float64 {
	if !r.clock.Before(r.until) {
		return 0
	}
	return r.split.Share
}

func (r *router) status() rollout.Status {
	st := rollout.Status{
		Service: service, Epoch: r.highest, ReleaseID: r.split.ReleaseID, Share: r.share(), BootID: fmt.Sprint(r.boot),
		Backends: []rollout.BackendStatus{{Backend: r.split.Stable, Arm: headgate.Stable, Healthy: !r.sick[headgate.Stable]}},
	}
	if r.split.Share > 0 {
		st.Backends = append(st.Backends, rollout.BackendStatus{Backend: r.split.Candidate, Arm: headgate.Candidate, Healthy: !r.sick[headgate.Candidate]})
	}
	return st
}

func (r *router) refuse(ctx context.Context, call string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.down[call] {
		return errDown
	}
	return nil
}

func (r *router) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.refuse(ctx, "apply"), s.Validate()); err != nil {
		return rollout.Status{}, err
	}
	if err := rollout.Supersede(r.highest, r.split, r.share() > 0, s); err != nil {
		return rollout.Status{}, err
	}
	r.highest, r.split, r.until = s.Epoch, s, r.clock.Add(s.TTL)
	r.applied = append(r.applied, s)
	return r.status(), nil
}

func (r *router) Status(ctx context.Context) (rollout.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status(), r.refuse(ctx, "status")
}

func (r *router) Counts(ctx context.Context) (rollout.Counts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuse(ctx, "counts"); err != nil {
		return rollout.Counts{}, err
	}
	if r.whole != nil {
		return r.countWhole(), nil
	}
	candidate := uint64(float64(r.traffic) * r.share())
	r.count(headgate.Candidate, candidate)
	r.count(headgate.Stable, r.traffic-candidate)
	out := rollout.Counts{At: r.clock}
	for _, arm := range []headgate.Arm{headgate.Stable, headgate.Candidate} {
		cell := *r.cells[arm]
		cell.Latency = slices.Clone(cell.Latency)
		out.Cells = append(out.Cells, cell)
	}
	return out, nil
}

func (r *router) countWhole() rollout.Counts {
	const requests = 2000
	out := rollout.Counts{At: r.clock}
	for tenant, failing := range r.whole {
		arm := headgate.Stable
		if r.share() > 0 && slices.Contains(r.split.Tenants, tenant) {
			arm = headgate.Candidate
		} else {
			failing = 0.001
		}
		for _, a := range []headgate.Arm{headgate.Stable, headgate.Candidate} {
			cell := r.seen[tenant+string(a)]
			if cell == nil {
				cell = &rollout.Cell{BootID: "1", Arm: a, Tenant: tenant, Latency: make([]uint64, canary.NumBuckets)}
				r.seen[tenant+string(a)] = cell
			}
			if a == arm {
				cell.Requests += requests
				cell.Errors += uint64(requests * failing)
				cell.Latency[10] += requests
			}
			copied := *cell
			copied.Latency = slices.Clone(cell.Latency)
			out.Cells = append(out.Cells, copied)
		}
	}
	return out
}

func (r *router) count(arm headgate.Arm, requests uint64) {
	cell := r.cells[arm]
	cell.Requests += requests
	cell.Errors += uint64(float64(requests) * r.errors[arm])
	cell.Latency[10] += requests
}

// met reports whether a release ever had a share.
func (r *router) met(release string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.applied, func(s rollout.Split) bool { return s.ReleaseID == release && s.Share > 0 })
}

// world is a store, a router and everything else that an engine needs.
type world struct {
	t      *testing.T
	db     *sqlite.DB
	router *router
	// lease is the engines' LeaseTTL: so long that no claim of an engine that
	// lives runs out, however slow the machine.
	lease time.Duration
	// admission is the engines' AdmissionAge.
	admission time.Duration
	// created are the releases, in order.
	created []string

	mu sync.Mutex
	// calls counts what was done outside, by name, release and attempt.
	calls map[string]int
	// runners, observe, rollback and publish replace what works.
	runners  map[headgate.Stage]pipeline.Runner
	observe  pipeline.Observer
	rollback pipeline.Rollbacker
	publish  pipeline.Publisher
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.RegisterService(t.Context(), service, stable); err != nil {
		t.Fatal(err)
	}
	return &world{t: t, db: db, router: newRouter(), lease: time.Hour, admission: time.Hour, calls: map[string]int{}, runners: map[headgate.Stage]pipeline.Runner{}}
}

func (w *world) called(format string, args ...any) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := fmt.Sprintf(format, args...)
	w.calls[key]++
	return w.calls[key]
}

func (w *world) allCalls() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.calls)
}

// engine returns a new engine, as a process that has just started makes it.
func (w *world) engine(store pipeline.Store) *pipeline.Engine {
	o := pipeline.Options{
		Store: store, Log: slog.New(slog.DiscardHandler), Owner: headgate.NewID("engine"),
		Router:   func(string) (rollout.Router, error) { return w.router, nil },
		Runners:  map[headgate.Stage]pipeline.Runner{},
		LeaseTTL: w.lease, AdmissionAge: w.admission, Sweep: sweep, Tick: 4 * time.Millisecond,
		Observe: func(ctx context.Context, r pipeline.Record) (pipeline.Observation, error) {
			if w.observe != nil {
				return w.observe(ctx, r)
			}
			return pipeline.Observation{}, nil
		},
		Publish: func(ctx context.Context, r pipeline.Record) error {
			w.called("publish %s %d", r.ID, r.Attempt)
			if w.publish != nil {
				return w.publish(ctx, r)
			}
			return nil
		},
		Rollback: func(ctx context.Context, r pipeline.Record) (pipeline.RollbackResult, error) {
			w.called("rollback %s %d", r.ID, r.Attempt)
			if st, err := w.router.Status(ctx); err == nil && st.Share != 0 && st.Backends[0].Healthy {
				w.t.Errorf("the ordered rollback of %s began while %v of the traffic met it", r.ID, st.Share)
			}
			if w.rollback != nil {
				return w.rollback(ctx, r)
			}
			return pipeline.RollbackResult{Restored: true, Summary: "restored"}, nil
		},
	}
	for _, stage := range []headgate.Stage{
		headgate.StageContract, headgate.StageReplay, headgate.StageGateD, headgate.StageRollout, headgate.StageFeedback,
	} {
		o.Runners[stage] = func(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
			w.called("%s %s %d", stage, r.ID, r.Attempt)
			if run := w.runners[stage]; run != nil {
				return run(ctx, r)
			}
			return pipeline.Result{Verdict: headgate.Pass, Summary: "passed"}, nil
		}
	}
	return pipeline.New(o)
}

// start runs an engine until the returned function is called or the test
// ends.
func (w *world) start() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	e := w.engine(w.db)
	var running sync.WaitGroup
	running.Go(func() { e.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return func() {
		cancel()
		running.Wait()
		w.expire()
	}
}

// expire is the end of the leases of engines that are gone.
func (w *world) expire() {
	w.t.Helper()
	for _, id := range w.created {
		err := w.db.Extend(w.t.Context(), id, w.get(id).Epoch, 0)
		if err != nil && headgate.AsError(err).Code != headgate.CodeStaleEpoch { // nobody has a lease
			w.t.Fatal(err)
		}
	}
}

// quick are the canary's parameters at which a few looks decide.
func quick() canary.Config {
	cfg := canary.DefaultConfig()
	cfg.TickSeconds, cfg.BlockSeconds, cfg.SuddenBlockSeconds = 0.004, 0.004, 0.004
	cfg.MinDurationSeconds, cfg.WarmUpSeconds = 0.03, 0
	return cfg
}

// create makes a release whose build and test the client has reported.
func (w *world) create(id string, change ...func(*headgate.Release, *pipeline.Plan)) {
	w.t.Helper()
	w.createUnbuilt(id, change...)
	w.report(id, headgate.StageBuild, headgate.Pass)
	w.report(id, headgate.StageTest, headgate.Pass)
}

func (w *world) createUnbuilt(id string, change ...func(*headgate.Release, *pipeline.Plan)) {
	w.t.Helper()
	ro, err := rollout.NewPlan(id, []string{"acme"}, headgate.ProjectSizes(), true)
	if err != nil {
		w.t.Fatal(err)
	}
	rel := headgate.Release{
		ID: id, Service: service, Version: "v-" + id, Digest: "sha256:" + id, CandidateURL: "http://127.0.0.1:8002",
	}
	plan := pipeline.Plan{Rollout: ro, Tenants: []string{"acme"}, Share: share, LeaseTTL: leaseTTL, Canary: quick(), Stable: stable}
	for _, c := range change {
		c(&rel, &plan)
	}
	// Creation times differ.
	at := time.Now().UTC().Add(time.Duration(len(w.created)-1000) * time.Millisecond)
	if _, err := w.db.CreateRelease(w.t.Context(), pipeline.Begin(rel, plan, at)); err != nil {
		w.t.Fatal(err)
	}
	w.created = append(w.created, id)
}

func (w *world) signal(id string, f pipeline.Fact) {
	if f.At.IsZero() {
		f.At = time.Now()
	}
	w.t.Helper()
	f.Actor = "ann"
	if err := w.db.Signal(w.t.Context(), id, f, headgate.Event{Kind: string(f.Kind), ReleaseID: id, Actor: "ann"}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) report(id string, stage headgate.Stage, v headgate.Verdict) {
	w.t.Helper()
	w.signal(id, pipeline.Fact{Kind: pipeline.FactStageResult, Stage: stage, Verdict: v, Summary: "reported"})
}

func (w *world) get(id string) pipeline.Record {
	w.t.Helper()
	r, err := w.db.Release(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// await polls until the release is as wanted.
func (w *world) await(id, what string, want func(pipeline.Record) bool) pipeline.Record {
	w.t.Helper()
	var r pipeline.Record
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if r = w.get(id); want(r) {
			return r
		}
	}
	w.t.Fatalf("%s: not within a minute: %s; it is in %s, %s, %s: %q %v", id, what, r.Phase, r.Stage, r.Outcome, r.State.Note, r.State.Canary)
	return r
}

func (w *world) awaitDone(id string) pipeline.Record {
	w.t.Helper()
	return w.await(id, "the release ends", func(r pipeline.Record) bool { return r.Phase == pipeline.PhaseDone })
}

// awaitTicks waits until a canary has been looked at n times.
func (w *world) awaitTicks(id string, n int64) pipeline.Record {
	w.t.Helper()
	return w.await(id, fmt.Sprintf("%d looks at the canary", n), func(r pipeline.Record) bool { return r.State.Ticks >= n })
}

// wantOutcome checks how a release ended, and that nothing is held any more.
func (w *world) wantOutcome(r pipeline.Record, outcome headgate.Outcome, stage headgate.Stage, reasons ...string) {
	w.t.Helper()
	if r.Outcome != outcome || r.StoppedAt != stage || !slices.Equal(r.Reasons, append([]string{}, reasons...)) {
		w.t.Errorf("%s ended as %q at %q for %v, want %q at %q for %v", r.ID, r.Outcome, r.StoppedAt, r.Reasons, outcome, stage, reasons)
	}
	st, err := w.db.Service(w.t.Context(), service)
	if err != nil {
		w.t.Fatal(err)
	}
	if st.HeldBy == r.ID {
		w.t.Errorf("%s has ended and still holds the traffic", r.ID)
	}
	if w.router.met(r.ID) && outcome != headgate.Promoted {
		w.router.do(func(router *router) {
			if s := router.status(); s.Share != 0 || s.Backends[0].Backend != stable {
				w.t.Errorf("the router sends %v to the candidate and the rest to %+v after %s ended", s.Share, s.Backends[0], r.ID)
			}
		})
	}
}

// quarantined reports whether a release's digest may not come again.
func (w *world) quarantined(r pipeline.Record) bool {
	w.t.Helper()
	rel := r.Release
	rel.ID += "-again"
	_, err := w.db.CreateRelease(w.t.Context(), pipeline.Begin(rel, r.Plan, time.Now().UTC()))
	if err != nil && headgate.AsError(err).Code != headgate.CodeDigestQuarantined {
		w.t.Fatal(err)
	}
	return err != nil
}

func (w *world) events(id string) []string {
	w.t.Helper()
	rows, err := w.db.Events(w.t.Context(), control.EventQuery{ReleaseID: id, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	var kinds []string
	for _, row := range rows {
		kinds = append(kinds, row.Kind)
	}
	return kinds
}

func (w *world) wantEventsInOrder(id string, want ...string) {
	w.t.Helper()
	got := w.events(id)
	rest := got
	for _, kind := range want {
		i := slices.Index(rest, kind)
		if i < 0 {
			w.t.Errorf("trail of %s lacks %s in its place: %v", id, kind, got)
			return
		}
		rest = rest[i+1:]
	}
}

// wantGaplessTicks checks that every request was judged once: the ticks are
// numbered without gaps, their times rise, judging them again gives the same
// decisions, and they add up to what the last decision says.
func (w *world) wantGaplessTicks(r pipeline.Record) {
	w.t.Helper()
	ticks, err := w.db.Ticks(w.t.Context(), r.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	if int64(len(ticks)) != r.State.Ticks || len(ticks) == 0 {
		w.t.Fatalf("%d ticks in the log, %d in the record", len(ticks), r.State.Ticks)
	}
	judge, err := canary.New(r.Judging())
	if err != nil {
		w.t.Fatal(err)
	}
	var last time.Time
	var requests int64
	for i, row := range ticks {
		if row.Seq != int64(i+1) {
			w.t.Fatalf("tick %d has number %d", i+1, row.Seq)
		}
		if !row.Tick.Time.After(last) {
			w.t.Errorf("tick %d is not after the one before", row.Seq)
		}
		last = row.Tick.Time
		d := judge.Observe(row.Tick)
		if d.Verdict != row.Decision.Verdict || d.Evidence != row.Decision.Evidence || d.Candidate != row.Decision.Candidate {
			w.t.Errorf("tick %d was judged %+v, judged again %+v", row.Seq, row.Decision, d)
		}
		for _, s := range row.Tick.Strata {
			requests += s.Candidate.Requests
		}
	}
	counted := r.State.Counts.Arm(headgate.Candidate).Requests
	if got := ticks[len(ticks)-1].Decision.Candidate.Requests; got != requests || uint64(got) != counted {
		w.t.Errorf("%d requests judged, %d in the ticks, %d counted by the router", got, requests, counted)
	}
}
