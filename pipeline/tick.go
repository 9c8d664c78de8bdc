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
			s.Stable = canaryCounts(cell)
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
	out := canary.Counts{Requests: int64(c.Requests), Errors: int64(c.Errors)}
	for bucket, n := range c.Latency {
		if n > 0 {
			out.Latency = append(out.Latency, [2]int64{int64(bucket), int64(n)})
		}
	}
	return out
}
