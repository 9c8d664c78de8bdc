package rollback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// maxBackoff bounds the pause between two attempts.
const maxBackoff = 5 * time.Second

// Config holds what an [Executor] works with. Store, Verifier and Audit are
// required; an Actuator is for each component that a release can change.
type Config struct {
	// Service is the one service this executor rolls back.
	Service   string
	Store     Store
	Actuators map[headgate.Component]Actuator
	Verifier  Verifier
	Audit     Audit
	// Capacity is asked before release_version moves; nil means not asked.
	Capacity Capacity
	Log      *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Limit is ROLLBACK_MAX_MINUTES; 0 means DefaultLimit.
	Limit time.Duration
	// Attempts at a step before it is escalated; 0 means 4.
	Attempts int
	// Backoff before the second attempt, doubled up to 5 s; 0 means 200 ms.
	Backoff time.Duration
	// StepTimeout bounds each call of a port; 0 means 10 s.
	StepTimeout time.Duration
	// VerifyTimeout bounds the replay; 0 means 10 min.
	VerifyTimeout time.Duration
}

// Request asks for a rollback.
type Request struct {
	// ID makes the request repeatable; empty means a new id.
	ID        string
	ReleaseID string
	TenantID  string
	// Gate and Breaches say what triggered it; empty for a manual one.
	Gate     headgate.Gate
	Breaches []headgate.Breach
	// Targets are the versions to go back to, of the components that the
	// release changed.
	Targets map[headgate.Component]string
	Actor   string
	Reason  string
	// TriggeredAt is when the clock began; zero means now.
	TriggeredAt time.Time
}

// Executor executes rollbacks of one service, one at a time.
type Executor struct {
	cfg   Config
	busy  chan struct{}
	begin sync.Mutex // one request looks for a rollback to join at a time
}

// New returns an executor with the defaults of cfg filled in.
func New(cfg Config) *Executor {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Limit = cmp.Or(cfg.Limit, DefaultLimit)
	cfg.Attempts = cmp.Or(cfg.Attempts, 4)
	cfg.Backoff = cmp.Or(cfg.Backoff, 200*time.Millisecond)
	cfg.StepTimeout = cmp.Or(cfg.StepTimeout, 10*time.Second)
	cfg.VerifyTimeout = cmp.Or(cfg.VerifyTimeout, 10*time.Minute)
	return &Executor{cfg: cfg, busy: make(chan struct{}, 1)}
}

// Begin makes the intent durable and freezes the service; nothing is touched
// yet. A request whose ID exists, or without an ID for a tenant's release that
// is already being rolled back, returns that rollback.
func (x *Executor) Begin(ctx context.Context, req Request) (Rollback, error) {
	if req.ReleaseID == "" {
		return Rollback{}, headgate.Invalidf("release_id is required")
	}
	x.begin.Lock()
	defer x.begin.Unlock()
	if req.ID == "" {
		active, err := x.cfg.Store.Active(ctx, x.cfg.Service)
		if err != nil {
			return Rollback{}, err
		}
		for _, r := range active {
			if r.ReleaseID == req.ReleaseID && r.TenantID == req.TenantID {
				return r, nil
			}
		}
		req.ID = headgate.NewID("rbk")
	}
	if req.TriggeredAt.IsZero() {
		req.TriggeredAt = x.cfg.Now()
	}
	r := Rollback{
		ID: req.ID, ReleaseID: req.ReleaseID, Service: x.cfg.Service, TenantID: req.TenantID,
		Gate: req.Gate, Breaches: req.Breaches, Actor: req.Actor, Reason: req.Reason,
		TriggeredAt: req.TriggeredAt.UTC(), Deadline: req.TriggeredAt.UTC().Add(x.cfg.Limit),
	}
	for _, c := range headgate.RollbackOrder() {
		step := Step{Component: c, To: req.Targets[c], Status: StepPending}
		if step.To == "" {
			step.Status = StepUnchanged
		}
		r.Steps = append(r.Steps, step)
	}
	return x.cfg.Store.SaveIntent(ctx, r)
}

// Resume carries the rollback on from the first undone step to the end of
// its replay. Escalated steps and a failed replay are tried again. A restored
// rollback is returned as it is. An error means that the record could not be
// kept or ctx ended; what was reached is durable, and Resume goes on from it.
func (x *Executor) Resume(ctx context.Context, id string) (Rollback, error) {
	select {
	case x.busy <- struct{}{}:
		defer func() { <-x.busy }()
	case <-ctx.Done():
		return Rollback{}, ctx.Err()
	}
	r, err := x.cfg.Store.Get(ctx, id)
	if err != nil {
		return Rollback{}, err
	}
	if !r.RestoredAt.IsZero() {
		return r, nil
	}
	for _, stage := range []func(context.Context, *Rollback) error{x.steps, x.complete, x.verify} {
		if err := stage(ctx, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Execute is Begin and Resume.
func (x *Executor) Execute(ctx context.Context, req Request) (Rollback, error) {
	r, err := x.Begin(ctx, req)
	if err != nil {
		return Rollback{}, err
	}
	return x.Resume(ctx, r.ID)
}

// Frozen reports whether a rollback of the service awaits its replay, and
// the oldest one that does.
func (x *Executor) Frozen(ctx context.Context) (Rollback, bool, error) {
	active, err := x.cfg.Store.Active(ctx, x.cfg.Service)
	if err != nil || len(active) == 0 {
		return Rollback{}, false, err
	}
	return active[0], true, nil
}

// steps takes every component back. A store or an audit log that fails does
// not keep traffic on a bad version: the error is returned when all steps have
// been made, and Resume makes the record whole.
func (x *Executor) steps(ctx context.Context, r *Rollback) error {
	if r.StepsDone() {
		return nil
	}
	var failed []error
	if !r.CompletedAt.IsZero() {
		r.CompletedAt = time.Time{}
		failed = append(failed, x.cfg.Store.UpdateProgress(ctx, r.ID, r.Progress))
	}
	for i := range r.Steps {
		if r.Steps[i].finished() {
			continue
		}
		failed = append(failed, x.step(ctx, *r, &r.Steps[i]))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failed = append(failed, x.watchDeadline(ctx, r))
	}
	return errors.Join(failed...)
}

// step takes one component back. Its error is about the record only: what
// cannot be done is escalated.
func (x *Executor) step(ctx context.Context, r Rollback, s *Step) error {
	interrupted := s.Status == StepRunning
	s.Status, s.Error, s.Warning, s.EndedAt = StepRunning, "", "", time.Time{}
	if s.StartedAt.IsZero() {
		s.StartedAt = x.cfg.Now().UTC()
	}
	begun := x.cfg.Store.UpdateStep(ctx, r.ID, *s)
	var failure error
	switch actuator := x.cfg.Actuators[s.Component]; {
	case actuator == nil:
		failure = headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
			"no actuator for %s; add one to the service's description", s.Component)
	case interrupted && x.alreadyBack(ctx, actuator, s):
	default:
		if failure = x.checkCapacity(ctx, actuator, s); failure == nil {
			failure = x.retry(ctx, func(ctx context.Context) error { return x.set(ctx, actuator, s) })
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.EndedAt = x.cfg.Now().UTC()
	s.Status = StepDone
	if failure != nil {
		s.Status, s.Error = StepEscalated, safeMessage(failure)
		x.cfg.Log.ErrorContext(ctx, "rollback step escalated",
			"rollback_id", r.ID, "component", string(s.Component), "error", failure)
	}
	var told error
	if s.Status == StepEscalated || s.Warning != "" {
		told = x.escalate(ctx, r, *s)
	}
	return errors.Join(begun, told, x.cfg.Store.UpdateStep(ctx, r.ID, *s))
}

// alreadyBack spares a second switch when the first took effect just before a
// crash.
func (x *Executor) alreadyBack(ctx context.Context, a Actuator, s *Step) bool {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.StepTimeout)
	defer cancel()
	got, err := a.Read(ctx, s.Component)
	if err != nil || got != s.To {
		return false
	}
	s.ReadBack = got
	return true
}

func (x *Executor) set(ctx context.Context, a Actuator, s *Step) error {
	s.Attempts++
	if err := a.Set(ctx, s.Component, s.To); err != nil {
		return err
	}
	got, err := a.Read(ctx, s.Component)
	if err != nil {
		return err
	}
	if s.ReadBack = got; got != s.To {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"%s reads back %q after it was set to %q; check what else writes it", s.Component, got, s.To)
	}
	return nil
}

// checkCapacity gives stable one StepTimeout to be ready for all traffic.
// Traffic that is there already, as after a canary, stays: then the step only
// warns. Otherwise it is better off where it is than on a stable that cannot
// carry it, and a person is called.
func (x *Executor) checkCapacity(ctx context.Context, a Actuator, s *Step) error {
	if x.cfg.Capacity == nil || s.Component != headgate.ReleaseVersion {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, x.cfg.StepTimeout)
	defer cancel()
	err := x.retry(limited, func(ctx context.Context) error { return x.cfg.Capacity.Check(ctx, s.To) })
	if err == nil {
		return nil
	}
	message := "stable may not carry all traffic: " + safeMessage(err)
	if x.alreadyBack(ctx, a, s) {
		s.Warning = message
		return nil
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"%s; traffic stays where it is. Bring %s up and ask for the rollback again", message, s.To).Wrap(err)
}

// retry calls do until it succeeds, refuses for good or has been tried often
// enough.
func (x *Executor) retry(ctx context.Context, do func(context.Context) error) error {
	wait := x.cfg.Backoff
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, x.cfg.StepTimeout)
		err := do(limited)
		cancel()
		var refused *headgate.Error
		if err == nil || attempt == x.cfg.Attempts || errors.As(err, &refused) && !refused.Retryable {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		wait = min(2*wait, maxBackoff)
	}
}

// complete records that every step has ended.
func (x *Executor) complete(ctx context.Context, r *Rollback) error {
	if !r.CompletedAt.IsZero() {
		return nil
	}
	completed := x.cfg.Now().UTC()
	verdict, message := headgate.Pass, "every component is back on its stable version"
	if stuck := r.Escalated(); len(stuck) > 0 {
		verdict, message = headgate.Fail, fmt.Sprintf("escalated, take them back by hand: %v", stuck)
	}
	e := x.event(*r, EventExecuted, verdict, message)
	e.Data["steps"] = slices.Clone(r.Steps)
	attempts := 0
	for _, s := range r.Steps {
		attempts += s.Attempts
	}
	if err := x.cfg.Audit.Record(ctx, fmt.Sprintf("%s/%s/%d", r.ID, EventExecuted, attempts), e); err != nil {
		return err
	}
	r.CompletedAt = completed
	return x.cfg.Store.UpdateProgress(ctx, r.ID, r.Progress)
}

// verify replays against stable and lifts the freeze when that passed and
// every component is back.
func (x *Executor) verify(ctx context.Context, r *Rollback) error {
	if r.Replay == nil || !r.Replay.EndedAt.IsZero() {
		r.Replay = &Verification{JobID: headgate.NewID("job"), Status: JobRunning}
		if err := x.cfg.Store.UpdateProgress(ctx, r.ID, r.Progress); err != nil {
			return err
		}
	}
	status, err := x.replayUnderWatch(ctx, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	verdict, message := headgate.Fail, "replay against stable failed; traffic stays on stable and the freeze stays on"
	switch {
	case err != nil:
		message = "replay against stable could not be run: " + safeMessage(err)
		x.cfg.Log.ErrorContext(ctx, "rollback replay could not be run", "rollback_id", r.ID, "error", err)
	case status == JobSucceeded && r.StepsDone():
		verdict, message = headgate.Pass, "replay against stable passed; the freeze is lifted"
	case status == JobSucceeded:
		verdict, message = headgate.Pass, "replay against stable passed; the freeze stays on until the escalated components are back"
	}
	ended := x.cfg.Now().UTC()
	done := *r.Replay
	done.Status, done.EndedAt = JobFailed, ended
	if verdict == headgate.Pass {
		done.Status = JobSucceeded
	}
	e := x.event(*r, EventVerified, verdict, message)
	e.Data["job_id"], e.Data["status"] = done.JobID, string(done.Status)
	if err := x.cfg.Audit.Record(ctx, r.ID+"/"+EventVerified+"/"+done.JobID, e); err != nil {
		return err
	}
	if err := x.watchDeadline(ctx, r); err != nil {
		return err
	}
	r.Replay = &done
	if verdict == headgate.Pass && r.StepsDone() {
		r.RestoredAt = ended
	}
	return x.cfg.Store.UpdateProgress(ctx, r.ID, r.Progress)
}

// replayUnderWatch replays, and says so at once when the deadline passes
// meanwhile: a replay may take longer than what is left.
func (x *Executor) replayUnderWatch(ctx context.Context, r *Rollback) (JobStatus, error) {
	replay, cancel := context.WithTimeout(ctx, x.cfg.VerifyTimeout)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	asked := *r
	watch.Go(func() {
		timer := time.NewTimer(r.Deadline.Sub(x.cfg.Now()) + time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-replay.Done():
			return
		}
		if err := x.watchDeadline(ctx, r); err != nil {
			x.cfg.Log.ErrorContext(ctx, "a late rollback is not in the audit trail yet", "rollback_id", r.ID, "error", err)
		}
	})
	return x.cfg.Verifier.Verify(replay, asked.Replay.JobID, asked)
}

// watchDeadline says once that the rollback is late; it goes on all the same.
func (x *Executor) watchDeadline(ctx context.Context, r *Rollback) error {
	if r.Overdue || !x.cfg.Now().After(r.Deadline) {
		return nil
	}
	e := x.event(*r, EventOverdue, headgate.Fail,
		fmt.Sprintf("not restored within %s; a person must look at it now", r.Deadline.Sub(r.TriggeredAt)))
	if err := x.cfg.Audit.Record(ctx, r.ID+"/"+EventOverdue, e); err != nil {
		return err
	}
	r.Overdue = true
	return x.cfg.Store.UpdateProgress(ctx, r.ID, r.Progress)
}

func (x *Executor) escalate(ctx context.Context, r Rollback, s Step) error {
	message := cmp.Or(s.Error, s.Warning)
	e := x.event(r, EventEscalated, headgate.Fail, fmt.Sprintf("%s: %s", s.Component, message))
	e.Data["component"], e.Data["attempts"] = string(s.Component), s.Attempts
	return x.cfg.Audit.Record(ctx, fmt.Sprintf("%s/%s/%s/%d", r.ID, EventEscalated, s.Component, s.Attempts), e)
}

func (x *Executor) event(r Rollback, kind string, v headgate.Verdict, message string) headgate.Event {
	now := x.cfg.Now().UTC()
	return headgate.Event{
		Time: now, Kind: kind, ReleaseID: r.ReleaseID, Service: r.Service, TenantID: r.TenantID,
		Actor: r.Actor, Reason: r.Reason, Verdict: v, Message: message,
		Data: map[string]any{
			"rollback_id":     r.ID,
			"trigger_gate":    string(r.Gate),
			"elapsed_minutes": now.Sub(r.TriggeredAt).Minutes(),
		},
	}
}

// safeMessage keeps causes out of what people see; the log has them.
func safeMessage(err error) string {
	var e *headgate.Error
	switch {
	case errors.As(err, &e):
		return e.Message
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return "failed; the server's log has the cause"
}
