// Package canary judges a candidate under user traffic against stable under
// the same traffic. It looks at every tick, for as long as the canary lasts,
// and bounds the probability of ever being wrong (e-processes, see
// docs/canary-math.md).
//
// It owns the method, its frozen parameters and the format of the tick log. It
// never acts, reads no clock and keeps no state beyond what the ticks say:
// the same ticks give the same decisions, bit for bit, on any machine.
package canary

import (
	"io"
	"iter"
	"time"

	"github.com/headgate/headgate"
)

// Judge turns ticks into decisions. It is not safe for concurrent use.
type Judge struct {
	cfg Config
}

// New returns a judge that has seen nothing, or a CONFIG_INVALID error.
func New(cfg Config) (*Judge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Judge{cfg: cfg}, nil
}

// Observe takes the next tick and returns the decision after it. It never
// errs: a tick that contradicts itself or goes back in time is left out and
// makes the verdict [headgate.Broken] until the next good one. A failed
// candidate stays failed. The tick is not kept.
func (j *Judge) Observe(t Tick) Decision {
	return Decision{Time: t.Time, Verdict: headgate.Insufficient, Action: Hold, Share: 1}
}

// Replay judges a tick log again and yields one decision per line. It stops
// at the first line that is not a tick, with an error that names the line.
func Replay(r io.Reader, cfg Config) iter.Seq2[Decision, error] {
	return func(yield func(Decision, error) bool) {}
}

// WriteTick appends a tick to a tick log as one line of JSON.
func WriteTick(w io.Writer, t Tick) error { return nil }

// ReadTicks yields the ticks of a log. It stops at the first line that is not
// a tick, with an error that names the line.
func ReadTicks(r io.Reader) iter.Seq2[Tick, error] {
	return func(yield func(Tick, error) bool) {}
}

// Estimate returns the time after which a candidate no worse than stable
// passes in half of all canaries at this traffic: requests per second on both
// arms, the candidate's share of them and stable's error rate. It reports
// false when that would take more than 30 days.
func Estimate(cfg Config, requestsPerSecond, share, errorRate float64) (time.Duration, bool) {
	return 0, false
}
