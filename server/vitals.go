package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/vitals"
)

const (
	// vitalsTimeout bounds the last export at the end.
	vitalsTimeout = 3 * time.Second
	// deepest is up to where a queue is counted.
	deepest = 1000
)

// newVitals starts counting what the server itself does.
func (s *Server) newVitals(ctx context.Context) (*vitals.Vitals, error) {
	return vitals.New(ctx, vitals.Options{
		Version: s.o.Version, Sink: s.metrics, Endpoint: s.o.Settings.OTLPEndpoint, Logger: s.o.Logger,
		Queues: map[string]func(context.Context) (int64, error){
			"evidence": func(ctx context.Context) (int64, error) {
				rows, err := s.db.Unsealed(ctx, deepest)
				return int64(len(rows)), err
			},
			"alerts": func(context.Context) (int64, error) { return int64(s.alerts.InHand()), nil },
		},
	})
}

// tick observes a canary once, and counts it.
func (s *Server) tick(ctx context.Context, r pipeline.Record) (pipeline.Observation, error) {
	start := time.Now()
	ctx, end := s.effect(ctx, "canary tick", r)
	obs, err := s.plane.Observe(ctx, r)
	end(err)
	s.vitals.Tick(time.Since(start))
	return obs, err
}

// effect begins a span of what is done for a release.
func (s *Server) effect(ctx context.Context, name string, r pipeline.Record) (context.Context, func(error)) {
	return s.signals.Effect(ctx, name, map[string]string{
		"release_id": r.ID, "release.service": r.Service, "release.version": r.Version, "tenant_id": r.TenantID, "stage": string(r.Stage),
	})
}

// traced makes a span of every run of a stage.
func (s *Server) traced(runners map[headgate.Stage]pipeline.Runner) map[headgate.Stage]pipeline.Runner {
	out := make(map[headgate.Stage]pipeline.Runner, len(runners))
	for stage, run := range runners {
		out[stage] = func(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
			ctx, end := s.effect(ctx, "stage "+string(stage), r)
			result, err := run(ctx, r)
			end(err)
			return result, err
		}
	}
	return out
}

func (s *Server) rollback(ctx context.Context, r pipeline.Record) (pipeline.RollbackResult, error) {
	ctx, end := s.effect(ctx, "rollback", r)
	result, err := s.plane.Rollback(ctx, r)
	end(err)
	return result, err
}

func (s *Server) publish(ctx context.Context, r pipeline.Record) error {
	ctx, end := s.effect(ctx, "publish", r)
	err := s.plane.Publish(ctx, r)
	end(err)
	return err
}

// observe counts an event of the audit trail.
func (s *Server) observe(ev headgate.Event) {
	s.vitals.Event(ev)
	if ev.Kind != "rollback_finished" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	all, err := s.db.Rollbacks(ctx, ev.ReleaseID)
	if err != nil || len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	s.vitals.Rollback(ev.Time.Sub(last.TriggeredAt), !last.Frozen())
}

// watchFigures evaluates the dictionary's rules in the metric store.
func (s *Server) watchFigures() error {
	rules, err := s.dict.Rules()
	if err != nil {
		return err
	}
	return s.metrics.RunRules(rules, s.rulesEvery, s.o.Logger, s.figureAlert)
}

// figureAlert tells people of a figure past its bound, and that it is back.
// Where no users are, a gate judges and nobody is woken.
func (s *Server) figureAlert(a metrics.Alert) {
	f := alert.Figure{
		Rule: a.Name, Severity: alert.Severity(a.Labels["severity"]), Owner: a.Labels["owner"],
		Version: a.Labels["service_version"], Environment: a.Labels["deployment_environment_name"], TenantID: a.Labels["tenant_id"],
		Summary: a.Annotations["summary"], Runbook: a.Annotations["runbook"],
	}
	name := a.Labels["service_name"]
	if svc, err := s.plane.Service(name); name != "" && err == nil && f.Environment != "" && f.Environment != svc.Environments.Production {
		s.o.Logger.Debug("a figure is past its bound where no users are", slog.String("rule", a.Name), slog.String("service", name))
		return
	}
	told := alert.FromFigure(f, s.alertService(headgate.Event{Service: name}), a.Fired.UTC())
	if !a.Resolved.IsZero() {
		s.alerts.End(told.Fingerprint, a.Resolved)
		return
	}
	s.alerts.Notify(told)
}
