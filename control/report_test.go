package control_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func TestReportTellsWhichAlertsWereRaisedAndWhatEndedThem(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	for i, kind := range []string{"rollback_triggered", "traffic_on_stable", "rollback_finished"} {
		ev := headgate.Event{
			Time: f.now.Add(time.Duration(i) * time.Second), Kind: kind, ReleaseID: "rel-1", Service: "things",
			Verdict: headgate.Pass, Message: "message of " + kind,
		}
		if err := f.db.Record(t.Context(), "", ev); err != nil {
			t.Fatal(err)
		}
	}
	rel, err := f.Report(t.Context(), operator, "rel-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(rel.Alerts) != 1 {
		t.Fatalf("alerts %+v, want the one of the rollback", rel.Alerts)
	}
	a := rel.Alerts[0]
	if a.Name != "rollback_triggered" || a.Severity != "P1" || a.Action != "message of rollback_finished" {
		t.Errorf("alert %+v", a)
	}
	if a.ActedAt.Sub(a.FiredAt) != time.Second || a.ResolvedAt.Sub(a.FiredAt) != 2*time.Second {
		t.Errorf("fired %s, acted on %s, resolved %s", a.FiredAt, a.ActedAt, a.ResolvedAt)
	}
}
