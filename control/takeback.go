package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

// CodeNotInForce is the error of taking back a release that users do not meet.
const CodeNotInForce = "RELEASE_NOT_IN_FORCE"

// ReasonTakenBack is shown with a promoted release that was rolled back
// afterwards, so that nobody takes it for what users meet.
const ReasonTakenBack = "TAKEN_BACK"

// RollBack takes a release back wherever it is, and returns it once that has
// ended: one in the pipeline is stopped, one that all users have goes back to
// what was stable before. While it is being taken back already, the request
// joins. One that users do not meet is RELEASE_NOT_IN_FORCE.
func (p *Plane) RollBack(ctx context.Context, who access.Identity, id, reason string) (View, error) {
	if err := giveReason(&reason); err != nil {
		return View{}, err
	}
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return View{}, err
	}
	s, err := p.Service(rec.Service)
	if err != nil {
		return View{}, err
	}
	if !rec.Done() {
		if err := p.stop(ctx, who, &rec, pipeline.FactRollback, reason); err != nil {
			return View{}, err
		}
		if rec, _, err = p.awaitRollback(ctx, id); err != nil {
			return View{}, err
		}
		return p.view(ctx, rec)
	}
	serving, err := p.serves(ctx, s, rec)
	if err != nil {
		return View{}, err
	}
	if !serving {
		return View{}, headgate.Errorf(CodeNotInForce, headgate.ClassBusinessRule,
			"release %s ended as %s and users do not meet it; there is nothing to take back", id, rec.Outcome)
	}
	if _, err := p.takeBack(ctx, s, rec, rollback.Request{Actor: who.Name, Reason: reason}, who.From); err != nil {
		return View{}, err
	}
	return p.view(ctx, rec)
}

// serves reports whether an ended release is what all users have, or is on its
// way back from there.
func (p *Plane) serves(ctx context.Context, s *Service, rec pipeline.Record) (bool, error) {
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil || rec.Outcome == headgate.Promoted && rec.Version == state.Stable.Version {
		return err == nil, err
	}
	active, err := p.o.Store.Active(ctx, s.Name)
	for _, rb := range active {
		if rb.ReleaseID == rec.ID && rb.TenantID == rec.TenantID {
			return true, err
		}
	}
	return false, err
}

// takeBack rolls a promoted release back. The service is frozen first, so that
// no canary begins; one that is under way is compared with the release that
// goes, and ends.
func (p *Plane) takeBack(ctx context.Context, s *Service, rec pipeline.Record, req rollback.Request, from string) (rollback.Rollback, error) {
	intent := context.WithoutCancel(ctx) // nobody who hangs up leaves half of it
	state, err := p.o.Store.Service(intent, s.Name)
	if err != nil {
		return rollback.Rollback{}, err
	}
	req.ReleaseID, req.TenantID, req.Targets, req.TriggeredAt = rec.ID, rec.TenantID, s.targets(&rec, state), p.o.Now().UTC()
	rb, err := s.Rollback.Begin(intent, req)
	if err != nil {
		return rb, err
	}
	ev := headgate.Event{
		Kind: "rollback_triggered", ReleaseID: rec.ID, Service: s.Name, TenantID: rec.TenantID, Actor: req.Actor, From: from, Reason: req.Reason,
		Stage: rec.Stage, Verdict: headgate.Fail, Message: rec.Version + " is taken back after its release",
		Data: map[string]any{"rollback_id": rb.ID, "trigger_gate": req.Gate, "reasons": []string{pipeline.ReasonManualRollback}},
	}
	if !rb.TriggeredAt.Equal(req.TriggeredAt) {
		ev.Kind, ev.Verdict, ev.Message = rollbackJoined, "", "joins the rollback that "+rb.Actor+" triggered"
	}
	if err := p.record(intent, "", ev); err != nil {
		p.o.Logger.ErrorContext(ctx, "the trigger of a rollback is not in the audit trail", slog.String("rollback_id", rb.ID), slog.Any("error", err))
	}
	return p.carryRollback(ctx, s, &rec, rb.ID)
}

// rollbackJoined is the event of a trigger while a rollback runs: there is
// only ever one of a release.
const rollbackJoined = "rollback_joined"

// finishRollback carries the rollback of an ended release, or of one that was
// never made here (nil), from its intent to its end.
func (p *Plane) finishRollback(ctx context.Context, s *Service, rec *pipeline.Record, id string) (rollback.Rollback, error) {
	if rec == nil || rec.Outcome != headgate.Promoted { // the pipeline has quarantined it
		return p.finishOther(ctx, s, id)
	}
	err := p.o.Store.PutQuarantine(ctx, Quarantined{Service: s.Name, Digest: rec.Digest, ReleaseID: rec.ID, At: p.o.Now().UTC()})
	if err != nil {
		return rollback.Rollback{}, err
	}
	if err := p.clearTraffic(ctx, s, *rec); err != nil {
		return rollback.Rollback{}, err
	}
	rb, err := s.Rollback.Resume(ctx, id)
	if err != nil {
		return rb, err
	}
	p.explain(ctx, *rec)
	verdict, job := passFail(!rb.Frozen()), ""
	if rb.Replay != nil {
		job = rb.Replay.JobID
	}
	message := "all components are back and the replay against stable passed; the freeze is lifted"
	if rb.Frozen() {
		message = unrestored
	}
	ev := headgate.Event{
		Kind: "rollback_finished", ReleaseID: rec.ID, Service: s.Name, TenantID: rec.TenantID, Actor: rb.Actor, Reason: rb.Reason,
		Stage: rec.Stage, Verdict: verdict, Message: message,
	}
	if stuck := rb.Escalated(); len(stuck) > 0 {
		ev.Data = map[string]any{"escalations": stuck}
	}
	if err := p.record(ctx, rb.ID+"/finished/"+job, ev); err != nil {
		return rb, err
	}
	return rb, p.verifyOthers(ctx, s, rb)
}

// finishOther carries out the rollback of what is not the release in force, and
// states it.
func (p *Plane) finishOther(ctx context.Context, s *Service, id string) (rollback.Rollback, error) {
	if err := s.drill.stop(ctx); err != nil {
		return rollback.Rollback{}, err
	}
	rb, err := s.Rollback.Resume(ctx, id)
	if err != nil {
		return rb, err
	}
	rel, err := p.identity(ctx, named{rb.ReleaseID, rb.TenantID})
	if err != nil {
		return rb, err
	}
	st, err := evidence.About(rel, p.rollbackStatement(pipeline.Record{Release: rel}, rb, p.o.Now().UTC()))
	if err == nil {
		_, err = p.o.Log.Append(ctx, st)
	}
	return rb, err
}

// unrestored is what to say of a rollback that is not over.
const unrestored = "the rollback is not restored: a step is escalated or the replay has not passed. The service stays frozen; see docs/runbooks"

// clearTraffic ends a canary that meets users beside the release that is taken
// back; its own rollback would bring that release back again.
func (p *Plane) clearTraffic(ctx context.Context, s *Service, rec pipeline.Record) error {
	if err := s.drill.stop(ctx); err != nil {
		return err
	}
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil || state.HeldBy == "" {
		return err
	}
	other, err := p.o.Store.Release(ctx, state.HeldBy)
	if err != nil {
		return err
	}
	why := fmt.Sprintf("release %s, which it is compared with, is taken back", rec.ID)
	err = p.signal(ctx, other.ID, pipeline.Fact{Kind: pipeline.FactSupersede, Actor: "headgate", Reason: why}, headgate.Event{
		Kind: "supersede_requested", ReleaseID: other.ID, Service: s.Name, TenantID: other.TenantID, Actor: "headgate", Stage: other.Stage, Message: why,
	})
	if err != nil && headgate.AsError(err).Code != headgate.CodeReleaseDone {
		return err
	}
	_, _, err = p.awaitRollback(ctx, other.ID)
	return err
}

// verifyOthers replays for the service's other rollbacks once one is restored:
// what they wait for was stable when it was not well.
func (p *Plane) verifyOthers(ctx context.Context, s *Service, restored rollback.Rollback) error {
	if restored.Frozen() {
		return nil
	}
	active, err := p.o.Store.Active(ctx, s.Name)
	for _, rb := range active {
		if rec, rerr := p.o.Store.Release(ctx, rb.ReleaseID); rerr != nil || !rec.Done() || !rb.StepsDone() {
			continue
		}
		if _, err := s.Rollback.Resume(ctx, rb.ID); err != nil {
			return err
		}
	}
	return err
}

// capacity asks whether a version can carry all traffic.
type capacity struct {
	p *Plane
	s *Service
}

// capacityTimeout bounds one question.
const capacityTimeout = 3 * time.Second

// Check implements [rollback.Capacity].
func (c capacity) Check(ctx context.Context, version string) error {
	backend, err := routerActuator(c).backend(ctx, version)
	if err != nil {
		return err
	}
	st, err := c.s.Router.Status(ctx)
	if err != nil {
		return err
	}
	for _, b := range st.Backends {
		if b.Version == version && b.Arm == headgate.Stable && !b.Healthy {
			return unready(backend, "the router keeps traffic away from it")
		}
	}
	address := strings.TrimSuffix(backend.URL, "/") + c.s.Targets.HealthPath
	if hook := c.s.Targets.CapacityURL; hook != "" {
		address = hook + "?" + url.Values{"version": {version}}.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, capacityTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent, "the address that tells stable's capacity is no URL; check targets in headgate.yaml").Wrap(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return unready(backend, "no answer to "+req.URL.Path).Wrap(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		return unready(backend, resp.Status+" to "+req.URL.Path).Wrap(err)
	}
	return nil
}

func unready(b rollout.Backend, why string) *headgate.Error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "%s at %s cannot carry all traffic: %s", b.Version, b.URL, why)
}
