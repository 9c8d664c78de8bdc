package canary

import (
	"fmt"
	"slices"
)

// costTest bets against "the candidate's mean cost per task, both capped at a
// bound, exceeds stable's by no more than the margin" (betting on bounded
// means, Waudby-Smith & Ramdas 2024), and on ranks against "its costs are no
// larger". A few dear tasks hide from the mean what ranks see; a mean that
// speaks against it keeps ranks from deciding.
type costTest struct {
	factor    float64 // 1 + margin
	bound     float64 // zero until frozen
	reference []float64
	lambdas   []float64
	scores    []float64
	bet       *mixture
	ranks     *rankTest
	// meanLevels is how much stronger ranks may be than the mean.
	meanLevels float64

	sumC, sumS float64
	nc         int64
}

const (
	// referenceTasks of stable fix the bound when the configuration has none.
	referenceTasks = 400
	boundQuantile  = 0.995
	// maxPending bounds the tasks that wait for a partner in the other arm.
	maxPending = 512
)

func newCostTest(cfg Config) *costTest {
	c := &costTest{factor: 1 + cfg.Cost.Margin, bound: cfg.Cost.Bound}
	// 1 + λD stays positive for D ≥ −(1 + margin).
	c.lambdas = logSpaced(0.02, 0.945/c.factor, 10)
	c.scores = make([]float64, len(c.lambdas))
	part := max(0.5*cfg.Weights.Cost, 1e-6)
	limit := cfg.blockLimit(part, cfg.CapBlocks)
	c.ranks = newRankTest(cfg.Cost.Margin, 0, cfg.Hazard, limit)
	c.meanLevels = cfg.MarginAlpha / float64(cfg.Alpha*part)
	c.bet = newMixture(powerPrior(c.lambdas, 0), reserve, cfg.Hazard, limit)
	return c
}

// compare matches each candidate task with as many stable ones as there are
// for all, none twice.
func (c *costTest) compare(candidate, stable []float64) {
	if c.bound == 0 {
		c.freeze(stable)
		return
	}
	c.ranks.add(c.histogram(candidate), c.histogram(stable), int64(len(candidate)), int64(len(stable)))
	n := min(len(candidate), len(stable))
	k := len(stable) / max(n, 1)
	for i, x := range candidate[:n] {
		var sum float64
		for _, y := range stable[i*k : (i+1)*k] {
			sum += min(y, c.bound)
		}
		d := (min(x, c.bound) - float64(c.factor*sum)/float64(k)) / c.bound
		for m, lambda := range c.lambdas {
			c.scores[m] += ln(1 + float64(lambda*d))
		}
		c.sumC += x
		c.sumS += sum / float64(k)
	}
	c.nc += int64(n)
}

func (c *costTest) freeze(stable []float64) {
	c.reference = append(c.reference, stable...)
	if len(c.reference) < referenceTasks {
		return
	}
	slices.Sort(c.reference)
	c.bound = c.reference[int(boundQuantile*float64(len(c.reference)))]
	c.reference = nil
}

// histogram sorts costs into the buckets of latencies, the bound where ten
// seconds are.
func (c *costTest) histogram(costs []float64) Histogram {
	buckets := make([]int64, len(costs))
	for i, x := range costs {
		buckets[i] = int64(min(BucketOf(10*(x/c.bound)), TimeoutBucket-1))
	}
	slices.Sort(buckets)
	var h Histogram
	for i, b := range buckets {
		if i == 0 || b != buckets[i-1] {
			h = append(h, [2]int64{b, 0})
		}
		h[len(h)-1][1]++
	}
	return h
}

func (c *costTest) observe() {
	c.bet.add(c.scores, 1)
	clear(c.scores)
	c.ranks.observe(1)
}

func (c *costTest) endBlock() {
	c.bet.endBlock()
	c.ranks.bet.endBlock()
}

// level is the mean of the evidence of means and of ranks: dearer by the mean
// at alpha, or by ranks at alpha and by the mean at margin_alpha.
func (c *costTest) level() float64 {
	return float64(0.5*c.bet.value) + float64(0.5*min(c.ranks.bet.value, float64(c.meanLevels*c.bet.value)))
}

func (c *costTest) reason() string {
	n := float64(max(c.nc, 1))
	return fmt.Sprintf("A task costs more on the candidate than on stable: %.3g against %.3g on average; this is not chance.", c.sumC/n, c.sumS/n)
}
