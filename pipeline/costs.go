package pipeline

import (
	"math/rand/v2"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// TaskCosts counts the tasks of one tenant that one instance finished since it
// started, by what they cost.
type TaskCosts struct {
	Arm      headgate.Arm `json:"arm"`
	Tenant   string       `json:"tenant"`
	Instance string       `json:"instance,omitempty"`
	// Tasks are pairs of a cost, which stands for all of its histogram bucket,
	// and a number of tasks, in ascending order of costs.
	Tasks [][2]float64 `json:"tasks"`
	// Sum is what all of them cost.
	Sum float64 `json:"sum"`
}

// Count is the number of tasks.
func (c TaskCosts) Count() float64 {
	var n float64
	for _, b := range c.Tasks {
		n += b[1]
	}
	return n
}

// maxCosts bounds the tasks of one tenant and arm in one tick; more would say
// no more to the judge.
const maxCosts = 512

// addCosts puts the costs of the tasks that were finished since the last tick
// into its strata.
func addCosts(t *canary.Tick, r Record, now []TaskCosts) {
	if r.State.Costs == nil {
		return // what was before the canary is only known now
	}
	type cell struct {
		tenant string
		arm    headgate.Arm
	}
	costs := map[cell][]float64{}
	for _, c := range now {
		key := cell{c.Tenant, c.Arm}
		costs[key] = append(costs[key], c.since(r.State.Costs)...)
	}
	for i, tenant := range r.Tenants() {
		candidate, stable := costs[cell{tenant, headgate.Candidate}], costs[cell{tenant, headgate.Stable}]
		if len(candidate)+len(stable) == 0 {
			continue
		}
		// A histogram has lost the order of its tasks. In the order of their
		// costs the judge would pair like with like and see less chance than
		// there is.
		rng := rand.New(rand.NewPCG(uint64(r.State.Ticks), uint64(i))) //nolint:gosec // mixes, no secret
		for _, x := range [][]float64{candidate, stable} {
			rng.Shuffle(len(x), func(i, j int) { x[i], x[j] = x[j], x[i] })
		}
		s := stratum(t, tenant)
		s.Candidate.Costs, s.Stable.Costs = candidate[:min(len(candidate), maxCosts)], stable[:min(len(stable), maxCosts)]
	}
}

// mergeCosts adds what is known now to what was known before: an instance that
// is silent for a while comes back with all that it ever counted. It is never
// nil.
func mergeCosts(before, now []TaskCosts) []TaskCosts {
	out := append([]TaskCosts{}, now...)
	for _, b := range before {
		if !slices.ContainsFunc(now, b.sameSource) {
			out = append(out, b)
		}
	}
	return out
}

func (c TaskCosts) sameSource(d TaskCosts) bool {
	return c.Arm == d.Arm && c.Tenant == d.Tenant && c.Instance == d.Instance
}

// stratum returns a tenant's, which is added if there is none.
func stratum(t *canary.Tick, tenant string) *canary.Stratum {
	i := slices.IndexFunc(t.Strata, func(s canary.Stratum) bool { return s.Tenant == tenant })
	if i < 0 {
		t.Strata, i = append(t.Strata, canary.Stratum{Tenant: tenant}), len(t.Strata)
	}
	return &t.Strata[i]
}

// since returns a cost for each task since an earlier look. Together they cost
// exactly what the instance says. An instance that was not there then, or that
// counts less now, has started since.
func (c TaskCosts) since(before []TaskCosts) []float64 {
	was := map[float64]float64{}
	sum := c.Sum
	i := slices.IndexFunc(before, c.sameSource)
	if i >= 0 && before[i].Count() <= c.Count() {
		for _, b := range before[i].Tasks {
			was[b[0]] = b[1]
		}
		sum -= before[i].Sum
	}
	var out []float64
	var total float64
	for _, b := range c.Tasks {
		for n := b[1] - was[b[0]]; n >= 1 && len(out) < 100*maxCosts; n-- {
			out = append(out, b[0])
			total += b[0]
		}
	}
	if sum > 0 && total > 0 {
		for i := range out {
			out[i] *= sum / total
		}
	}
	return out
}
