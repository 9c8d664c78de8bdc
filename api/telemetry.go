package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/telemetry"
)

type timelineInput struct {
	ID        string `query:"id" maxLength:"200" doc:"Any of the four below; they are tried in turn."`
	TraceID   string `query:"trace_id" maxLength:"200"`
	RequestID string `query:"request_id" maxLength:"200"`
	JobID     string `query:"job_id" maxLength:"200"`
	ErrorCode string `query:"error_code" maxLength:"200"`
	TenantID  string `query:"tenant_id" maxLength:"200"`
}

type errorsInput struct {
	ID     string `path:"id" maxLength:"100"`
	SinceS int    `query:"since_s" minimum:"0" maximum:"2592000" doc:"0 means since the canary began."`
}

func (s *server) registerTelemetry(a huma.API) {
	huma.Register(a, op(http.MethodGet, "/timeline", "timeline", "The story of one request from any of its identifiers"),
		func(ctx context.Context, in *timelineInput) (*reply[control.Story], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, control.Story{}, err)
			}
			if in.ID != "" {
				found, err := s.Plane.Story(ctx, who, in.ID, in.TenantID)
				return answer(ctx, found, err)
			}
			t, err := s.Plane.Timeline(ctx, who, telemetry.Query{
				TraceID: in.TraceID, RequestID: in.RequestID, JobID: in.JobID, ErrorCode: in.ErrorCode, TenantID: in.TenantID,
			})
			return answer(ctx, control.Story{Timeline: t}, err)
		})
	huma.Register(a, op(http.MethodGet, "/releases/{id}/routes", "release-routes", "What each route does on a release's candidate and on stable"),
		func(ctx context.Context, in *releaseID) (*reply[control.RouteReport], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, control.RouteReport{}, err)
			}
			rep, err := s.Plane.Routes(ctx, who, in.ID)
			return answer(ctx, rep, err)
		})
	huma.Register(a, op(http.MethodGet, "/releases/{id}/errors", "release-errors", "What fails more on a release than on stable"),
		func(ctx context.Context, in *errorsInput) (*reply[control.ErrorReport], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, control.ErrorReport{}, err)
			}
			rep, err := s.Plane.Errors(ctx, who, in.ID, time.Duration(in.SinceS)*time.Second)
			return answer(ctx, rep, err)
		})
}

// visibleTenant is the tenant whose metrics a request may see; "" is all.
func visibleTenant(r *http.Request) (string, error) {
	who, err := must(r.Context(), access.Viewer)
	if err != nil {
		return "", err
	}
	return who.Scope(r.Header.Get(tenantIDHeader))
}
