package canary

import "slices"

// openStratum collects one tenant's counts until both arms have enough
// exposure for a comparison.
type openStratum struct {
	tenant               string
	nc, ns, ec, es       int64
	latencyC, latencyS   Histogram
	nLatencyC, nLatencyS int64
	costC, costS         []float64
	candidate, stable    Totals // of the whole canary
}

// A comparison needs this much exposure. It depends on requests alone, never
// on their outcome.
const (
	minCandidateExposure = 1
	minStableExposure    = 5
)

func (o *openStratum) add(s *Stratum, warm bool) {
	o.candidate.add(s.Candidate)
	o.stable.add(s.Stable)
	o.nc += s.Candidate.Requests
	o.ec += s.Candidate.Errors
	o.ns += s.Stable.Requests
	o.es += s.Stable.Errors
	if warm {
		o.addLatency(s)
	}
	o.costC = pend(o.costC, s.Candidate.Costs)
	o.costS = pend(o.costS, s.Stable.Costs)
}

func (o *openStratum) addLatency(s *Stratum) {
	if o.nLatencyC+o.nLatencyS == 0 {
		o.latencyC, o.latencyS = s.Candidate.Latency, s.Stable.Latency
	} else {
		o.latencyC = o.latencyC.plus(s.Candidate.Latency)
		o.latencyS = o.latencyS.plus(s.Stable.Latency)
	}
	o.nLatencyC += s.Candidate.Latency.count()
	o.nLatencyS += s.Stable.Latency.count()
}

// pend appends, and drops the oldest when too many wait.
func pend(waiting, more []float64) []float64 {
	waiting = append(waiting, more...)
	return waiting[max(0, len(waiting)-maxPending):]
}

// compare scores what has enough exposure and starts anew.
func (o *openStratum) compare(errors *errorTests, latency *latencyTests, cost *costTest) {
	if o.nc >= minCandidateExposure && o.ns >= minStableExposure {
		errors.compare(float64(o.nc), float64(o.ns), float64(o.ec), float64(o.es))
		o.nc, o.ns, o.ec, o.es = 0, 0, 0, 0
	}
	if o.nLatencyC >= minCandidateExposure && o.nLatencyS >= minStableExposure {
		latency.compare(o.latencyC, o.latencyS, o.nLatencyC, o.nLatencyS)
		o.latencyC, o.latencyS, o.nLatencyC, o.nLatencyS = nil, nil, 0, 0
	} else {
		// They may still be the tick's, which is the caller's.
		o.latencyC, o.latencyS = slices.Clone(o.latencyC), slices.Clone(o.latencyS)
	}
	if len(o.costC) > 0 && len(o.costS) > 0 || cost.bound == 0 && len(o.costS) > 0 {
		cost.compare(o.costC, o.costS)
		o.costC, o.costS = o.costC[:0], o.costS[:0]
	}
}

// excess is how many errors the candidate had beyond its part of the tenant's.
func (o *openStratum) excess() float64 {
	n := float64(o.candidate.Requests + o.stable.Requests)
	if n == 0 {
		return 0
	}
	errors := float64(o.candidate.Errors + o.stable.Errors)
	return float64(o.candidate.Errors) - errors*float64(o.candidate.Requests)/n
}

// singled is the part of all excess that makes one tenant the only suspect.
const singled = 0.8

// suspect returns the tenant that has almost all of the candidate's excess of
// errors, if there are several tenants and one has.
func suspect(strata []*openStratum) string {
	var sum, most float64
	tenant, exposed := "", 0
	for _, o := range strata {
		if o.candidate.Requests > 0 {
			exposed++
		}
		if x := o.excess(); x > 0 {
			sum += x
			if x > most {
				tenant, most = o.tenant, x
			}
		}
	}
	if exposed < 2 || most < float64(singled*sum) {
		return ""
	}
	return tenant
}
