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

// Evicted is a tenant that was taken off a candidate because it alone spoke
// against it.
type Evicted struct {
	Tenant string    `json:"tenant"`
	At     time.Time `json:"at"`
	// Candidate is what it did on the candidate until then, as far as the judge
	// of that time saw, and Stable what it has done on stable since. Errors that
	// go on are the tenant's own; errors that have stopped were the candidate's.
	Candidate canary.Totals `json:"candidate"`
	Stable    canary.Totals `json:"stable"`
}

// EventTenantEvicted takes a tenant off a candidate; the rest goes on with a
// judge that has seen nothing.
const EventTenantEvicted = "canary_tenant_evicted"

func (r Record) evicted(tenant string) bool {
	return slices.ContainsFunc(r.State.Evicted, func(e Evicted) bool { return e.Tenant == tenant })
}

// evicts reports whether a decision takes one of the canary's tenants off it.
func evicts(r Record, d canary.Decision) bool {
	return slices.Contains(d.Reasons, canary.CodeOneTenant) && slices.Contains(r.Tenants(), d.Evict)
}

// evict takes a tenant off the candidate. One that is the canary's only tenant
// leaves nothing to go on with.
func evict(c *Commit, d canary.Decision, now time.Time, seen canary.Totals) {
	r := &c.Record
	ev := event(*r, now, EventTenantEvicted, d.Verdict, d.Reason)
	ev.Data = r.judged()
	ev.Data["tenant"], ev.Data["candidate"] = d.Evict, seen
	c.Events = append(c.Events, ev)
	r.State.Evicted = append(slices.Clone(r.State.Evicted), Evicted{Tenant: d.Evict, At: now, Candidate: seen})
	r.judgeAnew(now)
	r.State.Share, r.State.Steady = r.WantedShare(), false
}

// watchEvicted counts what evicted tenants do on stable.
func watchEvicted(evicted []Evicted, counts rollout.Counts) []Evicted {
	out := slices.Clone(evicted)
	for i := range out {
		for _, cell := range counts.Cells {
			if cell.Tenant == out[i].Tenant && cell.Arm == headgate.Stable {
				out[i].Stable.Requests += int64(cell.Requests)
				out[i].Stable.Errors += int64(cell.Errors)
			}
		}
	}
	return out
}

// onCandidate is what a tenant did on the candidate in some ticks.
func onCandidate(rows []TickRow, from int64, last canary.Tick, tenant string) canary.Totals {
	var sum canary.Totals
	add := func(t canary.Tick) {
		for _, s := range t.Strata {
			if s.Tenant == tenant {
				sum.Requests += s.Candidate.Requests
				sum.Errors += s.Candidate.Errors
			}
		}
	}
	for _, row := range rows {
		if row.Seq > from {
			add(row.Tick)
		}
	}
	add(last)
	return sum
}

// explainEvicted says what a person has to weigh before a release that goes on
// without some tenants reaches them.
func (r Record) explainEvicted() string {
	words := make([]string, len(r.State.Evicted))
	for i, e := range r.State.Evicted {
		words[i] = fmt.Sprintf("%s (on the candidate %s failed, on stable since then %s)", e.Tenant, e.Candidate, e.Stable)
	}
	return "it has passed without " + strings.Join(words, ", ") +
		". Errors that stopped on stable are the candidate's: abort it; errors that go on are the tenant's own: headgate release promote " + r.ID
}
