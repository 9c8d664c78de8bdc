package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

type quarantineInput struct {
	Service string `query:"service" maxLength:"100" doc:"Empty means all."`
}

type releaseQuarantineInput struct {
	Digest string `path:"digest" maxLength:"100"`
	Body   struct {
		Service string `json:"service" maxLength:"100" doc:"May be empty where the digest is in quarantine for one service alone."`
		Reason  string `json:"reason" required:"true" minLength:"1" maxLength:"1000"`
	}
}

func (s *server) registerQuarantine(a huma.API) {
	huma.Register(a, op(http.MethodGet, "/quarantine", "list-quarantine", "Digests that were rolled back and are not released again, oldest first"),
		func(ctx context.Context, in *quarantineInput) (*reply[[]control.Quarantined], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer[[]control.Quarantined](ctx, nil, err)
			}
			all, err := s.Plane.Quarantine(ctx, who, in.Service)
			return answer(ctx, all, err)
		})
	huma.Register(a, op(http.MethodPost, "/quarantine/{digest}/release", "release-quarantine", "Ask to release a digest, or agree to what somebody else asked"),
		func(ctx context.Context, in *releaseQuarantineInput) (*reply[control.Quarantined], error) {
			who, err := must(ctx, access.Approver)
			if err != nil {
				return answer(ctx, control.Quarantined{}, err)
			}
			q, err := s.Plane.ReleaseQuarantine(ctx, who, in.Body.Service, in.Digest, in.Body.Reason)
			return answer(ctx, q, err)
		})
}
