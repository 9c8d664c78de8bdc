package evidence_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

func TestAdmissible(t *testing.T) {
	t.Parallel()
	good := evidence.Summary{Time: start, ReleaseDigest: releaseDigest, RulesDigest: "sha256:aa", Verdict: headgate.Pass}
	want := evidence.Want{ReleaseDigest: releaseDigest, RulesDigest: "sha256:aa", MaxAge: time.Hour}
	tests := []struct {
		name   string
		edit   func(e *evidence.Summary, w *evidence.Want)
		after  time.Duration
		reason string
	}{
		{"fresh", func(*evidence.Summary, *evidence.Want) {}, 0, ""},
		{"exactly as old as allowed", func(*evidence.Summary, *evidence.Want) {}, time.Hour, ""},
		{"too old", func(*evidence.Summary, *evidence.Want) {}, time.Hour + 1, evidence.ReasonStale},
		{"no age limit", func(_ *evidence.Summary, w *evidence.Want) { w.MaxAge = 0 }, 9000 * time.Hour, ""},
		{"none", func(e *evidence.Summary, _ *evidence.Want) { *e = evidence.Summary{} }, 0, evidence.ReasonMissing},
		{"declared", func(e *evidence.Summary, _ *evidence.Want) { e.Declared = true }, 0, evidence.ReasonDeclared},
		{"of another build", func(e *evidence.Summary, _ *evidence.Want) { e.ReleaseDigest = "sha256:bb" }, 0, evidence.ReasonOtherRelease},
		{"no digest at all", func(e *evidence.Summary, w *evidence.Want) { e.ReleaseDigest, w.ReleaseDigest = "", "" }, 0, evidence.ReasonOtherRelease},
		{"under other rules", func(_ *evidence.Summary, w *evidence.Want) { w.RulesDigest = "sha256:cc" }, 0, evidence.ReasonOtherRules},
		{"from the future", func(*evidence.Summary, *evidence.Want) {}, -2 * time.Minute, evidence.ReasonFuture},
		{"within clock skew", func(*evidence.Summary, *evidence.Want) {}, -time.Minute, ""},
		{"before the last rollback", func(_ *evidence.Summary, w *evidence.Want) { w.NotBefore = start.Add(1) }, time.Minute, evidence.ReasonSuperseded},
		{"failed", func(e *evidence.Summary, _ *evidence.Want) { e.Verdict = headgate.Fail }, 0, evidence.ReasonNotPassing},
		{"insufficient", func(e *evidence.Summary, _ *evidence.Want) { e.Verdict = headgate.Insufficient }, 0, evidence.ReasonNotPassing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, w := good, want
			tt.edit(&e, &w)
			ok, reason := evidence.Admissible(e, w, start.Add(tt.after))
			if ok != (tt.reason == "") || reason != tt.reason {
				t.Errorf("ok = %v, reason = %q, want %q", ok, reason, tt.reason)
			}
		})
	}
}
