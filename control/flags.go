package control

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

const (
	// flagsAge is how old the flags that an application is told may be.
	flagsAge = time.Second
	// flagsTimeout bounds one look at what they are.
	flagsTimeout = time.Second
)

// flagCache keeps one service's flags between looks.
type flagCache struct {
	changes atomic.Int64 // counts what may have changed them
	last    atomic.Pointer[cachedFlags]
	mu      sync.Mutex // held by the one that looks
}

type cachedFlags struct {
	rollout.Flags
	changes int64
	at      time.Time
}

func (c *flagCache) fresh(now time.Time) *cachedFlags {
	f := c.last.Load()
	if f == nil || f.changes != c.changes.Load() || now.Sub(f.at) >= flagsAge || now.Before(f.at) {
		return nil
	}
	return f
}

// Flags returns what a service's applications should use, at most a second old
// and never older than the last change of its traffic. While the database
// cannot be asked, it is what was last known of stable.
func (p *Plane) Flags(ctx context.Context, service string) (*rollout.Flags, error) {
	s, err := p.Service(service)
	if err != nil {
		return nil, err
	}
	c := s.flags
	if f := c.fresh(p.o.Now()); f != nil {
		return &f.Flags, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := p.o.Now()
	if f := c.fresh(now); f != nil {
		return &f.Flags, nil
	}
	// Many wait for this look, so it does not end with the request that began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flagsTimeout)
	defer cancel()
	next := &cachedFlags{changes: c.changes.Load(), at: now}
	if next.Flags, err = p.readFlags(ctx, s, now); err != nil {
		last := c.last.Load()
		if last == nil {
			return nil, err
		}
		p.o.Logger.WarnContext(ctx, "flags cannot be read; applications are told what stable was", slog.String("service", s.Name), slog.Any("error", err))
		next.Flags = rollout.Flags{Stable: last.Stable}
	}
	c.last.Store(next)
	return &next.Flags, nil
}

// Now is the time by which a lease in [rollout.Flags] ends.
func (p *Plane) Now() time.Time { return p.o.Now() }

func (p *Plane) readFlags(ctx context.Context, s *Service, now time.Time) (rollout.Flags, error) {
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil {
		return rollout.Flags{}, err
	}
	f := rollout.Flags{Stable: map[headgate.Component]string{}}
	for _, c := range headgate.RollbackOrder() {
		switch kind := s.Components.Get(c).Actuator.Kind; {
		case c == headgate.ReleaseVersion || kind == config.ActuatorRouter:
			f.Stable[c] = state.Stable.Version
		case kind == config.ActuatorFlag:
			flag := rollback.Flag{Service: s.Name, Store: p.o.Store}
			if f.Stable[c], err = flag.Read(ctx, c); err != nil {
				return rollout.Flags{}, err
			}
		}
	}
	if state.HeldBy == "" {
		return f, nil
	}
	rec, err := p.o.Store.Release(ctx, state.HeldBy)
	if err != nil && headgate.AsError(err).Code == headgate.CodeReleaseNotFound {
		return f, nil // a drill, which changes nothing
	}
	if err != nil {
		return rollout.Flags{}, err
	}
	p.addCandidate(ctx, s, rec, now, &f)
	return f, nil
}

// addCandidate adds a canary, if the router confirms that its share is leased:
// the router may know earlier than the database that it is over.
func (p *Plane) addCandidate(ctx context.Context, s *Service, rec pipeline.Record, now time.Time, f *rollout.Flags) {
	if rec.Phase != pipeline.PhaseRunning || rec.Stage != headgate.StageCanary || !rec.State.Granted {
		return
	}
	st, err := s.Router.Status(ctx)
	if err != nil || st.ReleaseID != rec.ID {
		return
	}
	f.Share, f.Until = min(rec.State.Share, st.Share), now.Add(st.LeaseRemaining)
	f.Plan, f.Tenants = rec.Plan.Rollout, slices.Sorted(slices.Values(rec.Tenants()))
	f.Candidate = maps.Clone(f.Stable)
	f.Plan.ReleaseID = rec.ID // the salt of the router's split
	for _, ch := range rec.Changes {
		f.Candidate[ch.Component] = ch.To
	}
	f.Candidate[headgate.ReleaseVersion] = rec.Version
}

// watchedRouter makes flags be looked at again when traffic has changed, and
// remembers what each route did before a candidate. What the pipeline decided
// is in the database by then.
type watchedRouter struct {
	rollout.Router
	flags *flagCache
	plane *Plane
	marks *routeMarks
}

// Apply implements [rollout.Router].
func (r watchedRouter) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	defer r.flags.changes.Add(1)
	if s.Share > 0 {
		r.plane.markRoutes(ctx, r, s.ReleaseID)
	}
	return r.Router.Apply(ctx, s)
}

// Routes implements [rollout.RouteCounter].
func (r watchedRouter) Routes(ctx context.Context) (rollout.Counts, error) {
	return rollout.Routes(ctx, r.Router)
}
