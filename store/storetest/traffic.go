package storetest

import (
	"reflect"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

func hold(c *pipeline.Commit)    { c.HoldTraffic = true }
func letGo(c *pipeline.Commit)   { c.ReleaseTraffic = true }
func serveV2(c *pipeline.Commit) { c.Serve = &stableV2 }

func heldBy(t *testing.T, s Store) string {
	t.Helper()
	st, err := s.Service(t.Context(), service)
	must(t, err)
	return st.HeldBy
}

// turn claims a release by way of a signal and commits a change.
func turn(t *testing.T, s Store, id string, change func(*pipeline.Commit)) error {
	t.Helper()
	must(t, s.Signal(t.Context(), id, pipeline.Fact{Kind: pipeline.FactEvidence}, eventOf("x", id, "")))
	r, _ := claim(t, s, minute)
	if r.ID != id {
		t.Fatalf("claimed %s, want %s", r.ID, id)
	}
	err := commitLater(t, s, r, change)
	if err != nil {
		must(t, commitLater(t, s, r, nil)) // a refused commit leaves the lease
	}
	return err
}

// parked creates a release that is due in an hour.
func parked(t *testing.T, s Store, id, digest string) {
	t.Helper()
	create(t, s, id, digest)
	r, _ := claim(t, s, minute)
	must(t, commitLater(t, s, r, nil))
}

func trafficIsHeldByOne(t *testing.T, s Store) {
	parked(t, s, "rel-1", digestA)
	wantCode(t, turn(t, s, "rel-1", hold), headgate.CodeServiceNotFound)
	register(t, s)
	parked(t, s, "rel-2", digestB)

	must(t, turn(t, s, "rel-1", hold))
	must(t, turn(t, s, "rel-1", hold)) // again is harmless
	if got := heldBy(t, s); got != "rel-1" {
		t.Errorf("held by %q, want rel-1", got)
	}
	err := turn(t, s, "rel-2", hold)
	wantCode(t, err, headgate.CodeReleaseActive)
	if by := headgate.AsError(err).Details["held_by"]; by != "rel-1" {
		t.Errorf("the refusal says that %v holds the traffic", by)
	}
	must(t, turn(t, s, "rel-2", letGo)) // not its own to give back
	if got := heldBy(t, s); got != "rel-1" {
		t.Errorf("held by %q after another one let go, want rel-1", got)
	}
	must(t, turn(t, s, "rel-1", letGo))
	if got := heldBy(t, s); got != "" {
		t.Errorf("held by %q, want nobody", got)
	}

	// A rehearsal takes its turn.
	wantCode(t, s.HoldService(t.Context(), "another", "drill_1"), headgate.CodeServiceNotFound)
	must(t, s.HoldService(t.Context(), service, "drill_1"))
	wantCode(t, s.HoldService(t.Context(), service, "drill_2"), headgate.CodeReleaseActive)
	wantCode(t, turn(t, s, "rel-2", hold), headgate.CodeReleaseActive)
	must(t, s.ReleaseService(t.Context(), service, "drill_2")) // not its own to give back
	if got := heldBy(t, s); got != "drill_1" {
		t.Errorf("held by %q, want drill_1", got)
	}
	must(t, s.ReleaseService(t.Context(), service, "drill_1"))

	// While a rollback awaits its replay the service is frozen, for its own
	// release too.
	_, err = s.SaveIntent(t.Context(), rollback.Rollback{ID: "rb", Service: service, ReleaseID: "rel-1", TriggeredAt: at})
	must(t, err)
	wantCode(t, turn(t, s, "rel-2", hold), headgate.CodeReleaseActive)
	wantCode(t, s.HoldService(t.Context(), service, "drill_1"), headgate.CodeReleaseActive)
	must(t, s.UpdateProgress(t.Context(), "rb", rollback.Progress{CompletedAt: at}))
	wantCode(t, turn(t, s, "rel-2", hold), headgate.CodeReleaseActive)
	must(t, s.UpdateProgress(t.Context(), "rb", rollback.Progress{CompletedAt: at, RestoredAt: at}))
	must(t, turn(t, s, "rel-2", hold))
}

func quarantinedDigestStaysOut(t *testing.T, s Store) {
	register(t, s)
	parked(t, s, "rel-1", digestA)
	parked(t, s, "twin", digestA)
	must(t, turn(t, s, "rel-1", func(c *pipeline.Commit) { c.Quarantine = digestA }))
	must(t, turn(t, s, "rel-1", func(c *pipeline.Commit) { c.Quarantine = digestA }))

	_, err := s.CreateRelease(t.Context(), begin(t, s, "rel-2", digestA))
	wantCode(t, err, headgate.CodeDigestQuarantined)
	if _, err := s.Release(t.Context(), "rel-2"); err == nil {
		t.Error("the refused release is there")
	}
	wantCode(t, turn(t, s, "twin", hold), headgate.CodeDigestQuarantined)
	create(t, s, "rel-1", digestA) // the same release as before
	create(t, s, "twin", digestA)  // made before the quarantine
	parked(t, s, "rel-3", digestB)

	elsewhere := begin(t, s, "rel-4", digestA)
	elsewhere.Record.Service = "another"
	_, err = s.CreateRelease(t.Context(), elsewhere)
	must(t, err) // a quarantine is the service's own
}

func movedStableStopsARelease(t *testing.T, s Store) {
	register(t, s)
	parked(t, s, "rel-1", digestA)
	parked(t, s, "rel-2", digestB)
	must(t, turn(t, s, "rel-1", hold))
	must(t, turn(t, s, "rel-1", func(c *pipeline.Commit) { serveV2(c); letGo(c) }))
	wantCode(t, turn(t, s, "rel-2", hold), pipeline.CodeStableMoved)
	if got := heldBy(t, s); got != "" {
		t.Errorf("held by %q, want nobody", got)
	}
}

func serviceKeepsWhatReleasesMadeOfIt(t *testing.T, s Store) {
	_, err := s.Service(t.Context(), service)
	wantCode(t, err, headgate.CodeServiceNotFound)
	register(t, s)
	want := func(stable rollout.Backend) {
		t.Helper()
		got, err := s.Service(t.Context(), service)
		must(t, err)
		if got != (control.ServiceState{Stable: stable}) {
			t.Errorf("service %+v, want stable %+v", got, stable)
		}
	}
	want(stableV1)
	parked(t, s, "rel-1", digestA)
	must(t, turn(t, s, "rel-1", serveV2))
	want(stableV2)
	register(t, s) // as every start of the server does
	want(stableV2)
	must(t, s.SetStable(t.Context(), service, stableV1))
	want(stableV1)
}

func rollbackIntent(t *testing.T, s Store) {
	rb := rollback.Rollback{
		ID: "rb-1", ReleaseID: "rel-1", Service: service, Gate: headgate.GateCost, Actor: "ann", TriggeredAt: at, Deadline: at.Add(minute),
		Breaches: []headgate.Breach{{Gate: headgate.GateCost, MetricCode: "M", ConsecutiveFailures: 2}},
		Steps: []rollback.Step{
			{Component: headgate.ModelConfig, Status: rollback.StepUnchanged},
			{Component: headgate.ReleaseVersion, To: "v1", Status: rollback.StepPending},
		},
	}
	got, err := s.SaveIntent(t.Context(), rb)
	if err != nil || !reflect.DeepEqual(got, rb) {
		t.Fatalf("saved %+v, %v", got, err)
	}
	step := rollback.Step{Component: headgate.ReleaseVersion, To: "v1", Status: rollback.StepDone, Attempts: 2, ReadBack: "v1", StartedAt: at, EndedAt: at}
	must(t, s.UpdateStep(t.Context(), "rb-1", step))
	progress := rollback.Progress{CompletedAt: at, Replay: &rollback.Verification{JobID: "job_1", Status: rollback.JobRunning}}
	must(t, s.UpdateProgress(t.Context(), "rb-1", progress))
	rb.Steps[1], rb.Progress = step, progress

	// Saving the intent again neither resets it nor starts a second one.
	again := rb
	again.Steps, again.Progress, again.Actor = nil, rollback.Progress{}, "bob"
	if got, err = s.SaveIntent(t.Context(), again); err != nil || !reflect.DeepEqual(got, rb) {
		t.Errorf("saved again: %+v, %v; want what there is", got, err)
	}
	if got, err = s.Get(t.Context(), "rb-1"); err != nil || !reflect.DeepEqual(got, rb) {
		t.Errorf("read back %+v, %v; want %+v", got, err, rb)
	}

	second := rollback.Rollback{ID: "rb-2", ReleaseID: "rel-1", Service: service, TriggeredAt: at.Add(minute), Deadline: at}
	_, err = s.SaveIntent(t.Context(), second)
	must(t, err)
	_, err = s.SaveIntent(t.Context(), rollback.Rollback{ID: "rb-3", ReleaseID: "rel-9", Service: "another", TriggeredAt: at, Deadline: at})
	must(t, err)
	wantIDs(t, "active", ids(s.Active(t.Context(), service)), "rb-1", "rb-2")
	progress.RestoredAt = at.Add(minute)
	must(t, s.UpdateProgress(t.Context(), "rb-1", progress))
	wantIDs(t, "active", ids(s.Active(t.Context(), service)), "rb-2")
	wantIDs(t, "of the release", ids(s.Rollbacks(t.Context(), "rel-1")), "rb-1", "rb-2")

	for what, err := range map[string]error{
		"get":      errorOf(s.Get(t.Context(), "none")),
		"step":     s.UpdateStep(t.Context(), "none", step),
		"progress": s.UpdateProgress(t.Context(), "none", progress),
	} {
		if err == nil {
			t.Errorf("%s of a rollback that is not there did not fail", what)
		}
	}
}

func flags(t *testing.T, s Store) {
	for _, tt := range []struct{ set, want string }{{"", ""}, {"v1", "v1"}, {"v2", "v2"}} {
		if tt.set != "" {
			must(t, s.SetFlag(t.Context(), "bidding/model_config", tt.set))
		}
		if got, err := s.Flag(t.Context(), "bidding/model_config"); err != nil || got != tt.want {
			t.Errorf("flag %q, %v; want %q", got, err, tt.want)
		}
	}
}
