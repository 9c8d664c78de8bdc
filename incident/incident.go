// Package incident tells people: it sends alerts to a webhook in the format of
// Prometheus's Alertmanager, again and again until they have arrived, and once
// more when an alert is past its deadline.
//
// It owns the alerts in hand, their grouping, retries and deadlines. It never
// judges: which event is an alert, and which ends one, is said by package
// alert. It never makes its caller wait, and never writes the webhook's
// address, which may contain a secret, to a log.
package incident

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
)

// Config configures a [Notifier]. The zero value sends nothing.
type Config struct {
	// Webhook is the http or https address that receives alerts; empty for
	// none, and then they are logged only.
	Webhook string
	// ExternalURL is where people reach Headgate, for links in alerts.
	ExternalURL string
	// Transport sends requests; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Timeout bounds one request; 0 means 5 s.
	Timeout time.Duration
	// Capacity is how many alerts may be in hand; 0 means 256. When it is
	// reached, the oldest that is past its deadline, and was told to be, makes
	// room; where there is none, the new alert is dropped and counted.
	Capacity int
	// Logger receives every alert, too; nil discards.
	Logger *slog.Logger
}

// Counts are cumulative since [New].
type Counts struct {
	// Dropped alerts found the notifier full.
	Dropped uint64
	// Repeated alerts were in hand already.
	Repeated uint64
	// Delivered, Failed and Refused requests: a failed one is tried again, a
	// refused one is not.
	Delivered, Failed, Refused uint64
}

// Notifier holds the alerts in hand and tells people about them. Make one with
// [New], own it with [Notifier.Run].
type Notifier struct {
	cfg    Config
	client *http.Client
	host   string // what may be said of the webhook's address
	wake   chan struct{}

	mu     sync.Mutex
	groups map[groupKey]*group
	held   int // alerts in all groups, at most cfg.Capacity
	counts Counts
}

// New returns a notifier. A webhook that is not an http or https address is a
// CONFIG_INVALID error.
func New(cfg Config) (*Notifier, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	cfg.Capacity = cmp.Or(cfg.Capacity, 256)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Notifier{
		cfg: cfg, wake: make(chan struct{}, 1), groups: map[groupKey]*group{},
		client: &http.Client{
			Transport: cfg.Transport, Timeout: cfg.Timeout,
			// Following would show the address, in Referer, to whoever is next.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if cfg.Webhook != "" {
		u, err := url.Parse(cfg.Webhook)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
				"the webhook for alerts must be an http or https address; set OBS_ALERT_WEBHOOK to one or leave it out")
		}
		n.host = u.Host
	}
	return n, nil
}

// Notify takes an alert in hand. It never blocks. An alert whose fingerprint
// is in hand already is not told again.
func (n *Notifier) Notify(a alert.Alert) {
	ctx := context.Background() // raising an alert is nobody's to cancel
	switch n.take(a) {
	case taken:
		n.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "alert", describe(a)...)
		n.poke()
	case dropped:
		n.cfg.Logger.LogAttrs(ctx, slog.LevelError, "alert dropped: too many are in hand", describe(a)...)
	case repeated:
	}
}

type reception int

const (
	taken reception = iota
	repeated
	dropped
)

func (n *Notifier) take(a alert.Alert) reception {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := groupKey{a.Name, a.Service}
	g := n.groups[key]
	if g != nil {
		if h := g.find(a.Fingerprint); h != nil {
			if h.endedAt.IsZero() {
				n.counts.Repeated++
				return repeated
			}
			h.Alert, h.endedAt, h.overdue = a, time.Time{}, false
			return taken
		}
	}
	if n.held >= n.cfg.Capacity && !n.makeRoom() {
		n.counts.Dropped++
		return dropped
	}
	if g = n.groups[key]; g == nil {
		g = &group{key: key}
		n.groups[key] = g
	}
	g.hands = append(g.hands, &hand{Alert: a})
	n.held++
	return taken
}

// makeRoom lets go of the oldest alert about which nothing is left to say but
// its end, so that what nobody cares for does not keep out what is new.
func (n *Notifier) makeRoom() bool {
	var from *group
	var oldest *hand
	for _, g := range n.groups {
		for _, h := range g.hands {
			if h.told == late && h.endedAt.IsZero() && (oldest == nil || h.StartedAt.Before(oldest.StartedAt)) {
				from, oldest = g, h
			}
		}
	}
	if oldest == nil {
		return false
	}
	oldest.told = resolved
	n.letGo(from)
	return true
}

// letGo forgets the alerts of a group of which everything is told.
func (n *Notifier) letGo(g *group) {
	n.held -= g.dropTold()
	// A letter may still hold a group that was let go and begun anew.
	if len(g.hands) == 0 && n.groups[g.key] == g {
		delete(n.groups, g.key)
	}
}

// Resolve ends the alerts in hand that ev ends. It never blocks.
func (n *Notifier) Resolve(ev headgate.Event) {
	n.end(ev.Time, func(a alert.Alert) bool { return a.EndedBy(ev) })
}

// End ends the alert in hand that has the fingerprint, for what no event ends.
// It never blocks.
func (n *Notifier) End(fingerprint string, at time.Time) {
	n.end(at, func(a alert.Alert) bool { return a.Fingerprint == fingerprint })
}

func (n *Notifier) end(at time.Time, over func(alert.Alert) bool) {
	var ended []alert.Alert
	n.mu.Lock()
	for _, g := range n.groups {
		for _, h := range g.hands {
			if h.endedAt.IsZero() && over(h.Alert) {
				h.endedAt = at
				ended = append(ended, h.Alert)
			}
		}
	}
	n.mu.Unlock()
	for _, a := range ended {
		n.cfg.Logger.LogAttrs(context.Background(), slog.LevelInfo, "alert is over", describe(a)...)
	}
	if len(ended) > 0 {
		n.poke()
	}
}

// InHand is the number of alerts that are not over, or whose end is not told.
func (n *Notifier) InHand() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

// Counts returns what has happened so far.
func (n *Notifier) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}

// Run tells people until ctx ends; then it tries once to send what is left,
// for at most the request timeout, and returns.
func (n *Notifier) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(n.round(ctx))
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.Timeout)
			defer cancel()
			n.forgiveFailures()
			n.round(last)
			return
		case <-n.wake:
		case <-timer.C:
		}
	}
}

func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// idle is how long a round sleeps when nothing is due.
const idle = time.Hour

// round sends what is due, the most severe first, and returns how long nothing
// will be.
func (n *Notifier) round(ctx context.Context) time.Duration {
	for _, a := range n.escalate(time.Now()) {
		n.cfg.Logger.LogAttrs(ctx, slog.LevelError, "alert is past its deadline", describe(a)...)
	}
	for {
		l, wait := n.next(time.Now())
		if l == nil {
			return wait
		}
		n.deliver(ctx, l)
	}
}

// escalate marks the alerts whose deadline has passed, each once.
func (n *Notifier) escalate(now time.Time) []alert.Alert {
	n.mu.Lock()
	defer n.mu.Unlock()
	var late []alert.Alert
	for _, g := range n.groups {
		for _, h := range g.hands {
			if h.endedAt.IsZero() && !h.overdue && !now.Before(h.Deadline) {
				h.overdue = true
				late = append(late, h.Alert)
			}
		}
	}
	return late
}

// next returns the letter of the most severe group that is due, or nil and the
// time until one is.
func (n *Notifier) next(now time.Time) (*letter, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	wait := idle
	var due *group
	for _, g := range n.groups {
		for _, h := range g.hands {
			if h.endedAt.IsZero() && !h.overdue {
				wait = min(wait, h.Deadline.Sub(now))
			}
		}
		switch {
		case !g.dirty():
		case now.Before(g.notBefore):
			wait = min(wait, g.notBefore.Sub(now))
		case due == nil || g.before(due):
			due = g
		}
	}
	if due == nil {
		return nil, max(wait, 0)
	}
	return due.letter(), 0
}

// deliver sends a letter and keeps what came of it.
func (n *Notifier) deliver(ctx context.Context, l *letter) {
	err := n.send(ctx, l)
	result := outcomeOf(err)

	n.mu.Lock()
	l.group.settle(l, result, time.Now())
	n.letGo(l.group)
	attempts := l.group.attempts
	switch {
	case n.cfg.Webhook == "":
	case result == delivered:
		n.counts.Delivered++
	case result == failed:
		n.counts.Failed++
	case result == refused:
		n.counts.Refused++
	}
	n.mu.Unlock()

	attrs := []slog.Attr{
		slog.String("alert", l.group.key.name), slog.String("service", l.group.key.service), slog.String("receiver", n.host),
	}
	switch result {
	case failed:
		attrs = append(attrs, slog.Int("attempts", attempts), slog.Any("error", err))
		n.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "alerts did not arrive; they are sent again", attrs...)
	case refused:
		attrs = append(attrs, slog.Any("error", err))
		n.cfg.Logger.LogAttrs(ctx, slog.LevelError, "the receiver refuses alerts; check OBS_ALERT_WEBHOOK", attrs...)
	case delivered:
	}
}

// forgiveFailures makes every group due at once.
func (n *Notifier) forgiveFailures() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, g := range n.groups {
		g.notBefore = time.Time{}
	}
}

func describe(a alert.Alert) []slog.Attr {
	return []slog.Attr{
		slog.String("alert", a.Name), slog.String("severity", string(a.Severity)), slog.String("service", a.Service),
		slog.String("release_id", a.ReleaseID), slog.String("summary", a.Summary), slog.String("on_call", a.OnCall),
		slog.String("runbook", a.Runbook), slog.Time("deadline", a.Deadline), slog.String("fingerprint", a.Fingerprint),
	}
}
