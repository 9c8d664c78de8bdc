package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/dictionary"
)

func TestReportTellsWhichAlertsWereRaisedAndWhatEndedThem(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	for i, kind := range []string{"rollback_triggered", "traffic_on_stable", "rollback_finished"} {
		ev := headgate.Event{
			Time: f.now.Add(time.Duration(i) * time.Second), Kind: kind, ReleaseID: "rel-1", Service: "things", TenantID: operator.TenantID,
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

// A figure in a report is what the dictionary's query answered, and the report
// shows that query.
func TestReportShowsTheDictionarysFigures(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	rec := f.atGateD(t, "rel-1")
	f.probe(t, rec)
	f.reports(t, "rel-1")
	f.now = f.now.Add(time.Minute)
	if res := f.gateD(t, rec); res.Verdict != headgate.Pass {
		t.Fatalf("%+v", res)
	}
	rel, err := f.Report(t.Context(), operator, "rel-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Service("things")
	if err != nil {
		t.Fatal(err)
	}
	d, err := dictionary.Load("")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, g := range rel.Gates {
		for _, c := range g.Checks {
			if _, ok := d.Figure(c.Name); !ok {
				continue
			}
			q, err := d.Query(c.Name, dictionary.Scope{
				Service: "things", Version: rec.Version, Environment: s.Environments.Staging, Window: s.Gates.Window,
			})
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := f.figures.Number(t.Context(), q, f.now)
			if yes, ok := c.Value.(bool); ok {
				c.Value = map[bool]float64{true: 1}[yes]
			}
			if err != nil || c.Source != q || fmt.Sprint(c.Value) != fmt.Sprint(want) {
				t.Errorf("%s is %v from %s, want %v from %s", c.Name, c.Value, c.Source, want, q)
			}
			compared++
		}
	}
	if compared != 11 {
		t.Errorf("compared %d figures, gate D measures 11", compared)
	}
}
