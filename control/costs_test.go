package control_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
)

// What tasks cost on both versions reaches the canary, and what they cost
// before it bounds what one of them can say.
func TestTaskCostsReachTheCanary(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	bucket := func(tenant, instance, le string) [3]string { return [3]string{tenant, instance, le} }
	f.figures.series = map[string]map[[3]string]float64{
		"v1": {
			bucket("acme", "1", "0.1"): 300, bucket("acme", "1", "0.3"): 397, bucket("acme", "1", "1"): 400, bucket("acme", "1", "+Inf"): 400,
			bucket("acme", "1", ""): 70,
		},
		"v2": {bucket("acme", "2", "0.1"): 0, bucket("acme", "2", "0.3"): 2, bucket("acme", "2", "+Inf"): 3, bucket("acme", "2", ""): 1.5},
	}
	f.release(t, "rel-1", digest("a"))
	rec := f.at(t, inCanary(headgate.Insufficient))
	if got := rec.Plan.Canary.Cost.Bound; got != 0.65 {
		t.Errorf("bound %v, want the middle of the bucket that holds the 99.5th percentile", got)
	}
	obs, err := f.Observe(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	want := []pipeline.TaskCosts{
		{Arm: headgate.Candidate, Tenant: "acme", Instance: "2", Tasks: [][2]float64{{0.2, 2}, {0.3, 1}}, Sum: 1.5},
		{Arm: headgate.Stable, Tenant: "acme", Instance: "1", Tasks: [][2]float64{{0.05, 300}, {0.2, 97}, {0.65, 3}}, Sum: 70},
	}
	if diff := cmp.Diff(want, obs.Costs); diff != "" {
		t.Error(diff)
	}
}

// Whole tenants are compared with what they did in the last hour; without that
// there is nothing to compare.
func TestWholeTenantsNeedABaseline(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(s *config.Service) { s.Canary.Assignment = string(canary.WholeTenants) })
	request := control.ReleaseRequest{ID: "rel-1", Version: "v2", Digest: digest("a")}
	if _, err := f.CreateRelease(t.Context(), operator, request); code(err) != headgate.CodeConfigInvalid {
		t.Errorf("without telemetry: %v", err)
	}
	// The same answer to every query: requests a second, and the part that fails.
	f.figures.series = map[string]map[[3]string]float64{"v1": {{"acme", "", ""}: 0.25, {"borealis", "", ""}: 0.5}}
	if _, err := f.CreateRelease(t.Context(), operator, request); err != nil {
		t.Fatal(err)
	}
	plan := f.record(t, "rel-1").Plan
	want := map[string]canary.Shard{"acme": {Requests: 900, Errors: 225}, "borealis": {Requests: 1800, Errors: 900}}
	if diff := cmp.Diff(want, plan.Canary.Baseline); diff != "" || plan.Share != 1 || plan.Canary.Assignment != canary.WholeTenants {
		t.Errorf("share %v of %s: %s", plan.Share, plan.Canary.Assignment, diff)
	}
}
