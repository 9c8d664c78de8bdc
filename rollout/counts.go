package rollout

import (
	"cmp"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// OtherTenants is the tenant under which a router counts requests without a
// tenant and those beyond the number of tenants it tells apart.
const OtherTenants = "other"

// OtherRoutes is the route under which a router counts requests beyond the
// routes that it tells apart.
const OtherRoutes = "other"

// Counts is what a router, or several, counted since each of them started.
// Every request of a user is counted once, however often it was retried.
type Counts struct {
	At    time.Time `json:"at"`
	Cells []Cell    `json:"cells"`
}

// Cell holds the figures of one arm and tenant on one router.
type Cell struct {
	// BootID names the run of the router that counted. Counts begin at zero
	// with each.
	BootID string       `json:"boot_id,omitempty"`
	Arm    headgate.Arm `json:"arm"`
	Tenant string       `json:"tenant"`
	// Route is the method and the path's template, where a router was asked to
	// tell them apart; empty for the sum of all.
	Route string `json:"route,omitempty"`
	// Requests and Errors; errors are 5xx answers, timeouts, connection
	// failures and answers cut short by the backend. A client that goes away is
	// no error.
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"`
	// Latency counts requests by the [canary.NumBuckets] buckets of
	// [canary.LatencyBuckets]. A request that the backend never answered is in
	// [canary.TimeoutBucket]. The buckets add up to Requests.
	Latency []uint64 `json:"latency"`
	// Shards cut the requests of a stable arm that has a candidate beside it by
	// [Place.Shard]. A router that cannot tell has none. They are read at
	// another moment than Requests and may run ahead of it by a few.
	Shards []canary.Shard `json:"shards,omitempty"`
}

// Sub returns what was counted between prev and c, with the cells of all
// routers added up by arm, tenant and route, sorted, and without boot ids. A router
// that restarted since prev counts from its start; one that is gone, not at
// all.
func (c Counts) Sub(prev Counts) Counts {
	type source struct {
		boot          string
		arm           headgate.Arm
		tenant, route string
	}
	before := make(map[source]Cell, len(prev.Cells))
	for _, cell := range prev.Cells {
		before[source{cell.BootID, cell.Arm, cell.Tenant, cell.Route}] = cell
	}
	sums := make(map[source]*Cell, len(c.Cells))
	for _, cell := range c.Cells {
		delta := cell.sub(before[source{cell.BootID, cell.Arm, cell.Tenant, cell.Route}])
		key := source{arm: cell.Arm, tenant: cell.Tenant, route: cell.Route}
		if sums[key] == nil {
			sums[key] = &Cell{Arm: cell.Arm, Tenant: cell.Tenant, Route: cell.Route, Latency: make([]uint64, len(cell.Latency))}
		}
		sums[key].add(delta)
	}
	out := Counts{At: c.At, Cells: make([]Cell, 0, len(sums))}
	for _, cell := range sums {
		out.Cells = append(out.Cells, *cell)
	}
	slices.SortFunc(out.Cells, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(a.Arm, b.Arm), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Route, b.Route))
	})
	return out
}

// Arm returns the sum of the arm's cells over tenants and routers.
func (c Counts) Arm(arm headgate.Arm) Cell {
	sum := Cell{Arm: arm, Latency: make([]uint64, canary.NumBuckets)}
	for _, cell := range c.Cells {
		if cell.Arm == arm {
			sum.add(cell)
		}
	}
	return sum
}

// sub takes prev from c. Figures that went down come from a router that lost
// them; what it shows then is all new.
func (c Cell) sub(prev Cell) Cell {
	if prev.Requests > c.Requests || prev.Errors > c.Errors || len(prev.Latency) > len(c.Latency) {
		return c
	}
	latency := slices.Clone(c.Latency)
	for i, n := range prev.Latency {
		if n > latency[i] {
			return c
		}
		latency[i] -= n
	}
	shards := slices.Clone(c.Shards)
	for i := range min(len(shards), len(prev.Shards)) {
		shards[i].Requests -= prev.Shards[i].Requests
		shards[i].Errors -= prev.Shards[i].Errors
	}
	c.Requests -= prev.Requests
	c.Errors -= prev.Errors
	c.Latency, c.Shards = latency, shards
	return c
}

func (c *Cell) add(d Cell) {
	c.Requests += d.Requests
	c.Errors += d.Errors
	if len(d.Latency) > len(c.Latency) {
		c.Latency = append(c.Latency, make([]uint64, len(d.Latency)-len(c.Latency))...)
	}
	for i, n := range d.Latency {
		c.Latency[i] += n
	}
	if len(d.Shards) > len(c.Shards) {
		c.Shards = append(c.Shards, make([]canary.Shard, len(d.Shards)-len(c.Shards))...)
	}
	for i, s := range d.Shards {
		c.Shards[i].Requests += s.Requests
		c.Shards[i].Errors += s.Errors
	}
}
