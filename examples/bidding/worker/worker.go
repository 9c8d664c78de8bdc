// Package worker does the bidding service's queued work: it parses documents,
// evaluates bids and applies reviews.
//
// It owns leases, retries, dead-lettering and the figures of the work. It
// never serves requests. A job's result commits together with its success, so
// a worker that dies or loses its lease leaves nothing half done.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/instrument"
)

// QueueName is the queue's name in metrics.
const QueueName = "jobs"

const (
	// jobLimit ends a job before its lease does, so that two workers never
	// work on the same job.
	jobLimit = 30 * time.Second
	leaseFor = 45 * time.Second
	// drainLimit is how long a stopping worker may finish what it has begun.
	drainLimit = 10 * time.Second
	// publishBatch bounds the database events sent at once.
	publishBatch = 200
)

// Options are what a worker needs.
type Options struct {
	Store     *store.Store
	Telemetry *instrument.Telemetry
	Version   bidding.Version
	// Tenants are those whose figures start at zero instead of being absent.
	Tenants []string
	// Slots is how many jobs run at once; default 2.
	Slots int
	// Poll is how often an idle slot looks for work; default 50 ms.
	Poll time.Duration
	// Backoff is the pause before the first retry, doubled for each further
	// one, with ±50 % jitter; default 500 ms.
	Backoff time.Duration
	// Name identifies the worker's leases; default a random one.
	Name string
}

// Worker takes jobs until it is stopped.
type Worker struct {
	opts    Options
	log     *slog.Logger
	figures *figures
	wake    chan struct{}
	spend   spend
}

// New returns a worker that has not started.
func New(opts Options) (*Worker, error) {
	opts.Slots = cmp.Or(opts.Slots, 2)
	opts.Poll = cmp.Or(opts.Poll, 50*time.Millisecond)
	opts.Backoff = cmp.Or(opts.Backoff, 500*time.Millisecond)
	opts.Name = cmp.Or(opts.Name, headgate.NewID("wrk"))
	f, err := newFigures(opts)
	if err != nil {
		return nil, err
	}
	return &Worker{opts: opts, log: opts.Telemetry.Logger, figures: f, wake: make(chan struct{}, 1)}, nil
}

// Wake makes an idle slot look for work at once.
func (w *Worker) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then finishes what it has begun, for at most 10 s.
func (w *Worker) Run(ctx context.Context) error {
	// Jobs outlive ctx by the time to drain.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainLimit, stop) })()
	var wg sync.WaitGroup
	for range w.opts.Slots {
		wg.Go(func() { w.slot(ctx, work) })
	}
	wg.Go(func() { w.publish(ctx, work) })
	wg.Wait()
	return errors.Join(w.figures.close())
}

func (w *Worker) slot(ctx, work context.Context) {
	for ctx.Err() == nil {
		job, err := w.opts.Store.Lease(work, w.opts.Name, w.opts.Version.Version, leaseFor)
		if err != nil {
			w.log.ErrorContext(ctx, "cannot lease a job", slog.Any("error", err))
		}
		if job != nil {
			w.attempt(work, *job)
			continue
		}
		// Jitter keeps the slots of several processes from marching in step.
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-time.After(jitter(w.opts.Poll)):
		}
	}
}

// publish sends database events until ctx ends, and the rest once more.
func (w *Worker) publish(ctx, work context.Context) {
	for {
		for {
			n, err := w.opts.Store.PublishEvents(work, publishBatch)
			if err != nil {
				w.log.WarnContext(ctx, "cannot publish events", slog.Any("error", err))
			}
			if n < publishBatch {
				break
			}
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter(250 * time.Millisecond)):
		}
	}
}

func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d)+1))
}

// attempt runs one try of a job to its end: success, retry or dead letter.
func (w *Worker) attempt(ctx context.Context, job store.Job) {
	ctx, cancel := context.WithTimeout(ctx, jobLimit)
	defer cancel()
	ctx, end := w.opts.Telemetry.StartJob(ctx, job.Carrier, job.Type, job.ID, job.Attempts)
	res, err := w.run(ctx, job)
	if err == nil {
		err = w.opts.Store.Succeed(ctx, job, res.costUSD, res.commit)
	}
	// Its own time: a job that used up its limit must still be settled.
	settle, cancelSettle := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancelSettle()
	switch {
	case err == nil:
		w.figures.succeeded(ctx, job, res)
		w.charge(ctx, job.TenantID, res.costUSD)
		w.log.InfoContext(ctx, "job succeeded", slog.String("job_type", job.Type), slog.Float64("cost_usd", res.costUSD))
	case errors.Is(err, store.ErrLeaseLost):
		w.log.WarnContext(ctx, "another worker has the job", slog.String("job_type", job.Type))
	default:
		w.settle(settle, job, err)
	}
	end(err)
}

func (w *Worker) settle(ctx context.Context, job store.Job, cause error) {
	e := jobError(cause)
	instrument.Annotate(ctx, instrument.Fields{ErrorCode: e.Code})
	attrs := []any{slog.String("job_type", job.Type), slog.Int("attempt", job.Attempts), slog.Any("error", cause), slog.Any("cause", errors.Unwrap(e))}
	var err error
	if e.Retryable && job.Attempts < store.MaxAttempts {
		w.log.WarnContext(ctx, "job will be tried again", attrs...)
		err = w.opts.Store.Retry(ctx, job, e.Code, jitter(w.opts.Backoff<<(job.Attempts-1)))
		w.figures.done(ctx, job, "retried", e.Code)
	} else {
		w.log.ErrorContext(ctx, "job dead-lettered", attrs...)
		err = w.opts.Store.Fail(ctx, job, e.Code, e.Message)
		w.figures.done(ctx, job, "failed", e.Code)
	}
	if err != nil {
		// The lease runs out and the next worker takes the job up again.
		w.log.ErrorContext(ctx, "job not settled", slog.Any("error", err))
	}
}

// jobError gives every failure a code; what has none may pass, so it is
// retried.
func jobError(err error) *headgate.Error {
	var e *headgate.Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return headgate.Errorf("JOB_TIMEOUT", headgate.ClassTransient, "the job took longer than %s", jobLimit).Wrap(err)
	}
	return headgate.Errorf("JOB_INTERNAL", headgate.ClassTransient, "the job failed; its log has the cause under this job id").Wrap(err)
}

// result is what a successful try leaves behind.
type result struct {
	costUSD float64
	commit  func(*store.Tx) error
	// record reports figures of the work, after the commit.
	record func(ctx context.Context)
}

func (w *Worker) run(ctx context.Context, job store.Job) (res result, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.log.ErrorContext(ctx, "job panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = headgate.Errorf("JOB_PANIC", headgate.ClassPermanent, "the job crashed; its log has the cause under this job id")
		}
	}()
	if job.Attempts > store.MaxAttempts {
		return res, headgate.Errorf("JOB_ATTEMPTS_EXHAUSTED", headgate.ClassPermanent, "every worker that took the job died with it")
	}
	switch job.Type {
	case store.JobParse:
		return w.parse(ctx, job)
	case store.JobEvaluate:
		return w.evaluate(ctx, job)
	case store.JobResume:
		return w.resume(ctx, job)
	}
	return res, headgate.Errorf("JOB_TYPE_UNKNOWN", headgate.ClassPermanent, "job type %q is unknown to version %s", job.Type, w.opts.Version.Version)
}

// cost is the price of the characters a task has processed.
func (w *Worker) cost(chars int) float64 {
	usd := float64(chars) / 1000 * w.opts.Version.ModelConfig.USDPerKChar
	if w.opts.Version.Fault.Kind == bidding.FaultCostJump {
		usd *= w.opts.Version.Fault.Factor
	}
	return usd
}

// spend is what each tenant has spent today in this process.
type spend struct {
	mu    sync.Mutex
	day   string
	usd   map[string]float64
	above map[string]bool
}

// charge adds to the tenant's spend and warns once a day past the budget.
func (w *Worker) charge(ctx context.Context, tenant string, usd float64) {
	budget := w.opts.Version.ModelConfig.BudgetUSDPerDay
	day := time.Now().UTC().Format(time.DateOnly)
	w.spend.mu.Lock()
	if w.spend.day != day {
		w.spend.day, w.spend.usd, w.spend.above = day, map[string]float64{}, map[string]bool{}
	}
	w.spend.usd[tenant] += usd
	warn := budget > 0 && w.spend.usd[tenant] > budget && !w.spend.above[tenant]
	if warn {
		w.spend.above[tenant] = true
	}
	w.spend.mu.Unlock()
	if !warn {
		return
	}
	w.log.WarnContext(ctx, "tenant is over its daily budget", slog.Float64("budget_usd", budget))
	if err := w.opts.Store.RecordEvent(ctx, "budget_exceeded", map[string]string{"budget_usd": fmt.Sprint(budget)}); err != nil {
		w.log.WarnContext(ctx, "event not recorded", slog.Any("error", err))
	}
}
