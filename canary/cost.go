package canary

import (
	"fmt"
	"slices"
)

// costTest bets against "the candidate's mean cost per task, both capped at a
// bound, exceeds stable's by no more than the margin" (betting on bounded
// means, Waudby-Smith & Ramdas 2024).
type costTest struct {
	factor    float64 // 1 + margin
	bound     float64 // zero until frozen
	reference []float64
	lambdas   []float64
	scores    []float64
	bet       *mixture

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
	limit := cfg.blockLimit(max(cfg.Weights.Cost, 1e-6), cfg.CapBlocks)
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

func (c *costTest) observe() {
	c.bet.add(c.scores, 1)
	clear(c.scores)
}

func (c *costTest) reason() string {
	n := float64(max(c.nc, 1))
	return fmt.Sprintf("A task costs more on the candidate than on stable: %.3g against %.3g on average; this is not chance.", c.sumC/n, c.sumS/n)
}
