package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/pipeline"
)

const triedAlerts = `file_format: definition/2
metrics:
  - name: bea.api.request.duration
    annotations:
      headgate:
        alerts:
          - {name: ApiSlow, figure: api_p95_s, above: 0.8, for: 2m, severity: P2, runbook: docs/runbooks/api-slow.md}
`

// Changed thresholds are tried on the metrics of the time under users, and
// nothing is concluded where retention has removed them.
func TestAlertsAreTriedOnPastReleases(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.now = time.Now().Add(-time.Hour) // when a release ended is the database's time
	f.adopt(t)
	began := map[string]time.Time{}
	ended := func(id, c string, o headgate.Outcome, canary bool) {
		f.release(t, id, digest(c))
		if canary {
			began[id] = f.now
			rec, _, ok, err := f.db.Claim(t.Context(), "test", time.Minute, pipeline.PlanVersion)
			if err != nil || !ok {
				t.Fatalf("claim: %v %v", ok, err)
			}
			rec.NextRunAt = time.Now().Add(-time.Second)
			run := headgate.StageRun{ReleaseID: id, Stage: headgate.StageCanary, Attempt: 1, Verdict: headgate.Pass, StartedAt: f.now, EndedAt: f.now.Add(10 * time.Minute)}
			if err := f.db.Commit(t.Context(), pipeline.Commit{Record: rec, ClaimedGen: rec.Gen, Runs: []headgate.StageRun{run}}); err != nil {
				t.Fatal(err)
			}
		}
		f.end(t, o)
		f.now = f.now.Add(11 * time.Minute)
	}
	ended("rel-slow", "a", headgate.RolledBack, true)
	ended("rel-gone", "b", headgate.RolledBack, true)
	ended("rel-fast", "c", headgate.RolledBack, true)
	ended("rel-blocked", "d", headgate.Blocked, false)
	ended("rel-unmeasured", "e", headgate.RolledBack, true)
	f.figures.times = func(q string, from time.Time) (held []time.Time) {
		if !strings.Contains(q, `deployment_environment_name="production",service_name="things",service_version="v2"`) {
			t.Errorf("asked for more than the release: %s", q)
		}
		present := strings.HasPrefix(q, "count(") || // of anything, or a figure without its bound
			!strings.HasPrefix(q, "(") && from.Sub(began["rel-unmeasured"]).Abs() >= time.Second
		for i := range 20 {
			at := from.Add(time.Duration(i) * 30 * time.Second)
			switch {
			case from.Sub(began["rel-gone"]).Abs() < time.Second && i < 10: // retention took the first half
			case present, from.Sub(began["rel-slow"]).Abs() < time.Second && i >= 3:
				held = append(held, at)
			}
		}
		return held
	}
	got, err := f.BacktestAlerts(t.Context(), bob, "", []byte(triedAlerts), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got.AlertedBad != 1 || got.SilentBad != 1 || got.NoMetrics != 2 || got.NeverMetUsers != 1 || len(got.Releases) != 5 {
		t.Errorf("%+v", got)
	}
	for _, r := range got.Releases {
		switch r.ReleaseID {
		case "rel-slow":
			if len(r.Firing) != 1 || !r.Firing[0].FiredAt.Truncate(time.Second).Equal(began["rel-slow"].Add(210*time.Second).UTC().Truncate(time.Second)) {
				t.Errorf("fired %+v", r.Firing)
			}
		case "rel-unmeasured":
			if r.Gone != "no metrics of api_p95_s" || len(r.Unmeasured) != 0 {
				t.Errorf("%+v", r)
			}
		case "rel-gone":
			if !strings.HasPrefix(r.Gone, "no metrics left") || len(r.Firing) != 0 {
				t.Errorf("%+v", r)
			}
		}
	}
	other := access.Identity{Name: "eve", Role: access.Viewer, Tenants: []string{"borealis"}}
	if got, err := f.BacktestAlerts(t.Context(), other, "", []byte(triedAlerts), 24*time.Hour); err != nil || len(got.Releases) != 0 {
		t.Errorf("another tenant sees %d releases, %v", len(got.Releases), err)
	}
	if _, err := f.BacktestAlerts(t.Context(), bob, "", []byte("metrics: []"), time.Hour); code(err) != headgate.CodeConfigInvalid {
		t.Errorf("a file without alerts: %v", err)
	}
	if slices.Contains(f.kinds(t), "rules_proposed by bob") {
		t.Error("a backtest changed something")
	}
}
