package control

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/telemetry"
)

// CodeNotInCanary is the error of steering a release whose canary is over or
// has not begun.
const CodeNotInCanary = "RELEASE_NOT_IN_CANARY"

// Pause keeps a release from being promoted, and its share from rising, until
// it is resumed. It is judged on: a failure still takes it back.
func (p *Plane) Pause(ctx context.Context, who access.Identity, id, reason string) error {
	return p.steer(ctx, who, id, pipeline.Fact{Kind: pipeline.FactPause, Reason: reason})
}

// Resume lets a paused release go on.
func (p *Plane) Resume(ctx context.Context, who access.Identity, id, reason string) error {
	return p.steer(ctx, who, id, pipeline.Fact{Kind: pipeline.FactResume, Reason: reason})
}

// SetShare sets the share, above 0 to 1, that a release's canary has or will
// have. What its judge allows stays the limit.
func (p *Plane) SetShare(ctx context.Context, who access.Identity, id string, share float64, reason string) error {
	if !(share > 0 && share <= 1) {
		return headgate.Invalidf("share must be above 0 and at most 1; abort the release to take its traffic away")
	}
	return p.steer(ctx, who, id, pipeline.Fact{Kind: pipeline.FactShare, Share: share, Reason: reason})
}

// Promote ends a release's canary in the candidate's favour. It is
// PROMOTION_REFUSED when [pipeline.CheckPromotion] refuses now; the pipeline
// asks it again at its next look, and the trail says so if that refuses.
func (p *Plane) Promote(ctx context.Context, who access.Identity, id, reason string) error {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return err
	}
	if rec.Phase == pipeline.PhaseRunning && rec.Stage == headgate.StageCanary {
		if !rec.State.Granted {
			return headgate.Errorf(pipeline.CodePromotionRefused, headgate.ClassBusinessRule,
				"not promoted: no user has met release %s yet%s", id, because(rec.State.Note))
		}
		if err := pipeline.CheckPromotion(rec.State.Canary, rec.Plan.Canary); err != nil {
			return err
		}
		if rec.State.Paused {
			return headgate.Errorf(pipeline.CodePromotionRefused, headgate.ClassBusinessRule,
				"not promoted: release %s is paused; resume it first", id)
		}
	} else if !rec.Done() {
		return notInCanary(rec, "only a canary is promoted by hand")
	}
	return p.steer(ctx, who, id, pipeline.Fact{Kind: pipeline.FactPromote, Reason: reason})
}

// steer tells the pipeline what a person wants of a canary, present or to come,
// unless it has that already: see [pipeline.CheckSteering].
func (p *Plane) steer(ctx context.Context, who access.Identity, id string, f pipeline.Fact) error {
	if err := giveReason(&f.Reason); err != nil {
		return err
	}
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return err
	}
	if rec.Phase == pipeline.PhaseRollingBack {
		return notInCanary(rec, "its traffic goes to stable; headgate release show "+id+" says how far it is")
	}
	over := rec.Stage == headgate.StageFull || rec.Stage == headgate.StageFeedback
	if over && !rec.Done() {
		return notInCanary(rec, "its canary is over; headgate release rollback takes it back")
	}
	facts, err := p.o.Store.Facts(ctx, id)
	if err != nil {
		return err
	}
	if err := pipeline.CheckSteering(rec, facts, f); err != nil && !rec.Done() {
		return err
	}
	f.Actor, f.From = who.Name, who.From
	ev := headgate.Event{
		Kind: fmt.Sprintf("%s_requested", f.Kind), ReleaseID: id, Service: rec.Service, TenantID: rec.TenantID,
		Actor: who.Name, From: who.From, Reason: f.Reason, Stage: rec.Stage,
	}
	if f.Kind == pipeline.FactShare {
		ev.Message, ev.Data = fmt.Sprintf("%.4g%% of the sessions", f.Share*100), map[string]any{"share": f.Share}
	}
	return p.signal(ctx, id, f, ev)
}

func notInCanary(rec pipeline.Record, why string) error {
	at := string(rec.Stage)
	if rec.Phase == pipeline.PhaseRollingBack {
		at = "rolling back"
	} else {
		at = "at " + at
	}
	return headgate.Errorf(CodeNotInCanary, headgate.ClassBusinessRule, "release %s is %s: %s", rec.ID, at, why)
}

func because(note string) string {
	if note == "" {
		return ""
	}
	return ": it " + note
}

// maxReason bounds why somebody did something, in bytes.
const maxReason = 1000

// giveReason is REQ_VALIDATION_FAILED unless somebody says why. A secret in it
// is taken out: the audit log keeps it for good and shows it to everybody.
func giveReason(reason *string) error {
	if strings.TrimSpace(*reason) == "" || len(*reason) > maxReason {
		return headgate.Invalidf("say why in at most %d bytes: a reason is kept in the audit log", maxReason)
	}
	*reason = withoutSecrets(*reason)
	return nil
}

// withoutSecrets is what somebody wrote, with [telemetry.Redacted] in place of
// the secrets.
func withoutSecrets(said string) string {
	clean, _ := inWords.Text(said)
	return clean
}

// inWords finds what is a secret in telemetry, and passwords in addresses.
var inWords = telemetry.NewRedactor(regexp.MustCompile(`://[^/\s:@]*:(?P<s>[^/\s@]+)@`))
