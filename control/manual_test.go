package control_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
)

// at moves a release as the pipeline would.
func (f *fixture) at(t *testing.T, change func(*pipeline.Record)) pipeline.Record {
	t.Helper()
	rec, _, ok, err := f.db.Claim(t.Context(), "test", time.Minute, pipeline.PlanVersion)
	if err != nil || !ok {
		t.Fatalf("claim: %v %v", ok, err)
	}
	change(&rec)
	rec.NextRunAt = time.Now().Add(-time.Second) // it can be claimed again
	if err := f.db.Commit(t.Context(), pipeline.Commit{Record: rec, ClaimedGen: rec.Gen}); err != nil {
		t.Fatal(err)
	}
	return rec
}

func inCanary(v headgate.Verdict, codes ...string) func(*pipeline.Record) {
	return func(r *pipeline.Record) {
		r.Stage = headgate.StageCanary
		r.State.Holding, r.State.Granted, r.State.Share = true, true, 0.1
		r.State.Canary = &canary.Decision{Verdict: v, Share: 1, Reasons: codes, Reason: "why"}
	}
}

// facts are what the pipeline is told.
func (f *fixture) facts(t *testing.T) []pipeline.Fact {
	t.Helper()
	_, facts, ok, err := f.db.Claim(t.Context(), "test", time.Minute, pipeline.PlanVersion)
	if err != nil || !ok {
		t.Fatalf("claim: %v %v", ok, err)
	}
	return facts
}

func TestManualControlReachesThePipelineAndTheTrail(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ctx := t.Context()
	f.release(t, "rel-1", digest("a"))
	f.at(t, inCanary(headgate.Insufficient, canary.CodeMoreData))
	for _, err := range []error{
		f.Pause(ctx, operator, "rel-1", "wait for the owner"), f.Resume(ctx, operator, "rel-1", "agreed"),
		f.SetShare(ctx, operator, "rel-1", 0.25, "more data"), f.Promote(ctx, operator, "rel-1", "nobody uses it"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	facts := f.facts(t)
	want := []pipeline.FactKind{pipeline.FactPause, pipeline.FactResume, pipeline.FactShare, pipeline.FactPromote}
	if len(facts) != len(want) {
		t.Fatalf("facts %+v", facts)
	}
	for i, fact := range facts {
		if fact.Kind != want[i] || fact.Actor != "olga" || fact.Reason == "" || (fact.Share != 0) != (fact.Kind == pipeline.FactShare) {
			t.Errorf("fact %+v", fact)
		}
	}
	rows, err := f.Events(ctx, operator, "rel-1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, row := range rows {
		if strings.HasSuffix(row.Kind, "_requested") {
			kinds = append(kinds, row.Kind)
			if row.Actor != "olga" || row.Reason == "" || row.Stage != headgate.StageCanary {
				t.Errorf("event %+v", row)
			}
		}
	}
	if got := strings.Join(kinds, " "); got != "pause_requested resume_requested share_requested promote_requested" {
		t.Errorf("trail: %s", got)
	}
}

func TestManualControlIsRefused(t *testing.T) {
	t.Parallel()
	other := access.Identity{Name: "otto", Role: access.Operator, Tenants: []string{"borealis"}, TenantID: "borealis"}
	quiet := inCanary(headgate.Insufficient, canary.CodeMoreData)
	paused := func(r *pipeline.Record) { quiet(r); r.State.Paused = true }
	stage := func(s headgate.Stage) func(*pipeline.Record) {
		return func(r *pipeline.Record) { quiet(r); r.Stage = s }
	}
	rollingBack := func(r *pipeline.Record) { quiet(r); r.Phase = pipeline.PhaseRollingBack }
	done := func(r *pipeline.Record) { quiet(r); r.Phase, r.Outcome = pipeline.PhaseDone, headgate.Blocked }
	pause := func(f *fixture, who access.Identity) error { return f.Pause(t.Context(), who, "rel-1", "why") }
	promote := func(f *fixture, who access.Identity) error { return f.Promote(t.Context(), who, "rel-1", "why") }
	resume := func(f *fixture, who access.Identity) error { return f.Resume(t.Context(), who, "rel-1", "why") }
	twice := func(do func(*fixture, access.Identity) error) func(*fixture, access.Identity) error {
		return func(f *fixture, who access.Identity) error { return cmp.Or(do(f, who), do(f, who)) }
	}
	share := func(v float64) func(*fixture, access.Identity) error {
		return func(f *fixture, who access.Identity) error { return f.SetShare(t.Context(), who, "rel-1", v, "why") }
	}
	for _, tt := range []struct {
		name string
		at   func(*pipeline.Record)
		do   func(*fixture, access.Identity) error
		who  access.Identity
		want string
	}{
		{"pause before the canary", stage(headgate.StageReplay), pause, operator, ""},
		{"pause when all traffic goes over", stage(headgate.StageFull), pause, operator, control.CodeNotInCanary},
		{"pause a rollback", rollingBack, pause, operator, control.CodeNotInCanary},
		{"pause what has ended", done, pause, operator, headgate.CodeReleaseDone},
		{"pause another tenant's", quiet, pause, other, headgate.CodeReleaseNotFound},
		{"pause without a reason", quiet, func(f *fixture, who access.Identity) error { return f.Pause(t.Context(), who, "rel-1", " ") }, operator, headgate.CodeValidation},
		{"no share", quiet, share(0), operator, headgate.CodeValidation},
		{"more than everything", quiet, share(1.1), operator, headgate.CodeValidation},
		{"everything", quiet, share(1), operator, ""},
		{"a share twice", quiet, twice(share(0.5)), operator, pipeline.CodeNothingToSteer},
		{"a share that the pause held", quiet, func(f *fixture, who access.Identity) error {
			return cmp.Or(share(0.5)(f, who), pause(f, who), share(0.5)(f, who), pause(f, who))
		}, operator, ""},
		{"pause twice", quiet, twice(pause), operator, pipeline.CodeNothingToSteer},
		{"resume what is not paused", quiet, resume, operator, pipeline.CodeNothingToSteer},
		{"resume twice", quiet, func(f *fixture, who access.Identity) error {
			return cmp.Or(pause(f, who), resume(f, who), resume(f, who))
		}, operator, pipeline.CodeNothingToSteer},
		{"resume what has ended", done, resume, operator, headgate.CodeReleaseDone},
		{"promote what no user has met", func(r *pipeline.Record) { quiet(r); r.State.Granted = false }, promote, operator, pipeline.CodePromotionRefused},
		{"promote past the gates", stage(headgate.StageGateD), promote, operator, control.CodeNotInCanary},
		{"promote what looks worse", inCanary(headgate.Insufficient, canary.CodeLooksWorse), promote, operator, pipeline.CodePromotionRefused},
		{"promote what is broken", inCanary(headgate.Broken, canary.CodeTelemetryStale), promote, operator, pipeline.CodePromotionRefused},
		{"promote what has failed", inCanary(headgate.Fail, canary.CodeErrorsWorse), promote, operator, pipeline.CodePromotionRefused},
		{"promote what is paused", paused, promote, operator, pipeline.CodePromotionRefused},
		{"promote what has ended", done, promote, operator, headgate.CodeReleaseDone},
		{"promote another tenant's", quiet, promote, other, headgate.CodeReleaseNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.release(t, "rel-1", digest("a"))
			f.at(t, tt.at)
			if err := tt.do(f, tt.who); code(err) != tt.want {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// What people write beside what they do is kept for good and shown to
// everybody; a secret in it is not.
func TestSecretsThatPeopleWriteAreNotKept(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	const token = "ghp_1234567890abcdefABCDEF1234567890abcd"
	v, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{
		ID: "rel-1", Version: "v2", Digest: digest("a"), CandidateURL: "http://127.0.0.1:9",
		Source: headgate.Source{Author: "bob " + token, Link: "https://bob:Hunter2SECRET@ci.example/job"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(t.Context(), operator, "rel-1", "password=Hunter2SECRET at postgres://bob:Hunter2SECRET@db with "+token); err != nil {
		t.Fatal(err)
	}
	rows, err := f.Events(t.Context(), operator, "rel-1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprint(v, rows, f.facts(t))
	if strings.Contains(said, token) || strings.Contains(said, "Hunter2SECRET") || !strings.Contains(said, "postgres://bob:[REDACTED]@db") {
		t.Errorf("kept: %s", said)
	}
}
