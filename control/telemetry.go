package control

import (
	"context"
	"log/slog"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/timeline"
)

// Stories are what logs and spans tell.
type Stories interface {
	telemetry.Finder
	// ErrorsOf counts the errors of a scope between two times, by code, tenant
	// and name.
	ErrorsOf(ctx context.Context, of dictionary.Scope, from, to time.Time) ([]telemetry.ErrorGroup, error)
	// EachNamed calls use with the log records of a service between two times
	// that are events of one of the names, in no order, repeated ones again.
	EachNamed(ctx context.Context, service string, names []string, from, to time.Time, use func(telemetry.Event)) error
}

// Timeline tells the story of one request from any of its identifiers. A
// caller who is confined to tenants sees the one it acts for.
func (p *Plane) Timeline(ctx context.Context, who access.Identity, q telemetry.Query) (timeline.Timeline, error) {
	if q.TraceID == "" && q.RequestID == "" && q.JobID == "" && q.ErrorCode == "" {
		return timeline.Timeline{}, headgate.Invalidf("give one of trace_id, request_id, job_id or error_code, or an id that is any of them")
	}
	tenant, err := who.Scope(q.TenantID)
	if err != nil {
		return timeline.Timeline{}, err
	}
	q.TenantID = tenant
	return timeline.Build(ctx, p.o.Stories, q)
}

// Story is a timeline, and what led to it.
type Story struct {
	// MatchedBy says what the identifier was: trace_id, request_id, job_id or
	// error_code; empty when nothing is known of it.
	MatchedBy string `json:"matched_by,omitempty"`
	timeline.Timeline
}

// Story tells the story of one request from an identifier of any kind: the
// kinds are tried in turn. Who may see what is as with [Plane.Timeline].
func (p *Plane) Story(ctx context.Context, who access.Identity, id, tenant string) (Story, error) {
	var found Story
	for _, try := range []struct {
		by string
		q  telemetry.Query
	}{
		{"trace_id", telemetry.Query{TraceID: id}}, {"request_id", telemetry.Query{RequestID: id}},
		{"job_id", telemetry.Query{JobID: id}}, {"error_code", telemetry.Query{ErrorCode: id}},
	} {
		try.q.TenantID = tenant
		t, err := p.Timeline(ctx, who, try.q)
		if err != nil {
			return Story{}, err
		}
		if found.Timeline = t; len(t.Entries) > 0 {
			found.MatchedBy = try.by
			break
		}
	}
	return found, nil
}

// ErrorReport is what fails more on a release than on stable.
type ErrorReport struct {
	ReleaseID string            `json:"release_id"`
	From      time.Time         `json:"from"`
	To        time.Time         `json:"to"`
	Changes   []timeline.Change `json:"changes"`
	// Reason is the same in one paragraph; empty when nothing fails more.
	Reason string `json:"reason"`
}

// Errors compares what fails on a release with what fails on stable, since a
// time ago; 0 is since its canary began.
func (p *Plane) Errors(ctx context.Context, who access.Identity, id string, since time.Duration) (ErrorReport, error) {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return ErrorReport{}, err
	}
	tenant, err := who.Scope("")
	if err != nil {
		return ErrorReport{}, err
	}
	to := p.o.Now()
	from := to.Add(-since)
	if since == 0 {
		if from, err = p.canaryBegan(ctx, rec); err != nil {
			return ErrorReport{}, err
		}
	}
	return p.compareErrors(ctx, rec, tenant, from, to)
}

// canaryBegan is when a release's canary, or failing that the release, began.
func (p *Plane) canaryBegan(ctx context.Context, rec pipeline.Record) (time.Time, error) {
	runs, err := p.o.Store.StageRuns(ctx, rec.ID)
	for _, run := range runs {
		if run.Stage == headgate.StageCanary {
			return run.StartedAt, err
		}
	}
	return rec.CreatedAt, err
}

func (p *Plane) compareErrors(ctx context.Context, rec pipeline.Record, tenant string, from, to time.Time) (ErrorReport, error) {
	out := ErrorReport{ReleaseID: rec.ID, From: from.UTC(), To: to.UTC(), Changes: []timeline.Change{}}
	s, err := p.Service(rec.Service)
	if err != nil {
		return out, err
	}
	of := dictionary.Scope{Service: rec.Service, Version: rec.Version, Environment: s.Environments.Production, Tenant: tenant}
	candidate, err := p.o.Stories.ErrorsOf(ctx, of, from, to)
	if err != nil {
		return out, err
	}
	of.Version = rec.Plan.Stable.Version
	stable, err := p.o.Stories.ErrorsOf(ctx, of, from, to)
	if err != nil {
		return out, err
	}
	var nc, ns float64
	if d := rec.State.Canary; d != nil {
		nc, ns = float64(d.Candidate.Requests), float64(d.Stable.Requests)
	}
	out.Changes = append(out.Changes, timeline.Compare(candidate, stable, nc, ns)...)
	out.Reason = timeline.Reason(out.Changes)
	return out, nil
}

// rollbackExplained is the kind of the event that says why, and with which
// trace as its example.
const rollbackExplained = "rollback_explained"

// explainTimeout bounds how long a rollback looks for its reason.
const explainTimeout = 3 * time.Second

// explain adds to the trail of a rollback what failed, in one paragraph with
// an example trace.
func (p *Plane) explain(ctx context.Context, r pipeline.Record) {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	from, err := p.canaryBegan(ctx, r)
	if err != nil {
		from = r.CreatedAt
	}
	rep, err := p.compareErrors(ctx, r, "", from, p.o.Now())
	if err == nil && rep.Reason != "" {
		err = p.record(ctx, r.ID+"/explained", headgate.Event{
			Kind: rollbackExplained, ReleaseID: r.ID, Service: r.Service, TenantID: r.TenantID, Actor: "headgate",
			Stage: r.Stage, Message: rep.Reason, Data: map[string]any{"trace_id": rep.Changes[0].TraceID},
		})
	}
	if err != nil && ctx.Err() == nil {
		p.o.Logger.WarnContext(ctx, "the rollback could not be explained", slog.String("release_id", r.ID), slog.Any("error", err))
	}
}
