package api

import (
	"context"
	"net/http"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

type gateRequest struct {
	ReleaseID string         `json:"release_id" maxLength:"100" doc:"Makes the result evidence of this release."`
	DatasetID string         `json:"dataset_id" required:"true" minLength:"1" doc:"The dataset or run on which the metrics were measured."`
	Metrics   map[string]any `json:"metrics" required:"true" doc:"The gate's metrics; see docs/gates.md."`
}

// maxReleaseID is the maxLength of every release_id.
const maxReleaseID = 100

func (s *server) registerGates(a huma.API) {
	for _, g := range headgate.GateD() {
		o := op(http.MethodPost, "/internal/"+string(g)+"-gates/evaluate", "evaluate-"+string(g)+"-gate", "Judge the "+string(g)+" gate")
		o.SkipValidateBody = true // the judge looks at all of it, and reading it twice took longer than judging
		huma.Register(a, o, func(ctx context.Context, in *bodyOf[gateRequest]) (*reply[gate.Result], error) {
			if utf8.RuneCountInString(in.Body.ReleaseID) > maxReleaseID {
				return answer(ctx, gate.Result{}, headgate.Invalidf("body.release_id: is longer than %d characters", maxReleaseID))
			}
			res, err := s.Plane.EvaluateGate(ctx, caller(ctx), g, control.GateRequest{
				ReleaseID: in.Body.ReleaseID, DatasetID: in.Body.DatasetID, Metrics: in.Body.Metrics,
			})
			return answer(ctx, res, err)
		})
	}
}

type planRequest struct {
	ReleaseID       string                 `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	TenantWhitelist []string               `json:"tenant_whitelist" required:"true" minItems:"1" maxItems:"10000"`
	EnabledSizes    []headgate.ProjectSize `json:"enabled_project_sizes" required:"true" minItems:"1" doc:"Any of small, medium, large."`
	EnforceHITL     *bool                  `json:"high_risk_hitl_enforced" doc:"Default true."`
}

type decisionRequest struct {
	ReleaseID   string               `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	TenantID    string               `json:"tenant_id" required:"true" minLength:"1" maxLength:"200"`
	ProjectSize headgate.ProjectSize `json:"project_size" required:"true" enum:"small,medium,large"`
	HighRisk    bool                 `json:"high_risk"`
}

type rollbackRequest struct {
	ReleaseID string            `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	Threshold *int              `json:"consecutive_threshold" minimum:"1" doc:"Default 2."`
	Breaches  []headgate.Breach `json:"breaches" required:"true" minItems:"1"`
}

type replayRequest struct {
	ReleaseID  string  `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	ProjectID  string  `json:"project_id" required:"true" minLength:"1" maxLength:"200"`
	SupplierID string  `json:"supplier_id" required:"true" minLength:"1" maxLength:"200"`
	DocType    *string `json:"doc_type" minLength:"1" maxLength:"100" doc:"Default bid."`
	ForceHITL  *bool   `json:"force_hitl" doc:"Default true."`
	Decision   *string `json:"decision" enum:"approve,reject,edit_scores" doc:"Default approve."`
}

func (s *server) registerRollout(a huma.API) {
	huma.Register(a, op(http.MethodPost, "/internal/release/rollout/plan", "plan-rollout", "Say which tenants and sizes a release may reach"),
		func(ctx context.Context, in *bodyOf[planRequest]) (*reply[rollout.Plan], error) {
			b := in.Body
			plan, err := rollout.NewPlan(b.ReleaseID, b.TenantWhitelist, b.EnabledSizes, or(b.EnforceHITL, true))
			if err == nil {
				err = s.Plane.PutPlan(ctx, caller(ctx), plan)
			}
			return answer(ctx, plan, err)
		})
	huma.Register(a, op(http.MethodPost, "/internal/release/rollout/decision", "decide-rollout", "Say whether a request may meet the candidate"),
		func(ctx context.Context, in *bodyOf[decisionRequest]) (*reply[rollout.Decision], error) {
			b := in.Body
			d, err := s.Plane.Decide(ctx, caller(ctx), b.ReleaseID, rollout.Subject{TenantID: b.TenantID, ProjectSize: b.ProjectSize, HighRisk: b.HighRisk})
			return answer(ctx, d, err)
		})
	huma.Register(a, op(http.MethodPost, "/internal/release/rollback/execute", "execute-rollback", "Roll a release back when a breach has lasted"),
		func(ctx context.Context, in *bodyOf[rollbackRequest]) (*reply[rollback.Result], error) {
			b := in.Body
			res, err := s.Plane.ExecuteRollback(ctx, caller(ctx), control.RollbackRequest{
				ReleaseID: b.ReleaseID, ConsecutiveThreshold: or(b.Threshold, 2), Breaches: b.Breaches,
			})
			return answer(ctx, res, err)
		})
	huma.Register(a, op(http.MethodPost, "/internal/release/replay/e2e", "replay", "Replay the service's recorded sessions"),
		func(ctx context.Context, in *bodyOf[replayRequest]) (*reply[control.ReplayResult], error) {
			b := in.Body
			res, err := s.Plane.ReplayE2E(ctx, caller(ctx), control.ReplayRequest{
				ReleaseID: b.ReleaseID, ProjectID: b.ProjectID, SupplierID: b.SupplierID,
				DocType: or(b.DocType, "bid"), ForceHITL: or(b.ForceHITL, true), Decision: or(b.Decision, "approve"),
			})
			return answer(ctx, res, err)
		})
}

type readinessRequest struct {
	ReleaseID      string                 `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	DatasetVersion string                 `json:"dataset_version" doc:"Without one the release is not admitted."`
	ReplayPassed   *bool                  `json:"replay_passed" doc:"Required by readiness/evaluate; false by default in pipeline/execute."`
	GateResults    map[headgate.Gate]bool `json:"gate_results" doc:"A missing gate counts as failed."`
}

func (r readinessRequest) request() control.ReadinessRequest {
	return control.ReadinessRequest{
		ReleaseID: r.ReleaseID, DatasetVersion: r.DatasetVersion, ReplayPassed: or(r.ReplayPassed, false), GateResults: r.GateResults,
	}
}

func (s *server) registerReadiness(a huma.API) {
	huma.Register(a, op(http.MethodPost, "/internal/release/readiness/evaluate", "evaluate-readiness", "Assess a release over seven gates and the replay"),
		func(ctx context.Context, in *bodyOf[readinessRequest]) (*reply[gate.Assessment], error) {
			if in.Body.ReplayPassed == nil {
				return answer(ctx, gate.Assessment{}, headgate.Invalidf("body.replay_passed: is required"))
			}
			res, err := s.Plane.EvaluateReadiness(ctx, caller(ctx), in.Body.request())
			return answer(ctx, res, err)
		})
	huma.Register(a, op(http.MethodPost, "/internal/release/pipeline/execute", "execute-pipeline", "Say whether a release is ready, and how it would go on"),
		func(ctx context.Context, in *bodyOf[readinessRequest]) (*reply[control.Execution], error) {
			res, err := s.Plane.ExecutePipeline(ctx, caller(ctx), in.Body.request())
			return answer(ctx, res, err)
		})
}

type feedbackRequest struct {
	ReleaseID   string   `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	DLQIDs      []string `json:"dlq_ids" maxItems:"10000" doc:"Empty takes all of the tenant's."`
	VersionBump *string  `json:"version_bump" enum:"major,minor,patch" doc:"Default patch."`
	Overrides   *bool    `json:"include_manual_override_candidates" doc:"Default true."`
}

type strategyRequest struct {
	ReleaseID string `json:"release_id" required:"true" minLength:"1" maxLength:"100"`
	Selector  struct {
		RiskMixThreshold *float64 `json:"risk_mix_threshold" required:"true" minimum:"0" maximum:"1"`
		RelationMode     string   `json:"relation_mode" required:"true" enum:"local,global,hybrid,mix"`
	} `json:"selector" required:"true"`
	ScoreCalibration struct {
		ConfidenceScale *float64 `json:"confidence_scale" required:"true" exclusiveMinimum:"0"`
		ScoreBias       *float64 `json:"score_bias" required:"true"`
	} `json:"score_calibration" required:"true"`
	ToolPolicy struct {
		RequireDoubleApprovalActions []string `json:"require_double_approval_actions"`
		AllowedTools                 []string `json:"allowed_tools"`
	} `json:"tool_policy" required:"true"`
}

type summaryInput struct {
	Queue string `query:"queue_name" default:"jobs" maxLength:"100"`
}

func (s *server) registerOps(a huma.API) {
	huma.Register(a, op(http.MethodPost, "/internal/ops/data-feedback/run", "run-data-feedback", "Turn dead letters and overrides into the next dataset version"),
		func(ctx context.Context, in *bodyOf[feedbackRequest]) (*reply[feedback.Result], error) {
			b := in.Body
			res, err := s.Plane.RunFeedback(ctx, caller(ctx), feedback.Request{
				ReleaseID: b.ReleaseID, DLQIDs: b.DLQIDs, VersionBump: or(b.VersionBump, "patch"), IncludeOverrides: b.Overrides,
			})
			return answer(ctx, res, err)
		})
	huma.Register(a, op(http.MethodPost, "/internal/ops/strategy-tuning/apply", "apply-strategy", "Make a strategy the tenant's next version"),
		func(ctx context.Context, in *bodyOf[strategyRequest]) (*reply[feedback.Strategy], error) {
			b := in.Body
			req := feedback.StrategyRequest{ReleaseID: b.ReleaseID}
			req.Selector.RiskMixThreshold, req.Selector.RelationMode = b.Selector.RiskMixThreshold, b.Selector.RelationMode
			req.ScoreCalibration.ConfidenceScale, req.ScoreCalibration.ScoreBias = b.ScoreCalibration.ConfidenceScale, b.ScoreCalibration.ScoreBias
			req.ToolPolicy = feedback.ToolPolicy{
				RequireDoubleApprovalActions: b.ToolPolicy.RequireDoubleApprovalActions, AllowedTools: b.ToolPolicy.AllowedTools,
			}
			res, err := s.Plane.ApplyStrategy(ctx, caller(ctx), req)
			return answer(ctx, res, err)
		})
	huma.Register(a, op(http.MethodGet, "/internal/ops/metrics/summary", "metrics-summary", "The tenant's figures"),
		func(ctx context.Context, in *summaryInput) (*reply[map[string]any], error) {
			res, err := s.Plane.Summary(ctx, caller(ctx), in.Queue)
			return answer(ctx, res, err)
		})
}

// or is what a pointer points to, or the default.
func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
