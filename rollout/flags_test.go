package rollout_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func canaryFlags(tb testing.TB, share float64) rollout.Flags {
	tb.Helper()
	plan, err := rollout.NewPlan("rel-1", []string{"acme", "borealis"}, []headgate.ProjectSize{headgate.SizeSmall, headgate.SizeMedium}, true)
	if err != nil {
		tb.Fatal(err)
	}
	return rollout.Flags{
		Stable:    map[headgate.Component]string{headgate.ModelConfig: "mc-1", headgate.WorkflowVersion: "wf-1"},
		Candidate: map[headgate.Component]string{headgate.ModelConfig: "mc-2"},
		Plan:      plan, Tenants: []string{"acme"}, Share: share, Until: noon.Add(10 * time.Second),
	}
}

func TestFlagsAreStableUnlessEverythingSpeaksForTheCandidate(t *testing.T) {
	t.Parallel()
	acme := rollout.Subject{TenantID: "acme"}
	with := func(change func(*rollout.Subject)) rollout.Subject {
		s := acme
		change(&s)
		return s
	}
	candidate := rollout.Evaluation{Value: "mc-2", Arm: headgate.Candidate, Reason: rollout.ReasonSplit}
	static := rollout.Evaluation{Value: "mc-1", Arm: headgate.Stable, Reason: rollout.ReasonStatic}
	refused := rollout.Evaluation{Value: "mc-1", Arm: headgate.Stable, Reason: rollout.ReasonDefault}
	for _, tt := range []struct {
		name    string
		share   float64
		subject rollout.Subject
		at      time.Time
		want    rollout.Evaluation
	}{
		{"all of the canary", 1, acme, noon, candidate},
		{"of an enabled size", 1, with(func(s *rollout.Subject) { s.ProjectSize = headgate.SizeMedium }), noon, candidate},
		{"of high risk", 1, with(func(s *rollout.Subject) { s.HighRisk = true }), noon, candidate},
		{"a moment before the lease ends", 1, acme, noon.Add(10*time.Second - 1), candidate},
		{"the lease is over", 1, acme, noon.Add(10 * time.Second), static},
		{"no share", 0, acme, noon, static},
		{"a share that is no number", math.NaN(), acme, noon, static},
		{"a size that is not enabled", 1, with(func(s *rollout.Subject) { s.ProjectSize = headgate.SizeLarge }), noon, refused},
		{"a size that there is not", 1, with(func(s *rollout.Subject) { s.ProjectSize = "huge" }), noon, refused},
		{"a tenant that the canary may not meet", 1, rollout.Subject{TenantID: "borealis"}, noon, refused},
		{"nobody", 1, rollout.Subject{}, noon, refused},
	} {
		f := canaryFlags(t, tt.share)
		if got, ok := f.Evaluate(headgate.ModelConfig, tt.subject, "session", tt.at); !ok || got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	f := canaryFlags(t, 1)
	if got, ok := f.Evaluate(headgate.WorkflowVersion, acme, "session", noon); !ok || got.Value != "wf-1" || got.Arm != headgate.Candidate {
		t.Errorf("a component that the release leaves alone: %+v", got)
	}
	if _, ok := f.Evaluate("unknown", acme, "session", noon); ok {
		t.Error("an unknown component is a flag")
	}
	if got, _ := (&rollout.Flags{Stable: f.Stable}).Evaluate(headgate.ModelConfig, acme, "session", noon); got != static {
		t.Errorf("without a release: %+v", got)
	}
}

// A flag and the router that was told the same split put a session on the same
// arm, whatever the share.
func TestFlagsAgreeWithRouters(t *testing.T) {
	t.Parallel()
	for _, share := range []float64{0.01, 0.1, 0.5, 0.99} {
		f := canaryFlags(t, share)
		met := 0
		for i := range 2000 {
			session := fmt.Sprint("session-", i)
			got, _ := f.Evaluate(headgate.ModelConfig, rollout.Subject{TenantID: "acme"}, session, noon)
			if want := rollout.Assign("rel-1", "acme", session, share); got.Arm != want {
				t.Fatalf("share %v, %s: %s, the router says %s", share, session, got.Arm, want)
			}
			if got.Arm == headgate.Candidate {
				met++
			}
		}
		if got := float64(met) / 2000; math.Abs(got-share) > 0.04 {
			t.Errorf("share %v: %v of the sessions met the candidate", share, got)
		}
	}
}

func BenchmarkFlagsEvaluate(b *testing.B) {
	f := canaryFlags(b, 0.1)
	s := rollout.Subject{TenantID: "acme", ProjectSize: headgate.SizeSmall}
	for b.Loop() {
		f.Evaluate(headgate.ModelConfig, s, "5b0c7e9d41f24d0a", noon)
	}
}
