package canary

// tenantModel judges whole tenants. Their own error rates from before the
// release stand in for the base rate that a split inside the tenant would
// cancel: requests are replaced by the errors they were expected to bring.
type tenantModel struct {
	rates map[string]float64
	mean  float64
	// The running comparison: expected and real errors of both arms.
	candidate, stable expectation
	without           []*leftOut
}

// expectation is a number of requests with the errors expected and seen.
type expectation struct {
	requests         int64
	expected, errors float64
}

// leftOut is the evidence without one of the candidate's tenants.
type leftOut struct {
	tenant string
	own    expectation
	ratio  *oddsRatio
	bet    *mixture
}

// minWithout is the evidence that must remain when any one tenant is left out.
const minWithout = 20

func newTenantModel(baseline map[string]Shard) *tenantModel {
	m := &tenantModel{rates: make(map[string]float64, len(baseline))}
	var requests, errors int64
	for _, b := range baseline {
		requests += b.Requests
		errors += b.Errors
	}
	m.mean = (float64(errors) + 0.5) / (float64(requests) + 1)
	for tenant, b := range baseline {
		// Shrunk to the mean with the weight of one error.
		m.rates[tenant] = (float64(b.Errors) + 1) / (float64(b.Requests) + 1/m.mean)
	}
	return m
}

func (e *expectation) add(c Counts, rate float64) {
	e.requests += c.Requests
	e.expected += float64(float64(c.Requests) * rate)
	e.errors += float64(c.Errors)
}

func (m *tenantModel) add(s *Stratum, all *errorTests) {
	rate, known := m.rates[s.Tenant]
	if !known {
		rate = m.mean
	}
	m.candidate.add(s.Candidate, rate)
	m.stable.add(s.Stable, rate)
	if s.Candidate.Requests > 0 {
		m.find(s.Tenant, all).own.add(s.Candidate, rate)
	}
}

// find returns the evidence without a tenant. Until it was first seen that was
// the evidence with all of them.
func (m *tenantModel) find(tenant string, all *errorTests) *leftOut {
	for _, w := range m.without {
		if w.tenant == tenant {
			return w
		}
	}
	w := &leftOut{tenant: tenant, ratio: newOddsRatio(all.equal.null, all.equal.alts), bet: all.worse.clone()}
	m.without = append(m.without, w)
	return w
}

// compare scores what was counted once there is enough exposure.
func (m *tenantModel) compare(errors *errorTests, phi float64) {
	if m.candidate.requests < minCandidateExposure || m.stable.requests < minStableExposure {
		return
	}
	c, s := m.candidate, m.stable
	errors.compare(c.expected, s.expected, c.errors, s.errors)
	for _, w := range m.without {
		if rest := c.requests - w.own.requests; rest > 0 {
			w.ratio.add(c.expected-w.own.expected, s.expected, c.errors-w.own.errors, s.errors)
		}
		w.bet.add(w.ratio.scores, phi)
		w.ratio.clear()
		w.own = expectation{}
	}
	m.candidate, m.stable = expectation{}, expectation{}
}

func (m *tenantModel) endBlock() {
	for _, w := range m.without {
		w.bet.endBlock()
	}
}

// decisive returns the tenant without which the evidence is weakest, when it
// is too weak to fail the release.
func (m *tenantModel) decisive() string {
	tenant, least := "", float64(minWithout)
	for _, w := range m.without {
		if w.bet.value < least {
			tenant, least = w.tenant, w.bet.value
		}
	}
	return tenant
}
