package canary_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// traffic makes ticks of two arms with fixed rates of requests and errors.
type traffic struct {
	rng            *rand.Rand
	rps, share     float64
	stable, canary float64 // error rates
	tick           time.Duration
	now            time.Time
}

func newTraffic(seed uint64, rps, share, stable, canary float64) *traffic {
	return &traffic{rng: rand.New(rand.NewPCG(seed, 1)), rps: rps, share: share, stable: stable, canary: canary,
		tick: 2 * time.Second, now: start}
}

func (tr *traffic) next() canary.Tick {
	tr.now = tr.now.Add(tr.tick)
	arm := func(rps, errorRate float64) canary.Counts {
		var c canary.Counts
		c.Requests = poisson(tr.rng, rps*tr.tick.Seconds())
		for range c.Requests {
			if tr.rng.Float64() < errorRate {
				c.Errors++
			}
		}
		return c
	}
	return canary.Tick{Time: tr.now, ExpectedShare: tr.share, Strata: []canary.Stratum{{
		Tenant: "t1", Stable: arm(tr.rps*(1-tr.share), tr.stable), Candidate: arm(tr.rps*tr.share, tr.canary),
	}}}
}

func poisson(rng *rand.Rand, mean float64) int64 {
	limit, product := math.Exp(-mean), rng.Float64()
	n := int64(0)
	for product > limit {
		product *= rng.Float64()
		n++
	}
	return n
}

func newJudge(t testing.TB, change func(*canary.Config)) *canary.Judge {
	t.Helper()
	cfg := canary.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	j, err := canary.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// until observes ticks until the verdict is one of those given, or gives up.
func until(j *canary.Judge, tr *traffic, limit time.Duration, verdicts ...headgate.Verdict) canary.Decision {
	var d canary.Decision
	for tr.now.Sub(start) < limit {
		d = j.Observe(tr.next())
		for _, v := range verdicts {
			if d.Verdict == v {
				return d
			}
		}
	}
	return d
}

func TestProbe(t *testing.T) {
	for _, c := range []struct{ rps, share, s, c float64 }{{200, .1, .005, 1}, {200, .1, .005, .05}, {200, .1, .005, .02}, {200, .1, .005, .005}, {100, .2, 0, 0}, {50, .2, 0, .3}, {20, .1, .005, .005}} {
		var secs []float64
		for seed := range uint64(20) {
			d := until(newJudge(t, nil), newTraffic(seed, c.rps, c.share, c.s, c.c), time.Hour, headgate.Fail, headgate.Pass)
			secs = append(secs, d.Time.Sub(start).Seconds())
			if seed == 0 {
				t.Logf("%+v", d)
			}
		}
		est, ok := canary.Estimate(canary.DefaultConfig(), c.rps, c.share, c.s)
		t.Log(c, secs, est, ok)
	}
}
