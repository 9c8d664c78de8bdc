// Package control is what the control plane does when it is asked: by the
// pipeline, which runs the automatic stages through it, and by the HTTP API,
// which lets a person or a CI job do the same by hand. Both ways lead through
// the same functions, so that a gate means the same on each.
//
// It owns no rules (judges do), no traffic (routers do) and no storage (its
// [Store] does): it brings evidence to judges and verdicts to actors.
package control

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/replay"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

// Store is the control plane's database beyond what the pipeline needs of it.
type Store interface {
	pipeline.Store
	rollback.Store
	rollback.FlagStore
	feedback.Store
	RuleStore
	QuarantineStore

	// Releases returns the newest first, of one service or of all, and of some
	// tenants or of all. What belongs to no tenant is everybody's.
	Releases(ctx context.Context, service string, limit int, tenants ...string) ([]pipeline.Record, error)
	// Record adds an event; a second one under the same key, unless that is
	// empty, is the same event.
	Record(ctx context.Context, key string, ev headgate.Event) error
	Events(ctx context.Context, q EventQuery) ([]EventRow, error)
	// Unsealed returns the oldest events that are not in the evidence log, whose
	// store marks them when they enter it.
	Unsealed(ctx context.Context, limit int) ([]EventRow, error)
	// RegisterService keeps what releases made of a service that is known.
	RegisterService(ctx context.Context, name string, stable rollout.Backend) error
	// Service returns SERVICE_NOT_FOUND when it is not known.
	Service(ctx context.Context, name string) (ServiceState, error)
	// HoldService takes a service's traffic for a rehearsal, as a pipeline's
	// commit does for a release: RELEASE_ACTIVE. ReleaseService gives it back.
	HoldService(ctx context.Context, name, by string) error
	ReleaseService(ctx context.Context, name, by string) error
	SetStable(ctx context.Context, name string, stable rollout.Backend) error
	Rollbacks(ctx context.Context, releaseID string) ([]rollback.Rollback, error)
	PutPlan(ctx context.Context, tenant string, p rollout.Plan) error
	// Plan returns RELEASE_POLICY_NOT_FOUND when the tenant posted none.
	Plan(ctx context.Context, tenant, releaseID string) (rollout.Plan, error)
	PutDocument(ctx context.Context, d Document) error
	// Document and Documents report nothing when there is none; Documents
	// are a release's, oldest first.
	Document(ctx context.Context, kind, id string) (Document, bool, error)
	Documents(ctx context.Context, kind, releaseID string) ([]Document, error)
}

// EventRow is an event with its place in the audit trail.
type EventRow struct {
	Seq int64 `json:"seq"`
	headgate.Event
}

// EventQuery selects from the audit trail, oldest first. Empty fields do not
// select.
type EventQuery struct {
	ReleaseID string
	TenantID  string
	Kind      string
	After     int64 // the highest Seq already known
	Limit     int
}

// ServiceState is what releases have made of a service.
type ServiceState struct {
	Stable rollout.Backend `json:"stable"`
	// HeldBy is the release, or the drill, that has the traffic, empty for none.
	HeldBy string `json:"held_by,omitempty"`
}

// Document is something that is handed out by id: a replay job, an
// assessment, a report that a tool wrote.
type Document struct {
	Kind      string
	ID        string
	ReleaseID string
	TenantID  string
	At        time.Time
	Body      json.RawMessage
}

// Figures answers the dictionary's queries.
type Figures interface {
	// Number is the answer of a query with at most one value; false without
	// data.
	Number(ctx context.Context, promql string, at time.Time) (float64, bool, error)
	// Each hands every series of a query's answer to use.
	Each(ctx context.Context, promql string, at time.Time, use func(labels map[string]string, v float64)) error
	// Times are those from start to end, every step, at which a query has an
	// answer, in order.
	Times(ctx context.Context, promql string, start, end time.Time, step time.Duration) ([]time.Time, error)
}

// Service is a service under control with the parts that act on it.
type Service struct {
	config.Service
	// Suite is nil when the description names none.
	Suite    *replay.Suite
	Router   rollout.Router
	Rollback *rollback.Executor
	Feedback *feedback.Loop
	// Credential returns the bearer token of a tenant, "" for none.
	Credential func(tenant string) string

	flags *flagCache
	drill *running
}

// Options configure a [Plane]. All but Now are required.
type Options struct {
	Settings config.Settings
	Store    Store
	Log      *evidence.Log
	Blobs    evidence.Blobs
	// Rules are the first ones, by service, or what each headgate.yaml now
	// names; those of "" are everybody's and required. The store says which are
	// in force.
	Rules      map[string]gate.RuleSet
	Dictionary *dictionary.Dictionary
	Figures    Figures
	Stories    Stories
	// Freshness is when telemetry of a service's version last arrived.
	Freshness func(service, version string) (time.Time, bool)
	// Notify hands an event to whoever has to be told. It never blocks.
	Notify func(headgate.Event)
	// Version of this build, for evidence.
	Version string
	Logger  *slog.Logger
	Now     func() time.Time
}

// Plane is the control plane.
type Plane struct {
	o       Options
	started time.Time
	inForce sync.Map // service → gate.RuleSet, the last ones read from the store
	wake    func()
	sealing chan struct{}
	errands chan func(context.Context) // to RunRollbacks
	stopped chan struct{}              // closed when it has ended

	overriding sync.Mutex // one override is decided on at a time

	mu       sync.RWMutex
	services map[string]*Service
}

// New returns a plane without services.
func New(o Options) *Plane {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Plane{
		o: o, started: o.Now(), wake: func() {}, sealing: make(chan struct{}, 1),
		errands: make(chan func(context.Context)), stopped: make(chan struct{}), services: map[string]*Service{},
	}
}

// Wakes says whom to wake when a release has something to do. Call it before
// anything else.
func (p *Plane) Wakes(wake func()) { p.wake = wake }

// Add puts a service under control. The parts that act on it are made here;
// the router and the credentials are the caller's.
func (p *Plane) Add(ctx context.Context, svc config.Service, suite *replay.Suite, router rollout.Router, credential func(string) string) error {
	flags := &flagCache{}
	s := &Service{Service: svc.Resolve(p.o.Settings), Suite: suite, Router: watchedRouter{router, flags, p, &routeMarks{}}, Credential: credential, flags: flags, drill: &running{}}
	s.Rollback = p.executor(s, p.o.Store, p)
	s.Feedback = p.newLoop(s)
	if err := p.o.Store.RegisterService(ctx, s.Name, rollout.Backend{Version: svc.Targets.Stable.Version, URL: svc.Targets.Stable.URL}); err != nil {
		return err
	}
	if err := p.seedFlags(ctx, s); err != nil {
		return err
	}
	if err := p.forgetDrill(ctx, s); err != nil {
		return err
	}
	p.mu.Lock()
	p.services[s.Name] = s
	p.mu.Unlock()
	return nil
}

// seedFlags puts the described values of components in force that nobody has
// set yet.
func (p *Plane) seedFlags(ctx context.Context, s *Service) error {
	for _, c := range headgate.RollbackOrder() {
		comp := s.Components.Get(c)
		if comp.Actuator.Kind != config.ActuatorFlag {
			continue
		}
		flag := rollback.Flag{Service: s.Name, Store: p.o.Store}
		if v, err := flag.Read(ctx, c); err != nil || v != "" {
			if err != nil {
				return err
			}
			continue
		}
		if err := flag.Set(ctx, c, comp.Current); err != nil {
			return err
		}
	}
	return nil
}

// Service returns a service by name; the only one there is when name is
// empty. Otherwise SERVICE_NOT_FOUND.
func (p *Plane) Service(name string) (*Service, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if s := p.services[name]; s != nil {
		return s, nil
	}
	if name == "" && len(p.services) == 1 {
		for _, s := range p.services {
			return s, nil
		}
	}
	return nil, headgate.Errorf(headgate.CodeServiceNotFound, headgate.ClassBusinessRule,
		"no such service is under control; start the server with its headgate.yaml (--service)")
}

// Services returns all services by name.
func (p *Plane) Services() []*Service {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.SortedFunc(maps.Values(p.services), func(a, b *Service) int { return cmp.Compare(a.Name, b.Name) })
}

// Router returns a service's router, for the pipeline.
func (p *Plane) Router(service string) (rollout.Router, error) {
	s, err := p.Service(service)
	if err != nil {
		return nil, err
	}
	return s.Router, nil
}

// serviceOf returns the service of a release, or the only one when the release
// is not known.
func (p *Plane) serviceOf(ctx context.Context, releaseID string) (*Service, *pipeline.Record, error) {
	r, err := p.o.Store.Release(ctx, releaseID)
	if err != nil {
		if headgate.AsError(err).Code != headgate.CodeReleaseNotFound {
			return nil, nil, err
		}
		s, err := p.Service("")
		return s, nil, err
	}
	s, err := p.Service(r.Service)
	return s, &r, err
}

// reach says which release a caller means by an id. One that is another
// tenant's is refused as if it were not there. An id under which no release was
// made is anybody's to use, each tenant's for itself.
func (p *Plane) reach(ctx context.Context, who access.Identity, releaseID string) (named, error) {
	of := named{releaseID, who.TenantID}
	if releaseID == "" {
		return of, nil
	}
	r, err := p.o.Store.Release(ctx, releaseID)
	switch {
	case headgate.AsError(err).Code == headgate.CodeReleaseNotFound:
		return of, nil
	case err == nil && !who.Sees(r.TenantID):
		return of, noRelease(releaseID)
	}
	of.tenant = r.TenantID
	return of, err
}

// tool is how evidence names this build.
func (p *Plane) tool() evidence.Tool { return evidence.Tool{Name: "headgate", Version: p.o.Version} }

// record writes an event to the audit trail and wakes the sealer.
func (p *Plane) record(ctx context.Context, key string, ev headgate.Event) error {
	if ev.Time.IsZero() {
		ev.Time = p.o.Now().UTC()
	}
	if err := p.o.Store.Record(ctx, key, ev); err != nil {
		return err
	}
	p.Seal()
	return nil
}

// Record implements [rollback.Audit].
func (p *Plane) Record(ctx context.Context, key string, ev headgate.Event) error {
	return p.record(ctx, key, ev)
}

// putDocument keeps v under a kind and id.
func (p *Plane) putDocument(ctx context.Context, kind, id, releaseID, tenant string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.o.Store.PutDocument(ctx, Document{Kind: kind, ID: id, ReleaseID: releaseID, TenantID: tenant, At: p.o.Now(), Body: body})
}
