package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// ReasonManualPromotion is the reason code of a canary that a person ended in
// favour of the candidate.
const ReasonManualPromotion = "MANUAL_PROMOTION"

// steering is what people want of a canary now.
type steering struct {
	// share is the one that they set, 0 for the plan's. The judge's limit is
	// still the lower one.
	share float64
	// paused keeps the release from being promoted; held keeps its share from
	// rising as well, unless somebody set one after the pause.
	paused, held bool
	// promote is a demand that is not answered yet; promotions counts all.
	promote    *Fact
	promotions int
	// approval is the newest one that was given in the present tier.
	approval *Fact
	// word is the newest pause or resume.
	word *Fact
	// last is the judge's decision before this turn.
	last *canary.Decision
}

// steer reads what people want from the facts. The newest word counts.
func steer(r Record, facts []Fact) steering {
	s := steering{last: r.State.Canary}
	for i := range facts {
		switch f := &facts[i]; f.Kind {
		case FactPause:
			s.paused, s.held, s.word = true, true, f
		case FactResume:
			s.paused, s.held, s.word = false, false, f
		case FactShare:
			s.share, s.held = f.Share, false
		case FactApproval:
			if !f.At.Before(r.State.TierSince) {
				s.approval = f
			}
		case FactPromote:
			if s.promotions++; s.promotions > r.State.Promotions {
				s.promote = f
			}
		}
	}
	return s
}

// WantedShare is what people want the canary to have: the share that one of
// them set, else the tier's. The judge's limit may be lower.
func (r Record) WantedShare() float64 { return cmp.Or(r.State.Wanted, r.Tier().Share) }

// wanted is the share that the canary should have if the judge has nothing
// against it.
func (s steering) wanted(r Record) float64 { return cmp.Or(s.share, r.Tier().Share) }

// allowed is the share that the canary gets after a decision.
func (s steering) allowed(r Record, d canary.Decision) float64 {
	share := min(s.wanted(r), d.Share)
	if s.held {
		share = min(share, r.State.Share)
	}
	return share
}

// undecidedReasons are the codes of a canary that nothing speaks against and
// that is not decided yet.
var undecidedReasons = []string{canary.CodeMoreData, canary.CodeMinDuration, canary.CodeNoTraffic, canary.CodeNoStable, canary.CodeCheckUndecided}

// CheckPromotion returns PROMOTION_REFUSED unless a person may give a candidate
// all traffic after the decision d: when the canary passed, or when it is not
// decided yet and nothing speaks against the candidate. A broken canary has
// seen nothing, and a failed one has seen enough.
func CheckPromotion(d *canary.Decision, cfg canary.Config) error {
	switch {
	case d == nil:
		return refused("the canary has not been looked at yet; wait for its first verdict")
	case d.Verdict == headgate.Pass:
		return nil
	case d.Verdict == headgate.Broken:
		return refused("the canary's telemetry is broken, so nobody knows how the candidate does; repair it first")
	case d.Verdict == headgate.Fail:
		return refused("the canary has failed")
	case d.Share < 1, len(d.Breaches) > 0, d.Evidence.Kill >= cfg.Throttle.ReleaseBelow,
		!slices.ContainsFunc(d.Reasons, func(code string) bool { return slices.Contains(undecidedReasons, code) }):
		return refused("something speaks against the candidate: " + d.Reason)
	}
	return nil
}

// CodePromotionRefused is the error code of [CheckPromotion].
const CodePromotionRefused = "PROMOTION_REFUSED"

func refused(why string) error {
	return headgate.Errorf(CodePromotionRefused, headgate.ClassBusinessRule, "not promoted: %s", why)
}

// CodeNothingToApprove is the error code of [CheckApproval].
const CodeNothingToApprove = "NOTHING_TO_APPROVE"

// CheckApproval returns NOTHING_TO_APPROVE unless the release waits for an
// approval, or will at the end of its present tier, and has none yet.
func CheckApproval(r Record, facts []Fact) error {
	var since time.Time
	next, wider := r.nextTier()
	switch {
	case r.Phase == PhaseRunning && r.Stage == headgate.StageRollout && r.Plan.ApprovalRequired:
		since = r.StageStartedAt
	case r.Phase == PhaseRunning && r.Stage == headgate.StageCanary && r.State.Granted && wider && next.ApprovalRequired:
		since = r.State.TierSince
	default:
		return nothing(r, r.instead())
	}
	if f := find(facts, FactApproval, ""); f != nil && !f.At.Before(since) {
		return nothing(r, "was approved already, by "+f.Actor)
	}
	return nil
}

// CodeNothingToSteer is the error code of [CheckSteering].
const CodeNothingToSteer = "NOTHING_TO_STEER"

// CheckSteering returns NOTHING_TO_STEER when the pause, resume or share f asks
// for what the release's facts have asked already: an answer "recorded" would
// let somebody believe that it changed something.
func CheckSteering(r Record, facts []Fact, f Fact) error {
	s := steer(r, facts)
	_, wider := r.nextTier()
	var why string
	switch {
	case f.Kind == FactPause && s.held:
		why = fmt.Sprintf("is paused already, by %s (%s)", s.word.Actor, s.word.Reason)
	case f.Kind == FactResume && !s.paused:
		why = "is not paused; it is at " + string(r.Stage)
		if r.State.Note != "" {
			why += ": " + r.State.Note
		}
	case f.Kind == FactShare && !s.held && f.Share == s.wanted(r) && (s.share != 0 || !wider):
		why = fmt.Sprintf("has a share of %.4g%% already", f.Share*100)
		switch {
		case !r.State.Granted:
			why += ", from the canary's begin on"
		case s.last != nil && s.last.Share < f.Share:
			why += fmt.Sprintf("; its judge limits it to %.4g%%", s.last.Share*100)
		}
	default:
		return nil
	}
	return headgate.Errorf(CodeNothingToSteer, headgate.ClassBusinessRule, "nothing to change: release %s %s", r.ID, why)
}

func nothing(r Record, why string) error {
	return headgate.Errorf(CodeNothingToApprove, headgate.ClassBusinessRule, "nothing to approve: release %s %s", r.ID, why)
}

// instead says what a release that waits for no approval does, and when it
// will wait for one.
func (r Record) instead() string {
	if r.Phase == PhaseRollingBack {
		return "is rolling back"
	}
	said := "is at " + string(r.Stage) + " and waits for no approval"
	all := headgate.Stages()
	stage, rollout, canary := slices.Index(all, r.Stage), slices.Index(all, headgate.StageRollout), slices.Index(all, headgate.StageCanary)
	if r.Plan.ApprovalRequired && stage < rollout {
		said += "; it will before users meet it, at rollout"
	}
	for i, t := range r.Plan.Wider {
		if t.ApprovalRequired && stage <= canary && i >= r.State.Tier {
			said += fmt.Sprintf("; it will before tier %s", t.Name)
		}
	}
	if r.Stage == headgate.StageCanary && r.State.Note != "" {
		said += ": " + r.State.Note
	}
	return said
}

// answer settles a person's demand to promote after the decision d: granted,
// it says why in the trail, as the person's own act; refused, it is void.
func (s steering) answer(c *Commit, d canary.Decision, now time.Time) (granted bool) {
	if s.promote == nil {
		return false
	}
	c.Record.State.Promotions = s.promotions
	err := CheckPromotion(&d, c.Record.Plan.Canary)
	if err == nil && s.paused {
		err = refused("the release is paused; resume it first")
	}
	ev := event(c.Record, now, "canary_promoted_by_hand", d.Verdict, "")
	if err != nil {
		ev.Kind, ev.Message = "promotion_refused", headgate.AsError(err).Message
	} else {
		ev.Message = fmt.Sprintf("%s gives the candidate all traffic although the canary's verdict is %s: %s", s.promote.Actor, d.Verdict, d.Reason)
	}
	ev.Actor, ev.From, ev.Reason = s.promote.Actor, s.promote.From, s.promote.Reason
	ev.Data = map[string]any{
		"reasons": d.Reasons, "elapsed_s": d.ElapsedSeconds, "combined_evidence": d.Evidence.Combined,
		"stable": d.Stable, "candidate": d.Candidate,
	}
	c.Events = append(c.Events, ev)
	return err == nil
}

// released says why the judge limits a canary no more.
func released(d canary.Decision) string {
	if d.Share < 1 {
		return fmt.Sprintf("the judge would limit the candidate to %.3g%% only, which is above its share", d.Share*100)
	}
	return d.Reason
}

// follow sets what the canary gets and tells when a person's word takes effect
// and when the judge's limit comes and goes; the tick log has its course.
func (s steering) follow(c *Commit, d canary.Decision, now time.Time) {
	r := &c.Record
	before, wanted, share := r.WantedShare(), s.wanted(*r), s.allowed(*r, d)
	say := func(kind, message string) {
		ev := event(*r, now, kind, d.Verdict, message)
		ev.Data = map[string]any{"share": share}
		c.Events = append(c.Events, ev)
	}
	if wanted != before {
		say("canary_share_set", fmt.Sprintf("the canary gets %.4g%% of the sessions from now on", share*100))
	}
	limited, wasLimited := d.Share < wanted, s.last != nil && s.last.Share < before
	switch {
	case limited && !wasLimited:
		say("canary_throttled", d.Reason)
	case !limited && wasLimited:
		say("canary_released", released(d))
	}
	waits := s.waitsFor(*r, d)
	if waits != "" && waits != r.State.Note {
		say("stage_waiting", waits)
	}
	r.State.Note = waits
	if s.paused {
		r.State.Note = fmt.Sprintf("paused by %s (%s); it is judged on, and goes on with: headgate release resume %s", s.word.Actor, s.word.Reason, r.ID)
	}
	r.State.Steady = share == r.State.Share
	r.State.Share, r.State.Wanted, r.State.Paused = share, s.share, s.paused
}
