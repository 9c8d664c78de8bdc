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

// cell counts one arm of one tenant. Its buckets are the requests, so there is
// no second counter to disagree with them.
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

func (c *cell) read(out *rollout.Cell) {
	// Errors are read first and written last, so they never exceed requests.
	out.Errors = c.errors.Load()
	out.Latency = make([]uint64, canary.NumBuckets)
	for i := range c.latency {
		n := c.latency[i].Load()
		out.Latency[i] = n
		out.Requests += n
	}
}

// arms holds both cells of one tenant.
type arms struct{ stable, candidate cell }

func (a *arms) of(arm headgate.Arm) *cell {
	if arm == headgate.Candidate {
		return &a.candidate
	}
	return &a.stable
}

// counters finds cells without a lock: the map is copied when a tenant is new,
// which happens at most limit times plus once per admitted tenant.
type counters struct {
	limit int
	other arms
	cells atomic.Pointer[map[string]*arms]
	grow  sync.Mutex
}

func newCounters(limit int) *counters {
	c := &counters{limit: limit}
	c.cells.Store(&map[string]*arms{})
	return c
}

// tenant returns the tenant's cells, those of everybody else once limit
// tenants are known.
func (c *counters) tenant(name string) *arms {
	if a, ok := (*c.cells.Load())[name]; ok {
		return a
	}
	if name == "" || name == rollout.OtherTenants {
		return &c.other
	}
	c.grow.Lock()
	defer c.grow.Unlock()
	known := *c.cells.Load()
	if _, ok := known[name]; !ok && len(known) >= c.limit {
		return &c.other
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
			grown[t] = &arms{}
		}
	}
	c.cells.Store(&grown)
}

func (c *counters) read(at time.Time, bootID string) rollout.Counts {
	out := rollout.Counts{At: at, Cells: []rollout.Cell{}}
	add := func(tenant string, a *arms) {
		for _, arm := range []headgate.Arm{headgate.Candidate, headgate.Stable} {
			cell := rollout.Cell{BootID: bootID, Arm: arm, Tenant: tenant}
			a.of(arm).read(&cell)
			if cell.Requests > 0 {
				out.Cells = append(out.Cells, cell)
			}
		}
	}
	for tenant, a := range *c.cells.Load() {
		add(tenant, a)
	}
	add(rollout.OtherTenants, &c.other)
	slices.SortFunc(out.Cells, func(a, b rollout.Cell) int {
		return cmp.Or(cmp.Compare(a.Arm, b.Arm), cmp.Compare(a.Tenant, b.Tenant))
	})
	return out
}

// tally counts one user request, once, however it ends.
type tally struct {
	cell  *cell // nil for testers
	start time.Time
	done  bool
}

// answered records a backend's answer.
func (t *tally) answered(status int) {
	t.record(canary.BucketOf(time.Since(t.start).Seconds()), status >= 500)
}

// failed records that the assigned backend did not answer, or not to the end.
func (t *tally) failed() { t.record(canary.TimeoutBucket, true) }

// abandoned records a request that the client spoilt or gave up.
func (t *tally) abandoned() { t.answered(0) }

func (t *tally) record(bucket int, failed bool) {
	if t.done {
		return
	}
	t.done = true
	if t.cell != nil {
		t.cell.record(bucket, failed)
	}
}
