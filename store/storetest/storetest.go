// Package storetest holds the conformance suite of the control plane's
// stores. An engine that passes it keeps every promise that the ports of
// pipeline, rollback, feedback, control, access and evidence make in their
// comments.
//
// It never looks behind the ports: durability across processes, locks and
// whatever else belongs to one engine is for that engine's own tests.
package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

// Store is everything that an engine has to implement, beside the evidence
// log's store.
type Store interface {
	control.Store
	access.Store
}

// Open returns an empty store, and the store of the evidence log in the same
// database. It closes them when the test ends.
type Open func(t *testing.T) (Store, evidence.LogStore)

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"CreateIsIdempotent", createIsIdempotent},
		{"RecordsComeBackAsWritten", recordsComeBackAsWritten},
		{"ClaimTakesWhatIsDueAndFree", claimTakesWhatIsDueAndFree},
		{"ClaimLeavesUnknownPlansAndPhases", claimLeavesUnknownPlansAndPhases},
		{"EpochsRiseOverTheWholeStore", epochsRiseOverTheWholeStore},
		{"ClaimersNeverShareARelease", claimersNeverShareARelease},
		{"StaleEpochIsRefused", staleEpochIsRefused},
		{"ExtendKeepsTheLease", extendKeepsTheLease},
		{"CommitIsAllOrNothing", commitIsAllOrNothing},
		{"SignalWakesARelease", signalWakesARelease},
		{"SignalSurvivesARacingCommit", signalSurvivesARacingCommit},
		{"TrafficIsHeldByOne", trafficIsHeldByOne},
		{"QuarantinedDigestStaysOut", quarantinedDigestStaysOut},
		{"QuarantineEndsByTwo", quarantineEndsByTwo},
		{"MovedStableStopsARelease", movedStableStopsARelease},
		{"ServiceKeepsWhatReleasesMadeOfIt", serviceKeepsWhatReleasesMadeOfIt},
		{"StageRunsAndTicks", stageRunsAndTicks},
		{"ReleasesAreNewestFirst", releasesAreNewestFirst},
		{"EventsByKeyAndQuery", eventsByKeyAndQuery},
		{"RollbackIntentIsDurableAndIdempotent", rollbackIntent},
		{"Flags", flags},
		{"Documents", documents},
		{"RolloutPlans", rolloutPlans},
		{"RulesMoveOneByOne", rulesMoveOneByOne},
		{"Credentials", credentials},
		{"DatasetsDetectConflicts", datasetsDetectConflicts},
		{"StrategiesDetectConflicts", strategiesDetectConflicts},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store, _ := open(t)
			tt.test(t, store)
		})
	}
	t.Run("EvidenceLog", func(t *testing.T) {
		t.Parallel()
		_, log := open(t)
		evidenceLog(t, log)
	})
	t.Run("EventsEnterTheLogOnce", func(t *testing.T) {
		t.Parallel()
		store, log := open(t)
		eventsEnterTheLogOnce(t, store, log)
	})
}

const (
	service = "bidding"
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	minute  = time.Minute
)

var (
	// at has microseconds, which every engine keeps.
	at       = time.Date(2026, 3, 4, 5, 6, 7, 89_000, time.UTC)
	stableV1 = rollout.Backend{Version: "v1", URL: "http://127.0.0.1:8001"}
	stableV2 = rollout.Backend{Version: "v2", URL: "http://127.0.0.1:8002"}
)

// begin is the first commit of a release that is due at once.
func begin(t *testing.T, s Store, id, digest string) pipeline.Commit {
	t.Helper()
	ro, err := rollout.NewPlan(id, []string{"acme"}, headgate.ProjectSizes(), true)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Begin(
		headgate.Release{
			ID: id, Service: service, TenantID: "acme", Version: "v2", Digest: digest,
			StagingURL: "http://127.0.0.1:8002", CandidateURL: "http://127.0.0.1:8002",
			Changes: []headgate.Change{{Component: headgate.ReleaseVersion, From: "v1", To: "v2"}},
		},
		pipeline.Plan{
			Rollout: ro, Tenants: []string{"acme"}, Share: 0.1, LeaseTTL: 10 * time.Second, Canary: canary.DefaultConfig(),
			StageTimeout: map[headgate.Stage]time.Duration{headgate.StageBuild: time.Hour}, Stable: stableV1,
		}, now(t, s))
}

func create(t *testing.T, s Store, id, digest string) pipeline.Record {
	t.Helper()
	r, err := s.CreateRelease(t.Context(), begin(t, s, id, digest))
	if err != nil {
		t.Fatalf("create %s: %v", id, err)
	}
	return r
}

func register(t *testing.T, s Store) {
	t.Helper()
	if err := s.RegisterService(t.Context(), service, stableV1); err != nil {
		t.Fatal(err)
	}
}

func now(t *testing.T, s Store) time.Time {
	t.Helper()
	n, err := s.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// claim claims the one release that is due.
func claim(t *testing.T, s Store, ttl time.Duration) (pipeline.Record, []pipeline.Fact) {
	t.Helper()
	r, facts, ok, err := s.Claim(t.Context(), "test", ttl, pipeline.PlanVersion)
	if err != nil || !ok {
		t.Fatalf("claim: ok %v, %v; want a release", ok, err)
	}
	return r, facts
}

func nothingDue(t *testing.T, s Store, why string) {
	t.Helper()
	r, _, ok, err := s.Claim(t.Context(), "test", minute, pipeline.PlanVersion)
	if err != nil || ok {
		t.Fatalf("claimed %q, %v; want nothing: %s", r.ID, err, why)
	}
}

// commitLater commits r unchanged and due in an hour, with more changes.
func commitLater(t *testing.T, s Store, r pipeline.Record, change func(*pipeline.Commit)) error {
	t.Helper()
	c := pipeline.Commit{Record: r, ClaimedGen: r.Gen}
	c.Record.NextRunAt = now(t, s).Add(time.Hour)
	if change != nil {
		change(&c)
	}
	return s.Commit(t.Context(), c)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode checks that err is the domain error of a code and tells a person
// something.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var e *headgate.Error
	if !errors.As(err, &e) || e.Code != code || e.Message == "" {
		t.Fatalf("error %v, want %s", err, code)
	}
}

// eventually polls until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

func eventOf(kind, release, tenant string) headgate.Event {
	return headgate.Event{Time: at, Kind: kind, ReleaseID: release, TenantID: tenant, Actor: "test"}
}

func numbered(prefix string, i int) string { return fmt.Sprintf("%s-%03d", prefix, i) }
