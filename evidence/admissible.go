package evidence

import (
	"time"

	"github.com/headgate/headgate"
)

// Summary is what decides whether a piece of evidence counts. The zero Summary
// is evidence that does not exist.
type Summary struct {
	Time          time.Time
	ReleaseDigest string
	RulesDigest   string // empty for evidence that no rule set judged, such as a replay
	Verdict       headgate.Verdict
	Declared      bool // a claim, which never counts
	// Measured is true when the server itself brought together what was judged,
	// and false for figures that a request told it.
	Measured bool
}

// Want is what a release needs now.
type Want struct {
	ReleaseDigest string
	RulesDigest   string        // the rules in force; empty when none apply
	MaxAge        time.Duration // 0 for no age limit
	// Measured refuses figures that a request told the server.
	Measured bool
	// NotBefore refuses what is older, for example a replay from before the
	// last rollback. Zero refuses nothing.
	NotBefore time.Time
}

// Why evidence does not count. Stable: clients match on them.
const (
	ReasonMissing      = "EVIDENCE_MISSING"
	ReasonDeclared     = "EVIDENCE_ONLY_DECLARED"
	ReasonOtherRelease = "EVIDENCE_OF_OTHER_DIGEST"
	ReasonOtherRules   = "EVIDENCE_UNDER_OTHER_RULES"
	ReasonFuture       = "EVIDENCE_FROM_FUTURE"
	ReasonStale        = "EVIDENCE_STALE"
	ReasonSuperseded   = "EVIDENCE_SUPERSEDED"
	ReasonNotPassing   = "EVIDENCE_NOT_PASSING"
	ReasonNotMeasured  = "EVIDENCE_NOT_MEASURED"
)

// clockSkew is how far in the future evidence may lie.
const clockSkew = time.Minute

// Admissible reports whether evidence counts for a release at now, and when
// not, the reason code. Callers give the latest evidence of a gate: an earlier
// pass does not outlive a later failure.
func Admissible(e Summary, want Want, now time.Time) (bool, string) {
	switch {
	case e.Time.IsZero():
		return false, ReasonMissing
	case e.Declared:
		return false, ReasonDeclared
	case want.ReleaseDigest == "" || e.ReleaseDigest != want.ReleaseDigest:
		return false, ReasonOtherRelease
	case e.RulesDigest != want.RulesDigest:
		return false, ReasonOtherRules
	case want.Measured && !e.Measured:
		return false, ReasonNotMeasured
	case e.Time.After(now.Add(clockSkew)):
		return false, ReasonFuture
	case e.Time.Before(want.NotBefore):
		return false, ReasonSuperseded
	case want.MaxAge > 0 && now.Sub(e.Time) > want.MaxAge:
		return false, ReasonStale
	case e.Verdict != headgate.Pass:
		return false, ReasonNotPassing
	}
	return true, ""
}
