package api

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/gate"
)

// ofService says whose rules are meant.
type ofService struct {
	Service string `query:"service" maxLength:"100" doc:"Whose rules; empty means those of every service without rules of its own."`
}

type rulesInput struct {
	ofService
	RawBody []byte `contentType:"application/octet-stream"`
}

type approveRulesInput struct {
	ofService
	Digest string `path:"digest" maxLength:"100"`
	Body   struct {
		Reason string `json:"reason" required:"true" minLength:"1" maxLength:"1000"`
	}
}

type backtestInput struct {
	Service string  `query:"service" maxLength:"100" doc:"Whose releases; empty means all."`
	SinceS  float64 `query:"since_s" required:"true" exclusiveMinimum:"0" maximum:"315360000" doc:"How far back, in seconds."`
	RawBody []byte  `contentType:"application/octet-stream"`
}

func (s *server) registerRules(a huma.API) {
	huma.Register(a, op(http.MethodGet, "/rules", "list-rules", "Every change of the rules, oldest first"),
		func(ctx context.Context, _ *struct{}) (*reply[[]control.RuleChange], error) {
			if _, err := must(ctx, access.Viewer); err != nil {
				return answer[[]control.RuleChange](ctx, nil, err)
			}
			all, err := s.Plane.RuleChanges(ctx)
			return answer(ctx, all, err)
		})
	huma.Register(a, op(http.MethodPost, "/rules", "propose-rules", "Put a rule file in force, or propose it when it loosens something"),
		func(ctx context.Context, in *rulesInput) (*reply[control.RuleChange], error) {
			who, err := must(ctx, access.Approver)
			if err != nil {
				return answer(ctx, control.RuleChange{}, err)
			}
			c, err := s.Plane.ProposeRules(ctx, who, in.Service, in.RawBody)
			return answer(ctx, c, err)
		})
	huma.Register(a, op(http.MethodPost, "/rules/{digest}/approve", "approve-rules", "Put rules that somebody else proposed in force"),
		func(ctx context.Context, in *approveRulesInput) (*reply[control.RuleChange], error) {
			who, err := must(ctx, access.Approver)
			if err != nil {
				return answer(ctx, control.RuleChange{}, err)
			}
			c, err := s.Plane.ApproveRules(ctx, who, in.Service, in.Digest, in.Body.Reason)
			return answer(ctx, c, err)
		})
	huma.Register(a, op(http.MethodPost, "/rules/backtest", "backtest-rules", "Judge past releases again under other rules"),
		func(ctx context.Context, in *backtestInput) (*reply[gate.ConfusionTable], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, gate.ConfusionTable{}, err)
			}
			t, err := s.Plane.BacktestRules(ctx, who, in.Service, in.RawBody, time.Duration(in.SinceS*float64(time.Second)))
			return answer(ctx, t, err)
		})
	huma.Register(a, op(http.MethodPost, "/alerts/backtest", "backtest-alerts", "Try alert thresholds on the metrics of past releases"),
		func(ctx context.Context, in *backtestInput) (*reply[alert.ConfusionTable], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, alert.ConfusionTable{}, err)
			}
			t, err := s.Plane.BacktestAlerts(ctx, who, in.Service, in.RawBody, time.Duration(in.SinceS*float64(time.Second)))
			return answer(ctx, t, err)
		})
	s.registerOverrides(a)
}

type overrideInput struct {
	ID   string `path:"id" maxLength:"100"`
	Body struct {
		Gate     headgate.Gate `json:"gate" required:"true" maxLength:"40" doc:"quality, performance, cost, rollout, rollback or ops; OVERRIDE_FORBIDDEN for security and replay."`
		Reason   string        `json:"reason" required:"true" minLength:"1" maxLength:"1000"`
		ExpiresS float64       `json:"expires_s" required:"true" exclusiveMinimum:"0" maximum:"86400" doc:"How long it lasts; the second person's may only shorten it."`
	}
}

type evaluateInput struct {
	ID   string        `path:"id" maxLength:"100"`
	Gate headgate.Gate `path:"gate"`
}

type bundleInput struct {
	ID      string `path:"id" maxLength:"100"`
	RawBody []byte `contentType:"text/plain"`
}

func (s *server) registerOverrides(a huma.API) {
	huma.Register(a, op(http.MethodPost, "/releases/{id}/overrides", "override-gate", "Ask to let a gate pass, or agree to what somebody else asked"),
		func(ctx context.Context, in *overrideInput) (*reply[control.Override], error) {
			who, err := must(ctx, access.Approver)
			if err != nil {
				return answer(ctx, control.Override{}, err)
			}
			o, err := s.Plane.Override(ctx, who, control.OverrideRequest{
				ReleaseID: in.ID, Gate: in.Body.Gate, Reason: in.Body.Reason, Expires: time.Duration(in.Body.ExpiresS * float64(time.Second)),
			})
			return answer(ctx, o, err)
		})
	huma.Register(a, op(http.MethodGet, "/releases/{id}/overrides", "list-overrides", "A release's overrides, oldest first"),
		func(ctx context.Context, in *releaseID) (*reply[[]control.Override], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer[[]control.Override](ctx, nil, err)
			}
			all, err := s.Plane.Overrides(ctx, who, in.ID)
			return answer(ctx, all, err)
		})
	huma.Register(a, op(http.MethodPost, "/releases/{id}/gates/{gate}/evaluate", "evaluate-release-gate", "Judge a gate on all that the server holds of a release"),
		func(ctx context.Context, in *evaluateInput) (*reply[control.Evaluation], error) {
			who, err := must(ctx, access.Releaser)
			if err != nil {
				return answer(ctx, control.Evaluation{}, err)
			}
			e, err := s.Plane.EvaluateRelease(ctx, who, in.ID, in.Gate)
			return answer(ctx, e, err)
		})
	bundle := op(http.MethodPost, "/releases/{id}/bundle", "release-bundle-from",
		"All evidence of a release as one ZIP file that continues the checkpoint in the body")
	bundle.Middlewares = huma.Middlewares{s.limitBundles}
	huma.Register(a, bundle,
		func(ctx context.Context, in *bundleInput) (*fileOutput, error) {
			return s.bundleFrom(ctx, in.ID, in.RawBody)
		})
}

// bundleFrom answers a bundle; with an earlier checkpoint, one that proves that
// the log continues it.
func (s *server) bundleFrom(ctx context.Context, id string, earlier []byte) (*fileOutput, error) {
	who, err := must(ctx, access.Viewer)
	if err != nil {
		return nil, failure(ctx, err)
	}
	var b bytes.Buffer
	if err := s.Plane.Bundle(ctx, who, id, earlier, &b); err != nil {
		return nil, failure(ctx, err)
	}
	return &fileOutput{
		ContentType: "application/zip", ContentDisposition: `attachment; filename="` + id + `.bundle.zip"`, Body: b.Bytes(),
	}, nil
}
