package pipeline

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// makeTick is what happened since the last committed tick, as the judge wants
// to see it. Only tenants that the candidate may meet count, on either arm:
// the others are no comparison, unless whole tenants are assigned.
func makeTick(r Record, now time.Time, counts rollout.Counts, obs Observation, routerDown bool) canary.Tick {
	t := canary.Tick{Time: now, Checks: obs.Checks}
	if routerDown {
		t.Telemetry = canary.Missing
		return t
	}
	if r.State.Steady {
		// Requests in flight at a change belong to neither share.
		t.ExpectedShare = r.State.Share
	}
	strata := map[string]*canary.Stratum{}
	tenants := r.Tenants()
	whole := r.Plan.Canary.Assignment == canary.WholeTenants
	if whole {
		t.ExpectedShare = 0
	}
	for _, cell := range counts.Sub(r.State.Counts).Cells {
		if whole && cell.Tenant != rollout.OtherTenants && !r.evicted(cell.Tenant) && !slices.Contains(tenants, cell.Tenant) {
			tenants = append(tenants, cell.Tenant) // of stable alone
		}
		if !slices.Contains(tenants, cell.Tenant) {
			continue
		}
		s := strata[cell.Tenant]
		if s == nil {
			s = &canary.Stratum{Tenant: cell.Tenant}
			strata[cell.Tenant] = s
		}
		if cell.Arm == headgate.Candidate {
			s.Candidate = canaryCounts(cell)
		} else {
			s.Stable, s.Shards = canaryCounts(cell), shards(cell)
		}
	}
	for _, tenant := range tenants {
		if s := strata[tenant]; s != nil {
			t.Strata = append(t.Strata, *s)
		}
	}
	addCosts(&t, r, obs.Costs)
	if obs.Stale != "" && !crashed(t.Strata) {
		t.Telemetry = canary.Stale
	}
	return t
}

// crashed reports that the candidate fails most of what the router sends it. A
// process that has crashed sends no telemetry, and the router's counts need
// none: its silence is then part of the failure and no reason to hold.
func crashed(strata []canary.Stratum) bool {
	var requests, errors int64
	for _, s := range strata {
		requests += s.Candidate.Requests
		errors += s.Candidate.Errors
	}
	return requests > 0 && 2*errors >= requests
}

func canaryCounts(c rollout.Cell) canary.Counts {
	// A router reads its counters one after the other: an error may be in this
	// tick whose request was in the one before.
	out := canary.Counts{Requests: int64(c.Requests), Errors: int64(min(c.Errors, c.Requests))}
	for bucket, n := range c.Latency {
		if n > 0 {
			out.Latency = append(out.Latency, [2]int64{int64(bucket), int64(n)})
		}
	}
	return out
}

// shards are the cell's, cut where they run ahead of it.
func shards(c rollout.Cell) []canary.Shard {
	requests, errors := int64(c.Requests), int64(min(c.Errors, c.Requests))
	out := make([]canary.Shard, 0, len(c.Shards))
	for _, s := range c.Shards {
		s.Requests = max(0, min(s.Requests, requests))
		s.Errors = max(0, min(s.Errors, s.Requests, errors))
		requests -= s.Requests
		errors -= s.Errors
		out = append(out, s)
	}
	return out
}
