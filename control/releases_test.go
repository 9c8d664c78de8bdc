package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

func TestWhereACandidateMayRun(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		hosts []string
		url   string
		ok    bool
	}{
		{"loopback is allowed without a list", nil, "http://127.0.0.1:9", true},
		{"so is its name", nil, "http://localhost:9", true},
		{"and IPv6", nil, "http://[::1]:9", true},
		{"another host is not", nil, "http://10.0.0.7:9", false},
		{"nor the cloud's metadata", nil, "http://169.254.169.254", false},
		{"a listed host", []string{"candidate.internal"}, "https://candidate.internal:8443", true},
		{"a listed host in capitals", []string{"candidate.internal"}, "https://CANDIDATE.internal", true},
		{"a listed port", []string{"candidate.internal:8443"}, "https://candidate.internal:8443", true},
		{"another port", []string{"candidate.internal:8443"}, "https://candidate.internal:22", false},
		{"a list leaves loopback out", []string{"candidate.internal"}, "http://127.0.0.1:9", false},
		{"a longer name", []string{"candidate.internal"}, "http://candidate.internal.evil.example", false},
		{"a name in the user part", []string{"candidate.internal"}, "http://candidate.internal@evil.example", false},
		{"another scheme", nil, "file:///etc/passwd", false},
		{"no URL", nil, "127.0.0.1:9", false},
		{"a query", nil, "http://127.0.0.1:9/?token=s3cr3t", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(s *config.Service) { s.Targets.CandidateHosts = tt.hosts })
			good := "http://127.0.0.1:9"
			if len(tt.hosts) > 0 {
				good = "https://" + tt.hosts[0]
			}
			for _, req := range []control.ReleaseRequest{
				{Version: "v2", Digest: digest("a"), StagingURL: tt.url, CandidateURL: good},
				{Version: "v2", Digest: digest("a"), StagingURL: good, CandidateURL: tt.url},
			} {
				_, err := f.CreateRelease(t.Context(), operator, req)
				if want := map[bool]string{true: "", false: headgate.CodeValidation}[tt.ok]; code(err) != want && (want == "" || code(err) != headgate.CodeConfigInvalid) {
					t.Errorf("staging %s, candidate %s: %v", req.StagingURL, req.CandidateURL, err)
				}
				if err != nil && strings.Contains(err.Error(), "s3cr3t") {
					t.Errorf("the error repeats a secret: %v", err)
				}
			}
		})
	}
}

func TestReleaseRequestsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	good := control.ReleaseRequest{ID: "rel-1", Version: "v2", Digest: digest("a")}
	for name, change := range map[string]func(*control.ReleaseRequest){
		"id with a slash":    func(r *control.ReleaseRequest) { r.ID = "a/b" },
		"id that is hidden":  func(r *control.ReleaseRequest) { r.ID = ".." },
		"endless id":         func(r *control.ReleaseRequest) { r.ID = strings.Repeat("x", 101) },
		"no version":         func(r *control.ReleaseRequest) { r.Version = "" },
		"no digest":          func(r *control.ReleaseRequest) { r.Digest = "" },
		"digest in capitals": func(r *control.ReleaseRequest) { r.Digest = digest("A") },
		"short digest":       func(r *control.ReleaseRequest) { r.Digest = "sha256:abc" },
		"unknown component": func(r *control.ReleaseRequest) {
			r.Changes = []headgate.Change{{Component: "database", From: "1", To: "2"}}
		},
	} {
		req := good
		change(&req)
		if _, err := f.CreateRelease(t.Context(), operator, req); code(err) != headgate.CodeValidation {
			t.Errorf("%s: %v", name, err)
		}
	}
	req := good
	req.Service = "nothing"
	if _, err := f.CreateRelease(t.Context(), operator, req); code(err) != headgate.CodeServiceNotFound {
		t.Errorf("unknown service: %v", err)
	}
}

// A build that was rolled back is not released again under another id.
func TestQuarantinedDigestIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	f.end(t, headgate.RolledBack)
	_, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{ID: "rel-2", Version: "v2", Digest: digest("a")})
	if code(err) != headgate.CodeDigestQuarantined || !strings.Contains(err.Error(), "rel-1") {
		t.Errorf("the same build again: %v", err)
	}
	if _, err := f.Release(t.Context(), operator, "rel-2"); code(err) != headgate.CodeReleaseNotFound {
		t.Errorf("the refused release exists: %v", err)
	}
	f.release(t, "rel-3", digest("b"))
	if v := f.release(t, "rel-1", digest("a")); v.Outcome != headgate.RolledBack {
		t.Errorf("asking for the same release again: %+v", v)
	}
}

// What one tenant ships is not there for another.
func TestReleasesBelongToTheirTenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	other := access.Identity{Name: "otto", Role: access.Operator, Tenants: []string{"borealis"}, TenantID: "borealis"}
	ctx := t.Context()
	plan, err := rollout.NewPlan("rel-1", []string{"acme"}, headgate.ProjectSizes(), true)
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func() error{
		"show":   func() error { _, err := f.Release(ctx, other, "rel-1"); return err },
		"trail":  func() error { _, err := f.Events(ctx, other, "rel-1", 0, 0); return err },
		"report": func() error { _, err := f.Report(ctx, other, "rel-1"); return err },
		"abort":  func() error { return f.Abort(ctx, other, "rel-1", "why") },
		"plan":   func() error { return f.PutPlan(ctx, other, plan) },
		"decide": func() error { _, err := f.Decide(ctx, other, "rel-1", rollout.Subject{}); return err },
		"gate": func() error {
			_, err := f.EvaluateGate(ctx, other, headgate.GateCost, control.GateRequest{ReleaseID: "rel-1", DatasetID: "d", Metrics: passing[headgate.GateCost]})
			return err
		},
		"stage": func() error {
			return f.ReportStage(ctx, other, "rel-1", headgate.StageBuild, control.StageReport{Verdict: headgate.Pass})
		},
		"assess": func() error {
			_, err := f.EvaluateReadiness(ctx, other, control.ReadinessRequest{ReleaseID: "rel-1"})
			return err
		},
	} {
		if err := ask(); code(err) != headgate.CodeReleaseNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.CreateRelease(ctx, other, control.ReleaseRequest{ID: "rel-1", Version: "v2", Digest: digest("a")}); code(err) != headgate.CodeIdempotencyConflict {
		t.Errorf("taking the id: %v", err)
	}
	all, err := f.Releases(ctx, other, "", 0)
	if err != nil || len(all) != 0 {
		t.Errorf("list: %v, %v", all, err)
	}
}

// Under an id that only requests name, no tenant meets another one's plan or
// evidence.
func TestUndeclaredReleasesAreEachTenantsOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ctx := t.Context()
	const id = "march"
	ann := access.Identity{Name: "ann", Role: access.Operator, Tenants: []string{"acme"}, TenantID: "acme"}
	bea := access.Identity{Name: "bea", Role: access.Operator, Tenants: []string{"borealis"}, TenantID: "borealis"}
	admits := func(who access.Identity, tenant string) any {
		d, err := f.Decide(ctx, who, id, rollout.Subject{TenantID: tenant, ProjectSize: headgate.SizeSmall})
		if err != nil {
			return code(err)
		}
		return d.Admitted
	}
	missing := func(who access.Identity, check string) bool {
		a, err := f.EvaluateReadiness(ctx, who, control.ReadinessRequest{
			ReleaseID: id, DatasetVersion: "v1.0.0", ReplayPassed: true,
			GateResults: map[headgate.Gate]bool{headgate.GateQuality: true, headgate.GateRollout: true},
		})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(a.Basis, func(b gate.Basis) bool { return b.Check == check })
		return !a.Basis[i].Passed
	}
	for _, side := range []struct {
		name        string
		mine, other access.Identity
	}{{"one side", ann, bea}, {"other side", bea, ann}} {
		plan, err := rollout.NewPlan(id, []string{side.mine.TenantID}, headgate.ProjectSizes(), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.PutPlan(ctx, side.mine, plan); err != nil {
			t.Fatal(err)
		}
		if _, err := f.EvaluateGate(ctx, side.mine, headgate.GateQuality, control.GateRequest{ReleaseID: id, DatasetID: "d", Metrics: passing[headgate.GateQuality]}); err != nil {
			t.Fatal(err)
		}
		if got := admits(side.mine, side.mine.TenantID); got != true {
			t.Errorf("%s: the own plan admits: %v", side.name, got)
		}
		if missing(side.mine, "quality") || missing(side.mine, "rollout") {
			t.Errorf("%s: the own evidence does not count", side.name)
		}
		if side.mine.TenantID == ann.TenantID { // the other one has nothing yet
			if got := admits(side.other, side.mine.TenantID); got != headgate.CodeReleasePolicyNotFound {
				t.Errorf("the other tenant's plan: %v", got)
			}
			if !missing(side.other, "quality") || !missing(side.other, "rollout") {
				t.Error("one tenant's evidence counts for another")
			}
		}
	}
	if got := admits(ann, "borealis"); got != false {
		t.Errorf("the second plan has replaced the first: %v", got)
	}
}

var breached = []headgate.Breach{{Gate: headgate.GateSecurity, MetricCode: "X", ConsecutiveFailures: 2}}

// end ends a release as the pipeline would.
func (f *fixture) end(t *testing.T, outcome headgate.Outcome) {
	t.Helper()
	rec, _, ok, err := f.db.Claim(t.Context(), "test", time.Minute, pipeline.PlanVersion)
	if err != nil || !ok {
		t.Fatalf("claim: %v %v", ok, err)
	}
	c := pipeline.Commit{Record: rec, ClaimedGen: rec.Gen}
	c.Record.Phase, c.Record.Outcome = pipeline.PhaseDone, outcome
	if outcome == headgate.RolledBack {
		c.Quarantine = rec.Digest
	}
	if err := f.db.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// Only what is in force is taken back: a release that was blocked long ago
// must not take production back to what was stable at its time.
func TestRollbackMovesOnlyWhatIsInForce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		outcome headgate.Outcome
		stable  string // what is in production now
		want    string
	}{
		{"promoted and in force", headgate.Promoted, "v2", "v1"},
		{"promoted and replaced", headgate.Promoted, "v3", "v3"},
		{"blocked", headgate.Blocked, "v3", "v3"},
		{"blocked, of the version in force", headgate.Blocked, "v2", "v2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.release(t, "rel-1", digest("a"))
			f.end(t, tt.outcome)
			if err := f.db.SetStable(t.Context(), "things", rollout.Backend{Version: tt.stable, URL: f.service.URL}); err != nil {
				t.Fatal(err)
			}
			res, err := f.ExecuteRollback(t.Context(), operator, control.RollbackRequest{ReleaseID: "rel-1", ConsecutiveThreshold: 2, Breaches: breached})
			if err != nil || !res.Triggered || !res.ServiceRestored || res.ReplayVerification == nil {
				t.Fatalf("%+v, %v", res, err)
			}
			st, err := f.db.Service(t.Context(), "things")
			if err != nil || st.Stable.Version != tt.want {
				t.Errorf("stable is %s, want %s (%v)", st.Stable.Version, tt.want, err)
			}
		})
	}
}
