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
}

func newThrottle(rule ThrottleRule) throttle { return throttle{rule: rule, share: 1} }

func (t *throttle) observe(tick tickTotals, seconds float64, enoughErrors bool, alarm *mixture) {
	t.released = false
	switch {
	case !t.on && enoughErrors && alarm.value >= t.rule.At:
		t.on, t.window = true, 0
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

// limit lowers the share to what the tick's failures call for; while throttled
// it never rises.
func (t *throttle) limit(tick tickTotals, seconds float64) {
	n, errs := float64(tick.candidate.Requests), float64(tick.candidate.Errors)
	all := n + float64(tick.stable.Requests)
	if n == 0 {
		return
	}
	share := n / all
	if failures := errs / seconds; failures > t.rule.FailuresPerSecond {
		share *= t.rule.FailuresPerSecond / failures
	}
	t.share = max(t.rule.MinShare, min(t.share, share))
}
