package gate

import (
	"errors"
	"time"

	"github.com/headgate/headgate"
)

// PastRelease is what is known of a release that has ended.
type PastRelease struct {
	ReleaseID string
	EndedAt   time.Time
	Outcome   headgate.Outcome
	// Incidents is how many incidents were opened because of it.
	Incidents int
	// Inputs are what its gates judged at the time.
	Inputs map[headgate.Gate]Input
}

// ConfusionTable says what a rule set would have done to past releases, and
// whether that would have been right. Blocking is the positive outcome.
type ConfusionTable struct {
	RulesDigest string `json:"rules_digest"`
	// BlockedBad and AdmittedGood are right; BlockedGood is a needless stop,
	// AdmittedBad a miss.
	BlockedBad   int `json:"blocked_bad"`
	BlockedGood  int `json:"blocked_good"`
	AdmittedBad  int `json:"admitted_bad"`
	AdmittedGood int `json:"admitted_good"`
	// Unobserved releases never met users, so nobody knows what they were.
	BlockedUnobserved  int `json:"blocked_unobserved"`
	AdmittedUnobserved int `json:"admitted_unobserved"`
	// Unusable releases have no complete record to judge.
	Unusable int           `json:"unusable"`
	Releases []BacktestRow `json:"releases"`
}

// BacktestRow is one release of a backtest.
type BacktestRow struct {
	ReleaseID string           `json:"release_id"`
	EndedAt   time.Time        `json:"ended_at"`
	Outcome   headgate.Outcome `json:"outcome"`
	Incidents int              `json:"incidents"`
	// Would is "blocked", "admitted" or "unusable".
	Would string `json:"would"`
	// Truth is "bad" (rolled back or caused incidents), "good" (promoted
	// without) or "unobserved".
	Truth string `json:"truth"`
	// Changed reports that the rule set decides otherwise than was decided.
	Changed bool     `json:"changed"`
	Reasons []string `json:"reasons,omitempty"`
}

// Backtest judges past releases, in the order given, under rules.
func Backtest(rules RuleSet, past []PastRelease) ConfusionTable {
	t := ConfusionTable{RulesDigest: rules.Digest(), Releases: []BacktestRow{}}
	for _, p := range past {
		row := BacktestRow{
			ReleaseID: p.ReleaseID, EndedAt: p.EndedAt, Outcome: p.Outcome,
			Incidents: p.Incidents, Truth: Truth(p.Outcome, p.Incidents),
		}
		row.Would, row.Reasons = p.judge(rules)
		met := p.Outcome != headgate.Blocked
		row.Changed = row.Would == "blocked" && met || row.Would == "admitted" && !met
		t.count(row)
		t.Releases = append(t.Releases, row)
	}
	return t
}

func (t *ConfusionTable) count(row BacktestRow) {
	cells := map[[2]string]*int{
		{"blocked", "bad"}: &t.BlockedBad, {"blocked", "good"}: &t.BlockedGood,
		{"admitted", "bad"}: &t.AdmittedBad, {"admitted", "good"}: &t.AdmittedGood,
		{"blocked", "unobserved"}: &t.BlockedUnobserved, {"admitted", "unobserved"}: &t.AdmittedUnobserved,
	}
	if cell, ok := cells[[2]string{row.Would, row.Truth}]; ok {
		*cell++
	} else {
		t.Unusable++
	}
}

// Truth is what a release turned out to be: "bad" when it was rolled back or
// caused incidents, "good" when it was promoted without, else "unobserved".
func Truth(outcome headgate.Outcome, incidents int) string {
	switch {
	case outcome == headgate.RolledBack || incidents > 0:
		return "bad"
	case outcome == headgate.Promoted:
		return "good"
	}
	return "unobserved"
}

func (p PastRelease) judge(rules RuleSet) (would string, reasons []string) {
	would = "admitted"
	for _, g := range headgate.GateD() {
		in, ok := p.Inputs[g]
		if !ok {
			return "unusable", []string{"no record of the " + string(g) + " gate"}
		}
		res, err := Evaluate(rules, g, in)
		if err != nil {
			var e *headgate.Error
			if errors.As(err, &e) {
				return "unusable", []string{string(g) + ": " + e.Message}
			}
			return "unusable", []string{string(g) + ": cannot be judged"}
		}
		if !res.Passed {
			would = "blocked"
			reasons = append(reasons, res.FailedChecks...)
		}
	}
	return would, reasons
}
