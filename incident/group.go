package incident

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/headgate/headgate/alert"
)

// groupKey is by what alerts are told together.
type groupKey struct{ name, service string }

// group is the alerts of one name at one service. What a receiver has been
// told and what it should know are both state; a request closes the gap.
type group struct {
	key       groupKey
	hands     []*hand // in the order in which they were taken
	attempts  int     // failed ones in a row
	notBefore time.Time
}

// hand is an alert in hand.
type hand struct {
	alert.Alert
	endedAt time.Time
	overdue bool
	told    word
}

// word is what a receiver knows of an alert.
type word int

const (
	nothing word = iota
	firing
	late
	resolved
)

// news is what the receiver should know. An alert that was over before anybody
// heard of it is told as firing first: a person must learn of it.
func (h *hand) news() word {
	switch {
	case !h.endedAt.IsZero() && h.told != nothing:
		return resolved
	case h.overdue:
		return late
	default:
		return firing
	}
}

func (g *group) find(fingerprint string) *hand {
	i := slices.IndexFunc(g.hands, func(h *hand) bool { return h.Fingerprint == fingerprint })
	if i < 0 {
		return nil
	}
	return g.hands[i]
}

func (g *group) dirty() bool {
	return slices.ContainsFunc(g.hands, func(h *hand) bool { return h.told != h.news() })
}

// before orders groups by what can least wait.
func (g *group) before(o *group) bool {
	return cmp.Or(
		cmp.Compare(g.severity(), o.severity()),
		cmp.Compare(g.key.name, o.key.name),
		cmp.Compare(g.key.service, o.key.service),
	) < 0
}

func (g *group) severity() alert.Severity {
	worst := alert.P2
	for _, h := range g.hands {
		worst = min(worst, h.Severity)
	}
	return worst
}

// letter is what one request says about a group.
type letter struct {
	group *group
	lines []line
}

type line struct {
	hand *hand
	said word
	// A copy: the alert in hand may change while the request is under way.
	alert   alert.Alert
	endedAt time.Time
}

func (g *group) letter() *letter {
	l := &letter{group: g}
	for _, h := range g.hands {
		l.lines = append(l.lines, line{hand: h, said: h.news(), alert: h.Alert, endedAt: h.endedAt})
	}
	return l
}

// outcome is what came of a request.
type outcome int

const (
	delivered outcome = iota
	failed
	refused
)

const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// settle keeps what came of a letter. A refused one is not sent again.
func (g *group) settle(l *letter, result outcome, now time.Time) {
	if result == failed {
		wait := min(firstRetry<<min(g.attempts, 6), lastRetry)
		g.attempts++
		g.notBefore = now.Add(wait/2 + rand.N(wait/2))
		return
	}
	g.attempts, g.notBefore = 0, time.Time{}
	for _, ln := range l.lines {
		ln.hand.told = ln.said
		if ln.said == resolved && ln.hand.endedAt.IsZero() {
			ln.hand.told = nothing // it has begun again meanwhile
		}
	}
}

// dropTold lets go of the alerts whose end has been told, and counts them.
func (g *group) dropTold() int {
	before := len(g.hands)
	g.hands = slices.DeleteFunc(g.hands, func(h *hand) bool { return h.told == resolved })
	return before - len(g.hands)
}
