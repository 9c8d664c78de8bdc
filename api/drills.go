package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

type serviceInput struct {
	Service string `path:"service" maxLength:"100"`
}

type drillInput struct {
	Service string `path:"service" maxLength:"100"`
	Body    struct {
		Reason string `json:"reason" required:"true" minLength:"1" maxLength:"1000"`
	}
}

func (s *server) registerDrills(a huma.API) {
	huma.Register(a, op(http.MethodGet, "/services/{service}/rollback-drills", "rollback-drills", "The last rehearsals of a rollback, and whether one is overdue"),
		func(ctx context.Context, in *serviceInput) (*reply[control.Drills], error) {
			if _, err := must(ctx, access.Viewer); err != nil {
				return answer(ctx, control.Drills{}, err)
			}
			all, err := s.Plane.Drills(ctx, in.Service)
			return answer(ctx, all, err)
		})
	huma.Register(a, op(http.MethodPost, "/services/{service}/rollback-drills", "drill-rollback", "Rehearse a rollback, and answer when that has ended"),
		func(ctx context.Context, in *drillInput) (*reply[control.Drill], error) {
			who, err := must(ctx, access.Releaser)
			if err != nil {
				return answer(ctx, control.Drill{}, err)
			}
			d, err := s.Plane.DrillRollback(ctx, who, in.Service, in.Body.Reason)
			return answer(ctx, d, err)
		})
}
