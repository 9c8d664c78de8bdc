package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// Tier is one step by which a canary widens. Each has a verdict of its own,
// from ticks of its own.
type Tier struct {
	Name rollout.Tier `json:"name"`
	// Tenants are all that the canary may meet in this tier, Share the part of
	// their requests, 0 to 1.
	Tenants []string `json:"tenants"`
	Share   float64  `json:"share"`
	// Soak is the observed time before which the tier does not pass; 0 is the
	// first tier's.
	Soak time.Duration `json:"soak,omitempty"`
	// ApprovalRequired holds the canary before this tier, once the one before
	// it has passed, until a person with the approver role lets it go on.
	ApprovalRequired bool `json:"approval_required,omitempty"`
}

// Tiers returns the tiers in order; there is at least one.
func (p Plan) Tiers() []Tier {
	first := Tier{
		Name: rollout.TierWhitelist, Tenants: p.Tenants, Share: p.Share,
		Soak: time.Duration(p.Canary.MinDurationSeconds * float64(time.Second)),
	}
	return append([]Tier{first}, p.Wider...)
}

// Tier returns the tier that the release's canary is in or will begin with.
func (r Record) Tier() Tier { return r.Plan.Tiers()[r.State.Tier] }

// Tenants are those that the canary may meet now.
func (r Record) Tenants() []string {
	return slices.DeleteFunc(slices.Clone(r.Tier().Tenants), r.evicted)
}

// Judging returns the parameters of the present tier's judge.
func (r Record) Judging() canary.Config {
	cfg := r.Plan.Canary
	if t := r.Tier(); r.State.Tier > 0 && t.Soak > 0 {
		cfg.MinDurationSeconds = t.Soak.Seconds()
	}
	return cfg
}

// nextTier returns the tier after the present one, false when that is the last.
func (r Record) nextTier() (Tier, bool) {
	if r.State.Tier == len(r.Plan.Wider) {
		return Tier{}, false
	}
	return r.Plan.Wider[r.State.Tier], true
}

// waitsFor says which person's word a canary needs after a tier has passed;
// empty for none.
func (s steering) waitsFor(r Record, d canary.Decision) string {
	if d.Action != canary.Promote {
		return ""
	}
	next, ok := r.nextTier()
	if ok && next.ApprovalRequired && s.approval == nil {
		return fmt.Sprintf("tier %s has passed; tier %s waits for an approval: headgate release approve %s", r.Tier().Name, next.Name, r.ID)
	}
	if !ok && len(r.State.Evicted) > 0 {
		return r.explainEvicted()
	}
	return ""
}

// EventTierPassed ends a tier of a canary that goes on with the next.
const EventTierPassed = "canary_tier_passed"

// widen ends a tier that has passed and begins the next. The next one's judge
// has seen nothing yet.
func widen(c *Commit, next Tier, d canary.Decision, now time.Time, s steering) {
	r := &c.Record
	passed := event(*r, now, EventTierPassed, d.Verdict, d.Reason)
	passed.Data = r.judged()
	joined := slices.DeleteFunc(slices.Clone(next.Tenants), func(t string) bool { return slices.Contains(r.Tenants(), t) })
	r.State.Tier++
	r.judgeAnew(now)
	r.State.Share, r.State.Steady = s.wanted(*r), false
	if d := r.Plan.StageTimeout[r.Stage]; d > 0 {
		r.DeadlineAt = now.Add(d)
	}
	message := fmt.Sprintf("tier %s: %.4g%% of the sessions of %s", next.Name, r.State.Share*100, strings.Join(r.Tenants(), ", "))
	if s.approval != nil && next.ApprovalRequired {
		message += ", approved by " + s.approval.Actor
	}
	widened := event(*r, now, "canary_widened", "", message)
	widened.Data = map[string]any{"tier": next.Name, "share": r.State.Share, "tenants": r.Tenants(), "joined": joined}
	c.Events = append(c.Events, passed, widened)
}

// judgeAnew gives the canary a judge that has seen nothing.
func (r *Record) judgeAnew(now time.Time) {
	r.State.JudgedFrom, r.State.TierSince, r.State.Canary, r.State.Note = r.State.Ticks, now, nil, ""
}

// judged are the data of an event that ends what a judge has seen, for
// [Record.AsJudged].
func (r Record) judged() map[string]any {
	return map[string]any{
		"tier": r.Tier().Name, "tier_index": r.State.Tier, "share": r.WantedShare(),
		"first_tick": r.State.JudgedFrom + 1, "last_tick": r.State.Ticks,
	}
}

// AsJudged returns the record as it was when ev ended what a judge of its
// canary had seen: with the tier, the ticks and the share of then. With any
// other event it is the record itself.
func (r Record) AsJudged(ev headgate.Event) Record {
	number := func(key string) float64 { v, _ := ev.Data[key].(float64); return v }
	if last := int64(number("last_tick")); last > 0 {
		r.State.Tier = min(int(number("tier_index")), len(r.Plan.Wider))
		r.State.JudgedFrom, r.State.Ticks = int64(number("first_tick"))-1, last
		r.State.Wanted = number("share")
	}
	return r
}
