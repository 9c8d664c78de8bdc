package pipeline_test

import (
	"context"
	"slices"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/pipeline"
)

// spending makes every task of an arm cost what costs says.
func spending(costs map[headgate.Arm]float64) pipeline.Observer {
	return func(_ context.Context, r pipeline.Record) (pipeline.Observation, error) {
		var obs pipeline.Observation
		for arm, cost := range costs {
			n := float64(500 + 40*r.State.Ticks)
			obs.Costs = append(obs.Costs, pipeline.TaskCosts{
				Arm: arm, Tenant: "acme", Instance: "1", Tasks: [][2]float64{{cost / 2, n}, {cost * 3 / 2, n}}, Sum: 2 * n * cost,
			})
		}
		return obs, nil
	}
}

func TestCandidateWhoseTasksCostMoreIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.observe = spending(map[headgate.Arm]float64{headgate.Stable: 0.01, headgate.Candidate: 0.03})
	w.start()
	w.create("costly", undecided, func(_ *headgate.Release, p *pipeline.Plan) { p.Canary.Cost.Bound = 0.1 })
	r := w.awaitDone("costly")
	w.wantOutcome(r, headgate.RolledBack, headgate.StageCanary, canary.CodeCostWorse)
	if r.State.Rollback.TriggerGate != headgate.GateCost {
		t.Errorf("trigger gate %s", r.State.Rollback.TriggerGate)
	}
	w.wantGaplessTicks(r)
}

// The costs are in the tick log, and equal ones speak against nobody.
func TestCandidateWhoseTasksCostTheSameIsPromoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.observe = spending(map[headgate.Arm]float64{headgate.Stable: 0.01, headgate.Candidate: 0.01})
	w.start()
	w.create("fair", func(_ *headgate.Release, p *pipeline.Plan) { p.Canary.Cost.Bound = 0.1 })
	r := w.awaitDone("fair")
	w.wantOutcome(r, headgate.Promoted, "")
	ticks, err := w.db.Ticks(t.Context(), "fair")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(ticks, func(row pipeline.TickRow) bool {
		s := row.Tick.Strata
		return len(s) == 1 && len(s[0].Candidate.Costs) > 0 && len(s[0].Stable.Costs) > 0
	}) {
		t.Error("no tick has costs")
	}
}
