package control_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence/report"
)

// person is somebody who is confined to a tenant.
func person(name, tenant string) access.Identity {
	return access.Identity{Name: name, Role: access.Operator, Tenants: []string{tenant}, TenantID: tenant}
}

// Under an id that only requests name, a rollback is its tenant's: it neither
// joins another tenant's nor makes that one's replays old.
func TestRollbacksOfUndeclaredReleasesAreEachTenantsOwn(t *testing.T) {
	t.Parallel()
	for _, side := range [][2]access.Identity{
		{person("annabel", "acme"), person("beatrice", "borealis")}, {person("beatrice", "borealis"), person("annabel", "acme")},
	} {
		mine, other := side[0], side[1]
		t.Run(mine.TenantID+" first", func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			ctx := t.Context()
			f.service.wrong.Store(true) // so that no rollback ends
			req := control.RollbackRequest{ReleaseID: "march", ConsecutiveThreshold: 2, Breaches: breached}
			first, err := f.ExecuteRollback(ctx, mine, req)
			if err != nil {
				t.Fatal(err)
			}
			second, err := f.ExecuteRollback(ctx, other, req)
			if err != nil {
				t.Fatal(err)
			}
			if first.ReplayVerification.JobID == second.ReplayVerification.JobID {
				t.Error("the second tenant has joined the first one's rollback")
			}
			if _, err := f.Job(ctx, other, second.ReplayVerification.JobID); err != nil {
				t.Errorf("the own replay: %v", err)
			}
			if _, err := f.Job(ctx, other, first.ReplayVerification.JobID); code(err) != headgate.CodeJobNotFound {
				t.Errorf("the other tenant's replay: %v", err)
			}
			f.service.wrong.Store(false)
			f.service.leaking.Store(true) // borealis may replay what is acme's
			for _, who := range side {
				if _, err := f.ReplayE2E(ctx, who, control.ReplayRequest{ReleaseID: "march"}); err != nil {
					t.Fatal(err)
				}
				if got := f.replayBasis(t, who, "march"); got != "" {
					t.Fatalf("the replay of %s does not count: %s", who.TenantID, got)
				}
			}
			f.now = f.now.Add(time.Minute)
			if _, err := f.ExecuteRollback(ctx, mine, req); err != nil {
				t.Fatal(err)
			}
			if got := f.replayBasis(t, other, "march"); got != "" {
				t.Errorf("another tenant's rollback made the replay old: %s", got)
			}
			if got := f.replayBasis(t, mine, "march"); got == "" {
				t.Error("the own rollback asks for no new replay")
			}
		})
	}
}

// replayBasis says why a release's replay does not count, "" if it does.
func (f *fixture) replayBasis(t *testing.T, who access.Identity, id string) string {
	t.Helper()
	a, err := f.EvaluateReadiness(t.Context(), who, control.ReadinessRequest{ReleaseID: id, DatasetVersion: "v1.0.0", ReplayPassed: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range a.Basis {
		if b.Check == "replay" && !b.Passed {
			return b.Reason
		}
	}
	return ""
}

// What a tenant did under an id stays its own when another one makes a release
// of that id: while it runs, and in all that is told of the release later.
func TestReleaseTellsNothingOfAnotherTenantsId(t *testing.T) {
	t.Parallel()
	for _, side := range [][2]access.Identity{
		{person("annabel", "acme"), person("beatrice", "borealis")}, {person("beatrice", "borealis"), person("annabel", "acme")},
	} {
		earlier, later := side[0], side[1]
		t.Run(earlier.TenantID+" first", func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			ctx := t.Context()
			f.service.wrong.Store(true)
			if _, err := f.ExecuteRollback(ctx, earlier, control.RollbackRequest{ReleaseID: "march", ConsecutiveThreshold: 2, Breaches: breached}); err != nil {
				t.Fatal(err)
			}
			if _, err := f.EvaluateGate(ctx, earlier, headgate.GateQuality, control.GateRequest{ReleaseID: "march", DatasetID: "secret-set", Metrics: passing[headgate.GateQuality]}); err != nil {
				t.Fatal(err)
			}
			f.replayBasis(t, earlier, "march")
			if _, err := f.CreateRelease(ctx, later, control.ReleaseRequest{ID: "march", Version: "v2", Digest: digest("a")}); err != nil {
				t.Fatal(err)
			}
			f.replace(t) // goes on with the rollback, which is still the earlier one's
			f.service.wrong.Store(false)
			if _, err := f.ReplayE2E(ctx, later, control.ReplayRequest{ReleaseID: "march"}); err != nil {
				t.Fatal(err)
			}
			if err := f.SealPending(ctx); err != nil {
				t.Fatal(err)
			}
			rel, err := f.Report(ctx, later, "march")
			if err != nil {
				t.Fatal(err)
			}
			if rel.Rollback != nil || len(rel.Gates) != 0 || rel.Readiness != nil || len(rel.Replays) != 1 {
				t.Errorf("the report holds the other tenant's: %+v", rel)
			}
			var page bytes.Buffer
			if err := report.JSON(&page, rel); err != nil || strings.Contains(page.String(), earlier.Name) {
				t.Errorf("the report names %s: %v", earlier.Name, err)
			}
			view, err := f.Release(ctx, later, "march")
			if err != nil || view.Rollback != nil || view.Evidence != len(rel.Evidence) {
				t.Errorf("shown with %+v and %d statements, %v", view.Rollback, view.Evidence, err)
			}
			for _, who := range []access.Identity{later, operator} {
				rows, err := f.Events(ctx, who, "march", 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, row := range rows {
					if row.TenantID != later.TenantID {
						t.Errorf("%s is told of %s of %s", who.Name, row.Kind, row.TenantID)
					}
				}
			}
		})
	}
}
