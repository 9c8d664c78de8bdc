package canary

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/headgate/headgate"
)

// decision returns what every decision says beside verdict and action.
func (j *Judge) decision(at time.Time) Decision {
	return Decision{
		Time:             at,
		Share:            j.throttle.share,
		Evidence:         j.evidence(),
		Stable:           j.stable,
		Candidate:        j.candidate,
		ElapsedSeconds:   j.elapsed,
		RemainingSeconds: -1,
		ModelBased:       j.cfg.Assignment == WholeTenants,
		Breaches:         slices.Clone(j.consecutive.breaches),
		Undecided:        slices.Clone(j.consecutive.undecided),
	}
}

func (j *Judge) evidence() Evidence {
	e := Evidence{
		Errors:    j.errors.level(),
		Latency:   j.latency.level(),
		Cost:      j.cost.level(),
		Alarm:     j.errors.alarm.value,
		NoWorse:   j.errors.noWorse.value,
		BelowSLO:  j.errors.below.value,
		Quiet:     j.errors.quiet.value,
		Kill:      j.errors.killLevel(),
		Split:     j.split.level(),
		Tempering: j.tempering.phi,
	}
	if j.candidate.Errors < j.cfg.MinErrors {
		e.Errors = min(e.Errors, 1)
	}
	w := j.cfg.Weights
	e.Combined = float64(w.Errors*e.Errors) + float64(w.Latency*e.Latency) + float64(w.Cost*e.Cost)
	return e
}

// broken holds and calls a person, and rolls back when it has lasted too long.
func (j *Judge) broken(at time.Time, seconds float64, code, why string) Decision {
	j.brokenFor += seconds
	d := j.decision(at)
	d.Verdict, d.Action, d.Reason, d.Reasons = headgate.Broken, Alert, why, []string{code}
	if grace := j.cfg.BrokenGraceSeconds; grace > 0 && j.brokenFor >= grace {
		d.Action, d.Share = Rollback, 0
		d.Reason += fmt.Sprintf(" This has lasted %s, longer than the grace of %s, so traffic goes back to stable.",
			span(j.brokenFor), span(grace))
		d.Reasons = append(d.Reasons, CodeBrokenTooLong)
	}
	return d
}

// decide orders the rules: the comparison unless it cannot be trusted, the
// absolute limits, then a pass.
func (j *Judge) decide(at time.Time, seconds float64) Decision {
	d := j.decision(at)
	level := 1 / j.cfg.Alpha
	breach, breached := j.consecutive.exceeded()
	splitBroken := d.Evidence.Split >= level
	worse := d.Evidence.Combined >= level && !splitBroken
	if worse && j.tenants != nil {
		d.Evict = j.tenants.decisive()
	}
	switch {
	case worse && d.Evict == "":
		return j.failWorse(d)
	case d.Evidence.Kill >= level && j.candidate.Errors >= j.cfg.MinErrors:
		return j.fail(d, CodeSLOExceeded, fmt.Sprintf(
			"More than %s of requests fail while the candidate has traffic (candidate %s, stable %s); a candidate can hurt stable through what they share.",
			percent(j.cfg.KillErrorRate), j.candidate, j.stable))
	case breached:
		return j.fail(d, CodeConsecutive, fmt.Sprintf("%s was in breach %d times in a row; the limit is %d.",
			breach.MetricCode, breach.ConsecutiveFailures, j.consecutive.threshold))
	case splitBroken:
		return j.broken(at, seconds, CodeSplitMismatch, fmt.Sprintf(
			"The candidate got %d of %d requests, which the configured share does not explain; check that every router counts both arms.",
			j.candidate.Requests, j.candidate.Requests+j.stable.Requests))
	}
	j.brokenFor = 0
	return j.pending(d)
}

func (j *Judge) fail(d Decision, code, why string) Decision {
	d.Verdict, d.Action, d.Share = headgate.Fail, Rollback, 0
	d.Reason, d.Reasons = why, []string{code}
	j.failed = &d
	return d
}

// failWorse names the metric that contributes most.
func (j *Judge) failWorse(d Decision) Decision {
	w := j.cfg.Weights
	errors, latency, cost := w.Errors*d.Evidence.Errors, w.Latency*d.Evidence.Latency, w.Cost*d.Evidence.Cost
	switch {
	case latency > errors && latency >= cost:
		return j.fail(d, CodeLatencyWorse, j.latency.reason())
	case cost > errors:
		return j.fail(d, CodeCostWorse, j.cost.reason())
	}
	d.Evict = suspect(j.order)
	return j.fail(d, CodeErrorsWorse, fmt.Sprintf("The candidate fails more often than stable: %s against %s; this is not chance.",
		j.candidate, j.stable))
}

// pending is a candidate that has not failed: it passes, or more is needed.
func (j *Judge) pending(d Decision) Decision {
	j.prove(d.Evidence)
	d.RemainingSeconds = j.remaining()
	d.Verdict, d.Action = headgate.Insufficient, Hold
	switch {
	case d.Evict != "":
		if j.throttle.on {
			d.Action = Throttle
		}
		d.say(CodeOneTenant, fmt.Sprintf("Only tenant %q speaks against the candidate (%s against %s on stable in all); move it to stable: if its errors go on there, they are its own.",
			d.Evict, j.candidate, j.stable))
	case j.throttle.on:
		d.Action, d.Evict = Throttle, suspect(j.order)
		d.say(CodeThrottled, fmt.Sprintf("The candidate seems to fail more often than stable (%s against %s); its share is limited to %s until that is certain.",
			j.candidate, j.stable, percent(d.Share)))
	case j.candidate.Requests == 0:
		d.say(CodeNoTraffic, "No request has reached the candidate yet."+j.whenIdle())
	case j.stable.Requests == 0:
		d.say(CodeNoStable, "No request has reached stable, so there is nothing to compare with.")
	case len(d.Breaches) > 0:
		d.say(CodeConsecutive, fmt.Sprintf("%s is in breach; its next evaluation decides.", d.Breaches[0].MetricCode))
	case d.Evidence.Combined >= j.cfg.Throttle.ReleaseBelow:
		d.say(CodeLooksWorse, fmt.Sprintf("The candidate looks worse than stable (errors %s against %s), but that may still be chance; the next minutes decide.",
			j.candidate, j.stable))
	case j.proven == "":
		d.say(CodeMoreData, "Nothing speaks against the candidate so far ("+j.candidate.String()+" against "+j.stable.String()+
			" on stable), but that is not enough to decide; "+forecast(d.RemainingSeconds)+".")
	case j.elapsed < j.cfg.MinDurationSeconds:
		d.say(CodeMinDuration, "The candidate is no worse than stable so far; it is watched for "+span(j.cfg.MinDurationSeconds)+" at least.")
	case len(d.Undecided) > 0:
		d.say(CodeCheckUndecided, fmt.Sprintf("The candidate is no worse than stable so far, but %s has too few samples or no telemetry on one of the versions.",
			d.Undecided[0]))
	default:
		d.Verdict, d.Action, d.RemainingSeconds = headgate.Pass, Promote, 0
		d.say(j.proven, j.passReason())
	}
	if j.throttle.released {
		d.Action = Release
		d.Reason = "The candidate's errors have stopped, so its share is no longer limited. " + d.Reason
	}
	return d
}

func (d *Decision) say(code, reason string) { d.Reasons, d.Reason = []string{code}, reason }

// prove notes what has been shown once: by Ville's inequality that counts for
// good, unless the candidate gets worse. Ratios of errors say nothing when even
// stable's are negligible; then the candidate is held to the SLO instead.
func (j *Judge) prove(e Evidence) {
	switch {
	case j.proven != "":
	case e.NoWorse >= j.cfg.ratioLevel():
		j.proven = CodeNoWorse
	case e.BelowSLO >= 1/j.cfg.Beta && j.errors.quiet.value >= j.cfg.quietLevel():
		j.proven = CodeBelowSLO
	}
}

func (j *Judge) passReason() string {
	if j.proven == CodeBelowSLO {
		return fmt.Sprintf("Neither arm fails to speak of (%s against %s on stable), and the candidate is certainly below the objective of %s.",
			j.candidate, j.stable, percent(j.cfg.SLOErrorRate))
	}
	return fmt.Sprintf("The candidate fails no more often than stable: %s against %s; %g times as many errors are ruled out.",
		j.candidate, j.stable, j.cfg.MaxRatio)
}

// maxForecast is where an estimate stops being one.
const maxForecast = 30 * 24 * 3600

// remaining is the expected seconds to a pass, or −1.
func (j *Judge) remaining() float64 {
	if j.elapsed == 0 || j.candidate.Requests == 0 || j.stable.Requests == 0 {
		return -1
	}
	wait := max(0, j.cfg.MinDurationSeconds-j.elapsed)
	if j.proven != "" {
		return wait
	}
	errorRate := (float64(j.stable.Errors) + 0.5) / (float64(j.stable.Requests) + 1)
	seconds := j.errors.secondsToPass(j.cfg, float64(j.candidate.Requests)/j.elapsed,
		float64(j.stable.Requests)/j.elapsed, errorRate, j.tempering.phi)
	if seconds > maxForecast {
		return -1
	}
	return max(wait, seconds)
}

func forecast(seconds float64) string {
	if seconds < 0 {
		return "at this traffic it will not be within 30 days"
	}
	return "at this traffic it takes about " + span(seconds) + " more"
}

// Estimate returns the time after which a candidate no worse than stable
// passes in half of all canaries at this traffic: requests per second on both
// arms, the candidate's share of them and stable's error rate. It reports
// false when that would take more than 30 days or an argument makes no sense.
func Estimate(cfg Config, requestsPerSecond, share, errorRate float64) (time.Duration, bool) {
	sensible := requestsPerSecond > 0 && share > 0 && share < 1 && errorRate >= 0 && errorRate < 1
	if cfg.Validate() != nil || !sensible || math.IsInf(requestsPerSecond, 0) {
		return 0, false
	}
	seconds := newErrorTests(cfg).secondsToPass(cfg, requestsPerSecond*share, requestsPerSecond*(1-share), errorRate, cfg.Tempering)
	seconds = max(seconds, cfg.MinDurationSeconds)
	if seconds > maxForecast {
		return 0, false
	}
	return duration(seconds), true
}

// whenIdle says what a pass would take, while there is no traffic to tell from.
func (j *Judge) whenIdle() string {
	if j.idle == "" {
		j.idle = " No traffic decides nothing."
		if d, ok := Estimate(j.cfg, 10, 0.1, 0); ok {
			j.idle = " At 10 requests a second, a tenth of them to the candidate, a pass takes about " + span(d.Seconds()) + "."
		}
	}
	return j.idle
}

// String returns for example "0.5 % (20 of 4000)".
func (t Totals) String() string {
	if t.Requests == 0 {
		return "no requests"
	}
	return percent(float64(t.Errors)/float64(t.Requests)) +
		" (" + strconv.FormatInt(t.Errors, 10) + " of " + strconv.FormatInt(t.Requests, 10) + ")"
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'g', 3, 64) + " %" }

func span(seconds float64) string {
	return duration(math.Ceil(seconds)).String()
}
