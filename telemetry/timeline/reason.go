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
	top := whereItEntered(changes)
	var b strings.Builder
	fmt.Fprintf(&b, "%s occurred %d times on the candidate", top.Code, top.Count)
	if top.New {
		b.WriteString(" and never on stable")
	} else {
		fmt.Fprintf(&b, ", %.1f times as often per request as on stable", float64(top.Count)/top.StableCount)
	}
	fmt.Fprintf(&b, "; it came from %s", printable(top.Name))
	tenants := make(map[string]int64)
	for _, c := range changes {
		if c.Code == top.Code && c.TenantID != "" {
			tenants[c.TenantID] += c.Count
		}
	}
	switch {
	case len(tenants) == 1:
		fmt.Fprintf(&b, " and hit tenant %s only", top.TenantID)
	case len(tenants) > 1:
		fmt.Fprintf(&b, " and hit %d tenants", len(tenants))
	}
	b.WriteString(".")
	var others []string
	for _, c := range changes[1:] {
		if c.Code != top.Code && !slices.Contains(others, c.Code) {
			others = append(others, c.Code)
		}
	}
	if len(others) > 0 {
		fmt.Fprintf(&b, " Also new or more frequent: %s.", strings.Join(others[:min(len(others), 5)], ", "))
	}
	if top.TraceID != "" {
		fmt.Fprintf(&b, " Example trace: %s.", top.TraceID)
	}
	return b.String()
}

// whereItEntered returns, of the groups with the code that exceeds most, the one
// that names an endpoint: the same failure is also counted at the log lines and
// the database events that it led to.
func whereItEntered(changes []Change) Change {
	top := changes[0]
	for _, c := range changes {
		if c.Code == top.Code && strings.Contains(c.Name, " /") {
			return c
		}
	}
	return top
}
