package pipeline

import (
	"math"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// A tick holds a cost for each task that was finished since the tick before.
func TestCostsOfATick(t *testing.T) {
	t.Parallel()
	of := func(instance string, sum float64, tasks ...[2]float64) TaskCosts {
		return TaskCosts{Arm: headgate.Candidate, Tenant: "acme", Instance: instance, Tasks: tasks, Sum: sum}
	}
	first := []TaskCosts{of("a", 3, [2]float64{1, 3})}
	for _, tt := range []struct {
		name        string
		before, now []TaskCosts
		tasks       int
		sum         float64
	}{
		{"what was before the canary", nil, first, 0, 0},
		{"nothing new", first, first, 0, 0},
		{"new tasks, which cost what the instance says", first, []TaskCosts{of("a", 7.5, [2]float64{1, 4}, [2]float64{3, 1})}, 2, 4.5},
		{"an instance that has started since", first, append([]TaskCosts{of("b", 2.2, [2]float64{1, 2})}, first...), 2, 2.2},
		{"an instance that was restarted", first, []TaskCosts{of("a", 1.1, [2]float64{1, 1})}, 1, 1.1},
		{"an instance that is silent", first, nil, 0, 0},
		{"and comes back", mergeCosts(first, nil), []TaskCosts{of("a", 4.2, [2]float64{1, 4})}, 1, 1.2},
	} {
		r := Record{Plan: Plan{Tenants: []string{"acme"}}, State: State{Costs: tt.before}}
		var tick canary.Tick
		addCosts(&tick, r, tt.now)
		var costs []float64
		for _, s := range tick.Strata {
			costs = append(costs, s.Candidate.Costs...)
		}
		var sum float64
		for _, c := range costs {
			sum += c
		}
		if len(costs) != tt.tasks || math.Abs(sum-tt.sum) > 1e-9 {
			t.Errorf("%s: %d tasks for %v, want %d for %v", tt.name, len(costs), sum, tt.tasks, tt.sum)
		}
	}
}

// Tasks come out of a histogram in the order of their costs, and must not be
// paired in it.
func TestCostsAreMixed(t *testing.T) {
	t.Parallel()
	now := []TaskCosts{{Arm: headgate.Stable, Tenant: "acme", Tasks: [][2]float64{{1, 300}, {2, 300}, {3, 1000}}, Sum: 3900}}
	r := Record{Plan: Plan{Tenants: []string{"acme"}}, State: State{Costs: []TaskCosts{}}}
	tick := canary.Tick{Time: time.Unix(1, 0)}
	addCosts(&tick, r, now)
	costs := tick.Strata[0].Stable.Costs
	if len(costs) != maxCosts {
		t.Fatalf("%d tasks, want at most %d", len(costs), maxCosts)
	}
	changes := 0
	for i := 1; i < len(costs); i++ {
		if costs[i] < costs[i-1] {
			changes++
		}
	}
	if changes < 50 {
		t.Errorf("costs fall %d times: they are still in order", changes)
	}
}
