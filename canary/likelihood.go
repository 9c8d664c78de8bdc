package canary

// oddsRatio scores counts of two arms against "the candidate's odds are at
// most null times those of stable" (alternatives above null) or "at least"
// (alternatives below). Given the sum of both arms, base rate, split and what
// hits both arms alike cancel out.
type oddsRatio struct {
	null   float64
	alts   []float64
	gains  []float64 // ln(alt/null)
	scores []float64
}

func newOddsRatio(null float64, alts []float64) *oddsRatio {
	o := &oddsRatio{null: null, alts: alts, scores: make([]float64, len(alts))}
	for _, a := range alts {
		o.gains = append(o.gains, ln(a/null))
	}
	return o
}

func (o *oddsRatio) clear() { clear(o.scores) }

// add scores exposures n and events e of the candidate (c) and stable (s).
func (o *oddsRatio) add(nc, ns, ec, es float64) { o.addWith(nil, nc, ns, ec, es) }

// addWith scores a second null with the same alternatives at hardly more cost.
func (o *oddsRatio) addWith(second *oddsRatio, nc, ns, ec, es float64) {
	total := ec + es
	if total == 0 {
		return
	}
	base := ln(float64(o.null*nc) + ns)
	base2 := base
	if second != nil {
		base2 = ln(float64(second.null*nc) + ns)
	}
	for i, alt := range o.alts {
		l := ln(float64(alt*nc) + ns)
		o.scores[i] += float64(ec*o.gains[i]) + float64(total*(base-l))
		if second != nil {
			second.scores[i] += float64(ec*second.gains[i]) + float64(total*(base2-l))
		}
	}
}

// rate scores counts of one arm against "the rate is at most null" or, with
// alternatives below it, "at least null".
type rate struct {
	hit, miss []float64
	scores    []float64
}

func newRate(null float64, alts []float64) *rate {
	r := &rate{scores: make([]float64, len(alts))}
	for _, a := range alts {
		r.hit = append(r.hit, ln(a/null))
		r.miss = append(r.miss, ln((1-a)/(1-null)))
	}
	return r
}

// set scores n exposures with e events.
func (r *rate) set(n, e float64) {
	for i := range r.hit {
		r.scores[i] = float64(e*r.hit[i]) + float64((n-e)*r.miss[i])
	}
}

// drift is what one second of requests at a rate of errors adds on average.
func (r *rate) drift(requests, errorRate, phi float64) []float64 {
	mean := rate{hit: r.hit, miss: r.miss, scores: make([]float64, len(r.hit))}
	mean.set(requests, float64(requests*errorRate))
	return scaled(mean.scores, phi)
}
