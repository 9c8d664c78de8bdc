package control

import (
	"context"
	"fmt"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/pipeline"
)

// newLoop makes the feedback loop of a service, which reads what went wrong
// from the service's own API.
func (p *Plane) newLoop(s *Service) *feedback.Loop {
	return feedback.New(feedback.Config{
		Service: s.Name, Store: p.o.Store, Freeze: p, Now: p.o.Now,
		Source: knownTenants{s, feedback.HTTPSource{
			BaseURL: s.Targets.Stable.URL, Credential: s.Credential,
			DeadLetter: feedback.Listing{Path: s.Service.Feedback.DLQPath, Items: "data.items", ID: "dlq_id"},
			Review:     feedback.Listing{Path: s.Service.Feedback.ReviewsPath, Items: "data.items", ID: "review_id", Decision: "decision"},
		}},
	})
}

// knownTenants is a source that holds nothing for tenants whom the service
// does not know: they cannot have left anything there.
type knownTenants struct {
	s      *Service
	source feedback.HTTPSource
}

// DeadLetters implements [feedback.Source].
func (k knownTenants) DeadLetters(ctx context.Context, tenant string) ([]feedback.Item, error) {
	if k.s.Credential(tenant) == "" {
		return nil, nil
	}
	return k.source.DeadLetters(ctx, tenant)
}

// Reviews implements [feedback.Source].
func (k knownTenants) Reviews(ctx context.Context, tenant string) ([]feedback.Item, error) {
	if k.s.Credential(tenant) == "" {
		return nil, nil
	}
	return k.source.Reviews(ctx, tenant)
}

func (p *Plane) loopOf(ctx context.Context, who access.Identity, releaseID string) (*feedback.Loop, string, error) {
	if _, err := p.reach(ctx, who, releaseID); err != nil {
		return nil, "", err
	}
	s, _, err := p.serviceOf(ctx, releaseID)
	if err != nil {
		return nil, "", err
	}
	return s.Feedback, s.Name, nil
}

// RunFeedback adds what went wrong for the caller's tenant to its dataset.
func (p *Plane) RunFeedback(ctx context.Context, who access.Identity, req feedback.Request) (feedback.Result, error) {
	loop, service, err := p.loopOf(ctx, who, req.ReleaseID)
	if err != nil {
		return feedback.Result{}, err
	}
	res, err := loop.Run(ctx, who.TenantID, req)
	if err != nil {
		return res, err
	}
	return res, p.record(ctx, "", headgate.Event{
		Kind: "data_feedback_run", ReleaseID: req.ReleaseID, Service: service, TenantID: who.TenantID, Actor: who.Name, From: who.From,
		Message: fmt.Sprintf("dataset %s → %s", res.Before, res.After),
	})
}

// ApplyStrategy makes a strategy the caller's tenant's next version.
func (p *Plane) ApplyStrategy(ctx context.Context, who access.Identity, req feedback.StrategyRequest) (feedback.Strategy, error) {
	loop, service, err := p.loopOf(ctx, who, req.ReleaseID)
	if err != nil {
		return feedback.Strategy{}, err
	}
	st, err := loop.Apply(ctx, who.TenantID, req)
	if err != nil {
		return st, err
	}
	return st, p.record(ctx, "", headgate.Event{
		Kind: "strategy_applied", ReleaseID: req.ReleaseID, Service: service, TenantID: who.TenantID, Actor: who.Name, From: who.From,
		Message: st.Version,
	})
}

// GateF is the runner of stage feedback: every tenant of the service gets its
// next dataset version, with what the release taught.
func (p *Plane) GateF(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.Result{}, err
	}
	var counter, gold int
	for _, t := range s.Tenants {
		res, err := s.Feedback.Run(ctx, t.ID, feedback.Request{ReleaseID: r.ID, Key: r.ID})
		if err != nil {
			return pipeline.Result{}, err
		}
		counter += res.CounterexampleAdded
		gold += res.GoldCandidatesAdded
		if err := p.carryStrategy(ctx, s, t.ID, r.ID); err != nil {
			return pipeline.Result{}, err
		}
	}
	return pipeline.Result{
		Verdict: headgate.Pass,
		Summary: fmt.Sprintf("%d counterexamples and %d gold candidates for %d tenants", counter, gold, len(s.Tenants)),
	}, nil
}

// carryStrategy gives a tenant its next strategy version: every release makes
// one, and without a change it is the one before under a new number.
func (p *Plane) carryStrategy(ctx context.Context, s *Service, tenant, releaseID string) error {
	last, ok, err := p.o.Store.Strategy(ctx, feedback.Scope{Service: s.Name, TenantID: tenant})
	if err != nil || (ok && last.ReleaseID == releaseID) {
		return err
	}
	req := feedback.StrategyRequest{ReleaseID: releaseID}
	threshold, scale, bias := 0.5, 1.0, 0.0
	req.Selector.RelationMode = "hybrid"
	if ok {
		threshold, scale, bias = last.Selector.RiskMixThreshold, last.ScoreCalibration.ConfidenceScale, last.ScoreCalibration.ScoreBias
		req.Selector.RelationMode = last.Selector.RelationMode
		req.ToolPolicy = last.ToolPolicy
	}
	req.Selector.RiskMixThreshold = &threshold
	req.ScoreCalibration.ConfidenceScale, req.ScoreCalibration.ScoreBias = &scale, &bias
	_, err = s.Feedback.Apply(ctx, tenant, req)
	return err
}
