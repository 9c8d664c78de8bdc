// Package alert judges which events of the audit trail a person has to be told
// about, how soon something must be done, and which event ends an alert again.
//
// It owns the names, the severities with their limits, what every alert
// carries and the rules of its end. It is pure: the same trail always gives the
// same alerts. It never sends anything and never acts.
package alert

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// Severity says how soon something must be done.
type Severity string

// The severities. Each has a limit within which something must have happened.
const (
	P0 Severity = "P0" // stop the loss
	P1 Severity = "P1" // degrade
	P2 Severity = "P2" // fix or roll back
)

// Limit is the time from the start of an alert to its deadline.
func (s Severity) Limit() time.Duration {
	switch s {
	case P0:
		return 5 * time.Minute
	case P1:
		return 15 * time.Minute
	default:
		return 30 * time.Minute
	}
}

// Demand is what must have happened when the limit is over.
func (s Severity) Demand() string {
	switch s {
	case P0:
		return "stop the loss"
	case P1:
		return "degrade"
	default:
		return "fix or roll back"
	}
}

// Service is what an alert says about the service it concerns.
type Service struct {
	Name   string
	OnCall string
	// Runbooks maps an alert's name, or the topic of its runbook, to a URL or
	// a path. What is not in it has a page in docs/runbooks.
	Runbooks map[string]string
	// LatestChange is the release that changed the service last, the event's
	// own release if there is one.
	LatestChange Change
}

// Change names a release.
type Change struct {
	ReleaseID string `json:"release_id"`
	Version   string `json:"version"`
}

// Alert is something that a person has to know and do something about.
type Alert struct {
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	Service  string   `json:"service"`
	TenantID string   `json:"tenant_id,omitempty"`
	// ReleaseID is the release that the alert is about, empty for none.
	ReleaseID    string `json:"release_id,omitempty"`
	Summary      string `json:"summary"`
	Runbook      string `json:"runbook"`
	OnCall       string `json:"on_call"`
	LatestChange Change `json:"latest_change"`
	// StartedAt is the time of the event; Deadline is the severity's limit
	// later.
	StartedAt time.Time `json:"started_at"`
	Deadline  time.Time `json:"deadline"`
	// Fingerprint is 16 hexadecimal digits, the same for every occurrence of
	// one name at one service, tenant and release.
	Fingerprint string `json:"fingerprint"`
}

// FromEvent returns the alert that an event of the audit trail raises, false
// when it raises none. An event raises at most one, the most severe.
func FromEvent(ev headgate.Event, svc Service) (Alert, bool) {
	name := classify(ev)
	r, ok := rules[name]
	if !ok {
		return Alert{}, false
	}
	a := Alert{
		Name: name, Severity: r.severity, Service: cmp.Or(ev.Service, svc.Name), TenantID: ev.TenantID,
		ReleaseID: ev.ReleaseID, Summary: r.says, Runbook: runbook(svc, name, topic(r, ev)), OnCall: svc.OnCall,
		LatestChange: svc.LatestChange, StartedAt: ev.Time, Deadline: ev.Time.Add(r.severity.Limit()),
	}
	if ev.Message != "" {
		a.Summary += ": " + ev.Message
	}
	a.LatestChange.ReleaseID = cmp.Or(a.LatestChange.ReleaseID, ev.ReleaseID)
	a.Fingerprint = fingerprint(a.Name, a.Service, a.TenantID, a.ReleaseID)
	return a, true
}

func fingerprint(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// EndedBy reports whether ev, which is later in the trail, ends a.
func (a Alert) EndedBy(ev headgate.Event) bool {
	r, ok := rules[a.Name]
	if !ok || ev.Time.Before(a.StartedAt) || (ev.Service != "" && ev.Service != a.Service) {
		return false
	}
	return r.ended(a, ev)
}

// Open returns the alerts that a trail, oldest event first, has raised and not
// ended, in the order in which they began. So nothing that was being told when
// a process died is forgotten by the next one.
func Open(trail []headgate.Event, service func(headgate.Event) Service) []Alert {
	var open []Alert
	for _, ev := range trail {
		open = slices.DeleteFunc(open, func(a Alert) bool { return a.EndedBy(ev) })
		a, ok := FromEvent(ev, service(ev))
		if ok && !slices.ContainsFunc(open, func(b Alert) bool { return b.Fingerprint == a.Fingerprint }) {
			open = append(open, a)
		}
	}
	return open
}
