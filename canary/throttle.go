package canary

// throttle is the first tier of action: while the undamped evidence is strong
// it asks for a share at which the candidate fails about once a second. The
// share depends on the past alone, so all tests stay valid.
type throttle struct {
	rule ThrottleRule
	on   bool
	// released is true for the one decision that lifts the limit.
	released bool
	share    float64
	window   float64 // seconds since the evidence was last restarted
	// seen are the candidate's counts since it was throttled.
	seen Totals
}

func newThrottle(rule ThrottleRule) throttle { return throttle{rule: rule, share: 1} }

func (t *throttle) observe(tick tickTotals, seconds float64, enoughErrors bool, alarm *mixture) {
	t.released = false
	switch {
	case !t.on && enoughErrors && alarm.value >= t.rule.At:
		t.on, t.window, t.seen = true, 0, Totals{}
		t.limit(tick, seconds)
		alarm.restart(0)
	case t.on:
		t.limit(tick, seconds)
		t.window += seconds
		if t.window < t.rule.WindowSeconds {
			return
		}
		if alarm.value < t.rule.ReleaseBelow {
			t.on, t.released, t.share = false, true, 1
		}
		t.window = 0
		alarm.restart(0)
	}
}

// limit sets the share at which the candidate, failing as often as since it
// was throttled, fails as often per second as it may.
func (t *throttle) limit(tick tickTotals, seconds float64) {
	t.seen.Requests += tick.candidate.Requests
	t.seen.Errors += tick.candidate.Errors
	all := float64(tick.candidate.Requests + tick.stable.Requests)
	if t.seen.Errors == 0 || all == 0 {
		return
	}
	failing := float64(t.seen.Errors) / float64(t.seen.Requests)
	share := t.rule.FailuresPerSecond * seconds / (failing * all)
	t.share = max(t.rule.MinShare, min(1, share))
}
