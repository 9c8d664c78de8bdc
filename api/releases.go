package api

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

type releaseID struct {
	ID string `path:"id" maxLength:"100"`
}

type releaseRequest struct {
	ID           string            `json:"release_id" maxLength:"100" doc:"Makes the request repeatable; empty means a new one."`
	Service      string            `json:"service" maxLength:"100" doc:"Empty means the only one there is."`
	Version      string            `json:"version" required:"true" minLength:"1" maxLength:"100"`
	Digest       string            `json:"digest" required:"true" doc:"sha256:<hex> of what runs."`
	Changes      []headgate.Change `json:"changes"`
	Source       headgate.Source   `json:"source"`
	StagingURL   string            `json:"staging_url"`
	CandidateURL string            `json:"candidate_url"`
	HighRisk     bool              `json:"high_risk"`
}

type listInput struct {
	Service string `query:"service" maxLength:"100"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type eventsInput struct {
	ID    string `path:"id" maxLength:"100"`
	After int64  `query:"after" minimum:"0"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
	WaitS int    `query:"wait_s" minimum:"0" maximum:"30" doc:"How long to wait for a new event."`
}

type stageInput struct {
	ID    string         `path:"id" maxLength:"100"`
	Stage headgate.Stage `path:"stage"`
	Body  struct {
		Verdict headgate.Verdict `json:"verdict" required:"true" enum:"pass,fail"`
		Summary string           `json:"summary" maxLength:"10000"`
	}
}

type reportInput struct {
	ID      string        `path:"id" maxLength:"100"`
	Gate    headgate.Gate `query:"gate" required:"true" enum:"quality,performance,security,cost"`
	Format  string        `query:"format" maxLength:"50" doc:"Empty means that it is recognised from the content."`
	Name    string        `query:"name" required:"true" minLength:"1" maxLength:"200"`
	Columns []string      `query:"columns" doc:"metric=column pairs"`
	RawBody []byte        `contentType:"application/octet-stream"`
}

type reasonInput struct {
	ID   string `path:"id" maxLength:"100"`
	Body struct {
		Reason string `json:"reason" required:"true" minLength:"1" maxLength:"1000"`
	}
}

func (s *server) registerReleases(a huma.API) {
	create := op(http.MethodPost, "/releases", "create-release", "Begin a release")
	create.DefaultStatus = http.StatusCreated
	huma.Register(a, create, func(ctx context.Context, in *bodyOf[releaseRequest]) (*reply[control.View], error) {
		who, err := must(ctx, access.Releaser)
		if err != nil {
			return answer(ctx, control.View{}, err)
		}
		v, err := s.Plane.CreateRelease(ctx, who, control.ReleaseRequest(in.Body))
		return answer(ctx, v, err)
	})
	huma.Register(a, op(http.MethodGet, "/releases", "list-releases", "The newest releases"),
		func(ctx context.Context, in *listInput) (*reply[[]headgate.Release], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer[[]headgate.Release](ctx, nil, err)
			}
			all, err := s.Plane.Releases(ctx, who, in.Service, in.Limit)
			return answer(ctx, all, err)
		})
	huma.Register(a, op(http.MethodGet, "/releases/{id}", "get-release", "A release"),
		func(ctx context.Context, in *releaseID) (*reply[control.View], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, control.View{}, err)
			}
			v, err := s.Plane.Release(ctx, who, in.ID)
			return answer(ctx, v, err)
		})
	huma.Register(a, op(http.MethodGet, "/releases/{id}/events", "release-events", "A release's decision trail"), s.events)
	huma.Register(a, op(http.MethodPost, "/releases/{id}/stages/{stage}", "report-stage", "Report how build or test went at the client"),
		func(ctx context.Context, in *stageInput) (*reply[control.View], error) {
			return s.act(ctx, access.Releaser, in.ID, func(who access.Identity) error {
				return s.Plane.ReportStage(ctx, who, in.ID, in.Stage, control.StageReport(in.Body))
			})
		})
	add := op(http.MethodPost, "/releases/{id}/evidence", "add-evidence", "Add a tool's report as an input of a gate")
	add.MaxBodyBytes, add.Middlewares = maxReportBody, huma.Middlewares{s.limitReports}
	huma.Register(a, add, s.addReport)
	huma.Register(a, op(http.MethodPost, "/releases/{id}/approve", "approve-release", "Let a release that waits for a person go on"),
		func(ctx context.Context, in *reasonInput) (*reply[control.View], error) {
			return s.act(ctx, access.Approver, in.ID, func(who access.Identity) error {
				return s.Plane.Approve(ctx, who, in.ID, in.Body.Reason)
			})
		})
	huma.Register(a, op(http.MethodPost, "/releases/{id}/abort", "abort-release", "Stop a release; under user traffic that is a rollback"),
		func(ctx context.Context, in *reasonInput) (*reply[control.View], error) {
			return s.act(ctx, access.Releaser, in.ID, func(who access.Identity) error {
				return s.Plane.Abort(ctx, who, in.ID, in.Body.Reason)
			})
		})
	s.registerManual(a)
	huma.Register(a, op(http.MethodGet, "/jobs/{id}", "get-job", "A replay that runs after a rollback"),
		func(ctx context.Context, in *releaseID) (*reply[control.Job], error) {
			who, err := must(ctx, access.Viewer)
			if err != nil {
				return answer(ctx, control.Job{}, err)
			}
			j, err := s.Plane.Job(ctx, who, in.ID)
			return answer(ctx, j, err)
		})
	bundle := op(http.MethodGet, "/releases/{id}/bundle", "release-bundle", "All evidence of a release as one ZIP file")
	bundle.Middlewares = huma.Middlewares{s.limitBundles}
	huma.Register(a, bundle, s.bundle)
	huma.Register(a, op(http.MethodGet, "/evidence/checkpoint", "evidence-checkpoint", "The evidence log's signed size and root"), s.checkpoint)
}

// act does something to a release and answers how it stands.
func (s *server) act(ctx context.Context, role access.Role, id string, do func(access.Identity) error) (*reply[control.View], error) {
	who, err := must(ctx, role)
	if err == nil {
		err = do(who)
	}
	if err != nil {
		return answer(ctx, control.View{}, err)
	}
	v, err := s.Plane.Release(ctx, who, id)
	return answer(ctx, v, err)
}

func (s *server) addReport(ctx context.Context, in *reportInput) (*reply[control.Report], error) {
	who, err := must(ctx, access.Releaser)
	if err != nil {
		return answer(ctx, control.Report{}, err)
	}
	columns := map[string]string{}
	for _, c := range in.Columns {
		metric, column, ok := strings.Cut(c, "=")
		if !ok {
			return answer(ctx, control.Report{}, headgate.Invalidf("columns: want metric=column pairs"))
		}
		columns[metric] = column
	}
	rep, err := s.Plane.AddReport(ctx, who, in.ID, in.Gate, in.Format, in.Name, columns, bytes.NewReader(in.RawBody))
	return answer(ctx, rep, err)
}

// eventPoll is how often a waiting request looks for a new event.
const eventPoll = 100 * time.Millisecond

func (s *server) events(ctx context.Context, in *eventsInput) (*reply[[]control.EventRow], error) {
	who, err := must(ctx, access.Viewer)
	if err != nil {
		return answer[[]control.EventRow](ctx, nil, err)
	}
	until := time.Now().Add(time.Duration(in.WaitS) * time.Second)
	for {
		rows, err := s.Plane.Events(ctx, who, in.ID, in.After, in.Limit)
		if err != nil || len(rows) > 0 || !time.Now().Before(until) {
			return answer(ctx, rows, err)
		}
		select {
		case <-ctx.Done():
			return answer(ctx, rows, ctx.Err())
		case <-time.After(eventPoll):
		}
	}
}

type fileOutput struct {
	ContentType        string `header:"Content-Type"`
	ContentDisposition string `header:"Content-Disposition"`
	Body               []byte
}

func (s *server) bundle(ctx context.Context, in *releaseID) (*fileOutput, error) {
	return s.bundleFrom(ctx, in.ID, nil)
}

func (s *server) checkpoint(ctx context.Context, _ *struct{}) (*fileOutput, error) {
	if _, err := must(ctx, access.Viewer); err != nil {
		return nil, failure(ctx, err)
	}
	c, err := s.Plane.Checkpoint(ctx)
	if err != nil {
		return nil, failure(ctx, err)
	}
	return &fileOutput{ContentType: "text/plain; charset=utf-8", ContentDisposition: "inline", Body: c}, nil
}
