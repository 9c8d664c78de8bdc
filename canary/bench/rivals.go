package bench

import (
	"math"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// rival is a rule from its published behaviour. It looks at intervals and
// promotes at the end of the canary unless it failed.
type rival struct {
	history
	interval float64
	failed   bool
	bad      func(h *history) bool
}

func (r *rival) Observe(t canary.Tick) Outcome {
	r.add(t)
	if !r.failed && r.due(r.interval) {
		r.failed = r.bad(&r.history)
	}
	if r.failed {
		return Outcome{Verdict: headgate.Fail}
	}
	return Outcome{Verdict: headgate.Insufficient, Share: 1}
}

// successBelow reports whether the candidate's success rate over the last
// minute is below a minimum. Without requests there is nothing to measure.
func successBelow(h *history, minimum float64) bool {
	w := h.window(60)
	return w.nc > 0 && 1-w.ec/w.nc < minimum
}

// consecutiveChecks fails after n checks in a row, 10 s apart, with the
// one-minute success rate below a minimum.
func consecutiveChecks(n int, minimum float64) func() Detector {
	return func() Detector {
		row := 0
		return &rival{interval: 10, bad: func(h *history) bool {
			if !successBelow(h, minimum) {
				row = 0
				return false
			}
			row++
			return row >= n
		}}
	}
}

// flagger counts failed checks of the one-minute success rate (and, when there
// are latencies, of the p99 against 1 s), not necessarily in a row, at
// interval 1 m with threshold 5: docs.flagger.app, "How it works".
func flagger(minimum float64) func() Detector {
	return func() Detector {
		failed := 0
		return &rival{interval: 60, bad: func(h *history) bool {
			slow := h.hasLatency && quantileOf(h.candidate, 0.99) > 1
			clear(h.candidate)
			clear(h.stable)
			if successBelow(h, minimum) || slow {
				failed++
			}
			return failed >= 5
		}}
	}
}

// argo fails when more than failureLimit measurements failed: Argo Rollouts,
// "Analysis", with its example of a success rate of at least 95 % and
// failureLimit 3, measured every minute.
func argo(minimum float64) func() Detector {
	return func() Detector {
		failed := 0
		return &rival{interval: 60, bad: func(h *history) bool {
			if successBelow(h, minimum) {
				failed++
			}
			return failed > 3
		}}
	}
}

// kayenta compares one-minute points of the error rate (and mean latency) of
// both arms by Mann-Whitney with a confidence of 98 % and a tolerance of 25 %
// of the estimated difference, after ten minutes or at every point.
func kayenta(confidence float64, peek bool) func() Detector {
	return func() Detector {
		var errC, errS, latC, latS []float64
		return &rival{interval: 60, bad: func(h *history) bool {
			w := h.window(60)
			if w.nc > 0 && w.ns > 0 {
				errC, errS = append(errC, w.ec/w.nc), append(errS, w.es/w.ns)
			}
			if h.hasLatency {
				latC, latS = append(latC, meanOf(h.candidate)), append(latS, meanOf(h.stable))
				clear(h.candidate)
				clear(h.stable)
			}
			if !peek && h.now < 600-1e-9 {
				return false
			}
			return higher(errC, errS, confidence) || higher(latC, latS, confidence)
		}}
	}
}

// fixedZ looks at a pooled one-sided z-test of the totals every 10 s.
func fixedZ(critical float64) func() Detector {
	return func() Detector {
		return &rival{interval: 10, bad: func(h *history) bool {
			c := h.before(0)
			if c.nc == 0 || c.ns == 0 || c.ec < 3 {
				return false
			}
			p := (c.ec + c.es) / (c.nc + c.ns)
			return c.ec/c.nc-c.es/c.ns > critical*math.Sqrt(p*(1-p)*(1/c.nc+1/c.ns))
		}}
	}
}

// msprt is the mixture sequential probability ratio test of a difference of
// proportions (Johari et al. 2017) at level alpha, seen at every tick.
func msprt(alpha float64) func() Detector {
	const tau2 = 0.01 * 0.01
	return func() Detector {
		return &rival{interval: 2, bad: func(h *history) bool {
			c := h.before(0)
			if c.nc == 0 || c.ns == 0 || c.ec < 3 {
				return false
			}
			p := (c.ec + c.es) / (c.nc + c.ns)
			v := p * (1 - p) * (1/c.nc + 1/c.ns)
			d := c.ec/c.nc - c.es/c.ns
			if v == 0 || d <= 0 {
				return false
			}
			return math.Sqrt(v/(v+tau2))*math.Exp(min(700, tau2*d*d/(2*v*(v+tau2)))) >= 1/alpha
		}}
	}
}

// family is a rule with its default and stricter settings, mildest first.
type family struct {
	name     string
	settings []setting
}

type setting struct {
	label string
	make  func() Detector
}

func families() []family {
	minima := []float64{0.99, 0.98, 0.97, 0.95, 0.9, 0.8, 0.5}
	over := func(name string, rule func(float64) func() Detector) family {
		f := family{name: name}
		for _, m := range minima {
			f.settings = append(f.settings, setting{percent(m), rule(m)})
		}
		return f
	}
	levels := func(name string, values []float64, rule func(float64) func() Detector) family {
		f := family{name: name}
		for _, v := range values {
			f.settings = append(f.settings, setting{number(v), rule(v)})
		}
		return f
	}
	argoFamily := over("Argo failureLimit 3", argo)
	argoFamily.settings = argoFamily.settings[3:]
	confidences := []float64{0.98, 0.99, 0.995, 0.999}
	return []family{
		over("threshold N=2", func(m float64) func() Detector { return consecutiveChecks(2, m) }),
		over("threshold N=5", func(m float64) func() Detector { return consecutiveChecks(5, m) }),
		over("Flagger 5×60 s", flagger),
		argoFamily,
		levels("Kayenta at the end", confidences, func(c float64) func() Detector { return kayenta(c, false) }),
		levels("Kayenta peeked", confidences, func(c float64) func() Detector { return kayenta(c, true) }),
		levels("z .001 peeked", []float64{3.09, 4, 5, 6, 8, 12, 20}, fixedZ),
		levels("mSPRT .001", []float64{1e-3, 1e-5, 1e-8, 1e-12, 1e-20, 1e-40, 1e-80}, msprt),
	}
}
