package timeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/telemetry"
)

// Change is an error that is new or more frequent on the candidate.
type Change struct {
	telemetry.ErrorGroup
	// StableCount is how often stable had it, scaled to the candidate's
	// number of requests.
	StableCount float64 `json:"stable_count_scaled"`
	New         bool    `json:"new"`
}

// moreFrequent is the factor from which an error counts as more frequent, and
// leastCount the number below which it is noise.
const (
	moreFrequent = 2.0
	leastCount   = 2
)

// Compare returns the errors that are new on the candidate or at least twice
// as frequent per request as on stable, the largest excess first. The numbers
// of requests make the arms comparable; with either at zero only new errors
// are returned.
func Compare(candidate, stable []telemetry.ErrorGroup, candidateRequests, stableRequests float64) []Change {
	before := make(map[telemetry.ErrorKey]int64, len(stable))
	for _, g := range stable {
		before[g.ErrorKey] += g.Count
	}
	comparable := candidateRequests > 0 && stableRequests > 0
	var out []Change
	for _, g := range candidate {
		n, known := before[g.ErrorKey]
		c := Change{ErrorGroup: g, New: !known}
		if comparable {
			c.StableCount = float64(n) * candidateRequests / stableRequests
		}
		frequent := comparable && g.Count >= leastCount && float64(g.Count) >= moreFrequent*c.StableCount
		if c.New || frequent {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b Change) int {
		return cmp.Compare(float64(b.Count)-b.StableCount, float64(a.Count)-a.StableCount)
	})
	return out
}

// Reason says in one paragraph why the candidate is worse, for a report or a
// notification. It is empty when nothing is.
func Reason(changes []Change) string {
	if len(changes) == 0 {
		return ""
	}
	top, all, others := changes[0], changes[0], []string(nil)
	places, tenants := make(map[string]bool), make(map[string]bool)
	all.Count, all.StableCount = 0, 0
	for _, c := range changes {
		switch {
		case c.Code == top.Code:
			all.Count, all.StableCount, all.New = all.Count+c.Count, all.StableCount+c.StableCount, all.New && c.New
			places[c.Name] = true
			if c.TenantID != "" {
				tenants[c.TenantID] = true
			}
		case !slices.Contains(others, what(c.Code)):
			others = append(others, what(c.Code))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s occurred %s on the candidate, at %s", what(top.Code), times(all.Count), printable(top.Name))
	if n := len(places) - 1; n == 1 {
		b.WriteString(" and one other place")
	} else if n > 1 {
		fmt.Fprintf(&b, " and %d other places", n)
	}
	if all.New {
		b.WriteString(", and never there on stable")
	} else {
		fmt.Fprintf(&b, ", %.1f times as often per request as there on stable", float64(all.Count)/all.StableCount)
	}
	switch {
	case len(tenants) == 1:
		fmt.Fprintf(&b, "; it hit tenant %s only", top.TenantID)
	case len(tenants) > 1:
		fmt.Fprintf(&b, "; it hit %d tenants", len(tenants))
	}
	b.WriteString(".")
	if len(others) > 0 {
		fmt.Fprintf(&b, " Also new or more frequent: %s.", strings.Join(others[:min(len(others), 5)], ", "))
	}
	if top.TraceID != "" {
		fmt.Fprintf(&b, " Example trace: %s.", top.TraceID)
	}
	return b.String()
}

// what is what an error is called.
func what(code string) string { return cmp.Or(code, "an error without a code") }

// times is how often an error occurred.
func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
