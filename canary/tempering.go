package canary

import "math"

// tempering estimates how much more alike parts of the traffic differ than
// chance explains, from earlier blocks only. Evidence is divided by it. The
// parts are stable's shards in a block, and two ticks in a row of either arm:
// these show clusters and bursts as well, if not how much instances differ.
type tempering struct {
	least float64
	phi   float64
	// shards are those of the running block, added up over tenants, and totals
	// those of all blocks before it.
	shards, totals []Shard
	sum            float64
	weight         float64
	// pairs hold each arm's tick that waits for the next.
	pairs [2][]Shard
}

const (
	// temperingPrior is the weight, in errors times degrees of freedom, of "no
	// more than chance" before anything was seen.
	temperingPrior = 10
	// temperingClip bounds what one comparison can say, and temperingErrors its
	// weight: an outage of one part is no measure of how errors come otherwise.
	temperingClip   = 40
	temperingErrors = 10
)

func newTempering(least float64) *tempering {
	return &tempering{least: least, phi: least, sum: temperingPrior, weight: temperingPrior}
}

func (t *tempering) add(shards []Shard) {
	t.shards = addShards(t.shards, shards)
}

// addShards adds more to sums, which grow when there are more.
func addShards(sums, more []Shard) []Shard {
	for len(sums) < len(more) {
		sums = append(sums, Shard{})
	}
	for i, s := range more {
		sums[i].Requests += s.Requests
		sums[i].Errors += s.Errors
	}
	return sums
}

// addTick takes the counts of a tick over all tenants.
func (t *tempering) addTick(tick tickTotals) {
	for i, arm := range []Totals{tick.stable, tick.candidate} {
		t.pairs[i] = append(t.pairs[i], Shard(arm))
		if len(t.pairs[i]) == 2 {
			t.compare(t.pairs[i])
			t.pairs[i] = t.pairs[i][:0]
		}
	}
}

// endBlock makes the estimate of all blocks so far the one in use.
func (t *tempering) endBlock() {
	t.compare(t.shards)
	t.totals = addShards(t.totals, t.shards)
	clear(t.shards)
	t.phi = max(t.least, t.sum/t.weight)
}

// compare adds Pearson's statistic of some parts to the estimate, weighted by
// errors: where they are few, most parts that have any have one cluster, and
// its mean over such parts would count large clusters no more than small ones.
func (t *tempering) compare(parts []Shard) {
	chi2, df, errors := pearson(parts, math.Inf(1))
	if df == 0 {
		return
	}
	weight := float64(min(errors, temperingErrors) * df)
	t.sum += float64(min(chi2/df, temperingClip) * weight)
	t.weight += weight
}

// apart returns how much more the shards' totals differ than phi explains:
// some parts of stable fail more often than others for good, and the candidate
// may be such a part.
func (t *tempering) apart() float64 {
	chi2, df, errors := pearson(t.totals, float64(apartClip*t.phi))
	if df == 0 {
		return 1
	}
	each := errors / (df + 1)
	excess := (chi2 - float64(df*t.phi)) / float64((df+apartPrior)*t.phi)
	return 1 + max(0, float64(excess*each)/(each+apartErrors))
}

const (
	// apartPrior is the weight, in degrees of freedom, of "no more than phi
	// explains", apartErrors that in errors of each shard, and apartClip bounds
	// what one shard can say: its outage is over.
	apartPrior  = 4
	apartErrors = 40
	apartClip   = 6
)

// pearson returns Pearson's statistic of the parts' errors, of which each part
// may add so much, its degrees of freedom, which are zero when it says nothing,
// and the errors.
func pearson(parts []Shard, clip float64) (chi2, df, errors float64) {
	var all Totals
	for _, s := range parts {
		all.Requests += s.Requests
		all.Errors += s.Errors
		if s.Requests > 0 {
			df++
		}
	}
	if df < 2 || all.Errors == 0 || all.Errors == all.Requests {
		return 0, 0, 0
	}
	p := float64(all.Errors) / float64(all.Requests)
	for _, s := range parts {
		if s.Requests > 0 {
			n := float64(s.Requests)
			d := float64(s.Errors) - float64(n*p)
			chi2 += min(clip, float64(d*d)/float64(float64(n*p)*(1-p)))
		}
	}
	return chi2, df - 1, float64(all.Errors)
}
