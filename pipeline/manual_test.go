package pipeline

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

func said(v headgate.Verdict, codes ...string) canary.Decision {
	return canary.Decision{Verdict: v, Share: 1, Reason: "why", Reasons: codes}
}

// A person's promotion needs a canary that nothing speaks against.
func TestCheckPromotion(t *testing.T) {
	t.Parallel()
	with := func(change func(*canary.Decision)) *canary.Decision {
		d := said(headgate.Insufficient, canary.CodeMoreData)
		if change != nil {
			change(&d)
		}
		return &d
	}
	verdict := func(v headgate.Verdict, codes ...string) *canary.Decision { d := said(v, codes...); return &d }
	cfg := canary.DefaultConfig()
	for _, tt := range []struct {
		name string
		d    *canary.Decision
		ok   bool
	}{
		{"passed", verdict(headgate.Pass, canary.CodeNoWorse), true},
		{"too little data", with(nil), true},
		{"no traffic", verdict(headgate.Insufficient, canary.CodeNoTraffic), true},
		{"not long enough", verdict(headgate.Insufficient, canary.CodeMinDuration), true},
		{"never looked", nil, false},
		{"failed", verdict(headgate.Fail, canary.CodeErrorsWorse), false},
		{"broken", verdict(headgate.Broken, canary.CodeTelemetryStale), false},
		{"looks worse", verdict(headgate.Insufficient, canary.CodeLooksWorse), false},
		{"throttled", with(func(d *canary.Decision) { d.Share = 0.01 }), false},
		{"one tenant speaks against it", verdict(headgate.Insufficient, canary.CodeOneTenant), false},
		{"a breach that its next evaluation decides", with(func(d *canary.Decision) { d.Breaches = []headgate.Breach{{MetricCode: "X"}} }), false},
		{"both arms fail more than they may", with(func(d *canary.Decision) { d.Evidence.Kill = 100 }), false},
		{"a reason of tomorrow", verdict(headgate.Insufficient, "CANARY_SOMETHING_NEW"), false},
	} {
		err := CheckPromotion(tt.d, cfg)
		if (err == nil) != tt.ok || (err != nil && headgate.AsError(err).Code != CodePromotionRefused) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// What people want is the newest word, and the judge's limit is below it.
func TestSteering(t *testing.T) {
	t.Parallel()
	pause, resume := Fact{Kind: FactPause, Actor: "ann"}, Fact{Kind: FactResume, Actor: "ann"}
	share := func(v float64) Fact { return Fact{Kind: FactShare, Share: v} }
	limit := func(v float64) canary.Decision { d := said(headgate.Insufficient); d.Share = v; return d }
	now := limit(1)
	for _, tt := range []struct {
		name   string
		facts  []Fact
		has    float64 // the canary's share before
		d      canary.Decision
		share  float64
		paused bool
	}{
		{"nobody says anything", nil, 0.1, now, 0.1, false},
		{"the judge limits", nil, 0.1, limit(0.02), 0.02, false},
		{"a share above the plan's", []Fact{share(0.5)}, 0.1, now, 0.5, false},
		{"a share below it", []Fact{share(0.01)}, 0.1, now, 0.01, false},
		{"a share above the judge's limit", []Fact{share(0.5)}, 0.1, limit(0.02), 0.02, false},
		{"the newest share", []Fact{share(0.5), share(0.3)}, 0.5, now, 0.3, false},
		{"a pause keeps the share", []Fact{pause}, 0.1, now, 0.1, true},
		{"a pause keeps a limited share", []Fact{pause}, 0.02, now, 0.02, true},
		{"a paused canary is limited", []Fact{pause}, 0.1, limit(0.02), 0.02, true},
		{"a share set during a pause", []Fact{pause, share(0.3)}, 0.1, now, 0.3, true},
		{"a share set before a pause", []Fact{share(0.3), pause}, 0.3, now, 0.3, true},
		{"resumed", []Fact{pause, resume}, 0.02, now, 0.1, false},
		{"paused again", []Fact{pause, resume, pause}, 0.1, now, 0.1, true},
		{"resumed without a pause", []Fact{resume}, 0.1, now, 0.1, false},
	} {
		r := Record{Plan: Plan{Share: 0.1}, State: State{Share: tt.has}}
		s := steer(r, tt.facts)
		if got := s.allowed(r, tt.d); got != tt.share || s.paused != tt.paused {
			t.Errorf("%s: share %v, paused %v, want %v, %v", tt.name, got, s.paused, tt.share, tt.paused)
		}
	}
}

// A demand to promote is answered once, in the person's name.
func TestPromotionIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	promote := Fact{Kind: FactPromote, Actor: "ann", From: "192.0.2.1", Reason: "the owner agrees"}
	pause := Fact{Kind: FactPause, Actor: "bob"}
	quiet, worse := said(headgate.Insufficient, canary.CodeMoreData), said(headgate.Insufficient, canary.CodeLooksWorse)
	for _, tt := range []struct {
		name     string
		facts    []Fact
		answered int
		d        canary.Decision
		granted  bool
		events   []string
	}{
		{"nobody asked", nil, 0, quiet, false, nil},
		{"granted", []Fact{promote}, 0, quiet, true, []string{"canary_promoted_by_hand"}},
		{"refused", []Fact{promote}, 0, worse, false, []string{"promotion_refused"}},
		{"of a broken canary", []Fact{promote}, 0, said(headgate.Broken, canary.CodeTelemetryMissing), false, []string{"promotion_refused"}},
		{"while paused", []Fact{promote, pause}, 0, quiet, false, []string{"promotion_refused"}},
		{"answered before", []Fact{promote}, 1, quiet, false, nil},
		{"asked again", []Fact{promote, promote}, 1, quiet, true, []string{"canary_promoted_by_hand"}},
	} {
		r := Record{Plan: Plan{Canary: canary.DefaultConfig()}, State: State{Promotions: tt.answered}}
		c := Commit{Record: r}
		granted := steer(r, tt.facts).answer(&c, tt.d, time.Now())
		var kinds []string
		for _, ev := range c.Events {
			kinds = append(kinds, ev.Kind)
			if ev.Actor != "ann" || ev.From != "192.0.2.1" || ev.Reason != "the owner agrees" || ev.Message == "" {
				t.Errorf("%s: the trail does not say who did it and why: %+v", tt.name, ev)
			}
		}
		if granted != tt.granted || !slices.Equal(kinds, tt.events) {
			t.Errorf("%s: granted %v, events %v", tt.name, granted, kinds)
		}
		if asked := steer(c.Record, tt.facts); asked.promote != nil {
			t.Errorf("%s: the demand stands after its answer", tt.name)
		}
	}
}

func TestDecideUnderManualControl(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	pause, promote := Fact{Kind: FactPause}, Fact{Kind: FactPromote}
	for _, tt := range []struct {
		name    string
		stage   headgate.Stage
		verdict headgate.Verdict
		facts   []Fact
		late    bool
		do      kind
		outcome headgate.Outcome
	}{
		{"a paused canary is judged on", headgate.StageCanary, headgate.Insufficient, []Fact{pause}, false, doTick, ""},
		{"a demand is looked at before the canary's limit", headgate.StageCanary, headgate.Insufficient, []Fact{promote}, false, doTick, ""},
		{"a pass that nobody resumed", headgate.StageCanary, headgate.Pass, []Fact{pause}, true, doRollback, headgate.Inconclusive},
		{"a pause does not stop the clock", headgate.StageCanary, headgate.Insufficient, []Fact{pause}, true, doRollback, headgate.Inconclusive},
		{"an abort of a paused release", headgate.StageCanary, headgate.Pass, []Fact{pause, {Kind: FactAbort, Reason: "no"}}, false, doRollback, headgate.RolledBack},
		{"too late for a pause", headgate.StageFull, headgate.Pass, []Fact{pause}, false, doPromote, ""},
		{"no promotion past the gates", headgate.StageGateD, "", []Fact{promote}, false, doRun, ""},
	} {
		r := Record{Phase: PhaseRunning, DeadlineAt: now.Add(time.Hour), State: State{Holding: tt.verdict != "", Granted: true}}
		r.ID, r.Stage = "rel-1", tt.stage
		if tt.verdict != "" {
			r.State.Canary = &canary.Decision{Verdict: tt.verdict, ElapsedSeconds: 10}
		}
		if slices.ContainsFunc(tt.facts, func(f Fact) bool { return f.Kind == FactPromote }) {
			r.Plan.CanaryMax = time.Second
		}
		if tt.late {
			r.DeadlineAt = now
		}
		if got := decide(r, tt.facts, now); got.do != tt.do || got.outcome != tt.outcome {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// An approval is for what waits for it, and is not kept for later.
func TestCheckApproval(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	approved := func(at time.Time) []Fact { return []Fact{{Kind: FactApproval, Actor: "ann", At: at}} }
	tiers := []Tier{{Name: rollout.TierSmall}, {Name: rollout.TierLarge, ApprovalRequired: true}}
	for _, tt := range []struct {
		name  string
		at    Record
		stage headgate.Stage
		facts []Fact
		want  string // of the refusal, empty for none
	}{
		{name: "at rollout", at: Record{Plan: Plan{ApprovalRequired: true}}, stage: headgate.StageRollout},
		{name: "at rollout, after one that came too early", at: Record{Plan: Plan{ApprovalRequired: true}}, stage: headgate.StageRollout, facts: approved(began.Add(-1))},
		{name: "twice", at: Record{Plan: Plan{ApprovalRequired: true}}, stage: headgate.StageRollout, facts: approved(began), want: "was approved already, by ann"},
		{name: "nobody asks", stage: headgate.StageRollout, want: "is at rollout and waits for no approval"},
		{name: "too early", at: Record{Plan: Plan{ApprovalRequired: true, Wider: tiers}}, stage: headgate.StageReplay, want: "is at replay and waits for no approval; it will before users meet it, at rollout; it will before tier large"},
		{name: "a tier too early", at: Record{Plan: Plan{Wider: tiers}, State: State{Granted: true}}, stage: headgate.StageCanary, want: "is at canary and waits for no approval; it will before tier large"},
		{name: "the tier before", at: Record{Plan: Plan{Wider: tiers}, State: State{Granted: true, Tier: 1}}, stage: headgate.StageCanary},
		{name: "the tier before, after one for an earlier tier", at: Record{Plan: Plan{Wider: tiers}, State: State{Granted: true, Tier: 1}}, stage: headgate.StageCanary, facts: approved(began.Add(-1))},
		{name: "the tier itself", at: Record{Plan: Plan{Wider: tiers}, State: State{Granted: true, Tier: 2}}, stage: headgate.StageCanary, want: "waits for no approval"},
		{name: "a tenant was taken off", at: Record{State: State{Granted: true, Note: "decide yourself: headgate release promote"}}, stage: headgate.StageCanary, want: "decide yourself: headgate release promote"},
		{name: "rolling back", at: Record{Phase: PhaseRollingBack, Plan: Plan{ApprovalRequired: true}}, stage: headgate.StageRollout, want: "is rolling back"},
		{name: "promoted", at: Record{Plan: Plan{ApprovalRequired: true, Wider: tiers}}, stage: headgate.StageFeedback, want: "is at feedback and waits for no approval"},
	} {
		r := tt.at
		r.Phase = cmp.Or(r.Phase, PhaseRunning)
		r.ID, r.Stage, r.StageStartedAt, r.State.TierSince = "rel-1", tt.stage, began, began
		err := CheckApproval(r, tt.facts)
		if tt.want == "" && err == nil {
			continue
		}
		if tt.want == "" || headgate.AsError(err) == nil || headgate.AsError(err).Code != CodeNothingToApprove || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want … %s", tt.name, err, tt.want)
		}
	}
}
