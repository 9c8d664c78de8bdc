package control_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/gate"
)

var (
	ada = access.Identity{Name: "ada", Role: access.Approver, TenantID: "acme", From: "10.0.0.7"}
	bob = access.Identity{Name: "bob", Role: access.Operator, TenantID: "acme"}
)

func ruleFile(version int, apiP95Max float64) []byte {
	return fmt.Appendf(nil, "format: headgate-rules/v1\nversion: %d\nowner: platform\nreason: try %d\nthresholds: {performance: {api_p95_s_max: %g}}\n", version, version, apiP95Max)
}

func (f *fixture) adopt(t *testing.T) {
	t.Helper()
	if err := f.AdoptRules(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// limit is the threshold that gates judge the API's latency by now.
func (f *fixture) limit(t *testing.T) any {
	t.Helper()
	res, err := f.EvaluateGate(t.Context(), operator, headgate.GatePerformance, control.GateRequest{DatasetID: "d", Metrics: passing[headgate.GatePerformance]})
	if err != nil {
		t.Fatal(err)
	}
	return res.Thresholds["api_p95_s_max"]
}

func (f *fixture) kinds(t *testing.T) []string {
	t.Helper()
	rows, err := f.db.Events(t.Context(), control.EventQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range rows {
		if strings.HasPrefix(r.Kind, "rules_") {
			out = append(out, r.Kind+" by "+r.Actor)
		}
	}
	return out
}

func TestLooserRulesNeedASecondPerson(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	ctx := t.Context()

	// Stricter rules are in force at once.
	c, err := f.ProposeRules(ctx, ada, "", ruleFile(2, 1.2))
	if err != nil || c.InForceAt.IsZero() || len(c.Loosened) != 0 || f.limit(t) != 1.2 {
		t.Fatalf("stricter: %+v, %v, limit %v", c, err, f.limit(t))
	}
	// Looser ones wait, and nobody approves their own.
	loose, err := f.ProposeRules(ctx, ada, "", ruleFile(3, 1.4))
	if err != nil || !loose.InForceAt.IsZero() || len(loose.Loosened) != 1 || f.limit(t) != 1.2 {
		t.Fatalf("looser: %+v, %v, limit %v", loose, err, f.limit(t))
	}
	if again, err := f.ProposeRules(ctx, bob, "", ruleFile(3, 1.4)); err != nil || again.Seq != loose.Seq && again.ProposedBy != "ada" {
		t.Errorf("proposed by a second person it is another proposal: %+v, %v", again, err)
	}
	for name, tt := range map[string]struct {
		who  access.Identity
		code string
	}{
		"the proposer":        {ada, headgate.CodeApprovalRequired},
		"a releaser":          {access.Identity{Name: "ci", Role: access.Releaser}, headgate.CodeForbidden},
		"a tenant's operator": {access.Identity{Name: "tom", Role: access.Operator, Tenants: []string{"acme"}}, headgate.CodeTenantScope},
	} {
		if _, err := f.ApproveRules(ctx, tt.who, "", loose.Digest, "because"); code(err) != tt.code {
			t.Errorf("%s approves: %v, want %s", name, err, tt.code)
		}
		if name != "the proposer" {
			if _, err := f.ProposeRules(ctx, tt.who, "", ruleFile(9, 0.1)); code(err) != tt.code {
				t.Errorf("%s proposes: %v, want %s", name, err, tt.code)
			}
		}
	}
	if f.limit(t) != 1.2 {
		t.Errorf("limit %v", f.limit(t))
	}
	if c, err = f.ApproveRules(ctx, bob, "", loose.Digest, "measured twice"); err != nil || !c.InForce || c.ApprovedBy != "bob" || f.limit(t) != 1.4 {
		t.Fatalf("approved: %+v, %v, limit %v", c, err, f.limit(t))
	}
	want := []string{"rules_in_force by headgate.yaml", "rules_in_force by ada", "rules_proposed by ada", "rules_in_force by bob"}
	if got := f.kinds(t); !slices.Equal(got, want) {
		t.Errorf("audit trail %v, want %v", got, want)
	}
}

func TestRulesThatMovedOnAreComparedAnew(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ctx := t.Context() // proposing adopts the first rules by itself
	loose, err := f.ProposeRules(ctx, ada, "", ruleFile(2, 2))
	if err != nil || !loose.InForceAt.IsZero() {
		t.Fatalf("%+v, %v", loose, err)
	}
	if _, err := f.ProposeRules(ctx, ada, "", ruleFile(3, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ApproveRules(ctx, bob, "", loose.Digest, "ok"); code(err) != control.CodeRulesMoved || f.limit(t) != 1.0 {
		t.Errorf("approved against rules that are gone: %v, limit %v", err, f.limit(t))
	}
	for name, tt := range map[string]struct {
		file []byte
		code string
	}{
		"a version that is not raised": {ruleFile(3, 0.9), headgate.CodeValidation},
		"a file that is none":          {[]byte("thresholds: 1"), headgate.CodeConfigInvalid},
	} {
		if _, err := f.ProposeRules(ctx, ada, "", tt.file); code(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.ApproveRules(ctx, bob, "", digest("f"), "ok"); code(err) != control.CodeRulesNotFound {
		t.Errorf("rules that nobody proposed: %v", err)
	}
}

// restart is another process over the same database, with a rule file.
func (f *fixture) restart(t *testing.T, rules gate.RuleSet) *fixture {
	t.Helper()
	again := &fixture{db: f.db, dir: f.dir, now: f.now, figures: f.figures, service: f.service, router: f.router}
	again.Plane = again.plane(t, rules)
	s, err := f.Service("things")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Add(t.Context(), s.Service, s.Suite, f.router, s.Credential); err != nil {
		t.Fatal(err)
	}
	return again
}

func TestRulesSurviveARestart(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	if _, err := f.ProposeRules(t.Context(), ada, "", ruleFile(2, 1.2)); err != nil {
		t.Fatal(err)
	}
	set := func(file []byte) gate.RuleSet {
		s, err := gate.ParseRules("rules.yaml", file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tt := range []struct {
		name  string
		rules gate.RuleSet
		want  any
	}{
		{"with the file that it began with", gate.DefaultRules(), 1.2},
		{"with a looser file", set(ruleFile(5, 1.3)), 1.2},
		{"with the same looser file", set(ruleFile(5, 1.3)), 1.2},
		{"with a stricter file", set(ruleFile(6, 1)), 1.0},
		{"with the first file once more", gate.DefaultRules(), 1.0},
	} {
		f = f.restart(t, tt.rules)
		f.adopt(t)
		if got := f.limit(t); got != tt.want {
			t.Errorf("%s the limit is %v, want %v", tt.name, got, tt.want)
		}
	}
	// What the file wants waits like any other proposal.
	if all, err := f.RuleChanges(t.Context()); err != nil || len(all) != 5 || !all[4].InForceAt.IsZero() || all[4].ProposedBy != "headgate.yaml" {
		t.Errorf("%d changes, %v", len(all), err)
	}
}

func TestBacktestOnTheEvidenceLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.now = time.Now().Add(-time.Hour) // when a release ended is the database's time
	f.adopt(t)
	ended := func(id, c string, o headgate.Outcome) {
		f.release(t, id, digest(c))
		rec, err := f.db.Release(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		rec.Stage, rec.StageStartedAt = headgate.StageGateD, f.now
		f.probe(t, rec)
		f.reports(t, id)
		f.now = f.now.Add(time.Minute)
		f.gateD(t, rec)
		f.end(t, o)
	}
	ended("rel-good", "a", headgate.Promoted)
	ended("rel-bad", "b", headgate.RolledBack)
	f.release(t, "rel-bare", digest("c"))
	f.end(t, headgate.Blocked)
	f.release(t, "rel-runs", digest("d"))
	table := func(file []byte, since time.Duration) gate.ConfusionTable {
		got, err := f.BacktestRules(context.WithoutCancel(t.Context()), bob, "", file, since)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	// The figures of these releases are all 1 s.
	got := table(ruleFile(2, 1.2), 24*time.Hour)
	if got.AdmittedGood != 1 || got.AdmittedBad != 1 || got.Unusable != 1 || len(got.Releases) != 3 {
		t.Errorf("as loose as before: %+v", got)
	}
	got = table(ruleFile(2, 0.8), 24*time.Hour)
	if got.BlockedGood != 1 || got.BlockedBad != 1 || got.Unusable != 1 {
		t.Errorf("stricter: %+v", got)
	}
	f.now = f.now.Add(48 * time.Hour)
	if got = table(ruleFile(2, 0.8), 24*time.Hour); len(got.Releases) != 0 {
		t.Errorf("releases from before: %+v", got)
	}
	other := access.Identity{Name: "eve", Role: access.Viewer, Tenants: []string{"borealis"}}
	if got, err := f.BacktestRules(t.Context(), other, "", ruleFile(2, 0.8), 1000*time.Hour); err != nil || len(got.Releases) != 0 {
		t.Errorf("another tenant sees %d releases, %v", len(got.Releases), err)
	}
	if f.limit(t) != 1.5 {
		t.Error("a backtest changed the rules")
	}
}

func TestAServiceMayHaveRulesOfItsOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	ctx := t.Context()
	rec := f.admissible(t, "rel-1", digest("a"))

	// Everybody's rules change: the service has none of its own, so its verdicts are stale.
	if _, err := f.ProposeRules(ctx, ada, "", ruleFile(2, 1.4)); err != nil {
		t.Fatal(err)
	}
	if res := f.ready(t, rec); !slices.Equal(res.Reasons, gateDMissing) {
		t.Errorf("under other rules: %+v", res)
	}
	own, err := f.ProposeRules(ctx, ada, rec.Service, ruleFile(3, 1.3))
	if err != nil || own.InForceAt.IsZero() || own.Service != rec.Service {
		t.Fatalf("stricter rules of its own: %+v, %v", own, err)
	}
	for _, g := range headgate.GateD() {
		if e, err := f.EvaluateRelease(ctx, operator, rec.ID, g); err != nil || e.RulesDigest != own.Digest {
			t.Fatalf("judged by %s, %v, want its own %s", e.RulesDigest, err, own.Digest)
		}
	}
	if res := f.ready(t, rec); res.Verdict != headgate.Pass {
		t.Errorf("judged again: %+v", res)
	}
	// From now on everybody's rules are not its own.
	if _, err := f.ProposeRules(ctx, ada, "", ruleFile(4, 1.1)); err != nil {
		t.Fatal(err)
	}
	if res := f.ready(t, rec); res.Verdict != headgate.Pass {
		t.Errorf("everybody's rules changed: %+v", res)
	}
	// What loosens is measured by what the service is judged by, and takes two.
	loose, err := f.ProposeRules(ctx, ada, rec.Service, ruleFile(5, 1.35))
	if err != nil || !loose.InForceAt.IsZero() || len(loose.Loosened) != 1 {
		t.Errorf("looser than its own: %+v, %v", loose, err)
	}
	if _, err := f.ApproveRules(ctx, bob, "", loose.Digest, "ok"); code(err) != control.CodeRulesNotFound {
		t.Errorf("approved for everybody: %v", err)
	}
	laptop := access.Identity{Name: "ada-laptop", Person: "Ada ", Role: access.Operator}
	if _, err := f.ApproveRules(ctx, laptop, rec.Service, loose.Digest, "ok"); code(err) != headgate.CodeApprovalRequired {
		t.Errorf("approved by the proposer's other credential: %v", err)
	}
	if _, err := f.ApproveRules(ctx, bob, rec.Service, loose.Digest, "ok"); err != nil || f.limit(t) != 1.35 {
		t.Errorf("approved: %v, limit %v", err, f.limit(t))
	}
	if res := f.ready(t, rec); !slices.Equal(res.Reasons, gateDMissing) {
		t.Errorf("verdicts under the service's old rules: %+v", res)
	}
	if _, err := f.ProposeRules(ctx, ada, "nobody's", ruleFile(9, 1)); code(err) != headgate.CodeServiceNotFound {
		t.Errorf("rules of no service: %v", err)
	}
}
