package bench

import (
	"math"
	"math/rand/v2"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// Detector decides on a canary while it runs. A new one sees one canary.
type Detector interface {
	// Observe takes the next tick. A fail ends the canary.
	Observe(canary.Tick) Outcome
}

// Outcome is a detector's state after a tick.
type Outcome struct {
	Verdict headgate.Verdict
	// Share is the most the candidate may get from now on.
	Share float64
}

// headgateDetector is the judge of package canary.
type headgateDetector struct{ judge *canary.Judge }

func (d headgateDetector) Observe(t canary.Tick) Outcome {
	decision := d.judge.Observe(t)
	return Outcome{Verdict: decision.Verdict, Share: decision.Share}
}

// newHeadgate returns the judge with what a user knows before the canary: the
// quantiles of stable's latency and cost, and the tenants' error rates.
func newHeadgate(cfg canary.Config, s *Scenario, rng *rand.Rand) (Detector, error) {
	if m := s.Latency; m != nil {
		cfg.Latency.TailsSeconds = nil
		for _, z := range []float64{1.2816, 2.3263, 3.0902} {
			cfg.Latency.TailsSeconds = append(cfg.Latency.TailsSeconds, m.Median*math.Exp(m.Sigma*z))
		}
	}
	if m := s.Cost; m != nil {
		cfg.Cost.Bound = m.Median * math.Exp(2.5758*m.Sigma)
	}
	if s.Whole {
		cfg.Assignment = canary.WholeTenants
		cfg.Baseline = map[string]canary.Shard{}
		for _, t := range s.Tenants {
			n := poisson(rng, s.RPS*t.Weight*3600)
			cfg.Baseline[t.Name] = canary.Shard{Requests: n, Errors: binomial(rng, n, s.base(0)*t.Dirt)}
		}
	}
	judge, err := canary.New(cfg)
	if err != nil {
		return nil, err
	}
	return headgateDetector{judge}, nil
}

// counts of both arms over some interval.
type counts struct{ nc, ec, ns, es float64 }

func (c counts) minus(o counts) counts {
	return counts{c.nc - o.nc, c.ec - o.ec, c.ns - o.ns, c.es - o.es}
}

// history keeps running totals, so that a rule can look at any window, and
// latency histograms since the last look.
type history struct {
	totals     []counts
	now        float64
	candidate  []int64
	stable     []int64
	hasLatency bool
}

func (h *history) add(t canary.Tick) {
	last := h.before(0)
	for _, s := range t.Strata {
		last.nc += float64(s.Candidate.Requests)
		last.ec += float64(s.Candidate.Errors)
		last.ns += float64(s.Stable.Requests)
		last.es += float64(s.Stable.Errors)
		h.latency(&h.candidate, s.Candidate.Latency)
		h.latency(&h.stable, s.Stable.Latency)
	}
	h.totals = append(h.totals, last)
	h.now = t.Time.Sub(epoch).Seconds()
}

func (h *history) latency(into *[]int64, from canary.Histogram) {
	if len(from) > 0 && *into == nil {
		*into = make([]int64, canary.NumBuckets)
		h.hasLatency = true
	}
	for _, b := range from {
		(*into)[b[0]] += b[1]
	}
}

// before returns the totals as they were some seconds ago.
func (h *history) before(seconds float64) counts {
	if len(h.totals) == 0 {
		return counts{}
	}
	tick := h.now / float64(len(h.totals))
	i := len(h.totals) - 1 - int(math.Round(seconds/tick))
	if seconds == 0 {
		i = len(h.totals) - 1
	}
	if i < 0 {
		return counts{}
	}
	return h.totals[i]
}

// window returns the counts of the last seconds.
func (h *history) window(seconds float64) counts { return h.before(0).minus(h.before(seconds)) }

// due reports whether an interval ends with this tick.
func (h *history) due(interval float64) bool {
	previous := h.now - h.now/float64(len(h.totals))
	return math.Floor(h.now/interval+1e-9) > math.Floor(previous/interval+1e-9)
}
