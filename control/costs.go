package control

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/pipeline"
)

// taskCosts reads what the production tasks of the given versions cost, by
// tenant and instance, cumulative since each instance started.
func (p *Plane) taskCosts(ctx context.Context, s *Service, arms map[string]headgate.Arm) ([]pipeline.TaskCosts, error) {
	type source struct {
		arm              headgate.Arm
		tenant, instance string
	}
	found := map[source]*histogram{}
	for version, arm := range arms {
		q, err := p.o.Dictionary.Histogram("task.cost", dictionary.Scope{
			Service: s.Name, Version: version, Environment: s.Environments.Production,
		})
		if err != nil {
			return nil, err
		}
		err = p.o.Figures.Each(ctx, q, p.o.Now(), func(labels map[string]string, v float64) {
			key := source{arm, labels["tenant_id"], labels["instance"]}
			if found[key] == nil {
				found[key] = &histogram{below: map[float64]float64{}}
			}
			found[key].add(labels["le"], v)
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]pipeline.TaskCosts, 0, len(found))
	for key, h := range found {
		out = append(out, pipeline.TaskCosts{Arm: key.arm, Tenant: key.tenant, Instance: key.instance, Tasks: h.tasks(), Sum: h.sum})
	}
	slices.SortFunc(out, func(a, b pipeline.TaskCosts) int {
		return cmp.Or(cmp.Compare(a.Arm, b.Arm), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Instance, b.Instance))
	})
	return out, nil
}

// histogram is a classic one: the tasks at or below each bound, of all kinds
// of job together.
type histogram struct {
	below map[float64]float64
	sum   float64
}

// add takes one series: a bucket's if le is its bound, else the sum's.
func (h *histogram) add(le string, v float64) {
	if le == "" {
		h.sum += v
		return
	}
	if bound, err := strconv.ParseFloat(le, 64); err == nil {
		h.below[bound] += v
	}
}

// tasks are the counts of the buckets that have any, each under the middle of
// its bucket; the last has no end, and its beginning stands for it.
func (h *histogram) tasks() [][2]float64 {
	bounds := make([]float64, 0, len(h.below))
	for b := range h.below {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	out := [][2]float64{}
	var from, before float64
	for _, to := range bounds {
		if n := h.below[to] - before; n > 0 {
			middle := (from + to) / 2
			if math.IsInf(to, 1) {
				middle = from
			}
			out = append(out, [2]float64{middle, n})
		}
		from, before = to, h.below[to]
	}
	return out
}

const (
	// boundTasks of stable, before a canary, tell the cost that bounds what a
	// single task can say; from fewer, the judge takes it from the canary itself.
	boundTasks    = 400
	boundQuantile = 0.995
)

// costBound is the 99.5th percentile of what stable's tasks cost so far, 0 for
// too few of them.
func (p *Plane) costBound(ctx context.Context, s *Service, stable string) (float64, error) {
	all, err := p.taskCosts(ctx, s, map[string]headgate.Arm{stable: headgate.Stable})
	if err != nil {
		return 0, err
	}
	var pairs [][2]float64
	var n float64
	for _, c := range all {
		pairs = append(pairs, c.Tasks...)
		n += c.Count()
	}
	if n < boundTasks {
		return 0, nil
	}
	slices.SortFunc(pairs, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
	var seen float64
	for _, pair := range pairs {
		if seen += pair[1]; seen >= boundQuantile*n {
			return pair[0], nil
		}
	}
	return pairs[len(pairs)-1][0], nil
}
