package alert

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// Firing is a threshold alert that would have fired.
type Firing struct {
	Alert    string    `json:"alert"`
	Severity Severity  `json:"severity"`
	FiredAt  time.Time `json:"fired_at"`
}

// FiredAt returns when a rule first fires whose expression held at the given
// evaluations, in order of time and every step apart unless it did not hold in
// between: when it has held for hold without a gap.
func FiredAt(held []time.Time, step, hold time.Duration) (time.Time, bool) {
	var since, before time.Time
	for _, at := range held {
		if since.IsZero() || at.Sub(before) > step {
			since = at
		}
		if at.Sub(since) >= hold {
			return at, true
		}
		before = at
	}
	return time.Time{}, false
}

// What a past release would have been under other thresholds.
const (
	WouldAlert    = "alerted"
	WouldBeSilent = "silent"
	NoMetricsLeft = "no_metrics"
	NeverMetUsers = "never_met_users"
	truthBad      = "bad"
	truthGood     = "good"
)

// PastRelease is a release that has ended, and what changed thresholds would
// have said while users met it.
type PastRelease struct {
	ReleaseID string           `json:"release_id"`
	EndedAt   time.Time        `json:"ended_at"`
	Outcome   headgate.Outcome `json:"outcome"`
	Incidents int              `json:"incidents"`
	// Truth is "bad" (rolled back or caused incidents), "good" (promoted
	// without) or "unobserved".
	Truth string `json:"truth"`
	// From and To are when users met it; zero when they never did.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Gone says why the metrics of that time do not tell: retention has removed
	// them, or the service has none of any alert's. Nothing is concluded then.
	Gone string `json:"gone,omitempty"`
	// Unmeasured are the figures of the alerts of which there were no metrics,
	// while there were some of another's.
	Unmeasured []string `json:"unmeasured,omitempty"`
	Firing     []Firing `json:"alerts"`
	// Would is one of the constants above; [Backtest] fills it in.
	Would string `json:"would"`
}

// ConfusionTable says for which past releases changed thresholds would have
// alerted, and whether that would have been right.
type ConfusionTable struct {
	// AlertedBad and SilentGood are right; AlertedGood is a false alarm,
	// SilentBad a miss.
	AlertedBad  int `json:"alerted_bad"`
	AlertedGood int `json:"alerted_good"`
	SilentBad   int `json:"silent_bad"`
	SilentGood  int `json:"silent_good"`
	// Unobserved releases met users, and nobody found out what they were.
	AlertedUnobserved int `json:"alerted_unobserved"`
	SilentUnobserved  int `json:"silent_unobserved"`
	// NoMetrics releases have no metrics that tell, and NeverMetUsers never had any
	// of users. Neither is guessed.
	NoMetrics     int           `json:"no_metrics"`
	NeverMetUsers int           `json:"never_met_users"`
	Releases      []PastRelease `json:"releases"`
}

// Backtest counts past releases, in the order given.
func Backtest(past []PastRelease) ConfusionTable {
	t := ConfusionTable{Releases: slices.Clone(past)}
	for i := range t.Releases {
		p := &t.Releases[i]
		switch {
		case p.From.IsZero():
			p.Would = NeverMetUsers
			t.NeverMetUsers++
			continue
		case p.Gone != "":
			p.Would = NoMetricsLeft
			t.NoMetrics++
			continue
		}
		p.Would = WouldBeSilent
		bad, good, other := &t.SilentBad, &t.SilentGood, &t.SilentUnobserved
		if len(p.Firing) > 0 {
			p.Would = WouldAlert
			bad, good, other = &t.AlertedBad, &t.AlertedGood, &t.AlertedUnobserved
		}
		switch p.Truth {
		case truthBad:
			*bad++
		case truthGood:
			*good++
		default:
			*other++
		}
	}
	return t
}
