package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

const (
	assessmentKind = "assessment"
	executionKind  = "execution"
)

// evidenceAge is how old the evidence of a check may be: figures and replays
// age with what they measured, plans and preparations with the day.
var evidenceAge = map[string]time.Duration{
	string(headgate.GateQuality): 24 * time.Hour, string(headgate.GatePerformance): 6 * time.Hour,
	string(headgate.GateSecurity): 24 * time.Hour, string(headgate.GateCost): 6 * time.Hour,
	string(headgate.GateRollout): 24 * time.Hour, string(headgate.GateRollback): 24 * time.Hour,
	string(headgate.GateOps): 24 * time.Hour, replayCheck: 6 * time.Hour,
}

// ReadinessRequest is the contract's body of POST …/readiness/evaluate and
// …/pipeline/execute.
type ReadinessRequest struct {
	ReleaseID      string                 `json:"release_id"`
	DatasetVersion string                 `json:"dataset_version"`
	ReplayPassed   bool                   `json:"replay_passed"`
	GateResults    map[headgate.Gate]bool `json:"gate_results"`
}

// EvaluateReadiness assesses a release over the seven gates and the replay.
func (p *Plane) EvaluateReadiness(ctx context.Context, who access.Identity, req ReadinessRequest) (gate.Assessment, error) {
	of, err := p.reach(ctx, who, req.ReleaseID)
	if err != nil {
		return gate.Assessment{}, err
	}
	a, err := p.assess(ctx, of, req, gate.Mode(p.o.Settings.EvidenceMode), false)
	if err != nil {
		return a, err
	}
	if err := p.putDocument(ctx, assessmentKind, a.AssessmentID, of.releaseID, of.tenant, a); err != nil {
		return a, err
	}
	return a, p.record(ctx, "", headgate.Event{
		Kind: "readiness_evaluated", ReleaseID: of.releaseID, TenantID: of.tenant, Actor: who.Name, From: who.From,
		Verdict: passFail(a.Admitted), Message: strings.Join(a.FailedChecks, " "), Data: map[string]any{"assessment_id": a.AssessmentID},
	})
}

// assess weighs claims and evidence. With measured, a verdict of Gate D counts
// only if the server itself brought together what was judged.
func (p *Plane) assess(ctx context.Context, of named, req ReadinessRequest, mode gate.Mode, measured bool) (gate.Assessment, error) {
	in := gate.ReadinessInput{
		AssessmentID: headgate.NewID("ra"), TenantID: of.tenant, ReleaseID: of.releaseID, DatasetVersion: req.DatasetVersion,
		ReplayPassed: req.ReplayPassed, GateResults: req.GateResults, Mode: mode, Evidence: map[headgate.Gate]gate.Evidence{},
	}
	var findings map[headgate.Gate][]string
	if mode == gate.Verified {
		var err error
		if findings, err = p.examine(ctx, of); err != nil {
			return gate.Assessment{}, err
		}
	}
	rel, err := p.identity(ctx, of)
	if err != nil {
		return gate.Assessment{}, err
	}
	notBefore, err := p.lastRollback(ctx, of)
	if err != nil {
		return gate.Assessment{}, err
	}
	rules, err := p.rulesOf(ctx, of)
	if err != nil {
		return gate.Assessment{}, err
	}
	if in.Overrides, err = p.overridesOf(ctx, req.ReleaseID); err != nil {
		return gate.Assessment{}, err
	}
	for _, g := range headgate.Gates() {
		want := evidence.Want{ReleaseDigest: rel.Digest, MaxAge: evidenceAge[string(g)]}
		if g != headgate.GateRollout && g != headgate.GateRollback && g != headgate.GateOps {
			want.RulesDigest, want.Measured = rules.Digest(), measured
		}
		ev, ok, err := p.admissible(ctx, rel, string(g), want)
		if err != nil {
			return gate.Assessment{}, err
		}
		if ok {
			if found := findings[g]; len(found) > 0 {
				ev.Reason = strings.Join(found, "; ")
			}
			in.Evidence[g] = ev
		}
	}
	ev, ok, err := p.admissible(ctx, rel, replayCheck,
		evidence.Want{ReleaseDigest: rel.Digest, MaxAge: evidenceAge[replayCheck], NotBefore: notBefore})
	if err != nil {
		return gate.Assessment{}, err
	}
	if ok {
		in.Replay = &ev
	}
	return gate.Readiness(in), nil
}

// admissible returns the latest evidence of a check and whether it counts now.
func (p *Plane) admissible(ctx context.Context, rel headgate.Release, check string, want evidence.Want) (gate.Evidence, bool, error) {
	h, ok, err := p.holds(ctx, rel, check)
	if err != nil || !ok {
		return gate.Evidence{}, false, err
	}
	fresh, reason := evidence.Admissible(h.Summary, want, p.o.Now())
	if reason == evidence.ReasonNotPassing {
		fresh, reason = true, "" // its verdict says so
	}
	return gate.Evidence{
		ID: fmt.Sprintf("log/%d", h.Index), Digest: h.Digest, Verdict: h.Summary.Verdict, Fresh: fresh, Reason: reason,
	}, true, nil
}

// lastRollback is when a release was last rolled back; a replay from before it
// proves nothing.
func (p *Plane) lastRollback(ctx context.Context, of named) (time.Time, error) {
	all, err := p.rollbacksOf(ctx, of)
	if err != nil || len(all) == 0 {
		return time.Time{}, err
	}
	return all[len(all)-1].TriggeredAt, nil
}

// examine makes fresh evidence of the three gates that are about this server
// and the service's description rather than about the candidate, and returns
// what speaks against each.
func (p *Plane) examine(ctx context.Context, of named) (map[headgate.Gate][]string, error) {
	s, rec, err := p.serviceOf(ctx, of.releaseID)
	if err != nil {
		if headgate.AsError(err).Code == headgate.CodeServiceNotFound {
			return nil, nil // nothing to examine, so no evidence
		}
		return nil, err
	}
	findings := map[headgate.Gate][]string{
		headgate.GateRollout:  p.examineRollout(ctx, of),
		headgate.GateRollback: p.examineRollback(ctx, s, rec),
		headgate.GateOps:      examineOps(s),
	}
	for _, g := range []headgate.Gate{headgate.GateRollout, headgate.GateRollback, headgate.GateOps} {
		now := p.o.Now().UTC()
		verdict := passFail(len(findings[g]) == 0)
		run := headgate.StageRun{
			ReleaseID: of.releaseID, Stage: headgate.StageRollout, Attempt: 1, Verdict: verdict, Reasons: findings[g],
			Summary: string(g) + " gate", StartedAt: now, EndedAt: now,
		}
		_, err := p.state(ctx, of, string(g), evidence.Summary{Time: now, Verdict: verdict},
			evidence.StageResult{StageRun: run, Time: now, Facts: map[string]any{"gate": g}, MadeBy: p.tool()})
		if err != nil {
			return nil, err
		}
	}
	return findings, nil
}

func (p *Plane) examineRollout(ctx context.Context, of named) []string {
	if _, err := p.o.Store.Plan(ctx, of.tenant, of.releaseID); err != nil {
		return []string{headgate.AsError(err).Message}
	}
	return nil
}

// examineRollback checks that a rollback could be done now: the router
// answers, every component can be read, stable is up, there is a suite to
// verify with, and a drill has passed as recently as the description asks.
func (p *Plane) examineRollback(ctx context.Context, s *Service, rec *pipeline.Record) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out []string
	st, err := s.Router.Status(ctx)
	if err != nil {
		out = append(out, "the router does not answer: "+headgate.AsError(err).Message)
	}
	for _, b := range st.Backends {
		if b.Arm == headgate.Stable && !b.Healthy {
			out = append(out, "stable ("+b.URL+") is not healthy; there would be nothing to go back to")
		}
	}
	all, err := p.drills(ctx, s.Name)
	if err != nil {
		out = append(out, "the rollback drills cannot be read: "+headgate.AsError(err).Message)
	}
	if overdue := overdueDrill(s, all, p.o.Now()); overdue != "" {
		out = append(out, overdue)
	}
	if s.Suite == nil {
		out = append(out, "there is no replay suite, so a rollback could not be verified")
	}
	if rec == nil {
		return out
	}
	for _, ch := range rec.Changes {
		if ch.From == "" {
			out = append(out, "the release does not say which version of "+string(ch.Component)+" it replaces")
		}
	}
	return out
}

// examineOps checks that somebody would know what to do at 3 a.m.
func examineOps(s *Service) []string {
	var out []string
	for _, f := range []struct{ what, value string }{{"owner", s.Owner}, {"on_call", s.OnCall}} {
		if f.value == "" {
			out = append(out, "headgate.yaml names no "+f.what)
		}
	}
	if len(s.Runbooks) == 0 {
		out = append(out, "headgate.yaml names no runbooks")
	}
	return out
}

// Ready is the runner of stage rollout: the release is admitted only on fresh
// evidence, and its rollout plan is put in place.
func (p *Plane) Ready(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	if _, err := p.o.Store.Plan(ctx, r.TenantID, r.ID); headgate.AsError(err).Code == headgate.CodeReleasePolicyNotFound && err != nil {
		if err := p.o.Store.PutPlan(ctx, r.TenantID, r.Plan.Rollout); err != nil {
			return pipeline.Result{}, err
		}
	}
	if !p.o.Settings.ReadinessRequired {
		return pipeline.Result{Verdict: headgate.Pass, Summary: "readiness is not required here (P6_READINESS_REQUIRED=false)"}, nil
	}
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.Result{}, err
	}
	dataset, err := s.Feedback.Dataset(ctx, r.TenantID)
	if err != nil {
		return pipeline.Result{}, err
	}
	claims := map[headgate.Gate]bool{}
	for _, g := range headgate.Gates() {
		claims[g] = true
	}
	// The pipeline itself never trusts a claim, whatever the mode, nor figures
	// that somebody typed in.
	a, err := p.assess(ctx, named{r.ID, r.TenantID}, ReadinessRequest{ReleaseID: r.ID, DatasetVersion: dataset, ReplayPassed: true, GateResults: claims}, gate.Verified, true)
	if err != nil {
		return pipeline.Result{}, err
	}
	if err := p.putDocument(ctx, assessmentKind, a.AssessmentID, r.ID, r.TenantID, a); err != nil {
		return pipeline.Result{}, err
	}
	if !a.Admitted {
		return pipeline.Result{Verdict: headgate.Fail, Reasons: a.FailedChecks, Summary: "not admitted: " + whyNot(a)}, nil
	}
	basis := "on evidence"
	if len(a.Overridden) > 0 {
		basis = "BY OVERRIDE"
		for _, o := range a.Overridden {
			basis += fmt.Sprintf(" of the %s gate (%s, until %s)", o.Gate, strings.Join(o.Actors, " and "), o.ExpiresAt.Format(time.RFC3339))
		}
	}
	return pipeline.Result{
		Verdict: headgate.Pass,
		Summary: fmt.Sprintf("admitted %s; the canary may meet %s", basis, strings.Join(r.Tenants(), ", ")),
	}, nil
}

// Execution is the contract's answer of POST …/pipeline/execute.
type Execution struct {
	PipelineID            string           `json:"pipeline_id"`
	ReleaseID             string           `json:"release_id"`
	TenantID              string           `json:"tenant_id"`
	DatasetVersion        string           `json:"dataset_version"`
	Stage                 string           `json:"stage"`
	Admitted              bool             `json:"admitted"`
	FailedChecks          []string         `json:"failed_checks"`
	ReadinessAssessmentID *string          `json:"readiness_assessment_id"`
	Canary                ExecutionCanary  `json:"canary"`
	Rollback              ExecutionLimit   `json:"rollback"`
	ReadinessRequired     bool             `json:"readiness_required"`
	Readiness             *gate.Assessment `json:"readiness,omitempty"`
}

// ExecutionCanary is how a release that is ready would meet users.
type ExecutionCanary struct {
	Ratio       float64 `json:"ratio"`
	DurationMin int     `json:"duration_min"`
}

// ExecutionLimit is how long a rollback may take.
type ExecutionLimit struct {
	MaxMinutes int `json:"max_minutes"`
}

// ExecutePipeline says whether a release is ready, and how it would go on.
func (p *Plane) ExecutePipeline(ctx context.Context, who access.Identity, req ReadinessRequest) (Execution, error) {
	of, err := p.reach(ctx, who, req.ReleaseID)
	if err != nil {
		return Execution{}, err
	}
	st := p.o.Settings
	out := Execution{
		PipelineID: headgate.NewID("pl"), ReleaseID: req.ReleaseID, TenantID: who.TenantID, DatasetVersion: req.DatasetVersion,
		Stage: "release_ready", Admitted: true, FailedChecks: []string{},
		Canary:   ExecutionCanary{Ratio: st.CanaryRatio, DurationMin: st.CanaryDurationMin},
		Rollback: ExecutionLimit{MaxMinutes: st.RollbackMaxMinutes}, ReadinessRequired: st.ReadinessRequired,
	}
	if st.ReadinessRequired {
		a, err := p.EvaluateReadiness(ctx, who, req)
		if err != nil {
			return out, err
		}
		out.Readiness, out.ReadinessAssessmentID = &a, &a.AssessmentID
		out.Admitted, out.FailedChecks = a.Admitted, a.FailedChecks
	}
	if !out.Admitted {
		out.Stage = "release_blocked"
	}
	if err := p.putDocument(ctx, executionKind, out.PipelineID, of.releaseID, of.tenant, out); err != nil {
		return out, err
	}
	return out, p.record(ctx, "", headgate.Event{
		Kind: "pipeline_executed", ReleaseID: of.releaseID, TenantID: of.tenant, Actor: who.Name, From: who.From,
		Verdict: passFail(out.Admitted), Message: out.Stage, Data: map[string]any{"pipeline_id": out.PipelineID},
	})
}

// PutPlan posts a release's rollout plan; posting again replaces it. While the
// service is frozen it is ROLLOUT_FROZEN.
func (p *Plane) PutPlan(ctx context.Context, who access.Identity, plan rollout.Plan) error {
	of, err := p.reach(ctx, who, plan.ReleaseID)
	if err != nil {
		return err
	}
	if s, rec, err := p.serviceOf(ctx, plan.ReleaseID); err == nil && rec != nil {
		active, err := p.o.Store.Active(ctx, s.Name)
		if err != nil {
			return err
		}
		if len(active) > 0 {
			return headgate.Errorf(headgate.CodeRolloutFrozen, headgate.ClassBusinessRule,
				"a rollback of %s awaits its replay; rollout changes wait until it has passed", s.Name)
		}
		if rec.State.Holding {
			return headgate.Errorf(headgate.CodeReleaseActive, headgate.ClassBusinessRule,
				"the release meets users under the plan it began with; abort it to change the plan")
		}
	}
	if err := p.o.Store.PutPlan(ctx, of.tenant, plan); err != nil {
		return err
	}
	return p.record(ctx, "", headgate.Event{
		Kind: "rollout_planned", ReleaseID: of.releaseID, TenantID: of.tenant, Actor: who.Name, From: who.From,
		Message: strings.Join(plan.TenantWhitelist, ", "),
	})
}

// Decide says whether a release's plan, as of the tier that its canary has
// reached, admits a request's subject.
func (p *Plane) Decide(ctx context.Context, who access.Identity, releaseID string, subject rollout.Subject) (rollout.Decision, error) {
	of, err := p.reach(ctx, who, releaseID)
	if err != nil {
		return rollout.Decision{}, err
	}
	plan, err := p.o.Store.Plan(ctx, of.tenant, of.releaseID)
	if err != nil {
		return rollout.Decision{}, err
	}
	if s, rec, err := p.serviceOf(ctx, releaseID); err == nil && rec != nil && rec.State.Granted {
		plan = plan.Widen(rec.Tier().Name, s.sizes())
	}
	return plan.Decide(subject), nil
}

// whyNot says in words what an assessment failed on.
func whyNot(a gate.Assessment) string {
	var why []string
	if a.DatasetVersion == "" {
		why = append(why, "there is no dataset version")
	}
	for _, b := range a.Basis {
		if !b.Passed {
			why = append(why, b.Check+": "+b.Reason)
		}
	}
	return strings.Join(why, "; ")
}
