package control

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
)

// Pauses between two attempts at a rollback whose record could not be kept.
const (
	carryPause    = 5 * time.Second
	carryMaxPause = time.Minute
)

// RunRollbacks carries out what must not end with the request that asked for
// it, rollbacks of ended releases and drills, until ctx ends. It begins with
// the rollbacks that were under way when the last process ended. Call it once.
func (p *Plane) RunRollbacks(ctx context.Context) {
	defer close(p.stopped)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { p.resumeRollbacks(ctx, &running) })
	for {
		select {
		case <-ctx.Done():
			return
		case work := <-p.errands:
			running.Go(func() { work(ctx) })
		}
	}
}

// carry has RunRollbacks do something, also when nobody waits for its first
// outcome any more.
func carry[T any](ctx context.Context, p *Plane, do func(ctx context.Context, told func(T, error))) (T, error) {
	type outcome struct {
		v   T
		err error
	}
	first := make(chan outcome, 1)
	told := func(v T, err error) {
		select {
		case first <- outcome{v, err}:
		default:
		}
	}
	var none T
	select {
	case p.errands <- func(ctx context.Context) { do(ctx, told) }:
	case <-p.stopped:
		return none, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the server is stopping; a rollback that has begun goes on when it is back")
	}
	select {
	case out := <-first:
		return out.v, out.err
	case <-ctx.Done():
		return none, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"it goes on without being waited for; the audit trail tells how it ends").Wrap(ctx.Err())
	}
}

// carryRollback takes a rollback whose intent is durable to its end.
func (p *Plane) carryRollback(ctx context.Context, s *Service, rec *pipeline.Record, id string) (rollback.Rollback, error) {
	return carry(ctx, p, func(ctx context.Context, told func(rollback.Rollback, error)) { p.persist(ctx, s, rec, id, told) })
}

// persist goes on with a rollback until its record is kept, for every error
// leaves the service frozen.
func (p *Plane) persist(ctx context.Context, s *Service, rec *pipeline.Record, id string, told func(rollback.Rollback, error)) {
	for pause := carryPause; ; pause = min(2*pause, carryMaxPause) {
		rb, err := p.finishRollback(ctx, s, rec, id)
		told(rb, err)
		if err == nil || ctx.Err() != nil || errors.Is(err, &headgate.Error{Code: headgate.CodeNotFound}) {
			return
		}
		p.o.Logger.ErrorContext(ctx, "a rollback could not be kept; it is tried again",
			slog.String("service", s.Name), slog.String("rollback_id", id), slog.Any("error", err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// resumeRollbacks goes on with rollbacks that no release of the pipeline goes
// on with itself.
func (p *Plane) resumeRollbacks(ctx context.Context, running *sync.WaitGroup) {
	for _, s := range p.Services() {
		active, err := p.o.Store.Active(ctx, s.Name)
		if err != nil {
			p.o.Logger.ErrorContext(ctx, "rollbacks from before the start cannot be read and do not go on",
				slog.String("service", s.Name), slog.Any("error", err))
		}
		for _, rb := range active {
			rec, err := p.o.Store.Release(ctx, rb.ReleaseID)
			var known *pipeline.Record
			if err == nil && rec.TenantID == rb.TenantID {
				known = &rec
			}
			if known != nil && !known.Done() {
				continue
			}
			running.Go(func() { p.persist(ctx, s, known, rb.ID, func(rollback.Rollback, error) {}) })
		}
	}
}
