package canary_test

import (
	"math"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// An instance that fails half of its requests for four seconds now and then is
// no regression, however many errors that makes; failing a little all the time
// is one.
func TestBurstsAreNoRegression(t *testing.T) {
	t.Parallel()
	during := func(at time.Duration) bool {
		for _, burst := range []time.Duration{60, 200, 340, 480} {
			if at > burst*time.Second && at <= (burst+4)*time.Second {
				return true
			}
		}
		return false
	}
	for seed := range uint64(20) {
		tr := newTraffic(seed, 200, .5, .005, .005)
		tr.change = func(tick *canary.Tick) {
			if during(tr.elapsed()) {
				tick.Strata[0].Candidate.Errors = tick.Strata[0].Candidate.Requests / 2
			}
		}
		long := func(c *canary.Config) { c.MinDurationSeconds = 600 }
		if d := until(newJudge(t, long), tr, 9*time.Minute, headgate.Fail); d.Verdict == headgate.Fail {
			t.Errorf("seed %d, %s: %s", seed, tr.elapsed(), d.Reason)
		}
		steady := newTraffic(seed, 200, .5, .005, .015)
		if d := until(newJudge(t, long), steady, 3*time.Minute, headgate.Fail); d.Verdict != headgate.Fail {
			t.Errorf("seed %d: three times as many errors all the time: %s", seed, d.Reason)
		}
	}
}

func TestRegressionsThatBeginLate(t *testing.T) {
	t.Parallel()
	for _, onset := range []time.Duration{6 * time.Minute, 40 * time.Minute} {
		for rate, limit := range map[float64]time.Duration{1: 30 * time.Second, .05: time.Minute, .02: 3 * time.Minute} {
			j := newJudge(t, func(c *canary.Config) { c.MinDurationSeconds = 3600 })
			tr := newTraffic(1, 200, .1, .005, .005)
			if d := until(j, tr, onset, headgate.Fail); d.Verdict == headgate.Fail {
				t.Fatalf("failed while both were equal: %s", d.Reason)
			}
			tr.canary = rate
			if d := until(j, tr, onset+limit, headgate.Fail); d.Verdict != headgate.Fail {
				t.Errorf("%g of requests fail from %s on, and not stopped %s later: %s", rate, onset, limit, d.Reason)
			}
		}
	}
}

// A tenant that always fails a lot may have most of its traffic on the
// candidate: it is compared with itself.
func TestAnotherMixOfTenantsIsNoRegression(t *testing.T) {
	t.Parallel()
	tr := newTraffic(1, 0, 0, 0, 0)
	tr.change = func(tick *canary.Tick) {
		tick.ExpectedShare = 0
		tick.Strata = []canary.Stratum{
			{Tenant: "dirty", Stable: tr.arm(20, .1), Candidate: tr.arm(40, .1)},
			{Tenant: "clean", Stable: tr.arm(400, .001), Candidate: tr.arm(10, .001)},
		}
	}
	d := until(newJudge(t, nil), tr, 10*time.Minute, headgate.Fail, headgate.Pass)
	if d.Verdict != headgate.Pass {
		t.Errorf("%s: candidate %s, stable %s: %s", d.Verdict, d.Candidate, d.Stable, d.Reason)
	}
}

// When stable's own instances differ for good, a candidate within their range
// is like one of them.
func TestUnequalInstancesAreNoRegression(t *testing.T) {
	t.Parallel()
	verdict := func(shards bool) headgate.Verdict {
		tr := newTraffic(1, 0, 0, 0, 0)
		tr.change = func(tick *canary.Tick) {
			s := canary.Stratum{Candidate: tr.arm(100, .0125)}
			for i := range 9 {
				c := tr.arm(100, .006+.001*float64(i))
				s.Stable.Requests += c.Requests
				s.Stable.Errors += c.Errors
				s.Shards = append(s.Shards, canary.Shard{Requests: c.Requests, Errors: c.Errors})
			}
			if !shards {
				s.Shards = nil
			}
			tick.ExpectedShare, tick.Strata = 0, []canary.Stratum{s}
		}
		j := newJudge(t, func(c *canary.Config) { c.MinDurationSeconds = 3600 })
		return until(j, tr, 20*time.Minute, headgate.Fail).Verdict
	}
	if v := verdict(true); v != headgate.Insufficient {
		t.Errorf("with shards that show it: %s", v)
	}
	if v := verdict(false); v != headgate.Fail {
		t.Errorf("without shards it must look like a regression, but is %s", v)
	}
}

func TestCostIsJudgedByItsMean(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name              string
		candidate, stable func(*traffic) float64
		want              headgate.Verdict
	}{
		{
			"usual tasks dearer, the few large ones cheaper by more",
			func(tr *traffic) float64 { return mixed(tr, 1.2, 5) }, func(tr *traffic) float64 { return mixed(tr, 1, 10) },
			headgate.Insufficient,
		},
		{
			"half as dear again, with a heavy tail",
			func(tr *traffic) float64 { return 1.5 * math.Exp(tr.rng.NormFloat64()) }, func(tr *traffic) float64 { return math.Exp(tr.rng.NormFloat64()) },
			headgate.Fail,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(1, 100, .1, .005, .005)
			tr.change = func(tick *canary.Tick) {
				s := &tick.Strata[0]
				s.Candidate.Costs = []float64{c.candidate(tr), c.candidate(tr)}
				for range 18 {
					s.Stable.Costs = append(s.Stable.Costs, c.stable(tr))
				}
			}
			j := newJudge(t, func(c *canary.Config) { c.MinDurationSeconds = 3600 })
			if d := until(j, tr, 8*time.Minute, headgate.Fail); d.Verdict != c.want {
				t.Errorf("%s: %s", d.Verdict, d.Reason)
			}
		})
	}
}

func mixed(tr *traffic, usual, large float64) float64 {
	if tr.rng.Float64() < .1 {
		return large
	}
	return usual
}
