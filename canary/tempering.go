package canary

// tempering estimates how much more parts of stable differ from each other
// than chance explains, from earlier blocks only. Evidence is divided by it.
// The parts are the shards of a block, and two ticks in a row: these show
// clusters and bursts as well, if not how much single instances differ.
type tempering struct {
	least float64
	phi   float64
	// shards of the running block, added up over tenants.
	shards []Shard
	sum    float64
	weight float64
	// pair holds a tick that waits for the next.
	pair []Shard
}

const (
	// temperingPrior is the weight, in degrees of freedom, of "no more than
	// chance" before anything was seen.
	temperingPrior = 10
	// temperingClip bounds what one block can say.
	temperingClip = 40
)

func newTempering(least float64) *tempering {
	return &tempering{least: least, phi: least, sum: temperingPrior, weight: temperingPrior}
}

func (t *tempering) add(shards []Shard) {
	for len(t.shards) < len(shards) {
		t.shards = append(t.shards, Shard{})
	}
	for i, s := range shards {
		t.shards[i].Requests += s.Requests
		t.shards[i].Errors += s.Errors
	}
}

// addTick takes stable's counts of a tick over all tenants.
func (t *tempering) addTick(stable Totals) {
	t.pair = append(t.pair, Shard(stable))
	if len(t.pair) == 2 {
		t.compare(t.pair)
		t.pair = t.pair[:0]
	}
}

// endBlock makes the estimate of all blocks so far the one in use.
func (t *tempering) endBlock() {
	t.compare(t.shards)
	clear(t.shards)
	t.phi = max(t.least, t.sum/t.weight)
}

// compare adds Pearson's statistic of some parts to the estimate.
func (t *tempering) compare(parts []Shard) {
	var requests, errors int64
	used := 0
	for _, s := range parts {
		requests += s.Requests
		errors += s.Errors
		if s.Requests > 0 {
			used++
		}
	}
	if used < 2 || errors == 0 || errors == requests {
		return
	}
	p := float64(errors) / float64(requests)
	var chi2 float64
	for _, s := range parts {
		if s.Requests > 0 {
			n := float64(s.Requests)
			d := float64(s.Errors) - float64(n*p)
			chi2 += float64(d*d) / float64(float64(n*p)*(1-p))
		}
	}
	df := float64(used - 1)
	t.sum += float64(min(chi2/df, temperingClip) * df)
	t.weight += df
}
