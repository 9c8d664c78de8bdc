package control_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

// leasing is a router that leases what it is told for ten seconds.
type leasing struct {
	router
	asked int
	down  bool
	share float64
}

func (r *leasing) Status(ctx context.Context) (rollout.Status, error) {
	r.asked++
	if r.down {
		return rollout.Status{}, errors.New("out of reach")
	}
	st, err := r.router.Status(ctx)
	st.ReleaseID, st.Share, st.LeaseRemaining = "rel-1", r.share, 10*time.Second
	return st, err
}

// underCanary is a fixture with release rel-1 in canary.
func underCanary(t *testing.T) (*fixture, *leasing) {
	t.Helper()
	f, r := newFixture(t, nil), &leasing{share: 1}
	s, err := f.Service("")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Add(t.Context(), s.Service, s.Suite, r, s.Credential); err != nil {
		t.Fatal(err)
	}
	_, err = f.CreateRelease(t.Context(), operator, control.ReleaseRequest{
		ID: "rel-1", Version: "v2", Digest: digest("a"),
		Changes: []headgate.Change{{Component: headgate.ModelConfig, From: "mc-1", To: "mc-2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.commit(t, func(c *pipeline.Commit) {
		inCanary(headgate.Insufficient)(&c.Record)
		c.Record.State.Share, c.HoldTraffic = 1, true
	})
	return f, r
}

func (f *fixture) commit(t *testing.T, change func(*pipeline.Commit)) {
	t.Helper()
	rec, _, ok, err := f.db.Claim(t.Context(), "test", time.Minute, pipeline.PlanVersion)
	if err != nil || !ok {
		t.Fatalf("claim: %v %v", ok, err)
	}
	c := pipeline.Commit{Record: rec, ClaimedGen: rec.Gen}
	c.Record.NextRunAt = time.Now().Add(-time.Second)
	change(&c)
	if err := f.db.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// value is what a component is for acme's session.
func (f *fixture) value(t *testing.T, c headgate.Component) string {
	t.Helper()
	flags, err := f.Flags(t.Context(), "things")
	if err != nil {
		t.Fatal(err)
	}
	e, ok := flags.Evaluate(c, rollout.Subject{TenantID: "acme"}, "session", f.Now())
	if !ok {
		t.Fatalf("%s is no flag", c)
	}
	return e.Value
}

func TestFlagsFollowTheCanary(t *testing.T) {
	t.Parallel()
	f, r := underCanary(t)
	for c, want := range map[headgate.Component]string{
		headgate.ModelConfig: "mc-2", headgate.RetrievalParams: "rp-1", headgate.WorkflowVersion: "wf-1", headgate.ReleaseVersion: "v2",
	} {
		if got := f.value(t, c); got != want {
			t.Errorf("%s is %s, want %s", c, got, want)
		}
	}
	if r.asked != 1 {
		t.Errorf("the router was asked %d times within a second", r.asked)
	}

	// A rollback shows at once, by the change of traffic that it begins with.
	f.commit(t, func(c *pipeline.Commit) { c.Record.Phase = pipeline.PhaseRollingBack })
	s, err := f.Service("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Router.Apply(t.Context(), rollout.Split{}); err != nil {
		t.Fatal(err)
	}
	if got := f.value(t, headgate.ModelConfig); got != "mc-1" {
		t.Errorf("while it is rolled back, it is %s", got)
	}
}

func TestFlagsAreStableInDoubt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *fixture, *leasing)
	}{
		{"the router has no share", func(_ *testing.T, _ *fixture, r *leasing) { r.share = 0 }},
		{"the router cannot be asked", func(_ *testing.T, _ *fixture, r *leasing) { r.down = true }},
		{"the share is not granted yet", func(t *testing.T, f *fixture, _ *leasing) {
			f.commit(t, func(c *pipeline.Commit) { c.Record.State.Granted = false })
		}},
		{"it gets all traffic, which is not confirmed", func(t *testing.T, f *fixture, _ *leasing) {
			f.commit(t, func(c *pipeline.Commit) { c.Record.Stage = headgate.StageFull })
		}},
		{"the release has ended", func(t *testing.T, f *fixture, _ *leasing) {
			f.commit(t, func(c *pipeline.Commit) {
				c.Record.Phase, c.Record.Outcome, c.ReleaseTraffic = pipeline.PhaseDone, headgate.Inconclusive, true
			})
		}},
		{"the database does not answer", func(t *testing.T, f *fixture, _ *leasing) {
			if f.value(t, headgate.ModelConfig) != "mc-2" {
				t.Error("it was not the candidate's before")
			}
			f.now = f.now.Add(time.Second)
			db, err := sql.Open("sqlite", "file:"+filepath.Join(f.dir, "headgate.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			if _, err := db.ExecContext(t.Context(), "DELETE FROM services"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, r := underCanary(t)
			tt.change(t, f, r)
			if got := f.value(t, headgate.ModelConfig); got != "mc-1" {
				t.Errorf("it is %s", got)
			}
		})
	}
}

// A lease that runs out between two looks ends the candidate's share.
func TestFlagsEndWithTheLease(t *testing.T) {
	t.Parallel()
	f, _ := underCanary(t)
	flags, err := f.Flags(t.Context(), "things")
	if err != nil {
		t.Fatal(err)
	}
	if !flags.Until.Equal(start.Add(10 * time.Second)) {
		t.Errorf("the share ends at %s", flags.Until)
	}
}

// What a hook sets is read where the hook puts it.
func TestHookIsNoFlag(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(s *config.Service) {
		s.Components.ModelConfig.Actuator = config.Actuator{Kind: config.ActuatorHook, URL: "http://127.0.0.1:1"}
	})
	flags, err := f.Flags(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := flags.Stable[headgate.ModelConfig]; ok || flags.Stable[headgate.ReleaseVersion] != "v1" {
		t.Errorf("flags %v, %q", flags.Stable, v)
	}
	if _, err := f.Flags(t.Context(), "nothing"); code(err) != headgate.CodeServiceNotFound {
		t.Errorf("an unknown service: %v", err)
	}
}
