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
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
)

// Config configures a [Notifier]. The zero value logs alerts and sends nothing.
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
	// Capacity is how many alerts may be in hand; 0 means 256. What is over
	// it is dropped and counted.
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
type Notifier struct{ cfg Config }

// New returns a notifier. A webhook that is not an http or https address is a
// CONFIG_INVALID error.
func New(cfg Config) (*Notifier, error) { return &Notifier{cfg: cfg}, nil }

// Notify takes an alert in hand. It never blocks. An alert whose fingerprint
// is in hand already is not told again.
func (n *Notifier) Notify(a alert.Alert) {}

// Resolve ends the alerts in hand that ev ends. It never blocks.
func (n *Notifier) Resolve(ev headgate.Event) {}

// Counts returns what has happened so far.
func (n *Notifier) Counts() Counts { return Counts{} }

// Run tells people until ctx ends; then it tries once to send what is left,
// for at most the request timeout, and returns.
func (n *Notifier) Run(ctx context.Context) { <-ctx.Done() }
