package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
)

const (
	overrideKind = "override"
	// MaxOverride is how long an override may last, from its request.
	MaxOverride = 24 * time.Hour
	// CodeOverrideForbidden is the error of a gate that nobody may let pass.
	CodeOverrideForbidden = "OVERRIDE_FORBIDDEN"
)

// OverrideRequest asks to let a gate of a release pass, or, from a second
// person, agrees to it.
type OverrideRequest struct {
	ReleaseID string
	Gate      headgate.Gate
	Reason    string
	// Expires is how long it lasts, at most [MaxOverride]. The second person's
	// may only shorten it.
	Expires time.Duration
}

// Override is a gate of a release that two people let pass for a time. It does
// nothing until the second has agreed.
type Override struct {
	ID          string        `json:"override_id"`
	ReleaseID   string        `json:"release_id"`
	Gate        headgate.Gate `json:"gate"`
	Reason      string        `json:"reason"`
	RequestedBy string        `json:"requested_by"`
	RequestedAt time.Time     `json:"requested_at"`
	ApprovedBy  string        `json:"approved_by,omitempty"`
	Approval    string        `json:"approval_reason,omitempty"`
	ApprovedAt  time.Time     `json:"approved_at,omitzero"`
	ExpiresAt   time.Time     `json:"expires_at"`
}

func (o Override) granted() bool { return !o.ApprovedAt.IsZero() }

func (o Override) actors() []string { return []string{o.RequestedBy, o.ApprovedBy} }

// Override requests an override, or grants the one that somebody else
// requested for the same gate. Whoever asks twice has asked once. The security
// gate and the replay are OVERRIDE_FORBIDDEN.
func (p *Plane) Override(ctx context.Context, who access.Identity, req OverrideRequest) (Override, error) {
	rec, err := p.release(ctx, who, req.ReleaseID)
	if err != nil {
		return Override{}, err
	}
	if err := checkOverride(who, req); err != nil {
		return Override{}, err
	}
	if rec.Done() {
		return Override{}, headgate.Errorf(headgate.CodeReleaseDone, headgate.ClassBusinessRule,
			"release %s has ended; an override is for one that runs", rec.ID)
	}
	p.overriding.Lock()
	defer p.overriding.Unlock()
	all, err := p.overrides(ctx, rec.ID)
	if err != nil {
		return Override{}, err
	}
	now := p.o.Now().UTC()
	for _, o := range all {
		if o.Gate != req.Gate || !now.Before(o.ExpiresAt) {
			continue
		}
		if o.granted() || access.SamePerson(o.RequestedBy, who.Holder()) {
			return o, nil
		}
		return p.grantOverride(ctx, who, rec.Release, o, req)
	}
	o := Override{
		ID: headgate.NewID("ov"), ReleaseID: rec.ID, Gate: req.Gate, Reason: req.Reason,
		RequestedBy: who.Holder(), RequestedAt: now, ExpiresAt: now.Add(req.Expires),
	}
	if err := p.putDocument(ctx, overrideKind, o.ID, rec.ID, rec.TenantID, o); err != nil {
		return Override{}, err
	}
	return o, p.record(ctx, o.ID+"/requested", o.event("override_requested", who, rec.Release, now, req.Reason))
}

func checkOverride(who access.Identity, req OverrideRequest) error {
	if err := who.May(access.Approver); err != nil {
		return err
	}
	if !gate.Overridable(req.Gate) {
		return headgate.Errorf(CodeOverrideForbidden, headgate.ClassSecuritySensitive,
			"only quality, performance, cost, rollout, rollback and ops can be overridden; security and the replay never")
	}
	if err := giveReason(&req.Reason); err != nil {
		return err
	}
	if req.Expires <= 0 || req.Expires > MaxOverride {
		return headgate.Invalidf("expires must be above 0 and at most 24 h")
	}
	return nil
}

// grantOverride makes a requested override count. Its statement is in the
// evidence log before it does.
func (p *Plane) grantOverride(ctx context.Context, who access.Identity, rel headgate.Release, o Override, req OverrideRequest) (Override, error) {
	now := p.o.Now().UTC()
	o.ApprovedBy, o.ApprovedAt, o.Approval = who.Holder(), now, req.Reason
	if end := now.Add(req.Expires); end.Before(o.ExpiresAt) {
		o.ExpiresAt = end
	}
	st, err := evidence.About(rel, evidence.Override{
		ReleaseID: o.ReleaseID, Time: now, OverrideID: o.ID, Gate: o.Gate, Reason: o.Reason, RequestedBy: o.RequestedBy, RequestedAt: o.RequestedAt,
		ApprovedBy: o.ApprovedBy, ApprovalReason: o.Approval, ExpiresAt: o.ExpiresAt, MadeBy: p.tool(),
	})
	if err != nil {
		return Override{}, err
	}
	if _, err := p.o.Log.Append(ctx, st); err != nil {
		return Override{}, err
	}
	if err := p.record(ctx, o.ID+"/granted", o.event("override_granted", who, rel, now, req.Reason)); err != nil {
		return Override{}, err
	}
	if err := p.putDocument(ctx, overrideKind, o.ID, o.ReleaseID, rel.TenantID, o); err != nil {
		return Override{}, err
	}
	p.wake()
	return o, nil
}

func (o Override) event(kind string, who access.Identity, rel headgate.Release, at time.Time, reason string) headgate.Event {
	return headgate.Event{
		Time: at, Kind: kind, ReleaseID: o.ReleaseID, Service: rel.Service, TenantID: rel.TenantID, Actor: who.Name, From: who.From,
		Reason: reason, Stage: rel.Stage,
		Message: fmt.Sprintf("%s gate, until %s", o.Gate, o.ExpiresAt.Format(time.RFC3339)),
		Data: map[string]any{
			"override_id": o.ID, "gate": o.Gate, "requested_by": o.RequestedBy, "approved_by": o.ApprovedBy, "expires_at": o.ExpiresAt,
		},
	}
}

// overrides returns a release's overrides, requested and granted, oldest first.
func (p *Plane) overrides(ctx context.Context, releaseID string) ([]Override, error) {
	docs, err := p.o.Store.Documents(ctx, overrideKind, releaseID)
	if err != nil {
		return nil, err
	}
	out := make([]Override, len(docs))
	for i, d := range docs {
		if err := json.Unmarshal(d.Body, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// overridesOf are the overrides of a release that count now.
func (p *Plane) overridesOf(ctx context.Context, releaseID string) (map[headgate.Gate]gate.Override, error) {
	all, err := p.overrides(ctx, releaseID)
	if err != nil {
		return nil, err
	}
	out := map[headgate.Gate]gate.Override{}
	for _, o := range all {
		if o.granted() && p.o.Now().Before(o.ExpiresAt) {
			out[o.Gate] = gate.Override{ID: o.ID, Gate: o.Gate, Actors: o.actors(), Reason: o.Reason, ExpiresAt: o.ExpiresAt}
		}
	}
	return out, nil
}

// Overrides returns a release's overrides, also those that only one person
// wants and those that have expired, oldest first.
func (p *Plane) Overrides(ctx context.Context, who access.Identity, releaseID string) ([]Override, error) {
	if _, err := p.release(ctx, who, releaseID); err != nil {
		return nil, err
	}
	return p.overrides(ctx, releaseID)
}
