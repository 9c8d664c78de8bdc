package alert_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
)

func TestFigureAlertSaysWhomAndWhatChanged(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	f := alert.Figure{Rule: "QueueBacklog", Severity: alert.P1, Version: "v2", Environment: "production", Runbook: "docs/runbooks/queue-backlog.md", Owner: "platform"}
	svc := alert.Service{Name: "shop", OnCall: "shop-primary", LatestChange: alert.Change{ReleaseID: "rel_1", Version: "v2"}}
	a := alert.FromFigure(f, svc, now)
	if a.Name != "QueueBacklog" || a.Service != "shop" || a.OnCall != "shop-primary" || a.LatestChange.ReleaseID != "rel_1" ||
		a.Runbook != f.Runbook || a.Deadline.Sub(now) != 15*time.Minute {
		t.Errorf("alert %+v", a)
	}
	if again := alert.FromFigure(f, svc, now.Add(time.Hour)); again.Fingerprint != a.Fingerprint || len(a.Fingerprint) != 16 {
		t.Errorf("fingerprints %q and %q of one figure", a.Fingerprint, again.Fingerprint)
	}
	f.Version = "v3"
	svc.OnCall, svc.Runbooks = "", map[string]string{"QueueBacklog": "https://wiki.example.com/queue"}
	if b := alert.FromFigure(f, svc, now); b.Fingerprint == a.Fingerprint || b.OnCall != "platform" || b.Runbook != "https://wiki.example.com/queue" {
		t.Errorf("alert %+v of another version", b)
	}
	if a.EndedBy(headgate.Event{Time: now.Add(time.Minute), Kind: "release_promoted", ReleaseID: "rel_1", Service: "shop"}) {
		t.Error("an event ends a figure's alert")
	}
}
