package canary

import "fmt"

// latencyTests bet against "the candidate's latencies, shortened by the
// margin, are no longer than stable's": on ranks for the body of the
// distribution, on counts above frozen quantiles for its tails.
type latencyTests struct {
	floor  int64 // bucket up to which latencies are alike
	ranks  *rankTest
	tails  [3]tailTest
	frozen bool
	// Sums over the canary: stable's give the quantiles, both the reason.
	stable, candidate [NumBuckets]int64
	requests          int64 // of stable
}

// tailTest compares counts above one quantile.
type tailTest struct {
	above int64 // bucket
	ratio *oddsRatio
	bet   *mixture
}

// tailQuantiles are the quantiles of stable whose exceedance is compared.
var tailQuantiles = [3]float64{0.9, 0.99, 0.999}

// referenceRequests of stable fix the quantiles when the configuration has none.
const referenceRequests = 2000

func newLatencyTests(cfg Config) *latencyTests {
	l := &latencyTests{}
	if cfg.Latency.FloorSeconds > 0 {
		l.floor = int64(BucketOf(cfg.Latency.FloorSeconds))
	}
	limit := cfg.blockLimit(max(0.5*cfg.Weights.Latency, 1e-6), cfg.CapBlocks)
	l.ranks = newRankTest(cfg.Latency.Margin, l.floor, cfg.Hazard, limit)
	ratios := logSpaced(1.25*cfg.Latency.TailRatio, 150, 8)
	for i := range l.tails {
		l.tails[i].ratio = newOddsRatio(cfg.Latency.TailRatio, ratios)
		l.tails[i].bet = newMixture(powerPrior(ratios, -0.5), reserve, cfg.Hazard, limit)
		if len(cfg.Latency.TailsSeconds) > 0 {
			l.tails[i].above = max(l.floor, int64(BucketOf(cfg.Latency.TailsSeconds[i])))
			l.frozen = true
		}
	}
	return l
}

// compare scores one stratum's latencies.
func (l *latencyTests) compare(candidate, stable Histogram, nc, ns int64) {
	l.ranks.add(candidate, stable, nc, ns)
	if l.frozen {
		for i := range l.tails {
			t := &l.tails[i]
			t.ratio.add(float64(nc), float64(ns), float64(candidate.above(t.above)), float64(stable.above(t.above)))
		}
	}
	l.requests += ns
	for _, b := range candidate {
		l.candidate[b[0]] += b[1]
	}
	for _, b := range stable {
		l.stable[b[0]] += b[1]
	}
}

func (l *latencyTests) observe(phi float64) {
	l.ranks.observe(phi)
	for i := range l.tails {
		l.tails[i].bet.add(l.tails[i].ratio.scores, phi)
		l.tails[i].ratio.clear()
	}
	if !l.frozen {
		l.freeze()
	}
}

func (l *latencyTests) freeze() {
	if l.requests < referenceRequests {
		return
	}
	for i, q := range tailQuantiles {
		l.tails[i].above = max(l.floor, quantile(&l.stable, q))
	}
	l.frozen = true
}

func (l *latencyTests) endBlock() {
	l.ranks.bet.endBlock()
	for i := range l.tails {
		l.tails[i].bet.endBlock()
	}
}

func (l *latencyTests) level() float64 {
	tails := (l.tails[0].bet.value + l.tails[1].bet.value + l.tails[2].bet.value) / 3
	return float64(0.5*l.ranks.bet.value) + float64(0.5*tails)
}

func (l *latencyTests) reason() string {
	p := func(h *[NumBuckets]int64, q float64) float64 { return bucketBounds[min(quantile(h, q), NumBuckets-2)] }
	return fmt.Sprintf("The candidate is slower than stable: median %.3g s against %.3g s, p99 %.3g s against %.3g s; this is not chance.",
		p(&l.candidate, 0.5), p(&l.stable, 0.5), p(&l.candidate, 0.99), p(&l.stable, 0.99))
}

// quantile returns the bucket that holds the quantile.
func quantile(h *[NumBuckets]int64, q float64) int64 {
	var n, seen int64
	for _, c := range h {
		n += c
	}
	for i, c := range h {
		seen += c
		if c > 0 && float64(seen) >= float64(q*float64(n)) {
			return int64(i)
		}
	}
	return 0
}

func (h Histogram) above(bucket int64) int64 {
	var n int64
	for i := len(h) - 1; i >= 0 && h[i][0] > bucket; i-- {
		n += h[i][1]
	}
	return n
}

func (h Histogram) count() int64 {
	var n int64
	for _, b := range h {
		n += b[1]
	}
	return n
}

// plus returns the sum of two histograms without changing either.
func (h Histogram) plus(other Histogram) Histogram {
	sum := make(Histogram, 0, len(h)+len(other))
	for len(h) > 0 && len(other) > 0 {
		switch {
		case h[0][0] < other[0][0]:
			sum, h = append(sum, h[0]), h[1:]
		case h[0][0] > other[0][0]:
			sum, other = append(sum, other[0]), other[1:]
		default:
			sum = append(sum, [2]int64{h[0][0], h[0][1] + other[0][1]})
			h, other = h[1:], other[1:]
		}
	}
	return append(append(sum, h...), other...)
}
