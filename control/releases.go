package control

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

// ReleaseRequest asks for a release to begin.
type ReleaseRequest struct {
	// ID makes the request repeatable; empty means a new one.
	ID      string            `json:"release_id,omitempty"`
	Service string            `json:"service,omitempty"`
	Version string            `json:"version"`
	Digest  string            `json:"digest"`
	Changes []headgate.Change `json:"changes,omitempty"`
	Source  headgate.Source   `json:"source,omitzero"`
	// StagingURL and CandidateURL default to the service's targets.
	StagingURL   string `json:"staging_url,omitempty"`
	CandidateURL string `json:"candidate_url,omitempty"`
	HighRisk     bool   `json:"high_risk,omitempty"`
}

// View is a release as people and clients see it.
type View struct {
	headgate.Release
	Phase pipeline.Phase `json:"phase"`
	Note  string         `json:"note,omitempty"`
	Share float64        `json:"share"`
	// ShareUnconfirmed says why it is not known that the routers give the
	// candidate that share, empty when they confirmed it at the last look.
	ShareUnconfirmed string `json:"share_unconfirmed,omitempty"`
	// Tiers are the steps by which the canary widens, in order.
	Tiers []TierView `json:"tiers"`
	// Evicted are the tenants that were taken off the candidate.
	Evicted   []pipeline.Evicted  `json:"evicted,omitempty"`
	Canary    *canary.Decision    `json:"canary,omitempty"`
	StageRuns []headgate.StageRun `json:"stage_runs"`
	// Deadline ends the present stage; zero for none.
	Deadline time.Time `json:"deadline,omitzero"`
	// Rollback is the last one of the release, nil for none. That of a release
	// which ended as promoted took it back afterwards.
	Rollback *rollback.Rollback `json:"rollback,omitempty"`
	Evidence int                `json:"evidence"`
}

// TierView is one step by which a canary widens.
type TierView struct {
	Tier             rollout.Tier `json:"tier"`
	Tenants          []string     `json:"tenants"`
	Share            float64      `json:"share"`
	SoakSeconds      float64      `json:"soak_s"`
	ApprovalRequired bool         `json:"approval_required,omitempty"`
	// State is "pending", "running", "passed" or "stopped".
	State string `json:"state"`
}

func tierViews(rec pipeline.Record) []TierView {
	out := []TierView{}
	for i, t := range rec.Plan.Tiers() {
		v := TierView{
			Tier: t.Name, Tenants: t.Tenants, Share: t.Share, SoakSeconds: t.Soak.Seconds(), ApprovalRequired: t.ApprovalRequired, State: "pending",
		}
		over := rec.Stage == headgate.StageFull || rec.Stage == headgate.StageFeedback
		switch {
		case i < rec.State.Tier, over && i == rec.State.Tier:
			v.State = "passed"
		case i > rec.State.Tier || !rec.State.Granted:
		case rec.Phase == pipeline.PhaseRunning:
			v.State = "running"
		default:
			v.State = "stopped"
		}
		out = append(out, v)
	}
	return out
}

var (
	idPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// CreateRelease begins a release.
func (p *Plane) CreateRelease(ctx context.Context, who access.Identity, req ReleaseRequest) (View, error) {
	s, err := p.Service(req.Service)
	if err != nil {
		return View{}, err
	}
	rel := headgate.Release{
		ID: req.ID, Service: s.Name, TenantID: who.TenantID, Version: req.Version, Changes: req.Changes,
		Source: headgate.Source{Commit: req.Source.Commit, Author: withoutSecrets(req.Source.Author), Link: withoutSecrets(req.Source.Link)},
		Digest: req.Digest, StagingURL: req.StagingURL, CandidateURL: req.CandidateURL, HighRisk: req.HighRisk,
	}
	if rel.ID == "" {
		rel.ID = headgate.NewID("rel")
	}
	if rel.StagingURL == "" {
		rel.StagingURL = s.Targets.Staging.URL
	}
	if rel.CandidateURL == "" {
		rel.CandidateURL = s.Targets.Candidate.URL
	}
	if err := checkRelease(s, rel); err != nil {
		return View{}, err
	}
	plan, err := p.plan(ctx, s, rel)
	if err != nil {
		return View{}, err
	}
	first := pipeline.Begin(rel, plan, p.o.Now().UTC())
	first.Events[0].Actor, first.Events[0].From = who.Name, who.From
	rec, err := p.o.Store.CreateRelease(ctx, first)
	if err != nil {
		return View{}, err
	}
	if !who.Sees(rec.TenantID) {
		return View{}, headgate.Errorf(headgate.CodeIdempotencyConflict, headgate.ClassBusinessRule,
			"the id %s is taken; choose a new one", rel.ID)
	}
	p.wake()
	p.Seal()
	return p.view(ctx, rec)
}

func checkRelease(s *Service, rel headgate.Release) error {
	switch {
	case !idPattern.MatchString(rel.ID):
		return headgate.Invalidf("release_id must be 1 to 100 letters, digits, dots, dashes or underscores")
	case rel.Version == "":
		return headgate.Invalidf("version is empty; name the version that is to be released")
	case !digestPattern.MatchString(rel.Digest):
		return headgate.Invalidf("digest must look like sha256:<64 hex digits>; it is what the build stage printed")
	case rel.StagingURL == "" || rel.CandidateURL == "":
		return headgate.Invalidf("staging_url and candidate_url say where the candidate answers; give them or set targets in headgate.yaml")
	}
	for _, c := range rel.Changes {
		if s.Components.Get(c.Component).Actuator.Kind == "" {
			return headgate.Invalidf("changes: component must be one of model_config, retrieval_params, workflow_version, release_version")
		}
	}
	if err := s.Targets.AllowCandidate(rel.StagingURL); err != nil {
		return err
	}
	return s.Targets.AllowCandidate(rel.CandidateURL)
}

// plan freezes what the description and the settings say now.
func (p *Plane) plan(ctx context.Context, s *Service, rel headgate.Release) (pipeline.Plan, error) {
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil {
		return pipeline.Plan{}, err
	}
	ro, err := rollout.NewPlan(rel.ID, s.Rollout.TenantWhitelist, s.Rollout.EnabledProjectSizes, s.Rollout.HighRiskHITL)
	if err != nil {
		return pipeline.Plan{}, err
	}
	cfg := canary.DefaultConfig()
	cfg.SLOErrorRate = s.Canary.SLOErrorRate
	cfg.KillErrorRate = s.Canary.KillErrorRate
	cfg.ConsecutiveThreshold = s.Canary.ConsecutiveThreshold
	tiers := s.tiers(ro)
	cfg.MinDurationSeconds = tiers[0].Soak.Seconds()
	cfg.WarmUpSeconds = min(cfg.WarmUpSeconds, cfg.MinDurationSeconds/3)
	cfg.BrokenGraceSeconds = s.Canary.BrokenGrace.Seconds()
	if cfg.Assignment = canary.Assignment(s.Canary.Assignment); cfg.Assignment == canary.WholeTenants {
		if cfg.Baseline, err = p.baseline(ctx, s, state.Stable.Version); err != nil {
			return pipeline.Plan{}, err
		}
	}
	if cfg.Cost.Bound, err = p.costBound(ctx, s, state.Stable.Version); err != nil {
		return pipeline.Plan{}, err
	}
	if err := cfg.Validate(); err != nil {
		return pipeline.Plan{}, err
	}
	plan := pipeline.Plan{
		Rollout: ro, Tenants: tiers[0].Tenants, Share: tiers[0].Share, Wider: tiers[1:], LeaseTTL: rollout.DefaultTTL,
		CanaryMax: s.Canary.MaxDuration, Canary: cfg, ApprovalRequired: s.Canary.ApprovalRequired || rel.HighRisk,
		OnBusy: pipeline.Busy(s.Rollout.OnBusy), StageTimeout: map[headgate.Stage]time.Duration{}, Stable: state.Stable,
	}
	for _, stage := range headgate.Stages() {
		plan.StageTimeout[stage] = s.Deadline(stage)
	}
	if len(plan.Tenants) == 0 {
		return plan, headgate.Invalidf("the rollout plan admits no tenant: none of the whitelisted ones has an enabled size")
	}
	return plan, nil
}

// sizes are the tenants' sizes.
func (s *Service) sizes() map[string]headgate.ProjectSize {
	out := map[string]headgate.ProjectSize{}
	for _, t := range s.Tenants {
		out[t.ID] = t.Size
	}
	return out
}

// tiers are those of a plan. One that would neither admit anybody nor give a
// larger share than the one before it is left out.
func (s *Service) tiers(ro rollout.Plan) []pipeline.Tier {
	var out []pipeline.Tier
	for _, t := range s.Rollout.Tiers {
		name := rollout.Tier(t.Tier)
		next := pipeline.Tier{
			Name: name, Tenants: ro.Widen(name, s.sizes()).Admitted(s.sizes()), Share: t.Share, Soak: t.Soak, ApprovalRequired: t.ApprovalRequired,
		}
		if s.Canary.Assignment == string(canary.WholeTenants) {
			next.Share = 1
		}
		if last := len(out) - 1; last >= 0 && len(next.Tenants) == len(out[last].Tenants) && next.Share == out[last].Share {
			continue
		}
		out = append(out, next)
	}
	return out
}

// baselineWindow is how far back whole tenants are compared with themselves.
const baselineWindow = time.Hour

// baseline is what each tenant did on stable in the last hour, which whole
// tenants are judged by.
func (p *Plane) baseline(ctx context.Context, s *Service, stable string) (map[string]canary.Shard, error) {
	scope := dictionary.Scope{Service: s.Name, Version: stable, Environment: s.Environments.Production, Window: baselineWindow}
	figure := func(name string) (map[string]float64, error) {
		q, err := p.o.Dictionary.QueryBy(name, scope, "tenant_id")
		if err != nil {
			return nil, err
		}
		out := map[string]float64{}
		return out, p.o.Figures.Each(ctx, q, p.o.Now(), func(labels map[string]string, v float64) { out[labels["tenant_id"]] = v })
	}
	rates, err := figure("api_request_rate")
	if err != nil {
		return nil, err
	}
	errors, err := figure("api_error_rate")
	if err != nil {
		return nil, err
	}
	out := map[string]canary.Shard{}
	for tenant, rate := range rates {
		requests := rate * baselineWindow.Seconds()
		if tenant == "" || !(requests >= 1) {
			continue
		}
		shard := canary.Shard{Requests: int64(requests)}
		if failed := errors[tenant]; failed > 0 {
			shard.Errors = min(int64(requests*failed+0.5), shard.Requests)
		}
		out[tenant] = shard
	}
	if len(out) == 0 {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassBusinessRule,
			"canary.assignment is whole_tenants, which compares tenants with themselves, and there is no telemetry of their requests to %s in the last hour; wait for it, or split inside tenants", stable)
	}
	return out, nil
}

// release returns a release that the caller may see.
func (p *Plane) release(ctx context.Context, who access.Identity, id string) (pipeline.Record, error) {
	rec, err := p.o.Store.Release(ctx, id)
	if err == nil && !who.Sees(rec.TenantID) {
		err = noRelease(id)
	}
	return rec, err
}

func noRelease(id string) error {
	return headgate.Errorf(headgate.CodeReleaseNotFound, headgate.ClassBusinessRule, "there is no release %s", id)
}

// Release returns a release.
func (p *Plane) Release(ctx context.Context, who access.Identity, id string) (View, error) {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return View{}, err
	}
	return p.view(ctx, rec)
}

// Releases returns the newest releases that the caller may see, newest first.
func (p *Plane) Releases(ctx context.Context, who access.Identity, service string, limit int) ([]headgate.Release, error) {
	if limit <= 0 || limit > 1000 {
		limit = 100
	}
	all, err := p.o.Store.Releases(ctx, service, limit, who.Tenants...)
	if err != nil {
		return nil, err
	}
	out := []headgate.Release{}
	for _, r := range all {
		if r.Outcome == headgate.Promoted {
			rollbacks, err := p.rollbacksOf(ctx, named{r.ID, r.TenantID})
			if err != nil {
				return nil, err
			}
			markTakenBack(&r.Release, rollbacks)
		}
		out = append(out, r.Release)
	}
	return out, nil
}

func markTakenBack(r *headgate.Release, rollbacks []rollback.Rollback) {
	if r.Outcome == headgate.Promoted && len(rollbacks) > 0 {
		r.Reasons = append(r.Reasons, ReasonTakenBack)
	}
}

func (p *Plane) view(ctx context.Context, rec pipeline.Record) (View, error) {
	runs, err := p.o.Store.StageRuns(ctx, rec.ID)
	if err != nil {
		return View{}, err
	}
	entries, _, err := p.statementsOf(ctx, rec.Release)
	if err != nil {
		return View{}, err
	}
	rollbacks, err := p.rollbacksOf(ctx, named{rec.ID, rec.TenantID})
	if err != nil {
		return View{}, err
	}
	v := View{
		Release: rec.Release, Phase: rec.Phase, Note: rec.State.Note, Share: rec.State.Share, ShareUnconfirmed: rec.State.Unconfirmed, Tiers: tierViews(rec), Evicted: rec.State.Evicted, Canary: rec.State.Canary,
		StageRuns: runs, Deadline: rec.DeadlineAt, Evidence: len(entries),
	}
	if n := len(rollbacks); n > 0 {
		v.Rollback = &rollbacks[n-1]
	}
	markTakenBack(&v.Release, rollbacks)
	return v, nil
}

// Events returns a release's trail after a sequence number. A release that was
// only ever named in requests has a trail, too: of what the caller may see.
func (p *Plane) Events(ctx context.Context, who access.Identity, id string, after int64, limit int) ([]EventRow, error) {
	of, err := p.reach(ctx, who, id)
	if err != nil {
		return nil, err
	}
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	rel, err := p.identity(ctx, of)
	if err != nil {
		return nil, err
	}
	q := EventQuery{ReleaseID: id, After: after, Limit: limit}
	if rel.Service != "" {
		q.TenantID = rel.TenantID
	}
	rows, err := p.o.Store.Events(ctx, q)
	if err != nil {
		return nil, err
	}
	seen := []EventRow{}
	for _, row := range rows {
		if who.Sees(row.TenantID) {
			seen = append(seen, row)
		}
	}
	if len(seen) == 0 && after == 0 {
		return nil, noRelease(id)
	}
	return seen, nil
}

// StageReport is what a client says about a stage that it ran.
type StageReport struct {
	Verdict headgate.Verdict `json:"verdict"`
	Summary string           `json:"summary,omitempty"`
}

// ReportStage records how build or test went at the client.
func (p *Plane) ReportStage(ctx context.Context, who access.Identity, id string, stage headgate.Stage, rep StageReport) error {
	if stage != headgate.StageBuild && stage != headgate.StageTest {
		return headgate.Invalidf("only build and test are reported; the server runs the other stages itself")
	}
	if rep.Verdict != headgate.Pass && rep.Verdict != headgate.Fail {
		return headgate.Invalidf("verdict must be pass or fail")
	}
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return err
	}
	summary := shorten(rep.Summary)
	return p.signal(ctx, id,
		pipeline.Fact{Kind: pipeline.FactStageResult, Stage: stage, Verdict: rep.Verdict, Summary: summary, Actor: who.Name, From: who.From},
		headgate.Event{
			Kind: "stage_reported", ReleaseID: id, Service: rec.Service, TenantID: rec.TenantID, Actor: who.Name, From: who.From,
			Stage: stage, Verdict: rep.Verdict, Message: summary,
		})
}

// shorten cuts a text for the trail to a thousand bytes.
func shorten(text string) string {
	if len(text) <= 1000 {
		return text
	}
	return strings.ToValidUTF8(text[:1000], "") + "…"
}

// Approve lets a release that waits for a person go on. It is
// NOTHING_TO_APPROVE when [pipeline.CheckApproval] says so.
func (p *Plane) Approve(ctx context.Context, who access.Identity, id, reason string) error {
	if err := giveReason(&reason); err != nil {
		return err
	}
	seen := p.o.Now().UTC() // of what is approved: a tier that begins later is not
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return err
	}
	facts, err := p.o.Store.Facts(ctx, id)
	if err != nil {
		return err
	}
	if err := pipeline.CheckApproval(rec, facts); err != nil && !rec.Done() {
		return err
	}
	return p.signal(ctx, id, pipeline.Fact{Kind: pipeline.FactApproval, Actor: who.Name, From: who.From, Reason: reason, At: seen},
		headgate.Event{
			Kind: "release_approved", ReleaseID: id, Service: rec.Service, TenantID: rec.TenantID,
			Actor: who.Name, From: who.From, Reason: reason, Stage: rec.Stage,
		})
}

// Abort stops a release; under user traffic that is a rollback.
func (p *Plane) Abort(ctx context.Context, who access.Identity, id, reason string) error {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return err
	}
	return p.stop(ctx, who, &rec, pipeline.FactAbort, reason)
}

func (p *Plane) stop(ctx context.Context, who access.Identity, rec *pipeline.Record, kind pipeline.FactKind, reason string) error {
	if err := giveReason(&reason); err != nil {
		return err
	}
	told := fmt.Sprintf("%s_requested", kind)
	if rec.Phase == pipeline.PhaseRollingBack {
		told = rollbackJoined
	}
	return p.signal(ctx, rec.ID, pipeline.Fact{Kind: kind, Actor: who.Name, From: who.From, Reason: reason},
		headgate.Event{
			Kind: told, ReleaseID: rec.ID, Service: rec.Service, TenantID: rec.TenantID,
			Actor: who.Name, From: who.From, Reason: reason, Stage: rec.Stage,
		})
}

func (p *Plane) signal(ctx context.Context, id string, f pipeline.Fact, ev headgate.Event) error {
	ev.Time = p.o.Now().UTC()
	if f.At.IsZero() {
		f.At = ev.Time
	}
	f.Summary = withoutSecrets(f.Summary)
	if err := p.o.Store.Signal(ctx, id, f, ev); err != nil {
		return err
	}
	p.wake()
	p.Seal()
	return nil
}
