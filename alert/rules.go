package alert

import (
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// The names of the alerts.
const (
	tenantLeak           = "tenant_leak"
	authBypass           = "auth_bypass"
	highRiskUnapproved   = "high_risk_without_approval"
	rollbackFailedReplay = "rollback_failed_replay"
	rollbackEscalated    = "rollback_step_escalated"
	rollbackOverdue      = "rollback_overdue"
	rollbackTriggered    = "rollback_triggered"
	rollbackStuck        = "rollback_stuck"
	telemetryBroken      = "telemetry_broken"
	releaseInconclusive  = "release_inconclusive"
	rollbackDrillFailed  = "rollback_drill_failed"
)

// The kinds of event that raise or end alerts. Those who write the audit trail
// own them; a judge imports no actor, so that a test keeps the two alike.
const (
	evStageFinished       = "stage_finished"
	evGateEvaluated       = "gate_evaluated"
	evCanaryStarted       = "canary_started"
	evCanaryVerdict       = "canary_verdict"
	evTrafficOnStable     = "traffic_on_stable"
	evRollbackTriggered   = "rollback_triggered"
	evRollbackRetry       = "rollback_retry"
	evRollbackEscalated   = "rollback_step_escalated"
	evRollbackExecuted    = "rollback_executed"
	evRollbackVerified    = "rollback_replay_verified"
	evRollbackOverdue     = "rollback_deadline_exceeded"
	evRollbackFinished    = "rollback_finished"
	evReleaseCreated      = "release_created"
	evReleasePromoted     = "release_promoted"
	evReleaseBlocked      = "release_blocked"
	evReleaseAborted      = "release_aborted"
	evReleaseRolledBack   = "release_rolled_back"
	evReleaseInconclusive = "release_inconclusive"
	evDrillFinished       = "rollback_drill_finished"
)

// rule says what an alert means and when it is over.
type rule struct {
	severity Severity
	runbook  string // topic
	says     string
	ended    func(a Alert, ev headgate.Event) bool
}

var rules = map[string]rule{
	tenantLeak: {
		P0, "tenant_leak", "one tenant can reach what belongs to another", findingEnded,
	},
	authBypass: {
		P0, "tenant_leak", "something answers without the authorisation it needs", findingEnded,
	},
	highRiskUnapproved: {
		P0, "high_risk_without_approval", "a high-risk result took effect without a person", findingEnded,
	},
	rollbackFailedReplay: {
		P0, "rollback_failed_replay", "the service is rolled back and not restored, it stays frozen", verifiedEnded,
	},
	rollbackEscalated: {
		P0, "rollback_failed_replay", "a step of the rollback needs a person", stepsEnded,
	},
	rollbackOverdue: {
		P0, "rollback_failed_replay", "the rollback is past its limit", verifiedEnded,
	},
	rollbackTriggered: {
		P1, "rollback", "the release is being rolled back", rollbackEnded,
	},
	rollbackStuck: {
		P1, "rollback_failed_replay", "the rollback does not get on", stuckEnded,
	},
	telemetryBroken: {
		P1, "telemetry_broken", "the canary cannot be judged, its telemetry is broken", telemetryEnded,
	},
	releaseInconclusive: {
		P2, "canary_insufficient", "the release ended undecided, traffic is on stable", inconclusiveEnded,
	},
	rollbackDrillFailed: {
		P2, "rollback_drill", "a rollback would not have worked, as its drill shows", drillEnded,
	},
}

// findings are the reasons that are alerts wherever they turn up, also before
// users. The first that is found counts.
var findings = []struct{ code, name string }{
	{"TENANT_SCOPE_VIOLATION_FOUND", tenantLeak},
	{"AUTH_BYPASS_FOUND", authBypass},
	{"HIGH_RISK_APPROVAL_COVERAGE_LOW", highRiskUnapproved},
}

// classify names the alert that an event raises, "" for none.
func classify(ev headgate.Event) string {
	found := reasons(ev)
	for _, f := range findings {
		if slices.Contains(found, f.code) {
			return f.name
		}
	}
	failed := ev.Verdict == headgate.Fail
	switch {
	case ev.Kind == evRollbackVerified && failed:
		return rollbackFailedReplay
	case ev.Kind == evRollbackFinished && failed && len(texts(ev.Data["escalations"])) > 0:
		return rollbackEscalated
	case ev.Kind == evRollbackFinished && failed:
		return rollbackFailedReplay
	case ev.Kind == evRollbackEscalated:
		return rollbackEscalated
	case ev.Kind == evRollbackOverdue:
		return rollbackOverdue
	case ev.Kind == evRollbackTriggered:
		return rollbackTriggered
	case ev.Kind == evRollbackRetry:
		return rollbackStuck
	case ev.Kind == evCanaryVerdict && ev.Verdict == headgate.Broken:
		return telemetryBroken
	case ev.Kind == evReleaseInconclusive:
		return releaseInconclusive
	case ev.Kind == evDrillFinished && failed:
		return rollbackDrillFailed
	}
	return ""
}

// reasons are the reason codes of an event. A gate has them in its message.
func reasons(ev headgate.Event) []string {
	switch {
	case ev.Kind == evGateEvaluated && ev.Verdict == headgate.Fail:
		return strings.Fields(ev.Message)
	case ev.Kind == evStageFinished, ev.Kind == evRollbackTriggered:
		return texts(ev.Data["reasons"])
	}
	return nil
}

// texts reads a list of strings, as it was put in or as JSON gives it back.
func texts(v any) []string {
	switch list := v.(type) {
	case []string:
		return list
	case []any:
		var out []string
		for _, e := range list {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

func securityPassed(ev headgate.Event) bool {
	return ev.Kind == evGateEvaluated && ev.Verdict == headgate.Pass && strings.HasPrefix(ev.Message, "security gate:")
}

// endedWithoutUsers reports whether a release is over and nobody meets it.
func endedWithoutUsers(kind string) bool {
	switch kind {
	case evReleaseBlocked, evReleaseAborted, evReleaseRolledBack, evReleaseInconclusive:
		return true
	}
	return false
}

func findingEnded(a Alert, ev headgate.Event) bool {
	return ev.ReleaseID == a.ReleaseID && (endedWithoutUsers(ev.Kind) || securityPassed(ev))
}

func telemetryEnded(a Alert, ev headgate.Event) bool {
	judgedAgain := ev.Kind == evCanaryVerdict && ev.Verdict != headgate.Broken
	return ev.ReleaseID == a.ReleaseID && (judgedAgain || ev.Kind == evReleasePromoted || endedWithoutUsers(ev.Kind))
}

// thawed reports whether another release meets users, which a frozen service
// refuses.
func thawed(a Alert, ev headgate.Event) bool {
	return ev.Kind == evCanaryStarted && ev.ReleaseID != a.ReleaseID
}

func verifiedEnded(a Alert, ev headgate.Event) bool {
	restored := ev.Verdict == headgate.Pass && (ev.Kind == evRollbackVerified || ev.Kind == evRollbackFinished)
	return thawed(a, ev) || ev.ReleaseID == a.ReleaseID && restored
}

func stepsEnded(a Alert, ev headgate.Event) bool {
	back := ev.Verdict == headgate.Pass && (ev.Kind == evRollbackExecuted || ev.Kind == evRollbackFinished)
	return thawed(a, ev) || ev.ReleaseID == a.ReleaseID && back
}

// rollbackEnded also holds when the rollback failed: then a P0 takes the
// place of this alert.
func rollbackEnded(a Alert, ev headgate.Event) bool {
	return verifiedEnded(a, ev) || ev.ReleaseID == a.ReleaseID && ev.Kind == evRollbackFinished
}

func stuckEnded(a Alert, ev headgate.Event) bool {
	moved := ev.Kind == evTrafficOnStable || ev.Kind == evRollbackExecuted || ev.Kind == evRollbackFinished
	return thawed(a, ev) || ev.ReleaseID == a.ReleaseID && moved
}

func inconclusiveEnded(a Alert, ev headgate.Event) bool {
	return ev.ReleaseID != a.ReleaseID && (ev.Kind == evReleaseCreated || ev.Kind == evReleasePromoted)
}

func drillEnded(_ Alert, ev headgate.Event) bool {
	return ev.Kind == evDrillFinished && ev.Verdict == headgate.Pass
}

// causes map the reason of a rollback to the topic of the runbook that helps.
var causes = map[string]string{
	"CANARY_ERRORS_WORSE":      "api_errors",
	"CANARY_SLO_EXCEEDED":      "api_errors",
	"CANARY_LATENCY_WORSE":     "api_slow",
	"CANARY_COST_WORSE":        "cost_jump",
	"TASK_COST_P95_RATIO_HIGH": "cost_jump",
	"TELEMETRY_BROKEN":         "telemetry_broken",
	"CANARY_BROKEN_TOO_LONG":   "telemetry_broken",
	"CANARY_INSUFFICIENT_DATA": "canary_insufficient",
}

func topic(r rule, ev headgate.Event) string {
	if ev.Kind == evRollbackTriggered && r.runbook == "rollback" {
		for _, code := range reasons(ev) {
			if t, ok := causes[code]; ok {
				return t
			}
		}
	}
	return r.runbook
}

// pages are the runbooks that come with Headgate, by topic.
var pages = map[string]string{
	"tenant_leak":                "docs/runbooks/tenant-leak.md",
	"high_risk_without_approval": "docs/runbooks/high-risk-without-approval.md",
	"rollback_failed_replay":     "docs/runbooks/rollback-failed-replay.md",
	"rollback":                   "docs/runbooks/README.md",
	"telemetry_broken":           "docs/runbooks/telemetry-broken.md",
	"canary_insufficient":        "docs/runbooks/canary-insufficient.md",
	"rollback_drill":             "docs/rollback.md",
	"api_errors":                 "docs/runbooks/api-errors.md",
	"api_slow":                   "docs/runbooks/api-slow.md",
	"cost_jump":                  "docs/runbooks/cost-jump.md",
}

func runbook(svc Service, name, topic string) string {
	for _, key := range []string{name, topic} {
		if link := svc.Runbooks[key]; link != "" {
			return link
		}
	}
	return pages[topic]
}
