package alert

// Kinds are the kinds of event that the rules read.
var Kinds = []string{
	evStageFinished, evGateEvaluated, evCanaryStarted, evCanaryVerdict, evTrafficOnStable, evRollbackTriggered,
	evRollbackRetry, evRollbackEscalated, evRollbackExecuted, evRollbackVerified, evRollbackOverdue, evRollbackFinished,
	evReleaseCreated, evReleasePromoted, evReleaseBlocked, evReleaseAborted, evReleaseRolledBack, evReleaseInconclusive, evDrillFinished,
}

// Severities returns every alert's severity.
func Severities() map[string]Severity {
	out := map[string]Severity{}
	for name, r := range rules {
		out[name] = r.severity
	}
	return out
}
