package alert

import (
	"cmp"
	"time"
)

// Figure is a figure of the metric dictionary past its bound, as the rule that
// watches it says.
type Figure struct {
	// Rule is the name of the rule, for example QueueBacklog.
	Rule     string
	Severity Severity
	// Version, Environment and TenantID narrow what is meant; empty for what
	// the rule does not tell apart.
	Version, Environment, TenantID string
	Summary                        string
	Runbook                        string
	// Owner is told where the service names nobody on call.
	Owner string
}

// FromFigure returns the alert of a figure at a service, past its bound since
// then. Its fingerprint is the same for every occurrence of one rule at one
// service, version, environment and tenant. No event of the audit trail ends
// it: it ends when the figure is back.
func FromFigure(f Figure, svc Service, since time.Time) Alert {
	a := Alert{
		Name: f.Rule, Severity: f.Severity, Service: svc.Name, TenantID: f.TenantID, Summary: f.Summary,
		Runbook: cmp.Or(svc.Runbooks[f.Rule], f.Runbook), OnCall: cmp.Or(svc.OnCall, f.Owner), LatestChange: svc.LatestChange, StartedAt: since, Deadline: since.Add(f.Severity.Limit()),
	}
	a.Fingerprint = fingerprint(f.Rule, svc.Name, f.Version, f.Environment, f.TenantID)
	return a
}
