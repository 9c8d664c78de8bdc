package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// routerTimeout bounds one call to a router.
const routerTimeout = 3 * time.Second

// split is what the routers should do for the release at the given share.
func split(r Record, share float64) rollout.Split {
	s := rollout.Split{
		Service: r.Service, Epoch: r.Epoch, ReleaseID: r.ID, Stable: r.Plan.Stable,
		Share: share, Tenants: r.Tenants(), Salt: r.ID, TTL: r.Plan.LeaseTTL,
	}
	if share > 0 {
		s.Candidate = rollout.Backend{Version: r.Version, URL: r.CandidateURL}
	}
	return s
}

// apply sets the split and checks what the router answers.
func (e *Engine) apply(ctx context.Context, s rollout.Split) error {
	router, err := e.o.Router(s.Service)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, routerTimeout)
	defer cancel()
	st, err := router.Apply(ctx, s)
	if err != nil {
		return fmt.Errorf("apply the split: %w", err)
	}
	if st.Epoch != s.Epoch || st.Share != s.Share {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the router answers share %.4g at epoch %d where %.4g at %d was set", st.Share, st.Epoch, s.Share, s.Epoch)
	}
	return nil
}

// tick looks once at the canary: first it grants the share, then at every
// turn it judges, commits, and only then renews the router's lease.
func (e *Engine) tick(ctx context.Context, r Record, now time.Time, want steering) error {
	if !r.State.Granted {
		return e.grant(ctx, r, now, want)
	}
	status, counts, err := e.look(ctx, r.Service)
	if status != nil && r.State.Share > 0 && (status.Share == 0 || status.ReleaseID != r.ID) {
		return e.startRollback(ctx, r, now, lapsed(), "")
	}
	if status != nil && status.Epoch > r.Epoch {
		return e.startRollback(ctx, r, now, outdated(), "")
	}
	j, jerr := e.judge(ctx, r)
	if jerr != nil {
		return jerr
	}
	obs := e.observe(ctx, r)
	t := makeTick(r, now, counts, obs, err != nil)
	d := j.Observe(t)
	if d.Verdict == headgate.Broken && d.Action != canary.Rollback {
		switch {
		case err != nil:
			d.Reason = "Nothing can be judged: " + headgate.AsError(err).Message + "."
			if status == nil {
				d.Reason += " The share cannot be renewed meanwhile: when its lease is over, all users are on stable and the canary ends."
			}
		case obs.Stale != "":
			d.Reason = "Nothing can be judged: " + obs.Stale + "."
		}
	}

	c := Commit{Record: r, ClaimedGen: r.Gen, Ticks: []TickRow{{Seq: r.State.Ticks + 1, Tick: t, Decision: d}}}
	c.Record.State.Ticks++
	c.Record.State.Unconfirmed = unconfirmed(r, status, err)
	if t.Telemetry == canary.Fresh && !slices.Contains(d.Reasons, canary.CodeTimeNotRising) {
		// What the judge did not take is counted at the next good tick.
		c.Record.State.Evicted = watchEvicted(r.State.Evicted, counts.Sub(r.State.Counts))
		c.Record.State.Counts = counts
		if obs.Stale == "" {
			c.Record.State.Costs = mergeCosts(r.State.Costs, obs.Costs)
		}
	}
	c.Record.State.Canary = &d
	if d.Verdict != r.State.verdict() {
		c.Events = append(c.Events, event(r, now, "canary_verdict", d.Verdict, d.Reason))
	}
	return e.act(ctx, c, d, j, now, want, status != nil)
}

// unconfirmed is why it is not known that the routers do what the release's
// share says.
func unconfirmed(r Record, status *rollout.Status, err error) string {
	switch {
	case status == nil:
		return headgate.AsError(err).Message
	case status.Share != r.State.Share:
		return fmt.Sprintf("a router still answers %.4g%%", status.Share*100)
	}
	return ""
}

// act follows the judge's decision, and people's within it: it commits first
// and touches traffic after. A lease of which it is not known that it still runs is not renewed:
// the higher epoch would give a lapsed share again.
func (e *Engine) act(ctx context.Context, c Commit, d canary.Decision, j *judge, now time.Time, want steering, leased bool) error {
	next, wider := c.Record.nextTier()
	goesOn := d.Action == canary.Promote && !want.paused && want.waitsFor(c.Record, d) == ""
	switch {
	case d.Action == canary.Rollback:
		s := step{outcome: headgate.RolledBack, reasons: d.Reasons, message: d.Reason}
		if d.Verdict == headgate.Broken {
			s.outcome = headgate.Inconclusive
		}
		return e.commitRollback(ctx, c, now, s, triggerGate(d))
	case evicts(c.Record, d) && len(c.Record.Tenants()) == 1:
		s := step{outcome: headgate.Inconclusive, reasons: d.Reasons, message: d.Reason}
		return e.commitRollback(ctx, c, now, s, triggerGate(d))
	case evicts(c.Record, d):
		rows, err := e.o.Store.Ticks(ctx, c.Record.ID)
		if err != nil {
			return err
		}
		evict(&c, d, now, onCandidate(rows, c.Record.State.JudgedFrom, c.Ticks[0].Tick, d.Evict))
		j = nil // what it had seen was about the tenant that is gone
		c.Record.NextRunAt = now.Add(e.o.Tick)
	case goesOn && wider:
		widen(&c, next, d, now, want)
		j = nil // the next tier has a judge of its own
		c.Record.NextRunAt = now.Add(e.o.Tick)
	case goesOn:
		e.closeStage(&c, now, headgate.Pass, nil, d.Reason)
		enter(&c, headgate.StageFull, now)
	case want.answer(&c, d, now):
		e.closeStage(&c, now, d.Verdict, []string{ReasonManualPromotion}, "ended by "+want.promote.Actor+": "+want.promote.Reason)
		enter(&c, headgate.StageFull, now)
	default:
		want.follow(&c, d, now)
		c.Record.NextRunAt = now.Add(e.o.Tick)
	}
	if err := e.o.Store.Commit(ctx, c); err != nil {
		return err
	}
	r := c.Record
	e.keep(r.ID, j)
	if !leased {
		return nil
	}
	if err := e.apply(ctx, split(r, r.State.Share)); err != nil {
		// Not renewed: the router goes to stable by itself if this lasts.
		e.o.Log.WarnContext(ctx, "canary's lease was not renewed", slog.String("release_id", r.ID), slog.Any("error", err))
	}
	return nil
}

// triggerGate names the gate behind a rollback.
func triggerGate(d canary.Decision) headgate.Gate {
	switch {
	case slices.Contains(d.Reasons, canary.CodeConsecutive) && len(d.Breaches) > 0:
		return d.Breaches[0].Gate
	case slices.Contains(d.Reasons, canary.CodeCostWorse):
		return headgate.GateCost
	default:
		return headgate.GatePerformance
	}
}

// grant takes the service's traffic and then gives the canary its share. What
// the router counted before is committed first, so that every request of a
// candidate is judged, also when the commit after the share was granted is lost.
func (e *Engine) grant(ctx context.Context, r Record, now time.Time, want steering) error {
	status, counts, err := e.look(ctx, r.Service)
	if err != nil {
		return e.waitForRouter(ctx, r, now, err)
	}
	c := Commit{Record: r, ClaimedGen: r.Gen}
	c.Record.NextRunAt = now
	if !r.State.Holding {
		c.HoldTraffic, c.Record.State.Holding, c.Record.State.Counts = true, true, counts
		err := e.o.Store.Commit(ctx, c)
		switch code := headgate.AsError(err).Code; {
		case err == nil:
			return nil
		case code == headgate.CodeReleaseActive:
			heldBy, _ := headgate.AsError(err).Details["held_by"].(string)
			return e.waitForTraffic(ctx, r, now, heldBy)
		case code == headgate.CodeDigestQuarantined || code == CodeStableMoved:
			return e.finish(ctx, r, now, step{outcome: headgate.Blocked, reasons: []string{code}, message: headgate.AsError(err).Message})
		}
		return err
	}
	share := want.wanted(r)
	switch granted := status.ReleaseID == r.ID; {
	case status.Epoch > r.Epoch: // whether or not what it was told has lapsed
		return e.startRollback(ctx, r, now, outdated(), "")
	case granted && status.Share == 0:
		return e.startRollback(ctx, r, now, lapsed(), "")
	case granted && status.Share != share:
		return e.startRollback(ctx, r, now, outdated(), "")
	case !granted:
		c.Record.State.Counts = counts
		age := now.Sub(r.admittedAt())
		if age >= 0 && age <= e.o.AdmissionAge {
			break
		}
		if res, err := e.o.Runners[headgate.StageRollout](ctx, r); err != nil || res.Verdict != headgate.Pass {
			return e.settle(ctx, r, now, res, err)
		}
		r.State.AdmittedAt, c.Record.State.AdmittedAt = now, now
	}
	if err := e.apply(ctx, split(r, share)); err != nil {
		return e.waitForRouter(ctx, r, now, err)
	}
	c.Record.State.Granted, c.Record.State.Share, c.Record.State.Steady = true, share, true
	c.Record.State.Wanted, c.Record.State.TierSince = want.share, now
	c.Record.State.Note = ""
	c.Record.NextRunAt = now.Add(e.o.Tick)
	ev := event(r, now, "canary_started", "", fmt.Sprintf("%.4g%% of the sessions of %s", share*100, strings.Join(r.Tenants(), ", ")))
	ev.Data = map[string]any{"share": share, "tenants": r.Tenants()}
	c.Events = []headgate.Event{ev}
	return e.o.Store.Commit(ctx, c)
}

// admittedAt is when the release was last let go on to users: evidence ages, and
// rules change, while it waits for the traffic, for a router, or for a control
// plane that was away.
func (r Record) admittedAt() time.Time {
	if at := r.State.AdmittedAt; !at.IsZero() {
		return at
	}
	return r.StageStartedAt // of the canary, which rollout's pass begins
}

// lapsed is what follows from a share that ran out: it is never given again.
func lapsed() step {
	return step{
		outcome: headgate.Inconclusive, reasons: []string{ReasonLeaseLapsed},
		message: "the canary's lease ran out because it could not be renewed at all routers; its traffic is back on stable and stays there. That says nothing about the candidate",
	}
}

// outdated is what follows when a router is ahead of this store, which must
// have been restored from an older copy: what was decided since is not known.
func outdated() step {
	return step{
		outcome: headgate.Inconclusive, reasons: []string{ReasonOutdated},
		message: "a router has taken later decisions than this control plane knows of, whose data seems to be an older copy; the canary gets no share",
	}
}

func (e *Engine) waitForRouter(ctx context.Context, r Record, now time.Time, cause error) error {
	c := Commit{Record: r, ClaimedGen: r.Gen}
	if note := "the canary does not begin: " + headgate.AsError(cause).Message; r.State.Note != note {
		c.Record.State.Note = note
		c.Events = []headgate.Event{event(r, now, "stage_waiting", "", note)}
	}
	c.Record.NextRunAt = now.Add(e.o.Sweep)
	return e.o.Store.Commit(ctx, c)
}

// waitForTraffic parks the release while another one meets users, or while
// the service is frozen. Its time does not run meanwhile.
func (e *Engine) waitForTraffic(ctx context.Context, r Record, now time.Time, heldBy string) error {
	c := Commit{Record: r, ClaimedGen: r.Gen}
	if r.Plan.OnBusy == BusySupersede && heldBy != "" && heldBy != r.State.Superseded {
		if err := e.supersede(ctx, r, heldBy, now); err != nil {
			return err
		}
		c.Record.State.Superseded = heldBy
	}
	note := "waits for the freeze after a rollback to end"
	if heldBy != "" {
		note = "waits for the end of " + heldBy + ", which has the service's traffic"
	}
	if r.State.Note != note {
		c.Record.State.Note = note
		c.Events = []headgate.Event{event(r, now, "stage_waiting", "", note)}
	}
	if d := r.Plan.StageTimeout[r.Stage]; d > 0 {
		c.Record.DeadlineAt = now.Add(d)
	}
	c.Record.NextRunAt = now.Add(e.o.Sweep)
	return e.o.Store.Commit(ctx, c)
}

// supersede tells an older release that is not promoted yet to make way. It
// goes back to stable by its own rollback, and only then is the traffic free.
func (e *Engine) supersede(ctx context.Context, r Record, heldBy string, now time.Time) error {
	other, err := e.o.Store.Release(ctx, heldBy)
	switch code := headgate.AsError(err).Code; {
	case err != nil && code != headgate.CodeReleaseNotFound:
		return err
	case err != nil || other.CreatedAt.After(r.CreatedAt) || other.Stage == headgate.StageFeedback || other.Phase != PhaseRunning:
		return nil // a rehearsal, a newer one, or one that ends by itself
	}
	why := "release " + r.ID + " of version " + r.Version + " takes its place"
	ev := event(other, now, "supersede_requested", "", why)
	ev.Data = map[string]any{"superseded_by": r.ID}
	err = e.o.Store.Signal(ctx, heldBy, Fact{Kind: FactSupersede, Actor: "headgate", Reason: why, At: now}, ev)
	if err != nil && headgate.AsError(err).Code == headgate.CodeReleaseDone {
		return nil
	}
	return err
}

// look asks the router what it does and what it counted; the status is nil when
// that is not known.
func (e *Engine) look(ctx context.Context, service string) (*rollout.Status, rollout.Counts, error) {
	router, err := e.o.Router(service)
	if err != nil {
		return nil, rollout.Counts{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, routerTimeout)
	defer cancel()
	status, err := router.Status(ctx)
	if err != nil {
		return nil, rollout.Counts{}, err
	}
	counts, err := router.Counts(ctx)
	return &status, counts, err
}

// observe asks the live telemetry; if it cannot be asked, it is broken.
func (e *Engine) observe(ctx context.Context, r Record) Observation {
	ctx, cancel := context.WithTimeout(ctx, routerTimeout)
	defer cancel()
	obs, err := e.o.Observe(ctx, r)
	if err != nil {
		obs.Stale = headgate.AsError(err).Message
	}
	return obs
}

// judge returns the release's judge, fed with every committed tick. It is the
// turn's own until the turn keeps it, which it does once its tick is committed:
// a turn that lost its lease leaves nothing in a judge that others use.
func (e *Engine) judge(ctx context.Context, r Record) (*judge, error) {
	e.mu.Lock()
	j := e.judges[r.ID]
	delete(e.judges, r.ID)
	e.mu.Unlock()
	if j != nil && j.seq == r.State.Ticks {
		return j, nil
	}
	rows, err := e.o.Store.Ticks(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	cj, err := canary.New(r.Judging())
	if err != nil {
		return nil, err
	}
	j = &judge{Judge: cj, seq: r.State.Ticks}
	for _, row := range rows {
		if row.Seq > r.State.JudgedFrom {
			j.Observe(row.Tick)
		}
	}
	return j, nil
}

func (e *Engine) keep(id string, j *judge) {
	if j == nil {
		return
	}
	j.seq++
	e.mu.Lock()
	defer e.mu.Unlock()
	e.judges[id] = j
}

func (e *Engine) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.judges, id)
}

// promote makes the candidate the stable backend for everybody and puts its
// component values in force.
func (e *Engine) promote(ctx context.Context, r Record, now time.Time) error {
	serve := rollout.Backend{Version: r.Version, URL: r.CandidateURL}
	full := split(r, 0)
	full.Stable = serve
	if err := e.o.Publish(ctx, r); err != nil {
		return e.settle(ctx, r, now, Result{}, err)
	}
	if err := e.apply(ctx, full); err != nil {
		return e.settle(ctx, r, now, Result{}, err)
	}
	// The traffic stays held until the release has ended, so that it can still
	// be rolled back.
	c := Commit{Record: r, ClaimedGen: r.Gen, Serve: &serve}
	c.Record.State.Share, c.Record.State.Unconfirmed = 0, ""
	e.closeStage(&c, now, headgate.Pass, nil, "all traffic is on "+r.Version)
	enter(&c, headgate.StageFeedback, now)
	e.forget(r.ID)
	return e.o.Store.Commit(ctx, c)
}

// startRollback writes the intent, then stops the loss.
func (e *Engine) startRollback(ctx context.Context, r Record, now time.Time, s step, gate headgate.Gate) error {
	return e.commitRollback(ctx, Commit{Record: r, ClaimedGen: r.Gen}, now, s, gate)
}

func (e *Engine) commitRollback(ctx context.Context, c Commit, now time.Time, s step, gate headgate.Gate) error {
	r := &c.Record
	e.closeStage(&c, now, headgate.Fail, s.reasons, s.message)
	r.Phase, r.StoppedAt, r.Reasons = PhaseRollingBack, r.Stage, s.reasons
	r.NextRunAt, r.DeadlineAt = now, time.Time{}
	r.State.Rollback = &RollbackIntent{
		TriggerGate: gate, Reasons: s.reasons, Message: s.message, Outcome: s.outcome, TriggeredAt: now,
	}
	ev := event(*r, now, "rollback_triggered", headgate.Fail, s.message)
	ev.Data = map[string]any{"reasons": s.reasons, "trigger_gate": gate}
	c.Events = append(c.Events, ev)
	if s.outcome == headgate.RolledBack {
		c.Quarantine = r.Digest
	}
	e.forget(r.ID)
	if err := e.o.Store.Commit(ctx, c); err != nil {
		return err
	}
	// The ordered steps follow in the next turn; users leave the candidate
	// now, unless there is nowhere to go.
	if e.strands(ctx, *r) {
		return nil
	}
	if err := e.apply(ctx, split(*r, 0)); err != nil {
		e.o.Log.WarnContext(ctx, "stop-loss failed; the rollback repeats it", slog.String("release_id", r.ID), slog.Any("error", err))
	}
	return nil
}

// stableAsked bounds the question whether stable can be left with all users.
// Stopping the loss waits for no router that does not answer.
const stableAsked = 250 * time.Millisecond

// strands reports that without the candidate users would have nothing: the
// routers keep traffic away from stable, and the candidate answers. It then
// serves them until the ordered rollback finds stable ready, and who follows
// that is told if it does not. A version that is not safe serves nobody.
func (e *Engine) strands(ctx context.Context, r Record) bool {
	if r.State.Rollback.TriggerGate == headgate.GateSecurity {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, stableAsked)
	defer cancel()
	router, err := e.o.Router(r.Service)
	if err != nil {
		return false
	}
	status, err := router.Status(ctx)
	if err != nil || status.ReleaseID != r.ID {
		return false
	}
	healthy := map[headgate.Arm]bool{}
	for _, b := range status.Backends {
		healthy[b.Arm] = b.Healthy
	}
	return healthy[headgate.Candidate] && !healthy[headgate.Stable]
}

// continueRollback stops the loss and executes the ordered rollback, as often
// as it takes.
func (e *Engine) continueRollback(ctx context.Context, r Record, now time.Time) error {
	c := Commit{Record: r, ClaimedGen: r.Gen}
	intent := *r.State.Rollback
	if intent.StoppedAt.IsZero() && !e.strands(ctx, r) {
		err := e.apply(ctx, split(r, 0))
		if errors.Is(err, &headgate.Error{Code: headgate.CodeStaleEpoch}) {
			err = errors.Join(err, e.overtake(ctx, r.Service))
		}
		if err != nil {
			return e.retryRollback(ctx, c, now, err)
		}
		if intent.StoppedAt, err = e.o.Store.Now(ctx); err != nil {
			return err
		}
		c.Record.State.Rollback, c.Record.State.Share, c.Record.State.Unconfirmed = &intent, 0, ""
		c.Record.NextRunAt = now
		c.Events = []headgate.Event{event(r, now, "traffic_on_stable", "", "the routers send nobody to the candidate")}
		return e.o.Store.Commit(ctx, c)
	}
	res, err := e.o.Rollback(ctx, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return e.retryRollback(ctx, c, now, err)
	}
	if now, err = e.o.Store.Now(ctx); err != nil {
		return err
	}
	c.Record.Phase, c.Record.Outcome = PhaseDone, intent.Outcome
	c.Record.State.Share = 0 // what was leased is over, wherever its users are
	c.ReleaseTraffic = true
	verdict := headgate.Pass
	if !res.Restored {
		verdict = headgate.Fail
	}
	ev := event(r, now, "rollback_finished", verdict, res.Summary)
	if len(res.Escalations) > 0 {
		ev.Data = map[string]any{"escalations": res.Escalations}
	}
	c.Events = []headgate.Event{ev, event(c.Record, now, "release_"+string(intent.Outcome), headgate.Fail, intent.Message)}
	return e.o.Store.Commit(ctx, c)
}

// overtake has the next claim come with an epoch above the router's.
func (e *Engine) overtake(ctx context.Context, service string) error {
	status, _, err := e.look(ctx, service)
	if status == nil {
		return err
	}
	_, err = e.o.Store.NextEpoch(ctx, status.Epoch)
	return err
}

func (e *Engine) retryRollback(ctx context.Context, c Commit, now time.Time, cause error) error {
	e.o.Log.ErrorContext(ctx, "rollback step failed; it is tried again",
		slog.String("release_id", c.Record.ID), slog.Any("error", cause))
	if c.Record.State.Rollback.StoppedAt.IsZero() {
		c.Record.State.Unconfirmed = headgate.AsError(cause).Message
	}
	c.Record.Attempt++
	c.Record.NextRunAt = now.Add(min(time.Duration(c.Record.Attempt)*500*time.Millisecond, 5*time.Second))
	c.Events = []headgate.Event{event(c.Record, now, "rollback_retry", headgate.Broken, headgate.AsError(cause).Message)}
	return e.o.Store.Commit(ctx, c)
}
