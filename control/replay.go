package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/contract"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/replay"
	"github.com/headgate/headgate/rollback"
)

const (
	// replayCheck is the evidence of the replay, beside the gates'.
	replayCheck = "replay"
	// verificationCheck is the evidence that stable is well after a rollback. It
	// says nothing for the release that was rolled back.
	verificationCheck = "rollback_replay"
	// isolationKind is the document of what strangers could see.
	isolationKind = "isolation"
	// jobKind is the document of a replay that the HTTP API hands out as a job.
	jobKind = "job"

	healthTimeout = 30 * time.Second
)

// ReplayRequest is the contract's body of POST …/replay/e2e.
type ReplayRequest struct {
	ReleaseID  string `json:"release_id"`
	ProjectID  string `json:"project_id"`
	SupplierID string `json:"supplier_id"`
	DocType    string `json:"doc_type"`
	ForceHITL  bool   `json:"force_hitl"`
	Decision   string `json:"decision"`
}

// ReplayResult is the contract's answer.
type ReplayResult struct {
	ReplayRunID string           `json:"replay_run_id"`
	ReleaseID   string           `json:"release_id"`
	TenantID    string           `json:"tenant_id"`
	Parse       ReplayParse      `json:"parse"`
	Evaluation  ReplayEvaluation `json:"evaluation"`
	Passed      bool             `json:"passed"`
	// Failures say which steps failed and how.
	Failures []string `json:"failures,omitempty"`
}

// ReplayParse is the reference suite's parse step.
type ReplayParse struct {
	JobID  string `json:"job_id"`
	Status string `json:"status"`
}

// ReplayEvaluation is the reference suite's evaluation step.
type ReplayEvaluation struct {
	EvaluationID     string `json:"evaluation_id"`
	JobID            string `json:"job_id"`
	ResumeJobID      string `json:"resume_job_id"`
	NeedsHumanReview bool   `json:"needs_human_review"`
}

// ReplayE2E sends the service's suite to the release: to its candidate in
// staging while it has not met users, to stable afterwards. The outcome is
// evidence of the release; a pass also ends a rollback that waited for it.
func (p *Plane) ReplayE2E(ctx context.Context, who access.Identity, req ReplayRequest) (ReplayResult, error) {
	of, err := p.reach(ctx, who, req.ReleaseID)
	if err != nil {
		return ReplayResult{}, err
	}
	s, rec, err := p.serviceOf(ctx, req.ReleaseID)
	if err != nil {
		return ReplayResult{}, err
	}
	target := s.Targets.Stable.URL
	if rec != nil && !rec.Done() {
		target = rec.StagingURL
	} else if state, err := p.o.Store.Service(ctx, s.Name); err == nil {
		target = state.Stable.URL
	}
	vars := s.vars(who.TenantID)
	vars.ProjectID, vars.SupplierID = req.ProjectID, req.SupplierID
	vars.DocType, vars.ForceHITL, vars.Decision = req.DocType, req.ForceHITL, req.Decision
	run, err := p.execute(ctx, s, target, vars)
	if err != nil {
		return ReplayResult{}, err
	}
	out := ReplayResult{
		ReplayRunID: run.ID, ReleaseID: req.ReleaseID, TenantID: who.TenantID, Passed: run.Passed, Failures: failures(run),
		Parse: ReplayParse{JobID: text(run, "parse_job_id"), Status: text(run, "parse_status")},
		Evaluation: ReplayEvaluation{
			EvaluationID: text(run, "evaluation_id"), JobID: text(run, "evaluation_job_id"),
			ResumeJobID: text(run, "resume_job_id"), NeedsHumanReview: text(run, "needs_human_review") == "true",
		},
	}
	if err := p.stateReplay(ctx, of, replayCheck, run, nil); err != nil {
		return out, err
	}
	err = p.record(ctx, "", headgate.Event{
		Kind: "replay_executed", ReleaseID: of.releaseID, Service: s.Name, TenantID: of.tenant, Actor: who.Name, From: who.From,
		Verdict: passFail(run.Passed), Message: "replay " + run.ID,
	})
	if err != nil || !run.Passed {
		return out, err
	}
	return out, p.retryVerification(ctx, s)
}

func passFail(ok bool) headgate.Verdict {
	if ok {
		return headgate.Pass
	}
	return headgate.Fail
}

func text(run replay.Run, name string) string {
	v, ok := run.Value(name)
	if !ok || v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// vars are the suite's values; a tenant that the service does not know runs as
// the suite's own.
func (s *Service) vars(tenant string) replay.Vars {
	if _, known := s.Tenant(tenant); !known {
		tenant = s.Replay.Tenant
	}
	v := replay.Vars{Tenant: tenant, ForceHITL: true, DocType: "bid", Decision: "approve"}
	for name, value := range s.Replay.Vars {
		switch name {
		case "project_id":
			v.ProjectID = value
		case "supplier_id":
			v.SupplierID = value
		case "doc_type":
			v.DocType = value
		case "decision":
			v.Decision = value
		case "force_hitl":
			v.ForceHITL = value == "true"
		}
	}
	return v
}

func (p *Plane) target(s *Service, url string) replay.Target {
	return replay.Target{BaseURL: strings.TrimSuffix(url, "/"), Credential: s.Credential, TenantHeader: s.TenantHeader, Now: p.o.Now}
}

func (p *Plane) execute(ctx context.Context, s *Service, url string, v replay.Vars) (replay.Run, error) {
	if s.Suite == nil {
		return replay.Run{}, headgate.Errorf("REPLAY_SUITE_MISSING", headgate.ClassBusinessRule,
			"%s has no replay suite; name one under replay.suite in its headgate.yaml", s.Name)
	}
	if url == "" {
		return replay.Run{}, headgate.Errorf(headgate.CodeValidation, headgate.ClassValidation, "there is no instance to replay against")
	}
	return replay.Execute(ctx, *s.Suite, p.target(s, url), v)
}

func failures(run replay.Run) []string {
	var out []string
	for _, sess := range run.Sessions {
		for _, st := range sess.Steps {
			if st.Outcome == replay.StepFailed {
				out = append(out, sess.Name+"/"+st.Name+": "+st.Failure)
			}
		}
	}
	return out
}

// stateReplay makes a replay evidence of a release.
func (p *Plane) stateReplay(ctx context.Context, of named, check string, run replay.Run, diff *replay.Diff, more ...evidence.Input) error {
	in, err := p.blob(ctx, "replay.json", "headgate-replay", run)
	if err != nil {
		return err
	}
	inputs := append([]evidence.Input{in}, more...)
	verdict := passFail(run.Passed && (diff == nil || diff.Equal))
	if diff != nil {
		in, err := p.blob(ctx, "replay-diff.json", "headgate-replay-diff", diff)
		if err != nil {
			return err
		}
		inputs = append(inputs, in)
	}
	now := p.o.Now().UTC()
	res := evidence.StageResult{
		StageRun: headgate.StageRun{
			ReleaseID: of.releaseID, Stage: headgate.StageReplay, Attempt: 1, Verdict: verdict, Reasons: failures(run),
			Summary: "replay " + run.ID, StartedAt: run.StartedAt, EndedAt: now,
		},
		Time: now, Inputs: inputs, MadeBy: p.tool(),
	}
	_, err = p.state(ctx, of, check, evidence.Summary{Time: now, Verdict: verdict}, res)
	return err
}

// Replay is the runner of stage replay: the same sessions against stable and
// against the candidate in staging, compared; then strangers ask for what the
// sessions made.
func (p *Plane) Replay(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.Result{}, err
	}
	if res, ok := p.healthy(ctx, s, r.StagingURL); !ok {
		return res, ctx.Err()
	}
	v := s.vars(s.Replay.Tenant)
	stable, err := p.execute(ctx, s, r.Plan.Stable.URL, v)
	if err != nil {
		return pipeline.Result{}, err
	}
	candidate, err := p.execute(ctx, s, r.StagingURL, v)
	if err != nil {
		return pipeline.Result{}, err
	}
	diff := replay.Compare(stable, candidate)
	stableIn, err := p.blob(ctx, "replay-stable.json", "headgate-replay", stable)
	if err != nil {
		return pipeline.Result{}, err
	}
	if err := p.stateReplay(ctx, named{r.ID, r.TenantID}, replayCheck, candidate, &diff, stableIn); err != nil {
		return pipeline.Result{}, err
	}
	switch {
	case !stable.Passed:
		return pipeline.Result{Verdict: headgate.Broken, Reasons: []string{"REPLAY_STABLE_FAILED"},
			Summary: "stable itself fails the replay: " + strings.Join(failures(stable), "; ")}, nil
	case !candidate.Passed:
		return pipeline.Result{Verdict: headgate.Fail, Reasons: []string{gateReplayFailed},
			Summary: "the candidate fails the replay: " + strings.Join(failures(candidate), "; ")}, nil
	case !diff.Equal:
		return pipeline.Result{Verdict: headgate.Fail, Reasons: []string{"REPLAY_ANSWERS_DIFFER"}, Summary: describe(diff)}, nil
	}
	iso, err := replay.Isolation(ctx, *s.Suite, p.target(s, r.StagingURL), candidate, s.Replay.OtherTenants)
	if err != nil {
		return pipeline.Result{}, err
	}
	if err := p.putDocument(ctx, isolationKind, r.ID, r.ID, r.TenantID, iso); err != nil {
		return pipeline.Result{}, err
	}
	return pipeline.Result{Verdict: headgate.Pass, Summary: answeredAlike(len(candidate.Sessions))}, nil
}

const gateReplayFailed = "REPLAY_E2E_FAILED"

func describe(d replay.Diff) string {
	first := d.Differences[0]
	return fmt.Sprintf("the candidate answers differently in %d places, first %s/%s %s: %s, stable %s",
		len(d.Differences)+d.Omitted, first.Session, first.Step, first.Path, first.Candidate, first.Stable)
}

func (p *Plane) healthy(ctx context.Context, s *Service, url string) (pipeline.Result, bool) {
	err := replay.WaitHealthy(ctx, strings.TrimSuffix(url, "/")+s.Targets.HealthPath, healthTimeout)
	if err == nil {
		return pipeline.Result{}, true
	}
	return pipeline.Result{Verdict: headgate.Fail, Reasons: []string{"CANDIDATE_UNHEALTHY"}, Summary: headgate.AsError(err).Message}, false
}

// isolationInput adds what the isolation probes found to the security gate.
func (p *Plane) isolationInput(ctx context.Context, releaseID string, in *gate.Input) ([]evidence.Input, error) {
	d, ok, err := p.o.Store.Document(ctx, isolationKind, releaseID)
	if err != nil {
		return nil, err
	}
	zero := int64(0)
	origin := gate.Origin{Samples: &zero, Source: "isolation probes"}
	if !ok {
		in.Origins["tenant_scope_violations"], in.Origins["auth_bypass_findings"] = origin, origin
		return nil, nil
	}
	var iso replay.IsolationResult
	if err := json.Unmarshal(d.Body, &iso); err != nil {
		return nil, err
	}
	blob, err := p.blob(ctx, "isolation.json", "headgate-isolation", iso)
	if err != nil {
		return nil, err
	}
	n := int64(len(iso.Probes))
	origin = gate.Origin{Samples: &n, Source: "isolation.json"}
	if iso.Inconclusive > 0 {
		origin.Broken = fmt.Sprintf("%d of %d isolation probes prove nothing", iso.Inconclusive, n)
	}
	in.Origins["tenant_scope_violations"], in.Origins["auth_bypass_findings"] = origin, origin
	in.Metrics["tenant_scope_violations"], in.Metrics["auth_bypass_findings"] = iso.TenantScopeViolations, iso.AuthBypassFindings
	return []evidence.Input{blob}, nil
}

// Contract is the runner of stage contract: it compares what stable and the
// candidate in staging say of themselves.
func (p *Plane) Contract(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.Result{}, err
	}
	if res, ok := p.healthy(ctx, s, r.StagingURL); !ok {
		return res, ctx.Err()
	}
	stable, err := fetch(ctx, r.Plan.Stable.URL+s.Contract.OpenAPIPath)
	if err != nil {
		return pipeline.Result{}, err
	}
	candidate, err := fetch(ctx, strings.TrimSuffix(r.StagingURL, "/")+s.Contract.OpenAPIPath)
	if err != nil {
		return pipeline.Result{}, err
	}
	res, err := contract.Compare(stable, candidate)
	if err != nil {
		return pipeline.Result{}, err
	}
	stableIn, err := p.rawBlob(ctx, "openapi-stable.json", "openapi", p.tool(), stable)
	if err != nil {
		return pipeline.Result{}, err
	}
	candidateIn, err := p.rawBlob(ctx, "openapi-candidate.json", "openapi", p.tool(), candidate)
	if err != nil {
		return pipeline.Result{}, err
	}
	now := p.o.Now().UTC()
	verdict := passFail(len(res.Breaking) == 0)
	out := pipeline.Result{Verdict: verdict, Summary: fmt.Sprintf("nothing that clients use has changed (%d warnings)", len(res.Warnings))}
	if verdict != headgate.Pass {
		first := res.Breaking[0]
		out.Reasons = []string{"CONTRACT_BREAKING_CHANGE"}
		out.Summary = fmt.Sprintf("%d breaking changes, first %s: %s", len(res.Breaking), first.Operation, first.Message)
	}
	_, err = p.state(ctx, named{r.ID, r.TenantID}, string(headgate.StageContract), evidence.Summary{Time: now, Verdict: verdict}, evidence.StageResult{
		StageRun: headgate.StageRun{
			ReleaseID: r.ID, Stage: headgate.StageContract, Attempt: r.Attempt, Verdict: verdict,
			Reasons: out.Reasons, Summary: out.Summary, StartedAt: r.StageStartedAt, EndedAt: now,
		},
		Time: now, Inputs: []evidence.Input{stableIn, candidateIn}, Facts: map[string]any{"changes": res}, MadeBy: p.tool(),
	})
	return out, err
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, headgate.Invalidf("%s is not a URL", url).Wrap(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "%s cannot be reached", url).Wrap(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "%s answers %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, contract.MaxBytes+1))
}

// Job is a replay that runs after a rollback, as GET /api/v1/jobs/{id} shows it.
type Job struct {
	JobID     string             `json:"job_id"`
	Kind      string             `json:"kind"`
	Status    rollback.JobStatus `json:"status"`
	ReleaseID string             `json:"release_id"`
	TenantID  string             `json:"tenant_id"`
	Failures  []string           `json:"failures,omitempty"`
}

// Job returns a job, JOB_NOT_FOUND for one that is not there or not the
// caller's to see.
func (p *Plane) Job(ctx context.Context, who access.Identity, id string) (Job, error) {
	var j Job
	d, ok, err := p.o.Store.Document(ctx, jobKind, id)
	if err == nil && ok {
		err = json.Unmarshal(d.Body, &j)
	}
	if err == nil && (!ok || !who.Sees(j.TenantID)) {
		err = headgate.Errorf(headgate.CodeJobNotFound, headgate.ClassBusinessRule, "there is no job of that id")
	}
	return j, err
}

// verifier runs the replay after a rollback.
type verifier struct {
	p *Plane
	s *Service
}

// Verify implements [rollback.Verifier].
func (v verifier) Verify(ctx context.Context, jobID string, r rollback.Rollback) (rollback.JobStatus, error) {
	job := Job{JobID: jobID, Kind: "replay", Status: rollback.JobRunning, ReleaseID: r.ReleaseID, TenantID: r.TenantID}
	if err := v.p.putDocument(ctx, jobKind, jobID, r.ReleaseID, r.TenantID, job); err != nil {
		return "", err
	}
	state, err := v.p.o.Store.Service(ctx, v.s.Name)
	if err != nil {
		return "", err
	}
	run, err := v.p.execute(ctx, v.s, state.Stable.URL, v.s.vars(v.s.Replay.Tenant))
	job.Status = rollback.JobFailed
	switch {
	case err != nil && ctx.Err() != nil:
		return "", err
	case err != nil:
		job.Failures = []string{headgate.AsError(err).Message}
	case run.Passed:
		job.Status = rollback.JobSucceeded
	default:
		job.Failures = failures(run)
	}
	if err == nil {
		if serr := v.p.stateReplay(ctx, named{r.ReleaseID, r.TenantID}, verificationCheck, run, nil); serr != nil {
			return "", serr
		}
	}
	return job.Status, v.p.putDocument(ctx, jobKind, jobID, r.ReleaseID, r.TenantID, job)
}

// retryVerification lets a rollback whose replay had failed try it again.
func (p *Plane) retryVerification(ctx context.Context, s *Service) error {
	active, err := p.o.Store.Active(ctx, s.Name)
	if err != nil {
		return err
	}
	for _, r := range active {
		if r.CompletedAt.IsZero() || r.Replay == nil || r.Replay.Status != rollback.JobFailed {
			continue
		}
		_, err := carry(ctx, p, func(ctx context.Context, told func(rollback.Rollback, error)) { told(s.Rollback.Resume(ctx, r.ID)) })
		if err != nil {
			return err
		}
	}
	return nil
}

func answeredAlike(sessions int) string {
	if sessions == 1 {
		return "1 session answered as stable does"
	}
	return fmt.Sprintf("%d sessions answered as stable does", sessions)
}
