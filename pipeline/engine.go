package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// maxAttempts is how often a stage that could not be judged is tried before
// the release is blocked.
const maxAttempts = 3

// maxOutage is how long a stage waits for the end of an outage, beyond its own
// deadline when that comes sooner.
const maxOutage = time.Hour

// Options configure an [Engine]. Every field without a default is required.
type Options struct {
	Store  Store
	Router func(service string) (rollout.Router, error)
	// Runners judge contract, replay, gate_d, rollout (readiness) and
	// feedback.
	Runners  map[headgate.Stage]Runner
	Observe  Observer
	Rollback Rollbacker
	Publish  Publisher
	Log      *slog.Logger
	// Owner names this process in leases.
	Owner string
	// LeaseTTL is how long a claim outlives its process. It must end well before
	// a router's lease of a canary's share, so that the next process can renew
	// that one. Default 3 s.
	LeaseTTL time.Duration
	// Workers bounds how many releases move at the same time. Default 8.
	Workers int
	// Sweep is the longest time between looks at the database. Default 2 s.
	Sweep time.Duration
	// Tick is the time between two looks at a canary. Default 2 s.
	Tick time.Duration
	// AdmissionAge is how old a release's admission may be when its canary
	// begins; an older one is asked again. Default 30 s.
	AdmissionAge time.Duration
}

// Engine moves releases. Make one with [New], own it with [Engine.Run].
type Engine struct {
	o    Options
	wake chan struct{}

	mu     sync.Mutex
	judges map[string]*judge
}

// judge is the canary's judge of one release, rebuilt from the tick log
// whenever the log and it have parted.
type judge struct {
	*canary.Judge
	seq int64
}

// New returns an engine.
func New(o Options) *Engine {
	if o.LeaseTTL == 0 {
		o.LeaseTTL = 3 * time.Second
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	if o.Sweep == 0 {
		o.Sweep = 2 * time.Second
	}
	if o.Tick == 0 {
		o.Tick = 2 * time.Second
	}
	if o.AdmissionAge == 0 {
		o.AdmissionAge = 30 * time.Second
	}
	return &Engine{o: o, wake: make(chan struct{}, 1), judges: map[string]*judge{}}
}

// Wake makes the engine look at the database now. It never blocks.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run moves releases until ctx ends, and returns after the last turn has
// ended.
func (e *Engine) Run(ctx context.Context) {
	var turns sync.WaitGroup
	defer turns.Wait()
	slots := make(chan struct{}, e.o.Workers)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		more, err := true, error(nil)
		for more && err == nil {
			more, err = e.dispatch(ctx, slots, &turns)
		}
		wait := e.o.Sweep // where no worker is free, a turn that ends wakes
		if err == nil && len(slots) < cap(slots) {
			wait = e.untilNext(ctx)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		case <-timer.C:
		}
	}
}

// dispatch starts a turn for one due release; false when there is none, or no
// free worker. An error is logged already.
func (e *Engine) dispatch(ctx context.Context, slots chan struct{}, turns *sync.WaitGroup) (bool, error) {
	select {
	case slots <- struct{}{}:
	default:
		return false, nil
	}
	r, facts, ok, err := e.o.Store.Claim(ctx, e.o.Owner, e.o.LeaseTTL, knownPlans...)
	if err != nil || !ok {
		<-slots
		if err != nil && ctx.Err() == nil {
			e.o.Log.ErrorContext(ctx, "claim a release", slog.Any("error", err))
		}
		return false, err
	}
	turns.Go(func() {
		defer e.Wake() // after the slot is free
		defer func() { <-slots }()
		e.turn(ctx, r, facts)
	})
	return true, nil
}

func (e *Engine) untilNext(ctx context.Context) time.Duration {
	at, ok, err := e.o.Store.NextWake(ctx, knownPlans...)
	if err != nil || !ok {
		return e.o.Sweep
	}
	now, err := e.o.Store.Now(ctx)
	if err != nil {
		return e.o.Sweep
	}
	return min(max(at.Sub(now), 5*time.Millisecond), e.o.Sweep)
}

// turn does one step of one claimed release. While it runs, the lease is
// prolonged; when the lease is lost, the step is cancelled.
func (e *Engine) turn(ctx context.Context, r Record, facts []Fact) {
	ctx, cancel := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { e.keepLease(ctx, cancel, r) })
	defer keeper.Wait()
	defer cancel()

	log := e.o.Log.With(slog.String("release_id", r.ID), slog.String("stage", string(r.Stage)))
	now, err := e.o.Store.Now(ctx)
	if err == nil {
		err = e.perform(ctx, r, facts, now)
	}
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, &headgate.Error{Code: headgate.CodeStaleEpoch}):
		log.InfoContext(ctx, "another process has taken over the release")
	default:
		// The lease runs out and the release is claimed again.
		log.ErrorContext(ctx, "turn failed; it is tried again", slog.Any("error", err))
	}
}

func (e *Engine) keepLease(ctx context.Context, cancel context.CancelFunc, r Record) {
	ticker := time.NewTicker(e.o.LeaseTTL / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			err := e.o.Store.Extend(ctx, r.ID, r.Epoch, e.o.LeaseTTL)
			if errors.Is(err, &headgate.Error{Code: headgate.CodeStaleEpoch}) {
				cancel()
				return
			}
		}
	}
}

// perform carries out what decide says.
func (e *Engine) perform(ctx context.Context, r Record, facts []Fact, now time.Time) error {
	s := decide(r, facts, now)
	switch s.do {
	case doWait:
		return e.wait(ctx, r, now, s.message)
	case doRun:
		return e.run(ctx, r, now)
	case doAdvance:
		return e.advance(ctx, r, now, s.message)
	case doTick:
		return e.tick(ctx, r, now, s.want)
	case doPromote:
		return e.promote(ctx, r, now)
	case doRollback:
		return e.startRollback(ctx, r, now, s, "")
	case doContinue:
		return e.continueRollback(ctx, r, now)
	case doFinish:
		return e.finish(ctx, r, now, s)
	default:
		return nil
	}
}

// wait parks the release until a fact arrives or its deadline.
func (e *Engine) wait(ctx context.Context, r Record, now time.Time, note string) error {
	c := Commit{Record: r, ClaimedGen: r.Gen}
	if r.State.Note != note {
		c.Record.State.Note = note
		c.Events = append(c.Events, event(r, now, "stage_waiting", "", note))
	}
	c.Record.NextRunAt = r.DeadlineAt
	return e.o.Store.Commit(ctx, c)
}

// run calls the stage's runner and acts on what it found.
func (e *Engine) run(ctx context.Context, r Record, now time.Time) error {
	runner := e.o.Runners[r.Stage]
	if runner == nil {
		return headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "no runner for stage %s", r.Stage)
	}
	// A runner past the stage's deadline is not waited for.
	stageCtx := ctx
	if !r.DeadlineAt.IsZero() {
		var cancel context.CancelFunc
		stageCtx, cancel = context.WithTimeout(ctx, r.DeadlineAt.Sub(now))
		defer cancel()
	}
	res, stopped, err := e.runStoppable(stageCtx, runner, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if stopped {
		c := Commit{Record: r, ClaimedGen: r.Gen}
		c.Record.NextRunAt = now
		return e.o.Store.Commit(ctx, c)
	}
	now, nerr := e.o.Store.Now(ctx)
	if nerr != nil {
		return nerr
	}
	return e.settle(ctx, r, now, res, err)
}

// runStoppable calls a runner and cancels it when somebody stops the release
// meanwhile; what it then answers does not count.
func (e *Engine) runStoppable(ctx context.Context, runner Runner, r Record) (res Result, stopped bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		ticker := time.NewTicker(min(e.o.Sweep, e.o.LeaseTTL) / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				facts, err := e.o.Store.Facts(ctx, r.ID)
				if _, stop := decideStopped(r, facts); err == nil && stop {
					stopped = true
					cancel()
				}
			}
		}
	})
	res, err = runner(ctx, r)
	cancel()
	watch.Wait()
	return res, stopped, err
}

// settle turns a runner's answer into the next state.
func (e *Engine) settle(ctx context.Context, r Record, now time.Time, res Result, err error) error {
	if errors.Is(err, ErrOutage) {
		return e.waitForOutage(ctx, r, now, err)
	}
	r.State.OutageSince = time.Time{}
	switch {
	case err != nil && r.Attempt >= maxAttempts:
		e.o.Log.ErrorContext(ctx, "stage could not be judged", slog.String("release_id", r.ID), slog.Any("error", err))
		s := step{
			outcome: headgate.Blocked, verdict: headgate.Broken, message: headgate.AsError(err).Message,
			reasons: []string{strings.ToUpper(string(r.Stage)) + "_BROKEN"},
		}
		if r.Stage == headgate.StageFull {
			// Some of it may be in force already.
			s.outcome = headgate.Inconclusive
			return e.startRollback(ctx, r, now, s, "")
		}
		return e.finish(ctx, r, now, s)
	case err != nil:
		c := Commit{Record: r, ClaimedGen: r.Gen}
		c.Record.Attempt++
		c.Record.NextRunAt = now.Add(time.Duration(r.Attempt) * time.Second)
		c.Events = []headgate.Event{event(r, now, "stage_retry", headgate.Broken, headgate.AsError(err).Message)}
		return e.o.Store.Commit(ctx, c)
	case res.Waiting != "":
		c := Commit{Record: r, ClaimedGen: r.Gen}
		if r.State.Note != res.Waiting {
			c.Record.State.Note = res.Waiting
			c.Events = []headgate.Event{event(r, now, "stage_waiting", "", res.Waiting)}
		}
		c.Record.NextRunAt = now.Add(e.o.Sweep)
		return e.o.Store.Commit(ctx, c)
	case res.Verdict == headgate.Pass:
		return e.advance(ctx, r, now, res.Summary)
	default:
		reasons := res.Reasons
		if len(reasons) == 0 {
			reasons = []string{strings.ToUpper(string(r.Stage)) + "_" + strings.ToUpper(string(res.Verdict))}
		}
		return e.finish(ctx, r, now, step{outcome: headgate.Blocked, verdict: res.Verdict, reasons: reasons, message: res.Summary})
	}
}

// waitForOutage leaves the stage as it was, to be tried again soon. No attempt
// is used up.
func (e *Engine) waitForOutage(ctx context.Context, r Record, now time.Time, cause error) error {
	c := Commit{Record: r, ClaimedGen: r.Gen}
	// A replay is a load on staging, so a long outage is looked at more rarely.
	wait := min(now.Sub(r.State.OutageSince)/4, 30*time.Second)
	if r.State.OutageSince.IsZero() {
		wait = 0
		e.o.Log.WarnContext(ctx, "stage waits for the end of an outage", slog.String("release_id", r.ID), slog.Any("error", cause))
		c.Record.State.OutageSince = now
		c.Record.State.Note = fmt.Sprintf("waits since %s, nothing can be judged without it: %s", now.UTC().Format(time.RFC3339), headgate.AsError(cause).Message)
		c.Events = []headgate.Event{event(r, now, "stage_waiting", headgate.Broken, c.Record.State.Note)}
		if limit := now.Add(maxOutage); r.Stage != headgate.StageCanary && !r.DeadlineAt.IsZero() && r.DeadlineAt.Before(limit) {
			c.Record.DeadlineAt = limit
		}
	}
	c.Record.NextRunAt = now.Add(max(wait, e.o.Sweep))
	return e.o.Store.Commit(ctx, c)
}

// advance closes the stage as passed and enters the next one; after the last
// the release is promoted.
func (e *Engine) advance(ctx context.Context, r Record, now time.Time, summary string) error {
	c := Commit{Record: r, ClaimedGen: r.Gen}
	e.closeStage(&c, now, headgate.Pass, nil, summary)
	next, ok := r.Stage.Next()
	if !ok {
		c.ReleaseTraffic = true
		c.Record.Phase, c.Record.Outcome = PhaseDone, headgate.Promoted
		c.Events = append(c.Events, event(c.Record, now, "release_promoted", headgate.Pass, "all stages passed"))
		return e.o.Store.Commit(ctx, c)
	}
	enter(&c, next, now)
	return e.o.Store.Commit(ctx, c)
}

// enter begins a stage.
func enter(c *Commit, stage headgate.Stage, now time.Time) {
	r := &c.Record
	r.Stage, r.Attempt, r.StageStartedAt, r.NextRunAt = stage, 1, now, now
	r.DeadlineAt = time.Time{}
	if d := r.Plan.StageTimeout[stage]; d > 0 {
		r.DeadlineAt = now.Add(d)
	}
	r.State.Note = ""
	c.Runs = append(c.Runs, headgate.StageRun{ReleaseID: r.ID, Stage: stage, Attempt: 1, StartedAt: now})
	c.Events = append(c.Events, event(*r, now, "stage_started", "", ""))
}

func (e *Engine) closeStage(c *Commit, now time.Time, v headgate.Verdict, reasons []string, summary string) {
	r := c.Record
	c.Runs = append(c.Runs, headgate.StageRun{
		ReleaseID: r.ID, Stage: r.Stage, Attempt: r.Attempt, Verdict: v, Reasons: reasons,
		Summary: summary, StartedAt: r.StageStartedAt, EndedAt: now,
	})
	ev := event(r, now, "stage_finished", v, summary)
	if len(reasons) > 0 {
		ev.Data = map[string]any{"reasons": reasons}
	}
	c.Events = append(c.Events, ev)
}

// finish ends a release that has nothing to take back: no user has met it, or
// all do and only its feedback is missing.
func (e *Engine) finish(ctx context.Context, r Record, now time.Time, s step) error {
	verdict := headgate.Fail
	if r.Stage == headgate.StageFeedback {
		s.outcome, verdict = headgate.Promoted, headgate.Pass
	}
	c := Commit{Record: r, ClaimedGen: r.Gen, ReleaseTraffic: true}
	e.closeStage(&c, now, cmp.Or(s.verdict, headgate.Fail), s.reasons, s.message)
	c.Record.Phase, c.Record.Outcome, c.Record.Reasons = PhaseDone, s.outcome, s.reasons
	if s.outcome != headgate.Promoted {
		c.Record.StoppedAt = r.Stage
	}
	c.Events = append(c.Events, event(c.Record, now, "release_"+string(s.outcome), verdict, s.message))
	return e.o.Store.Commit(ctx, c)
}

func event(r Record, now time.Time, kind string, v headgate.Verdict, message string) headgate.Event {
	return headgate.Event{
		Time: now, Kind: kind, ReleaseID: r.ID, Service: r.Service, TenantID: r.TenantID,
		Actor: "headgate", Stage: r.Stage, Verdict: v, Message: message,
	}
}

// Begin returns the first commit of a release that begins now, for
// [Store.CreateRelease].
func Begin(rel headgate.Release, plan Plan, now time.Time) Commit {
	rel.Stage, rel.Reasons, rel.CreatedAt, rel.UpdatedAt = headgate.StageBuild, []string{}, now, now
	c := Commit{Record: Record{Release: rel, PlanVersion: PlanVersion, Plan: plan, Phase: PhaseRunning}}
	c.Events = []headgate.Event{event(c.Record, now, "release_created", "", "version "+rel.Version)}
	enter(&c, headgate.StageBuild, now)
	return c
}
