package control

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
)

// liveFigures are the gate metrics that the metric store answers, save those
// that compare two versions.
var liveFigures = map[headgate.Gate][]string{
	headgate.GatePerformance: {
		"api_p95_s", "retrieval_p95_s", "parse_50p_p95_s", "evaluation_p95_s", "queue_dlq_rate", "cache_hit_rate",
	},
	headgate.GateSecurity: {approvalCoverage, "log_redaction_failures"},
	headgate.GateCost:     {"routing_degrade_passed", "degrade_availability", "budget_alert_coverage"},
}

// armFigures are the figures that are taken of both versions at the same time,
// and the gate's metrics of either.
var armFigures = map[headgate.Gate]struct{ candidate, baseline map[string]string }{
	headgate.GatePerformance: {
		candidate: map[string]string{"api_p95_s": "candidate_api_p95_s", "api_error_rate": "candidate_api_error_rate"},
		baseline:  map[string]string{"api_p95_s": "baseline_api_p95_s", "api_error_rate": "baseline_api_error_rate"},
	},
	headgate.GateCost: {
		candidate: map[string]string{"task_cost_p95": "task_cost_p95"},
		baseline:  map[string]string{"task_cost_p95": "baseline_task_cost_p95"},
	},
}

// measure adds figures within a scope to a gate's input, each with the query
// that was asked and the samples behind it. A figure without data is one with
// zero samples. It returns the names of those.
func (p *Plane) measure(ctx context.Context, in *gate.Input, scope dictionary.Scope, names map[string]string, at time.Time) ([]string, error) {
	var missing []string
	zero := int64(0)
	for _, figure := range slices.Sorted(maps.Keys(names)) {
		metric := names[figure]
		if _, ok := in.Metrics[metric]; ok {
			continue // a tool's report says it
		}
		q, err := p.o.Dictionary.Query(figure, scope)
		if err != nil {
			return nil, err
		}
		v, ok, err := p.o.Figures.Number(ctx, q, at)
		if err != nil {
			return nil, outage(err)
		}
		origin := gate.Origin{Source: q, Window: window(scope.Window)}
		if !ok || math.IsNaN(v) {
			origin.Samples = &zero
			missing = append(missing, metric)
		} else {
			in.Metrics[metric] = typed(metric, v)
			if origin.Samples, err = p.samples(ctx, figure, scope, at); err != nil {
				return nil, err
			}
		}
		in.Origins[metric] = origin
	}
	return missing, nil
}

// samples is how many observations a figure rests on; nil when the dictionary
// does not say.
func (p *Plane) samples(ctx context.Context, figure string, scope dictionary.Scope, at time.Time) (*int64, error) {
	q, err := p.o.Dictionary.Samples(figure, scope)
	if err != nil || q == "" {
		return nil, err
	}
	v, ok, err := p.o.Figures.Number(ctx, q, at)
	if err != nil || !ok || math.IsNaN(v) {
		return nil, outage(err)
	}
	n := int64(math.Round(v))
	return &n, nil
}

// compare adds what a gate compares between the two versions. Before users meet
// the candidate, both run the sessions of the replay's tenant, one in staging
// and one in production. Under a canary both serve the same tenants there. An
// arm whose telemetry has stopped says nothing of the version. It returns the
// names of the metrics that are not there.
func (p *Plane) compare(ctx context.Context, in *gate.Input, s *Service, r pipeline.Record, g headgate.Gate, at time.Time) ([]string, error) {
	baseline := dictionary.Scope{
		Service: s.Name, Version: r.Plan.Stable.Version, Environment: s.Environments.Production,
		Tenant: s.Replay.Tenant, Window: s.Gates.Window,
	}
	candidate := baseline
	candidate.Version, candidate.Environment = r.Version, s.Environments.Staging
	if r.Stage == headgate.StageCanary {
		candidate.Environment = s.Environments.Production
		for _, arm := range []*dictionary.Scope{&candidate, &baseline} {
			arm.Tenant, arm.Tenants = "", r.Tenants()
			arm.Window = max(liveWindow, min(s.Gates.Window, at.Sub(r.StageStartedAt)).Truncate(time.Second))
		}
	}
	var missing []string
	for _, arm := range []struct {
		scope dictionary.Scope
		names map[string]string
	}{{baseline, armFigures[g].baseline}, {candidate, armFigures[g].candidate}} {
		m, err := p.measure(ctx, in, arm.scope, arm.names, at)
		if err != nil {
			return nil, err
		}
		missing = append(missing, m...)
		age := at.Sub(p.lastTelemetry(s.Name, arm.scope.Version))
		if age <= staleAfter {
			continue
		}
		for _, metric := range arm.names {
			if o, asked := in.Origins[metric]; asked && o.Window != "" {
				o.Broken = fmt.Sprintf("no telemetry from %s %s for %s", s.Name, arm.scope.Version, age.Round(time.Second))
				in.Origins[metric] = o
			}
		}
	}
	return missing, nil
}

// lastTelemetry is when telemetry of a version last came. A restart forgets it
// and counts as such.
func (p *Plane) lastTelemetry(service, version string) time.Time {
	if at, ok := p.o.Freshness(service, version); ok && at.After(p.started) {
		return at
	}
	return p.started
}

// window writes a duration as PromQL does: 10m, not 10m0s.
func window(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return d.String()
	}
}

// typed gives a figure the type that the contract asks for.
func typed(metric string, v float64) any {
	switch metric {
	case "routing_degrade_passed":
		return v >= 1
	case "log_redaction_failures":
		return int64(v)
	default:
		return v
	}
}

func same(names []string) map[string]string {
	m := make(map[string]string, len(names))
	for _, n := range names {
		m[n] = n
	}
	return m
}

// checkEvery is how many ticks lie between two looks at the performance gate
// under user traffic, and liveWindow the time each look covers.
const (
	checkEvery = 5
	liveWindow = 30 * time.Second
	staleAfter = 20 * time.Second
)

// Observe looks at a canary's live telemetry: whether it still arrives, what
// the tasks of both versions cost, and every few ticks whether the candidate breaches the performance gate.
func (p *Plane) Observe(ctx context.Context, r pipeline.Record) (pipeline.Observation, error) {
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.Observation{}, err
	}
	now := p.o.Now()
	last := p.lastTelemetry(r.Service, r.Version)
	if r.StageStartedAt.After(last) {
		last = r.StageStartedAt
	}
	if age := now.Sub(last); age > staleAfter {
		return pipeline.Observation{Stale: fmt.Sprintf("no telemetry from %s %s for %s", r.Service, r.Version, age.Round(time.Second))}, nil
	}
	var obs pipeline.Observation
	arms := map[string]headgate.Arm{r.Plan.Stable.Version: headgate.Stable, r.Version: headgate.Candidate}
	if obs.Costs, err = p.taskCosts(ctx, s, arms); err != nil {
		return pipeline.Observation{}, err
	}
	if r.State.Ticks%checkEvery != 0 {
		return obs, nil
	}
	rules, err := p.rules(ctx, s.Name)
	if err != nil {
		return pipeline.Observation{}, err
	}
	compared := rules.Comparisons(headgate.GatePerformance)
	if now.Sub(r.StageStartedAt) < liveWindow {
		for _, code := range compared {
			obs.Checks = append(obs.Checks, canary.Check{Gate: headgate.GatePerformance, MetricCode: code, Undecided: true})
		}
		return obs, nil
	}
	in := gate.Input{DatasetID: "canary", Metrics: map[string]any{}, Origins: map[string]gate.Origin{}}
	scope := dictionary.Scope{Service: s.Name, Version: r.Version, Environment: s.Environments.Production, Window: liveWindow}
	if _, err := p.measure(ctx, &in, scope, same(liveFigures[headgate.GatePerformance]), now); err != nil {
		return pipeline.Observation{}, err
	}
	if len(compared) > 0 {
		if _, err := p.compare(ctx, &in, s, r, headgate.GatePerformance, now); err != nil {
			return pipeline.Observation{}, err
		}
	}
	res, err := gate.Evaluate(rules, headgate.GatePerformance, in)
	if err != nil {
		return pipeline.Observation{}, err
	}
	for _, c := range res.Checks {
		undecided := c.Verdict != headgate.Pass && c.Verdict != headgate.Fail
		if undecided && !slices.Contains(compared, c.Code) {
			continue // not every service has everything in half a minute
		}
		obs.Checks = append(obs.Checks, canary.Check{
			Gate: res.Gate, MetricCode: c.Code, Breached: c.Verdict == headgate.Fail, Undecided: undecided,
		})
	}
	for _, code := range holding(r.State.Canary) {
		if !slices.ContainsFunc(res.Checks, func(c gate.Check) bool { return c.Code == code }) {
			obs.Checks = append(obs.Checks, canary.Check{Gate: res.Gate, MetricCode: code, Dropped: true})
		}
	}
	return obs, nil
}

// holding are the metrics that keep a canary from passing.
func holding(d *canary.Decision) []string {
	if d == nil {
		return nil
	}
	codes := slices.Clone(d.Undecided)
	for _, b := range d.Breaches {
		codes = append(codes, b.MetricCode)
	}
	return codes
}
