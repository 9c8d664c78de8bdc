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
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// Judge turns ticks into decisions. It is not safe for concurrent use.
type Judge struct {
	cfg Config

	start   time.Time // of the first interval
	last    time.Time // end of the last interval taken
	block   int64
	elapsed float64 // observed seconds

	stable, candidate Totals
	strata            map[string]*openStratum
	tempering         *tempering
	errors            *errorTests
	split             *splitTest
	throttle          throttle
	consecutive       consecutive

	brokenFor float64 // seconds
	proven    string  // code of what was once shown, for a pass
	failed    *Decision
}

// openStratum collects one tenant's counts until both arms have enough
// exposure for a comparison.
type openStratum struct {
	nc, ns, ec, es int64
}

// New returns a judge that has seen nothing, or a CONFIG_INVALID error.
func New(cfg Config) (*Judge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Judge{
		cfg:         cfg,
		strata:      map[string]*openStratum{},
		tempering:   newTempering(cfg.Tempering),
		errors:      newErrorTests(cfg),
		split:       newSplitTest(cfg),
		throttle:    newThrottle(cfg.Throttle),
		consecutive: consecutive{threshold: cfg.ConsecutiveThreshold},
	}, nil
}

// Observe takes the next tick and returns the decision after it. It never
// errs: a tick that contradicts itself or goes back in time is left out and
// makes the verdict [headgate.Broken] until the next good one. A failed
// candidate stays failed. The tick is not kept.
func (j *Judge) Observe(t Tick) Decision {
	if j.failed != nil {
		d := *j.failed
		d.Time = t.Time
		return d
	}
	if t.Time.IsZero() || !t.Time.After(j.last) {
		return j.broken(t.Time, j.cfg.TickSeconds, CodeTimeNotRising,
			"The tick's time is not after that of the tick before; it was left out.")
	}
	seconds := j.advance(t.Time)
	if err := t.validate(); err != nil {
		return j.broken(t.Time, seconds, CodeTickInvalid, "The tick contradicts itself and was left out: "+err.Error()+".")
	}
	switch t.Telemetry {
	case Missing:
		return j.broken(t.Time, seconds, CodeTelemetryMissing, "No counts arrived from the routers; nothing can be judged.")
	case Stale:
		return j.broken(t.Time, seconds, CodeTelemetryStale, "The routers' counts are stale; nothing can be judged.")
	}
	j.elapsed += min(seconds, 5*j.cfg.TickSeconds)
	tick := j.count(&t)
	j.consecutive.observe(t.Checks)
	j.throttle.observe(tick, seconds, j.candidate.Errors >= j.cfg.MinErrors, j.errors.alarm)
	return j.decide(t.Time, seconds)
}

// advance moves to the interval that ends at t, ends the running block when
// the interval lies in a later one, and returns the interval's seconds.
func (j *Judge) advance(t time.Time) float64 {
	if j.last.IsZero() {
		j.start = t.Add(-time.Duration(j.cfg.TickSeconds * float64(time.Second)))
		j.last = j.start
	}
	block := int64(j.last.Sub(j.start)) / int64(j.cfg.BlockSeconds*float64(time.Second))
	if block > j.block {
		j.block = block
		j.tempering.endBlock()
		j.errors.endBlock()
		j.split.endBlock()
	}
	seconds := t.Sub(j.last).Seconds()
	j.last = t
	return seconds
}

// tickTotals are the counts of one tick over all tenants.
type tickTotals struct {
	stable, candidate Totals
}

// count adds the tick to every test.
func (j *Judge) count(t *Tick) tickTotals {
	var tick tickTotals
	for i := range t.Strata {
		s := &t.Strata[i]
		tick.stable.add(s.Stable)
		tick.candidate.add(s.Candidate)
		j.tempering.add(s.Shards)
		j.compare(s)
	}
	j.stable.Requests += tick.stable.Requests
	j.stable.Errors += tick.stable.Errors
	j.candidate.Requests += tick.candidate.Requests
	j.candidate.Errors += tick.candidate.Errors
	j.errors.observe(tick, j.tempering.phi)
	j.split.observe(tick, t.ExpectedShare, j.tempering.phi)
	return tick
}

// A comparison needs this much exposure. It depends on requests alone, never
// on their outcome.
const (
	minCandidateExposure = 1
	minStableExposure    = 5
)

func (j *Judge) compare(s *Stratum) {
	open := j.strata[s.Tenant]
	if open == nil {
		open = &openStratum{}
		j.strata[s.Tenant] = open
	}
	open.nc += s.Candidate.Requests
	open.ec += s.Candidate.Errors
	open.ns += s.Stable.Requests
	open.es += s.Stable.Errors
	if open.nc >= minCandidateExposure && open.ns >= minStableExposure {
		j.errors.compare(float64(open.nc), float64(open.ns), float64(open.ec), float64(open.es))
		*open = openStratum{}
	}
}

func (t *Totals) add(c Counts) {
	t.Requests += c.Requests
	t.Errors += c.Errors
}

// consecutive is the contract's rule: a metric in breach at a number of its
// evaluations in a row fails the release.
type consecutive struct {
	threshold int
	breaches  []headgate.Breach
}

func (c *consecutive) observe(checks []Check) {
	for _, check := range checks {
		i := slices.IndexFunc(c.breaches, func(b headgate.Breach) bool {
			return b.Gate == check.Gate && b.MetricCode == check.MetricCode
		})
		switch {
		case check.Breached && i >= 0:
			c.breaches[i].ConsecutiveFailures++
		case check.Breached:
			c.breaches = append(c.breaches, headgate.Breach{Gate: check.Gate, MetricCode: check.MetricCode, ConsecutiveFailures: 1})
		case i >= 0:
			c.breaches = slices.Delete(c.breaches, i, i+1)
		}
	}
}

func (c *consecutive) exceeded() (headgate.Breach, bool) {
	for _, b := range c.breaches {
		if b.ConsecutiveFailures >= c.threshold {
			return b, true
		}
	}
	return headgate.Breach{}, false
}
