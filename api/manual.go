package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

type shareInput struct {
	ID   string `path:"id" maxLength:"100"`
	Body struct {
		Share  float64 `json:"share" required:"true" exclusiveMinimum:"0" maximum:"1" doc:"Part of the admitted tenants' sessions. The judge's limit stays below it."`
		Reason string  `json:"reason" required:"true" minLength:"1" maxLength:"1000"`
	}
}

// registerManual lets people steer a canary.
func (s *server) registerManual(a huma.API) {
	by := func(role access.Role, name, id, summary string, do func(context.Context, access.Identity, string, string) error) {
		huma.Register(a, op(http.MethodPost, "/releases/{id}/"+name, id, summary), func(ctx context.Context, in *reasonInput) (*reply[control.View], error) {
			return s.act(ctx, role, in.ID, func(who access.Identity) error { return do(ctx, who, in.ID, in.Body.Reason) })
		})
	}
	by(access.Releaser, "pause", "pause-release", "Keep a canary from being promoted; it is judged on", s.Plane.Pause)
	by(access.Releaser, "resume", "resume-release", "Let a paused release go on", s.Plane.Resume)
	by(access.Approver, "promote", "promote-release", "End a canary that nothing speaks against in the candidate's favour", s.Plane.Promote)
	huma.Register(a, op(http.MethodPost, "/releases/{id}/rollback", "roll-back-release", "Take a release back wherever it is, also after it was promoted"),
		func(ctx context.Context, in *reasonInput) (*reply[control.View], error) {
			who, err := must(ctx, access.Releaser)
			if err != nil {
				return answer(ctx, control.View{}, err)
			}
			v, err := s.Plane.RollBack(ctx, who, in.ID, in.Body.Reason)
			return answer(ctx, v, err)
		})
	huma.Register(a, op(http.MethodPost, "/releases/{id}/share", "set-release-share", "Set a canary's share, below its judge's limit"),
		func(ctx context.Context, in *shareInput) (*reply[control.View], error) {
			return s.act(ctx, access.Releaser, in.ID, func(who access.Identity) error {
				return s.Plane.SetShare(ctx, who, in.ID, in.Body.Share, in.Body.Reason)
			})
		})
}
