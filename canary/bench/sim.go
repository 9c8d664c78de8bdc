package bench

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate/canary"
)

// world makes the traffic of one canary, tick by tick, and sends the
// candidate what share it is allowed.
type world struct {
	s    *Scenario
	rng  *rand.Rand
	tick float64 // seconds
	now  float64 // seconds since the start
	pods []pod   // the candidate's first, then stable's
	// failed counts the candidate's errors since the regression began.
	failed int64
}

// pod is one instance of a version; at times it has a hiccup.
type pod struct {
	until, next float64 // end of the running hiccup, start of the next
	times       float64 // multiple of the error rate
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(s *Scenario, tick float64, seed, run uint64) *world {
	w := &world{s: s, rng: rand.New(rand.NewPCG(seed, s.stream<<32|run)), tick: tick}
	w.pods = make([]pod, 1+s.shards())
	for i := range w.pods {
		w.pods[i] = pod{next: math.Inf(1), times: 1}
		if s.PodSpread > 0 {
			w.pods[i].times = math.Exp(s.PodSpread * w.rng.NormFloat64())
		}
		if s.HiccupEvery > 0 {
			w.pods[i].next = w.rng.ExpFloat64() * s.HiccupEvery
		}
	}
	return w
}

// step returns the counts of the next tick when the candidate's share is
// limited.
func (w *world) step(limit float64) canary.Tick {
	s, from := w.s, w.now
	w.now += w.tick
	share := min(s.share(from), limit)
	tick := canary.Tick{
		Time:          epoch.Add(time.Duration(w.now * float64(time.Second))),
		ExpectedShare: share,
		Strata:        make([]canary.Stratum, 0, len(s.Tenants)),
	}
	if s.Whole {
		tick.ExpectedShare = 0
	}
	for _, t := range s.Tenants {
		tick.Strata = append(tick.Strata, w.tenant(t, share, from))
	}
	return tick
}

func (w *world) tenant(t Tenant, share, from float64) canary.Stratum {
	s := w.s
	rps := s.RPS * t.Weight * s.load(from)
	base := min(1, s.base(from)*t.Dirt)
	ratio := 1.0
	if from >= s.Onset && (s.OneTenant == "" || s.OneTenant == t.Name) {
		ratio = s.ratio(from)
	}
	if s.Whole {
		share = 0
		if t.Whitelisted {
			share = 1
		}
	}
	stratum := canary.Stratum{Tenant: t.Name}
	bad := min(1, base*ratio)
	stratum.Candidate = w.arm(&w.pods[0], rps*share, bad, from)
	if from >= s.Onset {
		w.failed += stratum.Candidate.Errors
	}
	stable := w.pods[1:]
	if len(stable) > 1 {
		stratum.Shards = make([]canary.Shard, 0, len(stable))
	}
	for i := range stable {
		c := w.arm(&stable[i], rps*(1-share)/float64(len(stable)), base, from)
		stratum.Stable.Requests += c.Requests
		stratum.Stable.Errors += c.Errors
		if len(stable) > 1 {
			stratum.Shards = append(stratum.Shards, canary.Shard{Requests: c.Requests, Errors: c.Errors})
		}
	}
	if m := s.Latency; m != nil {
		stratum.Stable.Latency = m.sample(w.rng, stratum.Stable.Requests, m.equal)
		table := m.equal
		if from >= s.Onset {
			table = m.slow
		}
		stratum.Candidate.Latency = m.sample(w.rng, stratum.Candidate.Requests, table)
	}
	if m := s.Cost; m != nil {
		stratum.Stable.Costs = m.sample(w.rng, stratum.Stable.Requests, 1)
		stratum.Candidate.Costs = m.sample(w.rng, stratum.Candidate.Requests, m.Increase)
	}
	return stratum
}

// arm draws the requests and errors of one pod in one tick.
func (w *world) arm(p *pod, rps, errorRate, from float64) canary.Counts {
	n := poisson(w.rng, rps*w.tick)
	errorRate = min(1, errorRate*p.times)
	rate := errorRate
	if h := w.hiccup(p, from); h > 0 {
		rate = errorRate*(1-h) + max(errorRate, w.s.HiccupErrors)*h
	}
	if w.s.Cluster > 1 && rate < 0.5 {
		return canary.Counts{Requests: n, Errors: w.clustered(n, rate)}
	}
	return canary.Counts{Requests: n, Errors: binomial(w.rng, n, rate)}
}

// hiccup returns the part of the tick in which the pod has one.
func (w *world) hiccup(p *pod, from float64) float64 {
	to := from + w.tick
	part := max(0, min(p.until, to)-from)
	for p.next < to {
		start := p.next
		p.until = start + (0.5+w.rng.Float64())*w.s.HiccupLasts
		p.next = p.until + w.rng.ExpFloat64()*w.s.HiccupEvery
		part += min(p.until, to) - start
	}
	return part / w.tick
}

// clustered draws errors that come several at a time, with the same mean.
func (w *world) clustered(n int64, rate float64) int64 {
	var errors int64
	for range poisson(w.rng, float64(n)*rate/w.s.Cluster) {
		errors++
		for w.rng.Float64() < 1-1/w.s.Cluster {
			errors++
		}
	}
	return min(n, errors)
}

// poisson draws by inversion for small means and from the normal law above.
func poisson(rng *rand.Rand, mean float64) int64 {
	if mean > 30 {
		return max(0, int64(math.Round(mean+math.Sqrt(mean)*rng.NormFloat64())))
	}
	if mean <= 0 {
		return 0
	}
	p := math.Exp(-mean)
	u := rng.Float64()
	n := int64(0)
	for sum := p; u > sum && n < 1000; sum += p {
		n++
		p *= mean / float64(n)
	}
	return n
}

// binomial draws by jumping from success to success.
func binomial(rng *rand.Rand, n int64, p float64) int64 {
	switch {
	case p <= 0 || n == 0:
		return 0
	case p >= 1:
		return n
	case p > 0.5:
		return n - binomial(rng, n, 1-p)
	}
	scale := -1 / math.Log1p(-p)
	hits := int64(0)
	for at := math.Floor(rng.ExpFloat64() * scale); at < float64(n); at += 1 + math.Floor(rng.ExpFloat64()*scale) {
		hits++
	}
	return hits
}

// sample draws n latencies into log-scale buckets.
func (m *LatencyModel) sample(rng *rand.Rand, n int64, from *latencyTable) canary.Histogram {
	var dense [canary.NumBuckets]int64
	lo, hi := canary.NumBuckets, -1
	for range n {
		b := int(from[rng.Uint64()%uint64(len(from))])
		dense[b]++
		lo, hi = min(lo, b), max(hi, b)
	}
	var h canary.Histogram
	for b := lo; b <= hi; b++ {
		if dense[b] > 0 {
			h = append(h, [2]int64{int64(b), dense[b]})
		}
	}
	return h
}

// latencyTable holds equally likely buckets.
type latencyTable [4096]uint16

func (m *LatencyModel) table(slowdown, tailTimes float64) *latencyTable {
	var t latencyTable
	tail := int(math.Round(m.TailShare * float64(len(t))))
	fill := func(part []uint16, median float64) {
		for i := range part {
			q := (float64(i) + 0.5) / float64(len(part))
			z := math.Sqrt2 * math.Erfinv(2*q-1)
			part[i] = uint16(canary.BucketOf(median * math.Exp(m.Sigma*z)))
		}
	}
	fill(t[tail:], m.Median*slowdown)
	fill(t[:tail], m.Median*slowdown*tailTimes)
	return &t
}

func (m *CostModel) sample(rng *rand.Rand, n int64, increase float64) []float64 {
	costs := make([]float64, 0, n)
	for range n {
		if rng.Float64() < m.TasksPerRequest {
			costs = append(costs, m.Median*increase*math.Exp(m.Sigma*rng.NormFloat64()))
		}
	}
	return costs
}
