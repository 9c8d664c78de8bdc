package control

import (
	"context"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
)

const (
	// CodeNotQuarantined is the error of a digest that is not in quarantine.
	CodeNotQuarantined = "QUARANTINE_NOT_FOUND"
	// CodeQuarantineMoved is the error of a change to a quarantine that somebody
	// else has just changed.
	CodeQuarantineMoved = "QUARANTINE_MOVED"
)

// ErrQuarantineMoved is what a [QuarantineStore] answers when somebody was
// faster.
var ErrQuarantineMoved = headgate.Errorf(CodeQuarantineMoved, headgate.ClassTransient,
	"somebody else has just changed this quarantine; look at it again (headgate quarantine list)")

// Quarantined is a digest that was rolled back and is not released again until
// two people agree to it.
type Quarantined struct {
	Service string `json:"service"`
	Digest  string `json:"digest"`
	// ReleaseID is the release that was rolled back, with its tenant and
	// version.
	ReleaseID string    `json:"release_id"`
	TenantID  string    `json:"tenant_id,omitempty"`
	Version   string    `json:"version"`
	At        time.Time `json:"at"`
	// RequestedBy asked first to release it, and Reason is why; empty for
	// nobody.
	RequestedBy string    `json:"requested_by,omitempty"`
	RequestedAt time.Time `json:"requested_at,omitzero"`
	Reason      string    `json:"reason,omitempty"`
	// ReleasedBy agreed; the digest is not in quarantine any more.
	ReleasedBy string `json:"released_by,omitempty"`
}

// QuarantineStore keeps the digests that must not be released again. The
// pipeline's commits put them in, too.
type QuarantineStore interface {
	// Quarantined returns the oldest first, of one service or of all.
	Quarantined(ctx context.Context, service string) ([]Quarantined, error)
	// PutQuarantine puts a digest in; one that is in stays as it is.
	PutQuarantine(ctx context.Context, q Quarantined) error
	// RequestQuarantineRelease keeps q's request and its event, unless there is
	// one: [ErrQuarantineMoved].
	RequestQuarantineRelease(ctx context.Context, q Quarantined, ev headgate.Event) error
	// EndQuarantine takes a digest out and keeps the event, while q's request
	// is the one that was made; else [ErrQuarantineMoved].
	EndQuarantine(ctx context.Context, q Quarantined, ev headgate.Event) error
}

// Quarantine returns the digests in quarantine that the caller may see, oldest
// first, of one service or of all.
func (p *Plane) Quarantine(ctx context.Context, who access.Identity, service string) ([]Quarantined, error) {
	all, err := p.o.Store.Quarantined(ctx, service)
	if err != nil {
		return nil, err
	}
	out := []Quarantined{}
	for _, q := range all {
		if who.Sees(q.TenantID) {
			out = append(out, q)
		}
	}
	return out, nil
}

// ReleaseQuarantine asks to release a digest, or releases the one that somebody
// else asked for. Whoever asks twice has asked once. The service may be empty
// where the digest is in quarantine for one alone.
func (p *Plane) ReleaseQuarantine(ctx context.Context, who access.Identity, service, digest, reason string) (Quarantined, error) {
	if err := who.May(access.Approver); err != nil {
		return Quarantined{}, err
	}
	if err := giveReason(&reason); err != nil {
		return Quarantined{}, err
	}
	q, err := p.quarantined(ctx, who, service, digest)
	if err != nil {
		return Quarantined{}, err
	}
	now := p.o.Now().UTC()
	ev := headgate.Event{
		Time: now, ReleaseID: q.ReleaseID, Service: q.Service, TenantID: q.TenantID, Actor: who.Name, From: who.From, Reason: reason,
	}
	switch {
	case access.SamePerson(q.RequestedBy, who.Holder()):
		return q, nil
	case q.RequestedBy == "":
		q.RequestedBy, q.RequestedAt, q.Reason = who.Holder(), now, reason
		ev.Kind, ev.Message = "quarantine_release_requested", "asks to release "+q.Digest+" from quarantine; somebody else has to agree"
		ev.Data = map[string]any{"digest": q.Digest}
		err = p.o.Store.RequestQuarantineRelease(ctx, q, ev)
	default:
		q.ReleasedBy = who.Holder()
		ev.Kind, ev.Message = "quarantine_released", q.Digest+" may be released again, by "+q.RequestedBy+" and "+q.ReleasedBy
		ev.Data = map[string]any{"digest": q.Digest, "requested_by": q.RequestedBy, "requested_at": q.RequestedAt, "request_reason": q.Reason}
		err = p.o.Store.EndQuarantine(ctx, q, ev)
	}
	if err != nil {
		return Quarantined{}, err
	}
	p.Seal()
	return q, nil
}

// quarantined finds the one that is meant, among those that the caller may see.
func (p *Plane) quarantined(ctx context.Context, who access.Identity, service, digest string) (Quarantined, error) {
	all, err := p.Quarantine(ctx, who, service)
	if err != nil {
		return Quarantined{}, err
	}
	var found []Quarantined
	for _, q := range all {
		if q.Digest == digest {
			found = append(found, q)
		}
	}
	switch len(found) {
	case 0:
		return Quarantined{}, headgate.Errorf(CodeNotQuarantined, headgate.ClassBusinessRule,
			"this digest is not in quarantine; headgate quarantine list shows those that are")
	case 1:
		return found[0], nil
	}
	return Quarantined{}, headgate.Invalidf("the digest is in quarantine for several services; name the one that is meant (--service)")
}
