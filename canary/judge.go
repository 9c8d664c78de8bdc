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
	cfg  Config
	idle string // see whenIdle

	start   time.Time // of the first interval
	last    time.Time // end of the last interval taken
	block   int64
	sudden  int64   // short block
	elapsed float64 // observed seconds

	stable, candidate Totals
	strata            map[string]*openStratum
	order             []*openStratum // the same, as first seen
	tempering         *tempering
	errors            *errorTests
	latency           *latencyTests
	cost              *costTest
	tenants           *tenantModel // nil when requests are split
	warm              time.Time    // end of the warm-up; zero before the first request
	split             *splitTest
	throttle          throttle
	consecutive       consecutive

	brokenFor float64 // seconds
	proven    string  // code of what was once shown, for a pass
	failed    *Decision
}

// New returns a judge that has seen nothing, or a CONFIG_INVALID error.
func New(cfg Config) (*Judge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	j := &Judge{
		cfg:         cfg,
		strata:      map[string]*openStratum{},
		tempering:   newTempering(cfg.Tempering),
		errors:      newErrorTests(cfg),
		latency:     newLatencyTests(cfg),
		cost:        newCostTest(cfg),
		split:       newSplitTest(cfg),
		throttle:    newThrottle(cfg.Throttle),
		consecutive: consecutive{threshold: cfg.ConsecutiveThreshold},
	}
	if cfg.Assignment == WholeTenants {
		j.tenants = newTenantModel(cfg.Baseline)
	}
	return j, nil
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
	from := j.advance(t.Time)
	seconds := t.Time.Sub(from).Seconds()
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
	tick := j.count(&t, from)
	j.consecutive.observe(t.Checks)
	j.throttle.observe(tick, seconds, j.candidate.Errors >= j.cfg.MinErrors, j.errors.alarm)
	return j.decide(t.Time, seconds)
}

// advance moves to the interval that ends at t, ends the running block when
// the interval lies in a later one, and returns the interval's start.
func (j *Judge) advance(t time.Time) time.Time {
	from := j.last
	if from.IsZero() {
		from = t.Add(-duration(j.cfg.TickSeconds))
		j.start = from
	}
	if short := int64(from.Sub(j.start) / duration(j.cfg.SuddenBlockSeconds)); short > j.sudden {
		j.sudden = short
		j.errors.endSuddenBlock()
	}
	block := int64(from.Sub(j.start) / duration(j.cfg.BlockSeconds))
	if block > j.block {
		j.block = block
		j.tempering.endBlock()
		j.errors.endBlock()
		j.errors.apart = j.tempering.apart()
		j.latency.endBlock()
		j.cost.endBlock()
		j.split.endBlock()
		if j.tenants != nil {
			j.tenants.endBlock()
		}
	}
	j.last = t
	return from
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// tickTotals are the counts of one tick over all tenants.
type tickTotals struct {
	stable, candidate Totals
}

// count adds the tick, whose interval starts at from, to every test.
func (j *Judge) count(t *Tick, from time.Time) tickTotals {
	var tick tickTotals
	for i := range t.Strata {
		s := &t.Strata[i]
		tick.stable.add(s.Stable)
		tick.candidate.add(s.Candidate)
		j.tempering.add(s.Shards)
	}
	j.tempering.addTick(tick)
	if j.warm.IsZero() && tick.candidate.Requests > 0 {
		j.warm = from.Add(duration(j.cfg.WarmUpSeconds))
	}
	warm := !j.warm.IsZero() && !from.Before(j.warm)
	for i := range t.Strata {
		j.compare(&t.Strata[i], warm)
	}
	phi := j.tempering.phi
	if j.tenants != nil {
		j.tenants.compare(j.errors, phi)
	}
	j.stable.Requests += tick.stable.Requests
	j.stable.Errors += tick.stable.Errors
	j.candidate.Requests += tick.candidate.Requests
	j.candidate.Errors += tick.candidate.Errors
	j.errors.observe(tick, phi)
	j.latency.observe(j.cfg.Tempering)
	j.cost.observe()
	if !j.throttle.on && !j.throttle.released {
		// A throttled share is too small to hold for what is assigned as one.
		j.split.observe(tick, t.ExpectedShare, phi)
	}
	return tick
}

func (j *Judge) compare(s *Stratum, warm bool) {
	if j.tenants != nil {
		j.tenants.add(s, j.errors)
		return
	}
	open := j.strata[s.Tenant]
	if open == nil {
		open = &openStratum{tenant: s.Tenant}
		j.strata[s.Tenant] = open
		j.order = append(j.order, open)
	}
	open.add(s, warm)
	open.compare(j.errors, j.latency, j.cost)
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
	undecided []string // metrics whose last evaluation was
}

func (c *consecutive) observe(checks []Check) {
	for _, check := range checks {
		c.undecided = slices.DeleteFunc(c.undecided, func(code string) bool { return code == check.MetricCode })
		if check.Undecided {
			c.undecided = append(c.undecided, check.MetricCode)
			continue
		}
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
