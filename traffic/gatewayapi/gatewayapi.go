// Package gatewayapi is the router for a service behind a Kubernetes Gateway
// API HTTPRoute. It writes the route's rules by server-side apply and believes
// a change only when the gateway has said that it took it.
//
// It owns the rules of one HTTPRoute, one annotation on it and, where it splits
// by weights, one Lease. It never touches the route's parents and hostnames,
// never creates the route and never takes rules from another field manager
// unless it was told to.
//
// A Gateway has no lease: a weight stays until somebody changes it. Only where
// a Headgate proxy decides ([ModeProxy], [ModeHeader]) does a share end by
// itself. [ModeWeights] relies on [Router.Watch] and is best effort.
package gatewayapi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"reflect"
	"regexp"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

// Mode says who decides which arm a request meets.
type Mode string

// The modes.
const (
	// ModeProxy sends everything to Headgate's proxies, which decide, forward
	// and count. The share is a lease that they hold.
	ModeProxy Mode = "proxy"
	// ModeHeader is for proxies in front of the Gateway: they decide, count and
	// set x-release-route, and the route obeys that header. The share is a lease
	// that they hold. Nothing else may reach the Gateway, because it would be
	// believed too.
	ModeHeader Mode = "header"
	// ModeWeights lets the Gateway draw lots for each request. Sessions do not
	// stay, nothing is counted, and a share ends only if [Router.Watch] runs
	// somewhere and reaches the API server.
	ModeWeights Mode = "weights"
)

// CodeConflict is the error code of a change that another field manager's
// ownership of the rules forbids. Nothing has changed then.
const CodeConflict = "ROUTE_CONFLICT"

// Config names one HTTPRoute.
type Config struct {
	Service string
	// Kubeconfig is a file; empty means the service account of this pod.
	Kubeconfig string
	// Namespace and Route name the HTTPRoute. It must exist.
	Namespace, Route string
	Mode             Mode
	// Front are the proxies that decide; set but for ModeWeights.
	Front rollout.Router
	// Proxy is where Front answers, as a URL that names a Service of the
	// cluster; for ModeProxy.
	Proxy string
	// Gateway is the URL at which Front reaches the Gateway; for ModeHeader.
	Gateway string
	// Tester is the value of x-release-tester that meets the candidate while it
	// has a share; empty for none. Whoever may read the route can read it. For
	// ModeWeights.
	Tester string
	// TenantHeader is where ModeWeights finds the tenant; empty is x-tenant-id.
	TenantHeader string
	// Force takes the rules from another field manager instead of refusing.
	Force  bool
	Logger *slog.Logger
}

const (
	// confirmWait is how long a Gateway may take to say that it took a change.
	confirmWait = 10 * time.Second
	confirmPoll = 50 * time.Millisecond
	// attempts bounds how often one change is tried against changes by others.
	attempts = 5
)

// label is what Kubernetes takes for a name of one part.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Router is a [rollout.Router] for one HTTPRoute.
type Router struct {
	cfg     Config
	cluster cluster
	mu      sync.Mutex // one change at a time

	leaseMu sync.Mutex
	granted sighting // what this process lent
	seen    sighting // what anybody lent, as last seen
}

var _ rollout.Router = (*Router)(nil)

// New returns the router. It does not connect. Returns CONFIG_INVALID for a bad
// configuration.
func New(cfg Config) (*Router, error) {
	cfg.TenantHeader = cmp.Or(cfg.TenantHeader, "x-tenant-id")
	var err error
	switch {
	case cfg.Service == "" || !label.MatchString(cfg.Namespace) || !label.MatchString(cfg.Route):
		err = invalid("a service and the names of a namespace and an HTTPRoute are needed, each of lower-case letters, digits and -")
	case cfg.Mode != ModeProxy && cfg.Mode != ModeHeader && cfg.Mode != ModeWeights:
		err = invalid("mode is %q; use proxy, header or weights", cfg.Mode)
	case (cfg.Mode == ModeWeights) != (cfg.Front == nil):
		err = invalid("modes proxy and header need Headgate proxies, mode weights takes none")
	case cfg.Mode == ModeProxy:
		_, err = serviceOf(cfg.Proxy, cfg.Namespace)
	case cfg.Mode == ModeHeader:
		err = (rollout.Split{Service: cfg.Service, Epoch: 1, Stable: rollout.Backend{URL: cfg.Gateway}}).Validate()
	}
	if err != nil {
		return nil, err
	}
	c, err := connect(cfg.Kubeconfig, cfg.Namespace, cfg.Route)
	if err != nil {
		return nil, err
	}
	return &Router{cfg: cfg, cluster: c}, nil
}

func invalid(format string, args ...any) error {
	return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "gateway api: "+format, args...)
}

// Apply implements [rollout.Router].
func (r *Router) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	if err := r.validate(s); err != nil {
		return rollout.Status{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cfg.Front == nil {
		var st rollout.Status
		err := again(func() (err error) { st, err = r.weigh(ctx, s); return err })
		return st, err
	}
	lay := func() error { return again(func() error { return r.lay(ctx, s) }) }
	if s.Share > 0 {
		if err := lay(); err != nil {
			return rollout.Status{}, err
		}
		return r.front(ctx, s)
	}
	// Users leave the candidate although the route cannot be changed.
	st, err := r.front(ctx, s)
	return st, errors.Join(err, lay())
}

// again repeats a change that met another one, for example of the route's
// status, from its reading on.
func again(change func() error) error {
	for range attempts - 1 {
		if err := change(); !moved(err) {
			return err
		}
	}
	return change()
}

// front tells the proxies.
func (r *Router) front(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	through := s
	if r.cfg.Mode == ModeHeader {
		through.Stable.URL = r.cfg.Gateway
		if s.Candidate.URL != "" {
			through.Candidate.URL = r.cfg.Gateway
		}
	}
	st, err := r.cfg.Front.Apply(ctx, through)
	return r.named(st, s), err
}

// named gives the proxies' backends the addresses that the route uses.
func (r *Router) named(st rollout.Status, s rollout.Split) rollout.Status {
	if r.cfg.Mode == ModeHeader {
		for i, b := range []rollout.Backend{s.Stable, s.Candidate}[:min(2, len(st.Backends))] {
			st.Backends[i].URL = b.URL
		}
	}
	return st
}

func (r *Router) validate(s rollout.Split) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if s.Service != r.cfg.Service {
		return headgate.Invalidf("this HTTPRoute serves %q, not %q", r.cfg.Service, s.Service)
	}
	if r.cfg.Mode == ModeWeights && cmp.Or(s.TTL, rollout.DefaultTTL)%time.Second != 0 {
		return headgate.Invalidf("split: ttl is %s; a Lease of Kubernetes holds whole seconds", s.TTL)
	}
	_, err := r.rules(s)
	return err
}

// lay makes the route lead where the proxies' decisions need it to.
func (r *Router) lay(ctx context.Context, s rollout.Split) error {
	before, err := r.read(ctx)
	if err != nil {
		return err
	}
	if r.cfg.Mode == ModeHeader {
		// Whether a lease may be renewed is for the proxies to say.
		if err := rollout.Supersede(before.split.Epoch, before.split, true, s); err != nil {
			return err
		}
	}
	_, err = r.put(ctx, before, s)
	return err
}

// weigh lends the share and then gives the candidate its weight.
func (r *Router) weigh(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	before, err := r.read(ctx)
	if err != nil {
		return rollout.Status{}, err
	}
	if err := rollout.Supersede(before.split.Epoch, before.split, before.open && r.leased(before.split.Epoch), s); err != nil {
		return rollout.Status{}, err
	}
	if s.Share > 0 {
		if err := r.lend(ctx, s); err != nil {
			return rollout.Status{}, err
		}
	}
	after, err := r.put(ctx, before, s)
	if err != nil {
		return rollout.Status{}, err
	}
	return r.status(after), nil
}

// put writes s unless it is there, and waits until the Gateway has taken it. A
// share that the Gateway cannot carry out is taken back.
func (r *Router) put(ctx context.Context, before state, s rollout.Split) (state, error) {
	if !r.holds(before, s) {
		if err := r.write(ctx, before, s, s.Share); err != nil {
			return before, err
		}
	}
	after, err := r.confirm(ctx, s)
	if err != nil && s.Share > 0 && r.cfg.Mode == ModeWeights {
		err = errors.Join(err, again(func() error { return r.takeBack(context.WithoutCancel(ctx), s.Epoch) }))
	}
	return after, err
}

// takeBack gives stable all weight, if the split of that epoch still stands.
func (r *Router) takeBack(ctx context.Context, epoch int64) error {
	st, err := r.read(ctx)
	if err != nil || !st.open || st.split.Epoch != epoch {
		return err
	}
	return r.write(ctx, st, st.split, 0)
}

// confirm waits until the route holds s and its Gateways have taken it.
func (r *Router) confirm(ctx context.Context, s rollout.Split) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	missing, final := "nothing was read back", false
	for {
		st, err := r.read(ctx)
		if err == nil && !r.holds(st, s) {
			return st, r.estranged(st)
		}
		if err == nil {
			if missing, final = st.unconfirmed(); missing == "" {
				return st, nil
			}
		}
		if final || ctx.Err() != nil || (err != nil && headgate.AsError(err).Class != headgate.ClassTransient) {
			return st, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the Gateway has not taken the route's change: %s", missing).Wrap(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(confirmPoll):
		}
	}
}

func (r *Router) estranged(st state) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"HTTPRoute %s/%s does not hold what Headgate wrote; %s; stop what else writes its rules, and apply again", r.cfg.Namespace, r.cfg.Route, others(st.route))
}

// Status implements [rollout.Router].
func (r *Router) Status(ctx context.Context) (rollout.Status, error) {
	st, err := r.read(ctx)
	if err != nil {
		return rollout.Status{}, err
	}
	if st.foreign && !r.cfg.Force {
		return rollout.Status{}, r.estranged(st)
	}
	if r.cfg.Front == nil {
		return r.status(st), nil
	}
	front, err := r.cfg.Front.Status(ctx)
	if err != nil || r.holds(st, st.split) {
		return r.named(front, st.split), err
	}
	if front.Share > 0 {
		return rollout.Status{}, r.estranged(st)
	}
	front.Backends = nil // whoever keeps the router applies anew
	return front, nil
}

func (r *Router) status(st state) rollout.Status {
	out := rollout.Status{Service: r.cfg.Service, Epoch: st.split.Epoch, ReleaseID: st.split.ReleaseID, BootID: string(st.route.UID)}
	if st.split.Epoch == 0 || st.foreign {
		return out // without backends: whoever keeps the router applies anew
	}
	missing, _ := st.unconfirmed()
	out.Backends = []rollout.BackendStatus{{Backend: st.split.Stable, Arm: headgate.Stable, Healthy: missing == ""}}
	if st.split.Candidate.URL != "" {
		out.Backends = append(out.Backends, rollout.BackendStatus{Backend: st.split.Candidate, Arm: headgate.Candidate, Healthy: missing == ""})
	}
	if st.open {
		out.Share, out.LeaseRemaining = st.split.Share, r.remaining()
	}
	return out
}

// Counts implements [rollout.Router]. A Gateway has no counters that all
// implementations share, so in ModeWeights there are none.
func (r *Router) Counts(ctx context.Context) (rollout.Counts, error) {
	if r.cfg.Front == nil {
		return rollout.Counts{}, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"an HTTPRoute counts nothing, so no canary can be judged by it; use mode proxy or header")
	}
	return r.cfg.Front.Counts(ctx)
}

// Routes implements [rollout.RouteCounter].
func (r *Router) Routes(ctx context.Context) (rollout.Counts, error) {
	if r.cfg.Front == nil {
		return r.Counts(ctx)
	}
	return rollout.Routes(ctx, r.cfg.Front)
}

// state is what the route holds.
type state struct {
	route *httpRoute
	split rollout.Split // as applied last; epoch 0 before that
	open  bool          // the candidate has the split's share
	// foreign says that the rules are not those of the split, open or closed.
	foreign bool
}

// holds reports whether the route, as read, does what s says.
func (r *Router) holds(st state, s rollout.Split) bool {
	want, err := r.rules(s)
	return err == nil && (r.cfg.Mode == ModeProxy || st.split.Same(s)) && reflect.DeepEqual(st.route.Spec.Rules, want)
}

func (r *Router) read(ctx context.Context) (state, error) {
	route, err := r.cluster.get(ctx)
	if err != nil {
		return state{}, err
	}
	st := state{route: route}
	if st.split, err = described(route); err != nil || st.split.Epoch == 0 {
		return st, err
	}
	closed := st.split
	closed.Share = 0
	shut := false
	for _, at := range []struct {
		split rollout.Split
		is    *bool
	}{{st.split, &st.open}, {closed, &shut}} {
		want, err := r.rules(at.split)
		if err != nil {
			return st, err
		}
		*at.is = reflect.DeepEqual(route.Spec.Rules, want)
	}
	st.foreign = !st.open && !shut
	st.open = st.open && weight(st.split.Share) > 0
	return st, nil
}

func weight(share float64) int32 { return int32(math.Round(share * maxWeight)) }
