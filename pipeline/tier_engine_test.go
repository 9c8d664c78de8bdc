package pipeline_test

import (
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

// tiered is a plan that widens twice: by a tenant, then by tenant and share.
func tiered(_ *headgate.Release, p *pipeline.Plan) {
	p.Wider = []pipeline.Tier{
		{Name: rollout.TierSmall, Tenants: []string{"acme", "borealis"}, Share: share, Soak: 50 * time.Millisecond},
		{Name: rollout.TierLarge, Tenants: []string{"acme", "borealis", "chengyuan"}, Share: 0.5, Soak: 50 * time.Millisecond},
	}
}

func TestCanaryWalksItsTiers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("wide", tiered)
	r := w.awaitDone("wide")
	w.wantOutcome(r, headgate.Promoted, "")
	w.wantEventsInOrder("wide", "canary_started", pipeline.EventTierPassed, "canary_widened", pipeline.EventTierPassed, "canary_widened", "release_promoted")
	if r.State.Tier != 2 || r.State.Canary.ElapsedSeconds < 0.05 {
		t.Errorf("it was promoted in tier %d after %v s", r.State.Tier, r.State.Canary.ElapsedSeconds)
	}
	// Who met the candidate only ever grows, and so does its share.
	w.router.do(func(router *router) {
		var before rollout.Split
		var seen []int
		for _, s := range router.applied {
			if s.Share == 0 {
				continue
			}
			for _, tenant := range before.Tenants {
				if !slices.Contains(s.Tenants, tenant) {
					t.Errorf("%s met the candidate and was taken from it: %v", tenant, s.Tenants)
				}
			}
			if s.Share < before.Share || s.Salt != "wide" {
				t.Errorf("share %v after %v, salt %q", s.Share, before.Share, s.Salt)
			}
			if len(s.Tenants) != len(before.Tenants) {
				seen = append(seen, len(s.Tenants))
			}
			before = s
		}
		if !slices.Equal(seen, []int{1, 2, 3}) {
			t.Errorf("the candidate met %v tenants, want 1, 2 and 3 in turn", seen)
		}
	})
	wantTiersReplay(t, w, r)
}

// wantTiersReplay judges each tier again from what its end said of it.
func wantTiersReplay(t *testing.T, w *world, r pipeline.Record) {
	t.Helper()
	rows, err := w.db.Events(t.Context(), control.EventQuery{ReleaseID: r.ID, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ticks, err := w.db.Ticks(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	tiers := []pipeline.Record{}
	for _, row := range rows {
		if row.Kind == pipeline.EventTierPassed {
			tiers = append(tiers, r.AsJudged(row.Event))
		}
	}
	tiers = append(tiers, r)
	from := int64(0)
	for i, tier := range tiers {
		if tier.State.Tier != i || tier.State.JudgedFrom != from {
			t.Fatalf("tier %d: %d from tick %d, want tick %d", i, tier.State.Tier, tier.State.JudgedFrom, from)
		}
		judge, err := canary.New(tier.Judging())
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range ticks[tier.State.JudgedFrom:tier.State.Ticks] {
			if d := judge.Observe(row.Tick); d.Verdict != row.Decision.Verdict || d.Evidence != row.Decision.Evidence {
				t.Errorf("tick %d was judged %s, judged again %s", row.Seq, row.Decision.Verdict, d.Verdict)
			}
		}
		if last := ticks[tier.State.Ticks-1].Decision; last.Verdict != headgate.Pass {
			t.Errorf("tier %d ended as %s", i, last.Verdict)
		}
		from = tier.State.Ticks
	}
}

func TestFailureAtALaterTierRollsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("wide", tiered, func(_ *headgate.Release, p *pipeline.Plan) { p.Wider[0].Soak = time.Hour })
	w.await("wide", "the second tier", func(r pipeline.Record) bool { return r.State.Tier == 1 && r.State.Canary != nil })
	w.router.do(func(r *router) { r.errors[headgate.Candidate] = 0.4 })
	r := w.awaitDone("wide")
	w.wantOutcome(r, headgate.RolledBack, headgate.StageCanary, canary.CodeErrorsWorse)
	if r.State.Tier != 1 || !w.quarantined(r) {
		t.Errorf("it failed in tier %d", r.State.Tier)
	}
}

// A tier waits for its approval, and one given in an earlier tier is none.
func TestTierWaitsForItsApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.create("wide", tiered, func(_ *headgate.Release, p *pipeline.Plan) {
		p.Wider[0].ApprovalRequired, p.Wider[1].ApprovalRequired = true, true
	})
	waits := func(tier int) func(r pipeline.Record) bool {
		return func(r pipeline.Record) bool {
			return r.State.Tier == tier && r.Stage == headgate.StageCanary && r.State.Canary != nil && r.State.Canary.Verdict == headgate.Pass && r.State.Note != ""
		}
	}
	w.await("wide", "the first tier waits", waits(0))
	w.signal("wide", pipeline.Fact{Kind: pipeline.FactApproval, Reason: "fine"})
	r := w.await("wide", "the second tier waits", waits(1))
	if r = w.awaitTicks("wide", r.State.Ticks+5); r.State.Tier != 1 {
		t.Fatalf("one approval let it through to tier %d", r.State.Tier)
	}
	w.signal("wide", pipeline.Fact{Kind: pipeline.FactApproval, Reason: "fine, too"})
	w.wantOutcome(w.awaitDone("wide"), headgate.Promoted, "")
	w.wantEventsInOrder("wide", "stage_waiting", pipeline.EventTierPassed, "stage_waiting", pipeline.EventTierPassed)
}

// A tier that was reached is not walked again by the process that comes after.
func TestTierSurvivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.start()
	w.create("wide", tiered, func(_ *headgate.Release, p *pipeline.Plan) { p.Wider[0].Soak = time.Hour })
	before := w.await("wide", "the second tier", func(r pipeline.Record) bool { return r.State.Tier == 1 && r.State.Ticks > r.State.JudgedFrom })
	stop()
	w.start()
	r := w.awaitTicks("wide", before.State.Ticks+5)
	if r.State.Tier != 1 || r.State.JudgedFrom != before.State.JudgedFrom || !r.State.TierSince.Equal(before.State.TierSince) {
		t.Errorf("after the restart: tier %d from tick %d", r.State.Tier, r.State.JudgedFrom)
	}
	w.router.do(func(router *router) {
		if last := router.applied[len(router.applied)-1]; len(last.Tenants) != 2 {
			t.Errorf("the router admits %v", last.Tenants)
		}
	})
}
