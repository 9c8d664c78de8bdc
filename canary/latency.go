package canary

import "fmt"

// latencyTests bet against "the candidate's latencies, shortened by the
// margin, are no longer than stable's": on ranks for the body of the
// distribution, on counts above frozen quantiles for its tails.
type latencyTests struct {
	shift   int64 // margin in buckets
	floor   int64 // bucket up to which latencies are alike
	lambdas []float64
	norms   []float64 // ln(sinh(λ/2)/(λ/2))
	scores  []float64
	ranks   *mixture
	tails   [3]tailTest
	frozen  bool
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
	l := &latencyTests{lambdas: logSpaced(0.03, 6, 16)}
	for bound := 1.0; bound < 1+cfg.Latency.Margin-1e-9; bound *= BucketGrowth {
		l.shift++
	}
	if cfg.Latency.FloorSeconds > 0 {
		l.floor = int64(BucketOf(cfg.Latency.FloorSeconds))
	}
	for _, lambda := range l.lambdas {
		l.norms = append(l.norms, ln((exp(lambda/2)-exp(-lambda/2))/lambda))
	}
	limit := cfg.blockLimit(max(0.5*cfg.Weights.Latency, 1e-6), cfg.CapBlocks)
	l.scores = make([]float64, len(l.lambdas))
	l.ranks = newMixture(powerPrior(l.lambdas, 0), reserve, cfg.Hazard, limit)
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
	l.rank(candidate, stable, nc, ns)
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

// rank adds λS − n·ln(sinh(λ/2)/(λ/2)), where S sums the midranks of the
// smaller arm, scaled to (−½, ½), in the pooled sample (Hoeffding 1963:
// sampling without replacement is no more spread than with).
func (l *latencyTests) rank(candidate, stable Histogram, nc, ns int64) {
	total := float64(nc + ns)
	var sum, below float64
	for i, k := 0, 0; i < len(candidate) || k < len(stable); {
		var c, s int64
		bucket := int64(NumBuckets)
		if i < len(candidate) {
			bucket = l.shortened(candidate[i][0])
		}
		if k < len(stable) {
			bucket = min(bucket, max(l.floor, stable[k][0]))
		}
		for k < len(stable) && max(l.floor, stable[k][0]) == bucket {
			s += stable[k][1]
			k++
		}
		for i < len(candidate) && l.shortened(candidate[i][0]) == bucket {
			c += candidate[i][1]
			i++
		}
		both := float64(c + s)
		midrank := (below+float64(0.5*both))/total - 0.5
		below += both
		if nc <= ns {
			sum += float64(float64(c) * midrank)
		} else {
			sum -= float64(float64(s) * midrank)
		}
	}
	n := float64(min(nc, ns))
	for i, lambda := range l.lambdas {
		l.scores[i] += float64(lambda*sum) - float64(n*l.norms[i])
	}
}

// shortened is the candidate's bucket less the margin, at least the floor. A
// timeout stays one.
func (l *latencyTests) shortened(bucket int64) int64 {
	if bucket == TimeoutBucket {
		return bucket
	}
	return max(l.floor, bucket-l.shift)
}

func (l *latencyTests) observe(phi float64) {
	l.ranks.add(l.scores, phi)
	clear(l.scores)
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
	l.ranks.endBlock()
	for i := range l.tails {
		l.tails[i].bet.endBlock()
	}
}

func (l *latencyTests) level() float64 {
	tails := (l.tails[0].bet.value + l.tails[1].bet.value + l.tails[2].bet.value) / 3
	return float64(0.5*l.ranks.value) + float64(0.5*tails)
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
