package canary

import "slices"

// mixture is one e-process: a bet on a family of alternatives, of which a part
// is held back for regressions that have not started yet. Its value never
// exceeds a supermartingale that starts at 1, whatever is looked at and when.
type mixture struct {
	prior []float64
	// limit is the most that one block may add to an alternative's log value.
	limit float64
	// limits are further ones for each alternative, if any.
	limits []float64
	// hazard is the part of the reserve that the first block bets. Later ones
	// bet less, as one over their number, so that some is left however late.
	hazard float64
	blocks float64
	held   float64
	base   []float64 // values of the alternatives at the start of the block
	cum    []float64 // what the block added to their logs
	now    []float64 // their values with that
	value  float64
}

const (
	// noLimit lets a block add everything that a float64 can hold.
	noLimit = 500
	// maxBase keeps values finite. Cutting an e-process down is always valid.
	maxBase = 1e60
)

func newMixture(prior []float64, held, hazard, limit float64) *mixture {
	m := &mixture{prior: prior, limit: limit, hazard: hazard, held: held, value: 1}
	m.base = make([]float64, len(prior))
	m.cum = make([]float64, len(prior))
	m.now = make([]float64, len(prior))
	m.restart(held)
	return m
}

// restart forgets everything seen.
func (m *mixture) restart(held float64) {
	m.held = held
	for i, p := range m.prior {
		m.base[i] = float64((1 - held) * p)
		m.cum[i] = 0
		m.now[i] = m.base[i]
	}
	m.value = 1
}

// add takes the log-likelihood ratios of new data, tempered by phi.
func (m *mixture) add(scores []float64, phi float64) {
	if !slices.ContainsFunc(scores, func(s float64) bool { return s != 0 }) {
		return
	}
	m.value = m.held
	for i, s := range scores {
		m.cum[i] += s / phi
		limit := m.limit
		if m.limits != nil {
			limit = min(limit, m.limits[i])
		}
		m.now[i] = min(float64(m.base[i]*exp(min(m.cum[i], limit))), maxBase)
		m.value += m.now[i]
	}
}

// endBlock keeps what the block earned and bets a part of the reserve on a
// regression that starts now.
func (m *mixture) endBlock() {
	moved := m.held * m.hazard / (1 + float64(m.hazard*m.blocks))
	m.blocks++
	m.held -= moved
	for i := range m.base {
		m.base[i] = m.now[i] + float64(moved*m.prior[i])
		m.cum[i] = 0
		m.now[i] = m.base[i]
	}
}

// clone returns a copy with a course of its own; limits stay those of the owner.
func (m *mixture) clone() *mixture {
	c := *m
	c.base, c.cum, c.now = slices.Clone(m.base), slices.Clone(m.cum), slices.Clone(m.now)
	return &c
}

// logSpaced returns n values from lo to hi in equal ratios.
func logSpaced(lo, hi float64, n int) []float64 {
	values := make([]float64, n)
	step := ln(hi/lo) / float64(n-1)
	for i := range values {
		values[i] = float64(lo * exp(float64(float64(i)*step)))
	}
	return values
}

// powerPrior returns weights proportional to values^power that sum to 1.
func powerPrior(values []float64, power float64) []float64 {
	prior := make([]float64, len(values))
	var sum float64
	for i, v := range values {
		prior[i] = exp(float64(power * ln(v)))
		sum += prior[i]
	}
	for i := range prior {
		prior[i] /= sum
	}
	return prior
}
