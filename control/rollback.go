package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

// executor makes a rollback executor of a service.
func (p *Plane) executor(s *Service, store rollback.Store, audit rollback.Audit) *rollback.Executor {
	return rollback.New(rollback.Config{
		Service: s.Name, Store: store, Actuators: p.actuators(s), Verifier: verifier{p, s}, Audit: audit, Capacity: capacity{p, s},
		Log: p.o.Logger, Now: p.o.Now, Limit: time.Duration(p.o.Settings.RollbackMaxMinutes) * time.Minute,
	})
}

// actuators are what changes a service's components.
func (p *Plane) actuators(s *Service) map[headgate.Component]rollback.Actuator {
	actuators := map[headgate.Component]rollback.Actuator{}
	for _, c := range headgate.RollbackOrder() {
		switch a := s.Components.Get(c).Actuator; {
		case c == headgate.ReleaseVersion || a.Kind == config.ActuatorRouter:
			actuators[c] = routerActuator{p, s}
		case a.Kind == config.ActuatorHook:
			actuators[c] = rollback.Hook{URL: a.URL}
		default:
			actuators[c] = rollback.Flag{Service: s.Name, Store: p.o.Store}
		}
	}
	return actuators
}

// routerActuator sets the version that all users meet.
type routerActuator struct {
	p *Plane
	s *Service
}

// Set implements [rollback.Actuator].
func (a routerActuator) Set(ctx context.Context, _ headgate.Component, version string) error {
	stable, err := a.backend(ctx, version)
	if err != nil {
		return err
	}
	st, err := a.s.Router.Status(ctx)
	if err != nil {
		return err
	}
	epoch, err := a.p.o.Store.NextEpoch(ctx, st.Epoch)
	if err != nil {
		return err
	}
	if _, err := a.s.Router.Apply(ctx, rollout.Split{Service: a.s.Name, Epoch: epoch, Stable: stable}); err != nil {
		return err
	}
	return a.p.o.Store.SetStable(ctx, a.s.Name, stable)
}

// Read implements [rollback.Actuator].
func (a routerActuator) Read(ctx context.Context, _ headgate.Component) (string, error) {
	st, err := a.s.Router.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, b := range st.Backends {
		if b.Arm == headgate.Stable {
			return b.Version, nil
		}
	}
	return "", nil
}

// backend finds where a version answers, from what was ever released.
func (a routerActuator) backend(ctx context.Context, version string) (rollout.Backend, error) {
	state, err := a.p.o.Store.Service(ctx, a.s.Name)
	if err != nil || state.Stable.Version == version {
		return state.Stable, err
	}
	past, err := a.p.o.Store.Releases(ctx, a.s.Name, 1000)
	if err != nil {
		return rollout.Backend{}, err
	}
	for _, r := range past {
		if r.Plan.Stable.Version == version {
			return r.Plan.Stable, nil
		}
		if r.Version == version && r.Outcome == headgate.Promoted {
			return rollout.Backend{Version: version, URL: r.CandidateURL}, nil
		}
	}
	return rollout.Backend{}, headgate.Errorf(headgate.CodeNotFound, headgate.ClassPermanent,
		"nobody knows where version %s of %s answers; bring it up and name it as targets.stable", version, a.s.Name)
}

// targets are the versions to go back to. A release that was never made here
// goes back to what the service description says is in production; one that
// ended and is not in force has nothing to take back, and must not move what
// has come after it.
func (s *Service) targets(rec *pipeline.Record, state ServiceState) map[headgate.Component]string {
	out := map[headgate.Component]string{}
	if rec == nil {
		for _, c := range headgate.RollbackOrder() {
			out[c] = s.Components.Get(c).Current
		}
		out[headgate.ReleaseVersion] = state.Stable.Version
		return out
	}
	if rec.Done() && (rec.Outcome != headgate.Promoted || rec.Version != state.Stable.Version) {
		return out
	}
	for _, ch := range rec.Changes {
		out[ch.Component] = ch.From
	}
	out[headgate.ReleaseVersion] = rec.Plan.Stable.Version
	return out
}

// Rollback is the pipeline's way to roll back: resumable under one id a
// release.
func (p *Plane) Rollback(ctx context.Context, r pipeline.Record) (pipeline.RollbackResult, error) {
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.RollbackResult{}, err
	}
	intent := r.State.Rollback
	rb, err := s.Rollback.Execute(ctx, rollback.Request{
		ID: "rb_" + r.ID, ReleaseID: r.ID, TenantID: r.TenantID, Gate: intent.TriggerGate,
		Targets: s.targets(&r, ServiceState{}), Actor: "headgate", Reason: intent.Message, TriggeredAt: intent.TriggeredAt,
	})
	if err != nil {
		return pipeline.RollbackResult{}, err
	}
	p.explain(ctx, r)
	res := pipeline.RollbackResult{Restored: !rb.Frozen()}
	for _, c := range rb.Escalated() {
		res.Escalations = append(res.Escalations, string(c))
	}
	res.Summary = "all components are back and the replay against stable passed; the freeze is lifted"
	if !res.Restored {
		res.Summary = unrestored
	}
	return res, nil
}

// RollbackRequest is the contract's body of POST …/rollback/execute.
type RollbackRequest struct {
	ReleaseID            string            `json:"release_id"`
	ConsecutiveThreshold int               `json:"consecutive_threshold"`
	Breaches             []headgate.Breach `json:"breaches"`
}

// rollbackWait bounds how long a request waits for the pipeline's rollback.
const rollbackWait = 2 * time.Minute

// ExecuteRollback rolls a release back when a breach has lasted. A release in
// the pipeline is rolled back by the pipeline; any other at once.
func (p *Plane) ExecuteRollback(ctx context.Context, who access.Identity, req RollbackRequest) (rollback.Result, error) {
	if err := rollback.Validate(req.ConsecutiveThreshold, req.Breaches); err != nil {
		return rollback.Result{}, err
	}
	of, err := p.reach(ctx, who, req.ReleaseID)
	if err != nil {
		return rollback.Result{}, err
	}
	g, ok := rollback.Triggered(req.ConsecutiveThreshold, req.Breaches)
	if !ok {
		return rollback.NotTriggered(req.ReleaseID), nil
	}
	s, rec, err := p.serviceOf(ctx, req.ReleaseID)
	if err != nil {
		return rollback.Result{}, err
	}
	rb, err := p.rollBackNow(ctx, who, s, rec, of, req, g)
	if err != nil {
		return rollback.Result{}, err
	}
	return rb.Result(p.o.Now()), nil
}

func (p *Plane) rollBackNow(ctx context.Context, who access.Identity, s *Service, rec *pipeline.Record, of named, req RollbackRequest, g headgate.Gate) (rollback.Rollback, error) {
	if rec != nil && !rec.Done() {
		if err := p.stop(ctx, who, rec, pipeline.FactRollback, "breach of the "+string(g)+" gate"); err != nil {
			return rollback.Rollback{}, err
		}
		ended, rb, err := p.awaitRollback(ctx, rec.ID)
		if err != nil || rb.ID != "" {
			rb.Gate = cmp.Or(rb.Gate, g)
			return rb, err
		}
		rec = &ended
	}
	if rec != nil {
		serving, err := p.serves(ctx, s, *rec)
		if err != nil {
			return rollback.Rollback{}, err
		}
		if serving {
			why := "breach of the " + string(g) + " gate"
			return p.takeBack(ctx, s, *rec, rollback.Request{Gate: g, Breaches: req.Breaches, Actor: who.Name, Reason: why}, who.From)
		}
	}
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil {
		return rollback.Rollback{}, err
	}
	rb, err := s.Rollback.Begin(context.WithoutCancel(ctx), rollback.Request{
		ReleaseID: of.releaseID, TenantID: of.tenant, Gate: g, Breaches: req.Breaches,
		Targets: s.targets(rec, state), Actor: who.Name, Reason: "rollback requested over the API",
	})
	if err != nil {
		return rb, err
	}
	return p.carryRollback(ctx, s, rec, rb.ID)
}

// awaitRollback waits until the pipeline has ended the release, and returns it
// with its rollback, the zero one when the release met no user.
func (p *Plane) awaitRollback(ctx context.Context, id string) (pipeline.Record, rollback.Rollback, error) {
	ctx, cancel := context.WithTimeout(ctx, rollbackWait)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		rec, err := p.o.Store.Release(ctx, id)
		if err != nil {
			return rec, rollback.Rollback{}, err
		}
		all, err := p.rollbacksOf(ctx, named{id, rec.TenantID})
		if err != nil {
			return rec, rollback.Rollback{}, err
		}
		if rec.Done() {
			if len(all) == 0 {
				return rec, rollback.Rollback{}, nil
			}
			return rec, all[len(all)-1], nil
		}
		select {
		case <-ctx.Done():
			if len(all) > 0 {
				return rec, all[len(all)-1], nil
			}
			return rec, rollback.Rollback{}, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
				"the rollback of %s was requested and has not ended; headgate release show %s tells how far it is", id, id).Wrap(ctx.Err())
		case <-ticker.C:
		}
	}
}

// rollbacksOf are a release's rollbacks, oldest first.
func (p *Plane) rollbacksOf(ctx context.Context, of named) ([]rollback.Rollback, error) {
	all, err := p.o.Store.Rollbacks(ctx, of.releaseID)
	return slices.DeleteFunc(all, func(rb rollback.Rollback) bool { return rb.TenantID != of.tenant }), err
}

func (p *Plane) rollbackStatement(r pipeline.Record, rb rollback.Rollback, now time.Time) evidence.Rollback {
	out := evidence.Rollback{
		ReleaseID: rb.ReleaseID, Time: now, RollbackID: rb.ID, TriggerGate: rb.Gate, Breaches: rb.Breaches, Reason: rb.Reason,
		TriggeredAt: rb.TriggeredAt, CompletedAt: rb.CompletedAt, RestoredAt: rb.RestoredAt,
		LimitSeconds: rb.Deadline.Sub(rb.TriggeredAt).Seconds(), MadeBy: p.tool(), TrafficBackAt: trafficBackAt(r, rb),
	}
	for _, s := range rb.Steps {
		out.Steps = append(out.Steps, evidence.RollbackStep{
			Component: s.Component, To: s.To, Status: string(s.Status), ReadBack: s.ReadBack, Error: s.Error,
			StartedAt: s.StartedAt, EndedAt: s.EndedAt,
		})
	}
	if rb.Replay != nil {
		out.ReplayJobID, out.ReplayStatus = rb.Replay.JobID, string(rb.Replay.Status)
	}
	return out
}

// trafficBackAt is when the routers' answer was that nobody meets the candidate:
// before the ordered steps, or with that of release_version when stable could
// not take the traffic earlier. Zero when it is not back.
func trafficBackAt(r pipeline.Record, rb rollback.Rollback) time.Time {
	if intent := r.State.Rollback; intent != nil && !intent.StoppedAt.IsZero() {
		return intent.StoppedAt
	}
	for _, s := range rb.Steps {
		if s.Component == headgate.ReleaseVersion && s.Status == rollback.StepDone {
			return s.EndedAt
		}
	}
	return time.Time{}
}

// Frozen implements [feedback.Freeze]: a service is frozen while a rollback
// awaits its replay.
func (p *Plane) Frozen(ctx context.Context, sc feedback.Scope) (bool, error) {
	active, err := p.o.Store.Active(ctx, sc.Service)
	return len(active) > 0, err
}

// Publish puts a promoted release's component values in force, in the fixed
// order, each read back. One that is in force already, as after a crash, is not
// set again. The router is the pipeline's own step.
func (p *Plane) Publish(ctx context.Context, r pipeline.Record) error {
	s, err := p.Service(r.Service)
	if err != nil {
		return err
	}
	actuators := p.actuators(s)
	for _, c := range headgate.RollbackOrder() {
		i := slices.IndexFunc(r.Changes, func(ch headgate.Change) bool { return ch.Component == c })
		a := actuators[c]
		if _, router := a.(routerActuator); router || i < 0 {
			continue
		}
		got, err := a.Read(ctx, c)
		if err == nil && got == r.Changes[i].To {
			continue
		}
		if err := a.Set(ctx, c, r.Changes[i].To); err != nil {
			return err
		}
		got, err = a.Read(ctx, c)
		if err != nil {
			return err
		}
		if got != r.Changes[i].To {
			return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "%s reads back %q after %q was set", c, got, r.Changes[i].To)
		}
	}
	return nil
}
