package storetest

import (
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

func createIsIdempotent(t *testing.T, s Store) {
	first := create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, minute)
	must(t, commitLater(t, s, r, func(c *pipeline.Commit) { c.Record.Stage = headgate.StageTest }))

	again := create(t, s, "rel-1", digestA)
	if again.Stage != headgate.StageTest || again.Epoch <= first.Epoch {
		t.Errorf("creating again returned stage %s at epoch %d, want the stored release", again.Stage, again.Epoch)
	}
	events, err := s.Events(t.Context(), control.EventQuery{ReleaseID: "rel-1", Limit: 100})
	must(t, err)
	if want := len(begin(t, s, "x", digestA).Events); len(events) != want {
		t.Errorf("%d events after creating twice, want %d", len(events), want)
	}

	_, err = s.CreateRelease(t.Context(), begin(t, s, "rel-1", digestB))
	wantCode(t, err, headgate.CodeIdempotencyConflict)
	other := begin(t, s, "rel-1", digestA)
	other.Record.Service = "another"
	_, err = s.CreateRelease(t.Context(), other)
	wantCode(t, err, headgate.CodeIdempotencyConflict)
	renamed := begin(t, s, "rel-1", digestA)
	renamed.Record.Version = "another"
	_, err = s.CreateRelease(t.Context(), renamed)
	wantCode(t, err, headgate.CodeIdempotencyConflict)

	_, err = s.Release(t.Context(), "rel-none")
	wantCode(t, err, headgate.CodeReleaseNotFound)
}

func recordsComeBackAsWritten(t *testing.T, s Store) {
	register(t, s)
	create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, minute)
	r.Phase, r.Stage, r.Attempt = pipeline.PhaseRollingBack, headgate.StageCanary, 7
	r.DeadlineAt, r.StageStartedAt, r.NextRunAt = at.Add(3*time.Hour), at, at.Add(1000*time.Hour)
	r.StoppedAt, r.Reasons = headgate.StageCanary, []string{"CANARY_ERRORS_WORSE"}
	r.State = pipeline.State{
		Holding: true, Granted: true, Share: 0.25, Ticks: 3, Note: "note",
		Counts: rollout.Counts{At: at, Cells: []rollout.Cell{{BootID: "b", Arm: headgate.Candidate, Tenant: "acme", Requests: 1 << 60, Errors: 2, Latency: []uint64{1, 2}}}},
		Canary: &canary.Decision{Time: at, Verdict: headgate.Fail, Action: canary.Rollback, Reasons: []string{"R"}, Evidence: canary.Evidence{Combined: 1e300}},
		Rollback: &pipeline.RollbackIntent{
			TriggerGate: headgate.GateCost, Reasons: []string{"R"}, Message: "m", Outcome: headgate.RolledBack, TriggeredAt: at, StoppedAt: at,
		},
	}
	must(t, s.Commit(t.Context(), pipeline.Commit{Record: r, ClaimedGen: r.Gen}))
	got, err := s.Release(t.Context(), "rel-1")
	must(t, err)
	if got.UpdatedAt.IsZero() {
		t.Error("a commit sets updated_at")
	}
	got.UpdatedAt = r.UpdatedAt
	if !reflect.DeepEqual(got, r) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, r)
	}

	// Waiting for facts only is no time.
	must(t, s.Signal(t.Context(), "rel-1", pipeline.Fact{Kind: pipeline.FactEvidence}, eventOf("x", "rel-1", "")))
	r, _ = claim(t, s, minute)
	r.NextRunAt, r.DeadlineAt = time.Time{}, time.Time{}
	must(t, s.Commit(t.Context(), pipeline.Commit{Record: r, ClaimedGen: r.Gen}))
	got, err = s.Release(t.Context(), "rel-1")
	must(t, err)
	if !got.NextRunAt.IsZero() || !got.DeadlineAt.IsZero() {
		t.Errorf("next run %v and deadline %v, want none", got.NextRunAt, got.DeadlineAt)
	}
	nothingDue(t, s, "it waits for facts only")
	if _, ok, err := s.NextWake(t.Context(), pipeline.PlanVersion); ok || err != nil {
		t.Errorf("next wake %v, %v; want none", ok, err)
	}
}

func claimTakesWhatIsDueAndFree(t *testing.T, s Store) {
	nothingDue(t, s, "the store is empty")
	if _, ok, err := s.NextWake(t.Context(), pipeline.PlanVersion); ok || err != nil {
		t.Errorf("next wake of an empty store: %v, %v", ok, err)
	}
	late := begin(t, s, "late", digestA)
	late.Record.NextRunAt = now(t, s).Add(time.Hour)
	_, err := s.CreateRelease(t.Context(), late)
	must(t, err)
	wake, ok, err := s.NextWake(t.Context(), pipeline.PlanVersion)
	if !ok || err != nil || wake.Sub(late.Record.NextRunAt).Abs() > time.Millisecond {
		t.Errorf("next wake %v, %v, %v; want %v", wake, ok, err, late.Record.NextRunAt)
	}
	nothingDue(t, s, "it is due in an hour")

	create(t, s, "due", digestA)
	r, facts := claim(t, s, minute)
	if r.ID != "due" || len(facts) != 0 {
		t.Errorf("claimed %s with %v", r.ID, facts)
	}
	nothingDue(t, s, "the other one is leased")
	if wake, ok, err = s.NextWake(t.Context(), pipeline.PlanVersion); !ok || err != nil || wake.Before(now(t, s)) {
		t.Errorf("next wake %v, %v, %v; want the end of the lease", wake, ok, err)
	}

	// Done is done.
	must(t, commitLater(t, s, r, func(c *pipeline.Commit) {
		c.Record.Phase, c.Record.Outcome, c.Record.NextRunAt = pipeline.PhaseDone, headgate.Promoted, time.Time{}
	}))
	wantCode(t, s.Signal(t.Context(), "due", pipeline.Fact{Kind: pipeline.FactAbort}, eventOf("x", "due", "")), headgate.CodeReleaseDone)
	wantCode(t, s.Signal(t.Context(), "none", pipeline.Fact{Kind: pipeline.FactAbort}, eventOf("x", "none", "")), headgate.CodeReleaseNotFound)
	nothingDue(t, s, "it is done")

	// A lease that nobody extends ends by itself.
	create(t, s, "crashed", digestA)
	first, _ := claim(t, s, 20*time.Millisecond)
	eventually(t, "a lapsed lease is claimed", func() bool {
		r, _, ok, err := s.Claim(t.Context(), "heir", minute, pipeline.PlanVersion)
		must(t, err)
		return ok && r.ID == "crashed" && r.Epoch > first.Epoch
	})
}

func claimLeavesUnknownPlansAndPhases(t *testing.T, s Store) {
	foreign := begin(t, s, "foreign", digestA)
	foreign.Record.PlanVersion = pipeline.PlanVersion + 1
	_, err := s.CreateRelease(t.Context(), foreign)
	must(t, err)
	parked := begin(t, s, "parked", digestA)
	parked.Record.Phase = "from-the-future"
	_, err = s.CreateRelease(t.Context(), parked)
	must(t, err)

	nothingDue(t, s, "neither is understood")
	if wake, ok, err := s.NextWake(t.Context(), pipeline.PlanVersion); ok || err != nil {
		t.Errorf("next wake %v, %v, %v; a release that cannot be claimed must not wake anybody", wake, ok, err)
	}
	r, _, ok, err := s.Claim(t.Context(), "newer", minute, pipeline.PlanVersion, pipeline.PlanVersion+1)
	if err != nil || !ok || r.ID != "foreign" {
		t.Errorf("claimed %q, %v, %v; a replica that knows the plan takes it", r.ID, ok, err)
	}
}

func epochsRiseOverTheWholeStore(t *testing.T, s Store) {
	var last int64
	rise := func(what string, epoch int64) {
		t.Helper()
		if epoch <= last {
			t.Fatalf("%s has epoch %d after %d", what, epoch, last)
		}
		last = epoch
	}
	for i := range 5 {
		create(t, s, numbered("rel", i), digestA)
		r, _ := claim(t, s, minute)
		rise("claim", r.Epoch)
		e, err := s.NextEpoch(t.Context(), 0)
		must(t, err)
		rise("NextEpoch", e)
		e, err = s.NextEpoch(t.Context(), e+1000)
		must(t, err)
		rise("NextEpoch of a router that is ahead", e-1000)
		must(t, commitLater(t, s, r, nil))
		must(t, s.Signal(t.Context(), r.ID, pipeline.Fact{Kind: pipeline.FactEvidence}, eventOf("x", r.ID, "")))
		r, _ = claim(t, s, minute)
		rise("second claim", r.Epoch)
	}
}

func claimersNeverShareARelease(t *testing.T, s Store) {
	const releases, claimers = 40, 16
	for i := range releases {
		create(t, s, numbered("rel", i), digestA)
	}
	var mu sync.Mutex
	claims, epochs := map[string]int{}, map[int64]int{}
	var wg sync.WaitGroup
	for range claimers {
		wg.Go(func() {
			for range releases + 1 {
				r, _, ok, err := s.Claim(t.Context(), "claimer", minute, pipeline.PlanVersion)
				if err != nil {
					t.Error(err)
				}
				if err != nil || !ok {
					return
				}
				mu.Lock()
				claims[r.ID]++
				epochs[r.Epoch]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(claims) != releases || len(epochs) != releases {
		t.Errorf("%d releases under %d epochs were claimed, want %d", len(claims), len(epochs), releases)
	}
	for id, n := range claims {
		if n != 1 {
			t.Errorf("%s was claimed %d times at once", id, n)
		}
	}
}

func staleEpochIsRefused(t *testing.T, s Store) {
	create(t, s, "rel-1", digestA)
	old, _ := claim(t, s, 10*time.Millisecond)
	var heir pipeline.Record
	eventually(t, "a second process takes over", func() bool {
		r, _, ok, err := s.Claim(t.Context(), "heir", minute, pipeline.PlanVersion)
		must(t, err)
		heir = r
		return ok
	})
	wantCode(t, s.Extend(t.Context(), "rel-1", old.Epoch, minute), headgate.CodeStaleEpoch)
	wantCode(t, commitLater(t, s, old, func(c *pipeline.Commit) {
		c.Events = []headgate.Event{eventOf("ghost", "rel-1", "")}
		c.Quarantine = digestB
	}), headgate.CodeStaleEpoch)
	events, err := s.Events(t.Context(), control.EventQuery{ReleaseID: "rel-1", Kind: "ghost", Limit: 10})
	if err != nil || len(events) != 0 {
		t.Errorf("the refused commit left %v, %v", events, err)
	}
	create(t, s, "rel-2", digestB) // not quarantined

	must(t, commitLater(t, s, heir, nil))
	wantCode(t, commitLater(t, s, heir, nil), headgate.CodeStaleEpoch)
	wantCode(t, s.Extend(t.Context(), "rel-1", heir.Epoch, minute), headgate.CodeStaleEpoch)
}

func extendKeepsTheLease(t *testing.T, s Store) {
	create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, 200*time.Millisecond)
	must(t, s.Extend(t.Context(), r.ID, r.Epoch, time.Hour))
	wake, ok, err := s.NextWake(t.Context(), pipeline.PlanVersion)
	if err != nil || !ok || wake.Sub(now(t, s)) < 50*time.Minute {
		t.Errorf("next wake %v, %v, %v; want the end of the extended lease", wake, ok, err)
	}
	must(t, commitLater(t, s, r, nil))
}

func commitIsAllOrNothing(t *testing.T, s Store) {
	create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, minute)
	tick := pipeline.TickRow{Seq: 1, Tick: canary.Tick{Time: at}}
	must(t, commitLater(t, s, r, func(c *pipeline.Commit) { c.Ticks = []pipeline.TickRow{tick} }))
	must(t, s.Signal(t.Context(), "rel-1", pipeline.Fact{Kind: pipeline.FactEvidence}, eventOf("x", "rel-1", "")))

	// A tick is written once; the commit that would write it again fails and
	// leaves nothing.
	r, _ = claim(t, s, minute)
	err := commitLater(t, s, r, func(c *pipeline.Commit) {
		c.Record.Stage = headgate.StageFull
		c.Events = []headgate.Event{eventOf("ghost", "rel-1", "")}
		c.Ticks = []pipeline.TickRow{tick}
	})
	if err == nil {
		t.Fatal("a tick was written twice")
	}
	got, err := s.Release(t.Context(), "rel-1")
	must(t, err)
	events, err := s.Events(t.Context(), control.EventQuery{Kind: "ghost", Limit: 10})
	must(t, err)
	if got.Stage != headgate.StageBuild || len(events) != 0 {
		t.Errorf("the failed commit left stage %s and %d events", got.Stage, len(events))
	}
	must(t, commitLater(t, s, r, nil)) // the lease is still held
}

func signalWakesARelease(t *testing.T, s Store) {
	create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, minute)
	must(t, commitLater(t, s, r, nil))
	nothingDue(t, s, "it is due in an hour")

	facts := []pipeline.Fact{
		{Kind: pipeline.FactStageResult, Stage: headgate.StageBuild, Verdict: headgate.Pass, Actor: "ci", From: "10.0.0.1", Summary: "构建完成", At: at},
		{Kind: pipeline.FactApproval, Actor: "ann", Reason: "ok", At: at},
	}
	for _, f := range facts {
		must(t, s.Signal(t.Context(), "rel-1", f, eventOf("signalled", "rel-1", "acme")))
	}
	r, got := claim(t, s, minute)
	if !reflect.DeepEqual(got, facts) {
		t.Errorf("facts %+v, want %+v in order", got, facts)
	}
	if r.Gen != 2 {
		t.Errorf("generation %d after two signals", r.Gen)
	}
	events, err := s.Events(t.Context(), control.EventQuery{Kind: "signalled", Limit: 10})
	if err != nil || len(events) != 2 {
		t.Errorf("%d events of the signals, %v; want both", len(events), err)
	}
	must(t, commitLater(t, s, r, nil))
	nothingDue(t, s, "both signals have been seen")
}

func signalSurvivesARacingCommit(t *testing.T, s Store) {
	create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, minute)
	must(t, s.Signal(t.Context(), "rel-1", pipeline.Fact{Kind: pipeline.FactAbort}, eventOf("x", "rel-1", "")))
	nothingDue(t, s, "it is leased, signal or not")
	must(t, commitLater(t, s, r, nil)) // knows nothing of the signal
	if _, facts := claim(t, s, minute); len(facts) != 1 {
		t.Fatalf("%d facts; the signal was lost to the commit", len(facts))
	}

	// Many times, for real: whenever the commit comes, the last claim sees
	// every signal.
	create(t, s, "rel-2", digestA)
	const signals = 25
	seen := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for range signals {
			if err := s.Signal(t.Context(), "rel-2", pipeline.Fact{Kind: pipeline.FactEvidence}, eventOf("x", "rel-2", "")); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "every signal is seen by a claim that it caused", func() bool {
		r, facts, ok, err := s.Claim(t.Context(), "test", minute, pipeline.PlanVersion)
		must(t, err)
		if ok {
			seen = len(facts)
			must(t, commitLater(t, s, r, nil))
		}
		return seen == signals
	})
	wg.Wait()
}

func stageRunsAndTicks(t *testing.T, s Store) {
	create(t, s, "rel-1", digestA)
	r, _ := claim(t, s, minute)
	passed := headgate.StageRun{
		ReleaseID: "rel-1", Stage: headgate.StageBuild, Attempt: 2, Verdict: headgate.Pass, Summary: "built",
		StartedAt: r.StageStartedAt, EndedAt: at,
	}
	next := headgate.StageRun{ReleaseID: "rel-1", Stage: headgate.StageTest, Attempt: 1, StartedAt: r.StageStartedAt}
	ticks := []pipeline.TickRow{
		{Seq: 1, Tick: canary.Tick{Time: at, ExpectedShare: 0.1, Strata: []canary.Stratum{{Tenant: "acme", Stable: canary.Counts{Requests: 3, Latency: canary.Histogram{{4, 3}}}}}}},
		{Seq: 2, Tick: canary.Tick{Time: at.Add(time.Second), Telemetry: canary.Stale}, Decision: canary.Decision{Verdict: headgate.Broken, Reasons: []string{"R"}}},
	}
	must(t, commitLater(t, s, r, func(c *pipeline.Commit) {
		c.Runs, c.Ticks = []headgate.StageRun{passed, next}, ticks
	}))
	runs, err := s.StageRuns(t.Context(), "rel-1")
	must(t, err)
	for i := range runs {
		runs[i].StartedAt = r.StageStartedAt // same moment, whatever its zone
	}
	if want := []headgate.StageRun{passed, next}; !reflect.DeepEqual(runs, want) {
		t.Errorf("stage runs\n%+v\nwant the later of each stage, in order\n%+v", runs, want)
	}
	got, err := s.Ticks(t.Context(), "rel-1")
	must(t, err)
	if !reflect.DeepEqual(got, ticks) {
		t.Errorf("ticks\n%+v\nwant\n%+v", got, ticks)
	}
	if got, err := s.Ticks(t.Context(), "rel-none"); err != nil || len(got) != 0 {
		t.Errorf("ticks of nobody: %v, %v", got, err)
	}
}

func releasesAreNewestFirst(t *testing.T, s Store) {
	for i := range 3 {
		c := begin(t, s, numbered("rel", i), digestA)
		c.Record.CreatedAt = at.Add(time.Duration(i) * time.Second)
		_, err := s.CreateRelease(t.Context(), c)
		must(t, err)
	}
	other := begin(t, s, "other", digestA)
	other.Record.Service, other.Record.CreatedAt = "another", at.Add(time.Hour)
	_, err := s.CreateRelease(t.Context(), other)
	must(t, err)
	for id, tenant := range map[string]string{"globex": "globex", "nobodys": ""} {
		c := begin(t, s, id, digestA)
		c.Record.TenantID, c.Record.CreatedAt = tenant, at.Add(-time.Hour)
		_, err := s.CreateRelease(t.Context(), c)
		must(t, err)
	}
	for _, tt := range []struct {
		service string
		limit   int
		tenants []string
		want    []string
	}{
		{"", 10, nil, []string{"other", "rel-002", "rel-001", "rel-000", "globex", "nobodys"}},
		{service, 10, nil, []string{"rel-002", "rel-001", "rel-000", "globex", "nobodys"}},
		{service, 1, nil, []string{"rel-002"}},
		// The limit is of what a tenant may see, however much others have.
		{"", 2, []string{"globex"}, []string{"globex", "nobodys"}},
		{"", 10, []string{"globex", "initech"}, []string{"globex", "nobodys"}},
		{service, 1, []string{"globex", "acme"}, []string{"rel-002"}},
		{"nobody", 10, nil, nil},
	} {
		got, err := s.Releases(t.Context(), tt.service, tt.limit, tt.tenants...)
		must(t, err)
		var ids []string
		for _, r := range got {
			ids = append(ids, r.ID)
		}
		if !slices.Equal(ids, tt.want) {
			t.Errorf("releases of %q and %v: %v, want %v", tt.service, tt.tenants, ids, tt.want)
		}
	}
}
