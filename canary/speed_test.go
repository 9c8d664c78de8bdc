package canary_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate/canary"
)

// BenchmarkTick is one tick of 1,000 canaries with 50 tenants each at 200
// requests per second per canary; ns/op is for all of them.
func BenchmarkTick(b *testing.B) {
	const canaries, strata, variants = 1000, 50, 16
	rng := rand.New(rand.NewPCG(1, 2))
	arm := func(mean float64) canary.Counts {
		c := canary.Counts{Requests: poisson(rng, mean)}
		buckets := map[int]int64{}
		for range c.Requests {
			if rng.Float64() < 0.005 {
				c.Errors++
			}
			buckets[canary.BucketOf(0.2*(0.5+rng.ExpFloat64()))]++
		}
		for i := range canary.NumBuckets {
			if n := buckets[i]; n > 0 {
				c.Latency = append(c.Latency, [2]int64{int64(i), n})
			}
		}
		return c
	}
	ticks := make([]canary.Tick, variants)
	for i := range ticks {
		for t := range strata {
			ticks[i].Strata = append(ticks[i].Strata, canary.Stratum{
				Tenant: fmt.Sprintf("tenant-%d", t), Stable: arm(7.2), Candidate: arm(0.8),
			})
		}
		ticks[i].ExpectedShare = 0.1
	}
	judges := make([]*canary.Judge, canaries)
	for i := range judges {
		judges[i] = newJudge(b, nil)
	}
	now := start
	b.ResetTimer()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(2 * time.Second)
		for i, j := range judges {
			t := ticks[(i+now.Second())%variants]
			t.Time = now
			j.Observe(t)
		}
	}
}
