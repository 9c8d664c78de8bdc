package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

func (f *fixture) drill(t *testing.T) control.Drill {
	t.Helper()
	d, err := f.DrillRollback(t.Context(), releaser, "things", "the monthly one")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func every(d time.Duration) func(*config.Service) {
	return func(s *config.Service) { s.RollbackDrill.Every = config.Interval(d) }
}

func TestDrillRehearsesTheWholeRollback(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	d := f.drill(t)
	if !d.Passed || d.TriggeredAt.IsZero() || d.TrafficBackAt.IsZero() || d.CompletedAt.IsZero() || d.RestoredAt.IsZero() || d.LimitSeconds != 1800 {
		t.Fatalf("%+v", d)
	}
	for _, s := range d.Steps {
		if s.Status != rollback.StepDone || s.ReadBack != s.To {
			t.Errorf("step %+v", s)
		}
	}
	// The share was a real one, of a candidate that is stable itself.
	var shares []float64
	f.router.mu.Lock()
	for _, s := range f.router.applied {
		shares = append(shares, s.Share)
		if s.Stable.Version != "v1" || (s.Share > 0 && s.Candidate != s.Stable) {
			t.Errorf("split %+v", s)
		}
	}
	f.router.mu.Unlock()
	if !slices.Equal(shares, []float64{0.1, 0, 0}) {
		t.Errorf("shares %v", shares)
	}
	// Nothing is left of it: no freeze, no holder, no rollback of its own.
	st, err := f.db.Service(t.Context(), "things")
	if err != nil || st.HeldBy != "" || st.Stable.Version != "v1" {
		t.Errorf("service %+v, %v", st, err)
	}
	if frozen, err := f.Frozen(t.Context(), scope); err != nil || frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	for _, kind := range []string{control.EventDrillStarted, control.EventDrillFinished} {
		if rows, err := f.db.Events(t.Context(), control.EventQuery{Kind: kind, Limit: 10}); err != nil || len(rows) != 1 || rows[0].Actor != "rex" {
			t.Errorf("%s: %v, %v", kind, rows, err)
		}
	}
	all, err := f.Drills(t.Context(), "things")
	if err != nil || all.Last == nil || all.LastPassed == nil || all.Overdue != "" || all.Last.ID != d.ID {
		t.Errorf("%+v, %v", all, err)
	}
}

// A drill that fails says why, and freezes nothing: what it found is that a
// rollback would not work, and the gate says so.
func TestDrillThatFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, every(30*24*time.Hour))
	f.drill(t)
	passed, err := f.Drills(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	f.service.wrong.Store(true)
	d := f.drill(t)
	if d.Passed || d.Failure == "" || d.ReplayJobID == "" || !d.RestoredAt.IsZero() {
		t.Fatalf("%+v", d)
	}
	if job, err := f.Job(t.Context(), operator, d.ReplayJobID); err != nil || len(job.Failures) == 0 {
		t.Errorf("job %+v, %v", job, err)
	}
	if frozen, err := f.Frozen(t.Context(), scope); err != nil || frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	all, err := f.Drills(t.Context(), "")
	if err != nil || all.Last.ID != d.ID || all.LastPassed.ID != passed.Last.ID {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestOverdueDrillFailsTheRollbackGate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, every(time.Hour))
	f.show(t, "rel-1")
	missing := []string{"ROLLBACK_EVIDENCE_MISSING"}
	if got := f.failed(t, "rel-1"); !slices.Equal(got, missing) {
		t.Errorf("before the first drill: %v", got)
	}
	f.drill(t)
	if got := f.failed(t, "rel-1"); len(got) != 0 {
		t.Errorf("after a drill: %v", got)
	}
	f.now = f.now.Add(time.Hour + time.Second)
	if got := f.failed(t, "rel-1"); !slices.Equal(got, missing) {
		t.Errorf("an hour later: %v", got)
	}
	all, err := f.Drills(t.Context(), "")
	if err != nil || all.Overdue == "" || all.EverySeconds != 3600 {
		t.Errorf("%+v, %v", all, err)
	}
	if res := f.ready(t, pipeline.Record{Release: headgate.Release{ID: "rel-1", Service: "things"}}); !strings.Contains(res.Summary, all.Overdue) {
		t.Errorf("the release's trail does not say what to do: %s", res.Summary)
	}
}

// The schedule runs a drill before the last one is overdue.
func TestDrillsRunWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, every(time.Hour))
	run := func() string {
		f.RunDueDrills(t.Context())
		all, err := f.Drills(t.Context(), "")
		if err != nil || all.Last == nil {
			t.Fatalf("%+v, %v", all, err)
		}
		return all.Last.ID
	}
	first := run()
	f.now = f.now.Add(50 * time.Minute)
	if again := run(); again != first {
		t.Error("it ran before it was due")
	}
	f.now = f.now.Add(5 * time.Minute)
	if again := run(); again == first {
		t.Error("it did not run when it was due")
	}
}

func TestDrillTakesTurnsWithReleases(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	f.commit(t, func(c *pipeline.Commit) {
		inCanary(headgate.Insufficient)(&c.Record)
		c.HoldTraffic = true
	})
	if _, err := f.DrillRollback(t.Context(), releaser, "", "x"); code(err) != headgate.CodeReleaseActive {
		t.Errorf("during a canary: %v", err)
	}
	if _, err := f.DrillRollback(t.Context(), releaser, "", ""); code(err) != headgate.CodeValidation {
		t.Errorf("without a reason: %v", err)
	}
}

// A real rollback does not wait for a rehearsal, which must not move anything
// after it.
func TestRollbackEndsADrill(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	hang := make(chan struct{})
	f.service.hang.Store(&hang)
	ended := make(chan control.Drill, 1)
	go func() {
		d, err := f.DrillRollback(t.Context(), releaser, "", "the monthly one")
		if err != nil {
			t.Error(err)
		}
		ended <- d
	}()
	<-hang // the drill replays
	v, err := f.RollBack(t.Context(), releaser, "rel-1", "wrong totals")
	if err != nil || v.Rollback.Frozen() || f.serving(t) != "v1" {
		t.Errorf("%+v, router on %s, %v", v.Rollback, f.serving(t), err)
	}
	if d := <-ended; d.Passed {
		t.Errorf("the drill passed: %+v", d)
	}
}

// A process that dies during a drill leaves nothing held.
func TestDrillThatWasInterruptedIsForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	if err := f.db.HoldService(t.Context(), "things", "drill_x"); err != nil {
		t.Fatal(err)
	}
	s, err := f.Service("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Router.Apply(t.Context(), rollout.Split{Service: "things", Epoch: 1, Stable: rollout.Backend{Version: "v1", URL: f.service.URL}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Add(t.Context(), s.Service, s.Suite, f.router, s.Credential); err != nil {
		t.Fatal(err)
	}
	st, err := f.db.Service(t.Context(), "things")
	if err != nil || st.HeldBy != "" {
		t.Errorf("held by %q, %v", st.HeldBy, err)
	}
	if all, err := f.Drills(t.Context(), ""); err != nil || all.Last == nil || all.Last.Passed || all.Last.Failure == "" {
		t.Errorf("%+v, %v", all, err)
	}
}
