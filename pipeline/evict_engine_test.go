package pipeline_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

// wholeTenants puts two whole tenants on the candidate, beside three on stable.
func wholeTenants(w *world, acme, borealis float64) func(*headgate.Release, *pipeline.Plan) {
	w.router.whole = map[string]float64{"acme": acme, "borealis": borealis, "s1": 0, "s2": 0, "s3": 0}
	w.router.seen = map[string]*rollout.Cell{}
	return func(_ *headgate.Release, p *pipeline.Plan) {
		p.Tenants, p.Share = []string{"acme", "borealis"}, 1
		p.Canary.Assignment, p.Canary.KillErrorRate = canary.WholeTenants, 0
		p.Canary.Baseline = map[string]canary.Shard{}
		for tenant := range w.router.whole {
			p.Canary.Baseline[tenant] = canary.Shard{Requests: 72_000, Errors: 72}
		}
	}
}

// One bad tenant is taken off the candidate; the rest goes on, is judged anew,
// and a person decides whether the release reaches that tenant in the end.
func TestOneBadTenantIsEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := wholeTenants(w, 0.001, 0.3)
	stop := w.start()
	w.create("rough", plan)
	w.await("rough", "borealis is taken off", func(r pipeline.Record) bool { return len(r.State.Evicted) == 1 })
	stop() // it is durable
	w.start()
	r := w.await("rough", "the rest passes and waits", func(r pipeline.Record) bool {
		return r.State.Canary != nil && r.State.Canary.Verdict == headgate.Pass && r.State.Note != ""
	})
	e := r.State.Evicted[0]
	if e.Tenant != "borealis" || e.Candidate.Errors == 0 || e.Stable.Requests == 0 || e.Stable.Errors*100 > e.Stable.Requests {
		t.Errorf("evicted %+v", e)
	}
	if !strings.Contains(r.State.Note, "borealis") || r.Stage != headgate.StageCanary {
		t.Errorf("at %s: %q", r.Stage, r.State.Note)
	}
	w.router.do(func(router *router) {
		if !slices.Equal(router.split.Tenants, []string{"acme"}) || router.share() != 1 {
			t.Errorf("the router has %v of %v on the candidate", router.share(), router.split.Tenants)
		}
	})
	w.wantEventsInOrder("rough", "canary_started", pipeline.EventTenantEvicted, "canary_verdict")
	w.signal("rough", pipeline.Fact{Kind: pipeline.FactPromote, Reason: "borealis sends garbage"})
	w.wantOutcome(w.awaitDone("rough"), headgate.Promoted, "")
}

// When the others turn bad as well, it is the candidate.
func TestRestOfAnEvictedCanaryCanFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := wholeTenants(w, 0.001, 0.3)
	w.router.whole["chengyuan"] = 0.001
	w.start()
	w.create("bad", plan, func(_ *headgate.Release, p *pipeline.Plan) {
		p.Tenants = append(p.Tenants, "chengyuan")
		p.Canary.Baseline["chengyuan"] = canary.Shard{Requests: 72_000, Errors: 72}
		p.Canary.MinDurationSeconds = 3600
	})
	w.await("bad", "borealis is taken off", func(r pipeline.Record) bool { return len(r.State.Evicted) == 1 })
	w.router.do(func(r *router) { r.whole["acme"], r.whole["chengyuan"] = 0.3, 0.3 })
	r := w.awaitDone("bad")
	w.wantOutcome(r, headgate.RolledBack, headgate.StageCanary, canary.CodeErrorsWorse)
}

// Without its only tenant there is no canary.
func TestOnlyTenantIsNotEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := wholeTenants(w, 0.3, 0.001)
	w.start()
	w.create("alone", plan, func(_ *headgate.Release, p *pipeline.Plan) { p.Tenants = []string{"acme"} })
	r := w.awaitDone("alone")
	w.wantOutcome(r, headgate.Inconclusive, headgate.StageCanary, canary.CodeOneTenant)
	if w.quarantined(r) || len(r.State.Evicted) != 0 {
		t.Errorf("evicted %v", r.State.Evicted)
	}
}
