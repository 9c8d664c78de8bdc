package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
)

// maxBacktest bounds how many releases one backtest looks at.
const maxBacktest = 10_000

// BacktestRules judges the releases of a time again under other rules, on the
// inputs that the evidence log holds, and compares with what became of them. An
// empty service means the releases of all.
func (p *Plane) BacktestRules(ctx context.Context, who access.Identity, service string, src []byte, since time.Duration) (gate.ConfusionTable, error) {
	set, err := gate.ParseRules("rules", src)
	if err != nil {
		return gate.ConfusionTable{}, err
	}
	ended, err := p.ended(ctx, who, service, since)
	if err != nil {
		return gate.ConfusionTable{}, err
	}
	var past []gate.PastRelease
	for _, rec := range ended {
		one, err := p.pastRelease(ctx, rec.Release)
		if err != nil {
			return gate.ConfusionTable{}, err
		}
		past = append(past, one)
	}
	return gate.Backtest(set, past), nil
}

// ended are the releases that ended since a time ago, were not aborted, and that
// who may see.
func (p *Plane) ended(ctx context.Context, who access.Identity, service string, since time.Duration) ([]pipeline.Record, error) {
	if since <= 0 {
		return nil, headgate.Invalidf("since must be a positive time, for example 90d")
	}
	all, err := p.o.Store.Releases(ctx, service, maxBacktest, who.Tenants...)
	from := p.o.Now().Add(-since)
	return slices.DeleteFunc(all, func(rec pipeline.Record) bool {
		return !rec.Done() || rec.UpdatedAt.Before(from) || rec.Outcome == headgate.Aborted
	}), err
}

// pastRelease is what the evidence log says of a release's gates, and what
// became of it.
func (p *Plane) pastRelease(ctx context.Context, rel headgate.Release) (gate.PastRelease, error) {
	out := gate.PastRelease{ReleaseID: rel.ID, EndedAt: rel.UpdatedAt, Outcome: rel.Outcome, Inputs: map[headgate.Gate]gate.Input{}}
	entries, err := p.o.Log.Entries(ctx, evidence.EntryQuery{ReleaseID: rel.ID, PredicateType: evidence.TypeGateDecision})
	if err != nil {
		return out, err
	}
	for _, e := range entries {
		st, err := e.Statement()
		if err != nil {
			return out, err
		}
		var d evidence.GateDecision
		if err := json.Unmarshal(st.Predicate, &d); err != nil {
			return out, err
		}
		// What a gate said after the release had ended did not decide it.
		if d.Declared || d.Time.After(rel.UpdatedAt) {
			continue
		}
		if out.Inputs[d.Gate], err = recordedInput(d); err != nil {
			return out, err
		}
	}
	taken, err := p.takenBack(ctx, rel)
	out.Incidents = len(taken)
	return out, err
}

// takenBack are the rollbacks of a release that had been promoted.
func (p *Plane) takenBack(ctx context.Context, rel headgate.Release) ([]rollback.Rollback, error) {
	if rel.Outcome != headgate.Promoted {
		return nil, nil
	}
	return p.rollbacksOf(ctx, named{rel.ID, rel.TenantID})
}

// BacktestAlerts tries threshold alerts, in a file of the metric dictionary's
// format, on the metrics of the releases of a time, while users met them. An
// empty service means the releases of all.
func (p *Plane) BacktestAlerts(ctx context.Context, who access.Identity, service string, src []byte, since time.Duration) (alert.ConfusionTable, error) {
	thresholds, err := p.o.Dictionary.ParseAlerts("alerts", src)
	if err != nil {
		return alert.ConfusionTable{}, err
	}
	ended, err := p.ended(ctx, who, service, since)
	if err != nil {
		return alert.ConfusionTable{}, err
	}
	past := make([]alert.PastRelease, 0, len(ended))
	for _, rec := range ended {
		one, err := p.alertsOf(ctx, rec.Release, thresholds)
		if err != nil {
			return alert.ConfusionTable{}, err
		}
		past = append(past, one)
	}
	return alert.Backtest(past), nil
}

const (
	// maxEvaluations bounds those of one alert over one release; a longer one is
	// looked at less often than the rules are.
	maxEvaluations = 10_000
	// firstMetrics is how long a version's first metrics may take.
	firstMetrics = 2 * time.Minute
)

// alertsOf says which alerts would have fired while users met a release.
func (p *Plane) alertsOf(ctx context.Context, rel headgate.Release, thresholds []dictionary.Alert) (alert.PastRelease, error) {
	taken, err := p.takenBack(ctx, rel)
	if err != nil {
		return alert.PastRelease{}, err
	}
	out := alert.PastRelease{
		ReleaseID: rel.ID, EndedAt: rel.UpdatedAt, Outcome: rel.Outcome, Incidents: len(taken),
		Truth: gate.Truth(rel.Outcome, len(taken)), Firing: []alert.Firing{},
	}
	if out.From, out.To, err = p.underUsers(ctx, rel, taken); err != nil || out.From.IsZero() {
		return out, err
	}
	s, err := p.Service(rel.Service)
	if err != nil {
		out.Gone = "the service is not described any more"
		return out, nil
	}
	scope := dictionary.Scope{Service: rel.Service, Version: rel.Version, Environment: s.Environments.Production}
	step := max(dictionary.RuleInterval, out.To.Sub(out.From)/maxEvaluations)
	there, err := p.o.Figures.Times(ctx, p.o.Dictionary.PresenceQuery(scope), out.From, out.To, step)
	if err != nil {
		return out, err
	}
	// Retention takes the oldest first, so the beginning tells.
	switch late := min(firstMetrics, out.To.Sub(out.From)/2); {
	case len(there) == 0:
		out.Gone = "no metrics left"
	case there[0].Sub(out.From) > max(late, step):
		out.Gone = "no metrics left of the time before " + there[0].UTC().Format(time.RFC3339)
	}
	if out.Gone != "" {
		return out, nil
	}
	for _, a := range thresholds {
		q, err := p.o.Dictionary.AlertQuery(a, scope)
		if err != nil {
			return out, err
		}
		held, err := p.o.Figures.Times(ctx, q, out.From, out.To, step)
		if err != nil {
			return out, err
		}
		if at, ok := alert.FiredAt(held, step, a.For); ok {
			out.Firing = append(out.Firing, alert.Firing{Alert: a.Name, Severity: alert.Severity(a.Severity), FiredAt: at.UTC()})
		}
		if len(held) == 0 && !slices.Contains(out.Unmeasured, a.Figure) {
			if q, err = p.o.Dictionary.Query(a.Figure, scope); err != nil {
				return out, err
			}
			often := min(step, max(time.Second, out.To.Sub(out.From)/20)) // also of a release that the rules saw once
			if measured, err := p.o.Figures.Times(ctx, q, out.From, out.To, often); err != nil {
				return out, err
			} else if len(measured) == 0 {
				out.Unmeasured = append(out.Unmeasured, a.Figure)
			}
		}
	}
	if !slices.ContainsFunc(thresholds, func(a dictionary.Alert) bool { return !slices.Contains(out.Unmeasured, a.Figure) }) {
		out.Gone, out.Unmeasured = "no metrics of "+strings.Join(out.Unmeasured, ", "), nil
	}
	return out, nil
}

// underUsers is when users met a release: from its canary to the end of its
// last stage with traffic, or to when it was taken back after all.
func (p *Plane) underUsers(ctx context.Context, rel headgate.Release, taken []rollback.Rollback) (from, to time.Time, err error) {
	runs, err := p.o.Store.StageRuns(ctx, rel.ID)
	for _, run := range runs {
		if run.Stage != headgate.StageCanary && run.Stage != headgate.StageFull {
			continue
		}
		if from.IsZero() || run.StartedAt.Before(from) {
			from = run.StartedAt
		}
		if run.EndedAt.After(to) {
			to = run.EndedAt
		}
	}
	if from.IsZero() {
		return from, to, err
	}
	if to.IsZero() || rel.Outcome == headgate.Promoted {
		to = rel.UpdatedAt
	}
	for _, b := range taken {
		if b.TriggeredAt.After(to) {
			to = b.TriggeredAt
		}
	}
	if to.Before(from) {
		to = from
	}
	return from.UTC(), to.UTC(), err
}
