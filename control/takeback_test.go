package control_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

var scope = feedback.Scope{Service: "things", TenantID: "acme"}

var releaser = access.Identity{Name: "rex", Role: access.Releaser, TenantID: "acme"}

// promoted is a fixture whose release v2, of two components, has all traffic.
func promoted(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t, nil)
	_, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{
		ID: "rel-1", Version: "v2", Digest: digest("a"), CandidateURL: f.service.URL,
		Changes: []headgate.Change{{Component: headgate.ModelConfig, From: "mc-1", To: "mc-2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	v2 := rollout.Backend{Version: "v2", URL: f.service.URL}
	f.commit(t, func(c *pipeline.Commit) {
		c.Record.Phase, c.Record.Outcome, c.Serve = pipeline.PhaseDone, headgate.Promoted, &v2
	})
	s, err := f.Service("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Router.Apply(t.Context(), rollout.Split{Service: "things", Epoch: 1, Stable: v2}); err != nil {
		t.Fatal(err)
	}
	if err := f.db.SetFlag(t.Context(), "things/model_config", "mc-2"); err != nil {
		t.Fatal(err)
	}
	return f
}

// serving is the version that the router has for all users.
func (f *fixture) serving(t *testing.T) string {
	t.Helper()
	st, err := f.router.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Backends[0].Version
}

func (f *fixture) kindsOf(t *testing.T, release string) []string {
	t.Helper()
	rows, err := f.Events(t.Context(), operator, release, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, row := range rows {
		out = append(out, row.Kind)
	}
	return out
}

func TestRollbackAfterFullRelease(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	if _, err := f.RollBack(t.Context(), releaser, "rel-1", " "); code(err) != headgate.CodeValidation {
		t.Errorf("without a reason: %v", err)
	}
	v, err := f.RollBack(t.Context(), releaser, "rel-1", "customers report wrong totals")
	if err != nil {
		t.Fatal(err)
	}
	rb := v.Rollback
	if rb == nil || rb.Frozen() || rb.Actor != "rex" || v.Outcome != headgate.Promoted {
		t.Fatalf("view %+v", v)
	}
	var order []headgate.Component
	for _, s := range rb.Steps {
		order = append(order, s.Component)
	}
	if !slices.Equal(order, headgate.RollbackOrder()) || rb.Steps[0].To != "mc-1" || rb.Steps[1].Status != rollback.StepUnchanged {
		t.Errorf("steps %+v", rb.Steps)
	}
	if flag, err := f.db.Flag(t.Context(), "things/model_config"); err != nil || flag != "mc-1" || f.serving(t) != "v1" {
		t.Errorf("model_config %q, router on %s, %v", flag, f.router.split.Stable, err)
	}
	for _, kind := range []string{"rollback_triggered", "rollback_executed", "rollback_replay_verified", "rollback_finished"} {
		if !slices.Contains(f.kindsOf(t, "rel-1"), kind) {
			t.Errorf("no %s in %v", kind, f.kindsOf(t, "rel-1"))
		}
	}
	if _, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{Version: "v2", Digest: digest("a")}); code(err) != headgate.CodeDigestQuarantined {
		t.Errorf("the digest may come again: %v", err)
	}
	if err := f.SealPending(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := f.Releases(t.Context(), releaser, "", 1)
	if taken := []string{control.ReasonTakenBack}; err != nil || !slices.Equal(all[0].Reasons, taken) || !slices.Equal(v.Reasons, taken) {
		t.Errorf("nobody sees that users do not meet it: %+v, %v", all, err)
	}
	// What users do not meet any more is not taken back twice.
	if _, err := f.RollBack(t.Context(), releaser, "rel-1", "again"); code(err) != control.CodeNotInForce {
		t.Errorf("again: %v", err)
	}
}

// A failed replay keeps traffic on stable and the service frozen; the second
// trigger joins the first and finishes it.
func TestSecondTriggerJoinsTheRollback(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	f.service.wrong.Store(true)
	v, err := f.RollBack(t.Context(), releaser, "rel-1", "wrong totals")
	if err != nil || !v.Rollback.Frozen() || f.serving(t) != "v1" {
		t.Fatalf("%+v, %v", v.Rollback, err)
	}
	if kinds := f.kindsOf(t, "rel-1"); !slices.Contains(kinds, "rollback_replay_verified") {
		t.Errorf("trail %v", kinds)
	}
	if frozen, err := f.Frozen(t.Context(), scope); err != nil || !frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	f.service.wrong.Store(false)
	f.now = f.now.Add(time.Minute)
	res, err := f.ExecuteRollback(t.Context(), operator, control.RollbackRequest{ReleaseID: "rel-1", ConsecutiveThreshold: 2, Breaches: breached})
	if err != nil || !res.ServiceRestored || !res.Triggered {
		t.Fatalf("joined: %+v, %v", res, err)
	}
	all, err := f.db.Rollbacks(t.Context(), "rel-1")
	if err != nil || len(all) != 1 || all[0].Actor != "rex" {
		t.Errorf("%d rollbacks, %v", len(all), err)
	}
	if kinds := f.kindsOf(t, "rel-1"); !slices.Contains(kinds, "rollback_joined") {
		t.Errorf("trail %v", kinds)
	}
	if frozen, err := f.Frozen(t.Context(), scope); err != nil || frozen {
		t.Errorf("restored and frozen %v, %v", frozen, err)
	}
}

// What was stable is gone: components go back, traffic does not, and a person
// is called. Once stable is up, asking again finishes it.
func TestTrafficStaysWhileStableIsDown(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	f.service.broken.Store(true)
	v, err := f.RollBack(t.Context(), releaser, "rel-1", "wrong totals")
	if err != nil || !v.Rollback.Frozen() {
		t.Fatalf("%+v, %v", v.Rollback, err)
	}
	if got := v.Rollback.Escalated(); !slices.Equal(got, []headgate.Component{headgate.ReleaseVersion}) || f.serving(t) != "v2" {
		t.Errorf("escalated %v, router on %s", got, f.serving(t))
	}
	if flag, err := f.db.Flag(t.Context(), "things/model_config"); err != nil || flag != "mc-1" {
		t.Errorf("the rest did not go on: %q, %v", flag, err)
	}
	f.service.broken.Store(false)
	if v, err = f.RollBack(t.Context(), releaser, "rel-1", "v1 is up again"); err != nil || v.Rollback.Frozen() || f.serving(t) != "v1" {
		t.Errorf("%+v, router on %s, %v", v.Rollback, f.serving(t), err)
	}
}

// A canary beside the release that is taken back ends first: its own rollback
// would bring that release back again.
func TestTakingBackEndsTheCanaryThatIsComparedWithIt(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	_, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{ID: "rel-2", Version: "v3", Digest: digest("b")})
	if err != nil {
		t.Fatal(err)
	}
	f.commit(t, func(c *pipeline.Commit) {
		inCanary(headgate.Insufficient)(&c.Record)
		c.HoldTraffic = true
	})
	ended := make(chan error, 1)
	go func() {
		_, err := f.RollBack(t.Context(), releaser, "rel-1", "wrong totals")
		ended <- err
	}()
	for told := false; !told; time.Sleep(5 * time.Millisecond) {
		facts, err := f.db.Facts(t.Context(), "rel-2")
		if err != nil {
			t.Fatal(err)
		}
		told = slices.ContainsFunc(facts, func(f pipeline.Fact) bool { return f.Kind == pipeline.FactSupersede })
	}
	if v := f.serving(t); v != "v2" {
		t.Errorf("the router is on %s while the canary goes on", v)
	}
	f.commit(t, func(c *pipeline.Commit) {
		c.Record.Phase, c.Record.Outcome, c.ReleaseTraffic = pipeline.PhaseDone, headgate.Inconclusive, true
	})
	if err := <-ended; err != nil || f.serving(t) != "v1" {
		t.Errorf("router on %s, %v", f.serving(t), err)
	}
}

// hangInReplay asks for a rollback whose replay is never answered, and returns
// once it hangs there.
func (f *fixture) hangInReplay(t *testing.T, ctx context.Context) <-chan error {
	t.Helper()
	hang := make(chan struct{})
	f.service.hang.Store(&hang)
	answered := make(chan error, 1)
	go func() {
		_, err := f.RollBack(ctx, releaser, "rel-1", "wrong totals")
		answered <- err
	}()
	<-hang
	return answered
}

func (f *fixture) awaitEvent(t *testing.T, kind string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !slices.Contains(f.kindsOf(t, "rel-1"), kind); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s in the trail: %v", kind, f.kindsOf(t, "rel-1"))
		}
	}
}

// Who asked for a rollback may hang up: it goes on to its end.
func TestRollbackOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	ctx, hangUp := context.WithCancel(t.Context())
	answered := f.hangInReplay(t, ctx)
	hangUp()
	if err := <-answered; code(err) != headgate.CodeUnavailable {
		t.Errorf("answered %v", err)
	}
	f.service.CloseClientConnections() // the replay fails
	f.awaitEvent(t, "rollback_finished")
	all, err := f.db.Rollbacks(t.Context(), "rel-1")
	if err != nil || len(all) != 1 || !all[0].StepsDone() || all[0].Replay.EndedAt.IsZero() || f.serving(t) != "v1" {
		t.Errorf("%+v, router on %s, %v", all, f.serving(t), err)
	}
}

// A rollback that a process did not live to finish is finished by the next.
func TestRollbackAfterReleaseIsResumed(t *testing.T) {
	t.Parallel()
	f := promoted(t)
	answered := f.hangInReplay(t, t.Context())
	f.stop()
	if err := <-answered; err == nil {
		t.Error("it was answered as if it had ended")
	}
	if _, err := f.RollBack(t.Context(), releaser, "rel-1", "wrong totals"); code(err) != headgate.CodeUnavailable {
		t.Errorf("a process that stops began another: %v", err)
	}
	if frozen, err := f.Frozen(t.Context(), scope); err != nil || !frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	f.replace(t)
	f.awaitEvent(t, "rollback_finished")
	q, err := f.Quarantine(t.Context(), operator, "")
	if err != nil || len(q) != 1 || f.serving(t) != "v1" {
		t.Errorf("quarantine %v, router on %s, trail %v, %v", q, f.serving(t), f.kindsOf(t, "rel-1"), err)
	}
	if frozen, err := f.Frozen(t.Context(), scope); err != nil || frozen {
		t.Errorf("restored and frozen %v, %v", frozen, err)
	}
}
