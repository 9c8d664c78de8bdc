package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
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
// then. Its
// fingerprint is the same for every occurrence of one rule at one service,
// version, environment and tenant. No event of the audit trail ends it: it
// ends when the figure is back.
func FromFigure(f Figure, svc Service, since time.Time) Alert {
	a := Alert{
		Name: f.Rule, Severity: f.Severity, Service: svc.Name, TenantID: f.TenantID, Summary: f.Summary,
		Runbook: f.Runbook, OnCall: svc.OnCall, LatestChange: svc.LatestChange, StartedAt: since, Deadline: since.Add(f.Severity.Limit()),
	}
	if own := svc.Runbooks[f.Rule]; own != "" {
		a.Runbook = own
	}
	if a.OnCall == "" {
		a.OnCall = f.Owner
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{f.Rule, svc.Name, f.Version, f.Environment, f.TenantID}, "\x00")))
	a.Fingerprint = hex.EncodeToString(sum[:8])
	return a
}
