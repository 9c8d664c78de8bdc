package proxy

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// Bounds of what is counted apart: routes, and pairs of a tenant and a route.
const (
	maxRoutes = 64
	maxPairs  = 4096
)

// cell counts one arm of one tenant on one route. Its buckets are the requests,
// so there is no second counter to disagree with them.
type cell struct {
	errors  atomic.Uint64
	latency [canary.NumBuckets]atomic.Uint64
}

func (c *cell) record(bucket int, failed bool) {
	c.latency[bucket].Add(1)
	if failed {
		c.errors.Add(1)
	}
}

func (c *cell) addTo(out *rollout.Cell) {
	// Errors are read first and written last, so they never exceed requests.
	out.Errors += c.errors.Load()
	for i := range c.latency {
		n := c.latency[i].Load()
		out.Latency[i] += n
		out.Requests += n
	}
}

// arms holds both cells of one tenant on one route.
type arms struct{ stable, candidate cell }

func (a *arms) of(arm headgate.Arm) *cell {
	if arm == headgate.Candidate {
		return &a.candidate
	}
	return &a.stable
}

// shard counts one part of a tenant's sessions on stable.
type shard struct{ requests, errors atomic.Int64 }

func (s *shard) record(failed bool) {
	s.requests.Add(1)
	if failed {
		s.errors.Add(1)
	}
}

// byRoute holds one tenant's cells. Its map is copied when a route is new.
type byRoute struct {
	known  atomic.Pointer[map[string]*arms]
	other  arms
	shards [rollout.NumShards]shard
}

// sharded returns the shards, nil while none has counted.
func (b *byRoute) sharded() []canary.Shard {
	out, some := make([]canary.Shard, len(b.shards)), false
	for i := range b.shards {
		out[i].Errors = b.shards[i].errors.Load()
		out[i].Requests = b.shards[i].requests.Load()
		some = some || out[i].Requests > 0
	}
	if !some {
		return nil
	}
	return out
}

func newByRoute() *byRoute {
	b := &byRoute{}
	b.known.Store(&map[string]*arms{})
	return b
}

func (b *byRoute) all(yield func(string, *arms) bool) {
	for route, a := range *b.known.Load() {
		if !yield(route, a) {
			return
		}
	}
	yield(rollout.OtherRoutes, &b.other)
}

// counters finds cells without a lock: the map is copied when a tenant is new,
// which happens at most limit times plus once per admitted tenant.
type counters struct {
	limit  int
	other  *byRoute
	cells  atomic.Pointer[map[string]*byRoute]
	grow   sync.Mutex
	routes atomic.Pointer[map[string]struct{}]
	pairs  atomic.Int64
}

func newCounters(limit int) *counters {
	c := &counters{limit: limit, other: newByRoute()}
	c.routes.Store(&map[string]struct{}{})
	c.cells.Store(&map[string]*byRoute{})
	return c
}

// tenant returns the tenant's cells, those of everybody else once limit
// tenants are known.
func (c *counters) tenant(name string) *byRoute {
	if b, ok := (*c.cells.Load())[name]; ok {
		return b
	}
	if name == "" || name == rollout.OtherTenants {
		return c.other
	}
	c.grow.Lock()
	defer c.grow.Unlock()
	known := *c.cells.Load()
	if _, ok := known[name]; !ok && len(known) >= c.limit {
		return c.other
	}
	c.insert(name)
	return (*c.cells.Load())[name]
}

// admit gives each tenant cells of its own, beyond the limit if need be:
// they are the ones that the canary is judged on.
func (c *counters) admit(tenants []string) {
	c.grow.Lock()
	defer c.grow.Unlock()
	c.insert(tenants...)
}

// insert is called with grow held.
func (c *counters) insert(tenants ...string) {
	grown := maps.Clone(*c.cells.Load())
	for _, t := range tenants {
		if t != "" && t != rollout.OtherTenants && grown[t] == nil {
			grown[t] = newByRoute()
		}
	}
	c.cells.Store(&grown)
}

// learn returns b's cells of a route that b does not know yet, those of all
// other routes when there are too many.
func (c *counters) learn(b *byRoute, route string) *arms {
	if !c.room(route) {
		return &b.other
	}
	c.grow.Lock()
	defer c.grow.Unlock()
	known := *b.known.Load()
	if a, ok := known[route]; ok {
		return a
	}
	if !c.room(route) {
		return &b.other
	}
	routes := maps.Clone(*c.routes.Load())
	routes[route] = struct{}{}
	c.routes.Store(&routes)
	c.pairs.Add(1)
	grown := maps.Clone(known)
	grown[route] = &arms{}
	b.known.Store(&grown)
	return grown[route]
}

func (c *counters) room(route string) bool {
	routes := *c.routes.Load()
	_, ok := routes[route]
	return (ok || len(routes) < maxRoutes) && c.pairs.Load() < maxPairs
}

// read sums up each tenant's routes, or keeps them apart.
func (c *counters) read(at time.Time, bootID string, apart bool) rollout.Counts {
	out := rollout.Counts{At: at, Cells: []rollout.Cell{}}
	add := func(tenant string, b *byRoute) {
		for _, arm := range []headgate.Arm{headgate.Candidate, headgate.Stable} {
			var sum rollout.Cell
			for route, a := range b.all {
				if apart || sum.Latency == nil {
					sum = rollout.Cell{BootID: bootID, Arm: arm, Tenant: tenant, Latency: make([]uint64, canary.NumBuckets)}
				}
				a.of(arm).addTo(&sum)
				if apart && sum.Requests > 0 {
					sum.Route = route
					out.Cells = append(out.Cells, sum)
				}
			}
			if !apart && arm == headgate.Stable {
				sum.Shards = b.sharded()
			}
			if !apart && sum.Requests > 0 {
				out.Cells = append(out.Cells, sum)
			}
		}
	}
	for tenant, b := range *c.cells.Load() {
		add(tenant, b)
	}
	add(rollout.OtherTenants, c.other)
	slices.SortFunc(out.Cells, func(a, b rollout.Cell) int {
		return cmp.Or(cmp.Compare(a.Arm, b.Arm), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Route, b.Route))
	})
	return out
}

// tally counts one user request, once, however it ends.
type tally struct {
	counters *counters
	tenant   *byRoute // nil for testers
	arm      headgate.Arm
	// cells are those of the request's route; nil for one not known yet, which
	// is learnt only if the service knows it: paths that nobody serves would
	// use up the room.
	cells *arms
	route string
	shard *shard // nil while there is no candidate to compare with
	start time.Time
	done  bool
}

// answered records a backend's answer.
func (t *tally) answered(status int) {
	t.record(canary.BucketOf(time.Since(t.start).Seconds()), status >= 500, status != 0 && (status < 400 || status >= 500))
}

// failed records that the assigned backend did not answer, or not to the end.
func (t *tally) failed() { t.record(canary.TimeoutBucket, true, false) }

// abandoned records a request that the client spoilt or gave up.
func (t *tally) abandoned() { t.answered(0) }

func (t *tally) record(bucket int, failed, learn bool) {
	if t.done {
		return
	}
	t.done = true
	if t.tenant == nil {
		return
	}
	if t.cells == nil {
		t.cells = &t.tenant.other
		if learn && t.route != "" {
			t.cells = t.counters.learn(t.tenant, t.route)
		}
	}
	t.cells.of(t.arm).record(bucket, failed)
	if t.shard != nil && t.arm == headgate.Stable {
		t.shard.record(failed)
	}
}
