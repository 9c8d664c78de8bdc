package worker

import (
	"context"
	"errors"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/instrument"
)

// figures are the worker's metrics.
type figures struct {
	opts         Options
	retrieval    metric.Float64Histogram
	parsing      metric.Float64Histogram
	evaluation   metric.Float64Histogram
	cost         metric.Float64Histogram
	citations    metric.Float64Histogram
	jobs         metric.Int64Counter
	requests     metric.Int64Counter
	drills       metric.Int64Counter
	risky        metric.Int64Counter
	registration metric.Registration
}

// costBuckets rise by 15 % from $0.0005 to $1, so that a p95 ratio of 1.2 can
// be told from 1.0.
func costBuckets() []float64 {
	var out []float64
	for usd := .0005; usd < 1; usd *= 1.15 {
		out = append(out, math.Round(usd*1e6)/1e6)
	}
	return out
}

func newFigures(opts Options) (*figures, error) {
	f := &figures{opts: opts}
	meter, name := opts.Telemetry.Meter, opts.Telemetry.Name
	var errs []error
	histogram := func(metricName, unit, about string, bounds []float64) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name(metricName), metric.WithUnit(unit), metric.WithDescription(about), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, err)
		return h
	}
	counter := func(metricName, unit, about string) metric.Int64Counter {
		c, err := meter.Int64Counter(name(metricName), metric.WithUnit(unit), metric.WithDescription(about))
		errs = append(errs, err)
		return c
	}
	f.retrieval = histogram("retrieval.duration", "s", "Time to find the passages of one criterion.", instrument.DurationBuckets)
	f.parsing = histogram("parse.duration", "s", "Time to parse, normalised to 50 pages.", instrument.DurationBuckets)
	f.evaluation = histogram("evaluation.duration", "s", "Time to evaluate one bid.", instrument.DurationBuckets)
	f.cost = histogram("task.cost", "{USD}", "Price of one task.", costBuckets())
	f.citations = histogram("report.citation.coverage", "1", "Share of criteria with a citation that resolves, per report.",
		[]float64{0, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, 1})
	f.jobs = counter("jobs.completed", "{job}", "Tries of jobs, by outcome.")
	f.requests = counter("degrade.requests", "{request}", "Evaluations asked with the primary retrieval route off.")
	f.drills = counter("degrade.drills", "{drill}", "Degrade drills, by outcome.")
	f.risky = counter("high_risk.evaluations", "{evaluation}", "High-risk evaluations that ended, by whether a person reviewed them.")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := f.observe(meter, name); err != nil {
		return nil, err
	}
	// A counter that starts above zero hides its first increments from rate().
	ctx := context.Background()
	for _, t := range opts.Tenants {
		for _, jobType := range []string{store.JobParse, store.JobEvaluate, store.JobResume} {
			for _, outcome := range []string{"succeeded", "failed", "retried"} {
				f.jobs.Add(ctx, 0, jobAttributes(t, jobType, outcome, ""))
			}
		}
		for _, outcome := range []string{"served", "failed"} {
			f.requests.Add(ctx, 0, attrs(t, attribute.String("outcome", outcome)))
		}
		for _, outcome := range []string{"passed", "failed"} {
			f.drills.Add(ctx, 0, attrs(t, attribute.String("outcome", outcome)))
		}
		for _, reviewed := range []bool{true, false} {
			f.risky.Add(ctx, 0, attrs(t, attribute.Bool("reviewed", reviewed)))
		}
	}
	return f, nil
}

// observe registers the gauges, which read the database when they are
// collected.
func (f *figures) observe(meter metric.Meter, name func(string) string) error {
	var errs []error
	gauge := func(metricName, unit, about string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name(metricName), metric.WithUnit(unit), metric.WithDescription(about))
		errs = append(errs, err)
		return g
	}
	pending := gauge("jobs.pending", "{job}", "Jobs of this version that wait for their first try.")
	retrying := gauge("jobs.retrying", "{job}", "Jobs of this version that wait for another try.")
	dead := gauge("dlq.open", "{item}", "Dead letters of this version.")
	events := gauge("outbox.pending", "{event}", "Database events of this version not yet published.")
	budgets := gauge("budget.tenants", "{tenant}", "Tenants with a cost budget, by whether an alert watches it.")
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var err error
	f.registration, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		backlogs, err := f.opts.Store.Backlogs(ctx, f.opts.Version.Version)
		if err != nil {
			return err
		}
		for _, t := range f.opts.Tenants {
			b, queue := backlogs[t], attrs(t, attribute.String("queue_name", QueueName))
			o.ObserveInt64(pending, b.Pending, queue)
			o.ObserveInt64(retrying, b.Retrying, queue)
			o.ObserveInt64(dead, b.DeadLetters, queue)
			o.ObserveInt64(events, b.Events, queue)
			if f.opts.Version.ModelConfig.BudgetUSDPerDay > 0 {
				// The worker's own warning watches every budget.
				o.ObserveInt64(budgets, 1, attrs(t, attribute.Bool("alerted", true)))
				o.ObserveInt64(budgets, 0, attrs(t, attribute.Bool("alerted", false)))
			}
		}
		return nil
	}, pending, retrying, dead, events, budgets)
	return err
}

func (f *figures) close() error { return f.registration.Unregister() }

func attrs(tenant string, more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(more, attribute.String("tenant_id", tenant))...)
}

func jobAttributes(tenant, jobType, outcome, code string) metric.MeasurementOption {
	return attrs(tenant, attribute.String("job_type", jobType), attribute.String("outcome", outcome),
		attribute.String("error_code", code), attribute.String("queue_name", QueueName))
}

func (f *figures) done(ctx context.Context, job store.Job, outcome, code string) {
	f.jobs.Add(ctx, 1, jobAttributes(job.TenantID, job.Type, outcome, code))
}

func (f *figures) succeeded(ctx context.Context, job store.Job, res result) {
	f.done(ctx, job, "succeeded", "")
	if res.costUSD > 0 {
		f.cost.Record(ctx, res.costUSD, attrs(job.TenantID, attribute.String("job_type", job.Type)))
	}
	res.record(ctx)
}

func (f *figures) parsed(ctx context.Context, tenant, outcome string, took time.Duration, pages int) {
	f.parsing.Record(ctx, took.Seconds()/float64(max(pages, 1))*50, attrs(tenant, attribute.String("outcome", outcome)))
}

func (f *figures) retrieved(ctx context.Context, tenant string, took time.Duration) {
	f.retrieval.Record(ctx, took.Seconds(), attrs(tenant))
}

func (f *figures) evaluated(ctx context.Context, tenant string, took time.Duration, coverage float64) {
	f.evaluation.Record(ctx, took.Seconds(), attrs(tenant))
	f.citations.Record(ctx, coverage, attrs(tenant))
}

// degraded counts an evaluation without the primary route: the drill has
// passed when the other route still answered something.
func (f *figures) degraded(ctx context.Context, tenant string, r bidding.Report) {
	request, drill := "failed", "failed"
	for _, c := range r.Criteria {
		if c.Found {
			request, drill = "served", "passed"
			break
		}
	}
	f.requests.Add(ctx, 1, attrs(tenant, attribute.String("outcome", request)))
	f.drills.Add(ctx, 1, attrs(tenant, attribute.String("outcome", drill)))
}

func (f *figures) highRisk(ctx context.Context, tenant string, reviewed bool) {
	f.risky.Add(ctx, 1, attrs(tenant, attribute.Bool("reviewed", reviewed)))
}
