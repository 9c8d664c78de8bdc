// Package traffic joins several routers of one service to one. The routers
// themselves are its subpackages.
//
// It owns the fan-out; it never decides a share and never reads a verdict.
package traffic

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

// Fleet returns a router that stands for all of routers, for example several
// proxies in front of one service. Apply succeeds only when every one
// acknowledges; Status shows the cautious view, the highest epoch and share and
// the longest lease that any router still holds; Counts holds the cells of all.
// Without routers every call returns UNAVAILABLE.
func Fleet(routers ...rollout.Router) rollout.Router {
	if len(routers) == 1 {
		return routers[0]
	}
	return fleet(routers)
}

type fleet []rollout.Router

func (f fleet) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	return f.statuses(func(r rollout.Router) (rollout.Status, error) { return r.Apply(ctx, s) })
}

func (f fleet) Status(ctx context.Context) (rollout.Status, error) {
	return f.statuses(func(r rollout.Router) (rollout.Status, error) { return r.Status(ctx) })
}

func (f fleet) Counts(ctx context.Context) (rollout.Counts, error) {
	return f.counts(func(r rollout.Router) (rollout.Counts, error) { return r.Counts(ctx) })
}

// Routes implements [rollout.RouteCounter].
func (f fleet) Routes(ctx context.Context) (rollout.Counts, error) {
	return f.counts(func(r rollout.Router) (rollout.Counts, error) { return rollout.Routes(ctx, r) })
}

func (f fleet) counts(call func(rollout.Router) (rollout.Counts, error)) (rollout.Counts, error) {
	all, err := each(f, call)
	if err != nil {
		return rollout.Counts{}, err
	}
	sum := all[0]
	for _, c := range all[1:] {
		sum.Cells = append(sum.Cells, c.Cells...)
		if c.At.Before(sum.At) {
			sum.At = c.At
		}
	}
	return sum, nil
}

func (f fleet) statuses(call func(rollout.Router) (rollout.Status, error)) (rollout.Status, error) {
	all, err := each(f, call)
	if err != nil {
		return rollout.Status{}, err
	}
	joined := all[0]
	for _, s := range all[1:] {
		joined.Epoch = max(joined.Epoch, s.Epoch)
		joined.Share = math.Max(joined.Share, s.Share)
		joined.LeaseRemaining = max(joined.LeaseRemaining, s.LeaseRemaining)
		joined.BootID += "," + s.BootID
		for i := range min(len(joined.Backends), len(s.Backends)) {
			joined.Backends[i].Healthy = joined.Backends[i].Healthy && s.Backends[i].Healthy
		}
	}
	return joined, nil
}

// each asks all routers at once, so that a dead one does not delay the rest.
func each[T any](routers []rollout.Router, call func(rollout.Router) (T, error)) ([]T, error) {
	if len(routers) == 0 {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "no router is configured; start a proxy and register it")
	}
	answers := make([]T, len(routers))
	errs := make([]error, len(routers))
	var wg sync.WaitGroup
	for i, r := range routers {
		wg.Go(func() { answers[i], errs[i] = call(r) })
	}
	wg.Wait()
	return answers, errors.Join(errs...)
}
