package canary_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// tenantTraffic sends each tenant its own way.
type tenantTraffic struct {
	name      string
	whole     bool // all of it goes to the candidate
	stable    float64
	candidate float64
}

func tenantTicks(seed uint64, tenants []tenantTraffic, split float64) *traffic {
	tr := newTraffic(seed, 0, 0, 0, 0)
	tr.change = func(tick *canary.Tick) {
		tick.ExpectedShare = 0
		tick.Strata = nil
		for _, t := range tenants {
			s := canary.Stratum{Tenant: t.name}
			switch {
			case split > 0:
				s.Stable, s.Candidate = tr.arm(20*(1-split), t.stable), tr.arm(20*split, t.candidate)
			case t.whole:
				s.Candidate = tr.arm(20, t.candidate)
			default:
				s.Stable = tr.arm(20, t.stable)
			}
			tick.Strata = append(tick.Strata, s)
		}
	}
	return tr
}

func wholeTenants(c *canary.Config) {
	c.Assignment = canary.WholeTenants
	c.MinDurationSeconds = 600
	c.Baseline = map[string]canary.Shard{
		"clean-1": {Requests: 72000, Errors: 72}, "clean-2": {Requests: 72000, Errors: 72}, "clean-3": {Requests: 72000, Errors: 72},
		"dirty-1": {Requests: 72000, Errors: 3600}, "dirty-2": {Requests: 72000, Errors: 2160},
	}
}

func TestWholeTenants(t *testing.T) {
	t.Parallel()
	tenants := func(first, second float64) []tenantTraffic {
		return []tenantTraffic{
			{name: "clean-1", stable: .001}, {name: "clean-2", stable: .001}, {name: "clean-3", stable: .001},
			{name: "dirty-1", whole: true, candidate: first}, {name: "dirty-2", whole: true, candidate: second},
		}
	}
	t.Run("dirty tenants are no regression", func(t *testing.T) {
		t.Parallel()
		d := until(newJudge(t, wholeTenants), tenantTicks(1, tenants(.05, .03), 0), 9*time.Minute, headgate.Fail)
		if d.Verdict == headgate.Fail {
			t.Fatal(d.Reason)
		}
		if !d.ModelBased {
			t.Error("the verdict is not marked as model based")
		}
	})
	t.Run("all of them fail more", func(t *testing.T) {
		t.Parallel()
		d := until(newJudge(t, wholeTenants), tenantTicks(1, tenants(.3, .3), 0), 2*time.Minute, headgate.Fail)
		if d.Verdict != headgate.Fail || !d.ModelBased {
			t.Fatalf("%+v", d)
		}
	})
	t.Run("one of them fails more", func(t *testing.T) {
		t.Parallel()
		d := until(newJudge(t, func(c *canary.Config) { wholeTenants(c); c.KillErrorRate = 0 }),
			tenantTicks(1, tenants(.05, .5), 0), 2*time.Minute, headgate.Fail)
		if d.Verdict != headgate.Insufficient || d.Evict != "dirty-2" || d.Reasons[0] != canary.CodeOneTenant {
			t.Fatalf("%+v", d)
		}
	})
	t.Run("no baseline", func(t *testing.T) {
		t.Parallel()
		cfg := canary.DefaultConfig()
		cfg.Assignment = canary.WholeTenants
		if _, err := canary.New(cfg); err == nil {
			t.Fatal("whole tenants were accepted without a baseline")
		}
	})
}

func TestSplitInsideTenants(t *testing.T) {
	t.Parallel()
	tenants := []tenantTraffic{
		{name: "a", stable: .05, candidate: .05}, {name: "b", stable: .001, candidate: .001},
		{name: "c", stable: .001, candidate: .5}, {name: "d", stable: .001, candidate: .001},
	}
	d := until(newJudge(t, nil), tenantTicks(1, tenants, .2), 2*time.Minute, headgate.Fail)
	if d.Verdict != headgate.Fail || d.Evict != "c" {
		t.Fatalf("errors of one tenant: %s, evict %q: %s", d.Verdict, d.Evict, d.Reason)
	}
}
