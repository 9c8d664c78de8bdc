package canary_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate/canary"
)

// Errors that come five at a time must count for less, whether shards show it
// or only the ticks themselves.
func TestClusteredErrorsAreTempered(t *testing.T) {
	t.Parallel()
	run := func(size int64, shards bool) float64 {
		j := newJudge(t, func(c *canary.Config) { c.MinDurationSeconds = 3600 })
		tr := newTraffic(1, 200, .1, 0, 0)
		tr.change = func(tick *canary.Tick) {
			s := &tick.Strata[0]
			part := s.Stable.Requests / 9
			for range 9 {
				shard := canary.Shard{Requests: part, Errors: min(part, size*poisson(tr.rng, .02*float64(part)/float64(size)))}
				s.Stable.Errors += shard.Errors
				s.Shards = append(s.Shards, shard)
			}
			if !shards {
				s.Shards = nil
			}
		}
		return until(j, tr, 5*time.Minute).Evidence.Tempering
	}
	for _, shards := range []bool{true, false} {
		if phi := run(1, shards); phi > 1.4 {
			t.Errorf("single errors, shards %v: tempered by %.2f", shards, phi)
		}
		if phi := run(5, shards); phi < 2.5 {
			t.Errorf("errors five at a time, shards %v: tempered by %.2f only", shards, phi)
		}
	}
}
