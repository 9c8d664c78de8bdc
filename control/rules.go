package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/gate"
)

const (
	// CodeRulesNotFound is the error of a rule set that nobody proposed.
	CodeRulesNotFound = "RULES_NOT_FOUND"
	// CodeRulesMoved is the error of a change to rules that are not in force any
	// more: what it loosens has to be worked out anew.
	CodeRulesMoved = "RULES_MOVED"

	// descriptionActor proposes what headgate.yaml names.
	descriptionActor = "headgate.yaml"
)

// ErrRulesMoved is what a [RuleStore] answers when the rules have changed since
// a change was proposed.
var ErrRulesMoved = headgate.Errorf(CodeRulesMoved, headgate.ClassBusinessRule,
	"other rules came into force since this set was proposed; compare it with them (headgate rules diff) and propose it again")

// RuleChange is a rule set on its way into force, or once there.
type RuleChange struct {
	Seq int64 `json:"seq"`
	// Service is whose rules these are; empty for those of every service that
	// has none of its own.
	Service string `json:"service,omitempty"`
	Digest  string `json:"digest"`
	Version int64  `json:"version"`
	Owner   string `json:"owner"`
	Reason  string `json:"reason"`
	// Base is the digest of the rules by which the service was judged when it
	// was proposed: its own, or everybody's.
	Base string `json:"base,omitempty"`
	// Rules are the canonical document.
	Rules json.RawMessage `json:"rules"`
	// Loosened is what became easier to pass. Unless it is empty, or these are
	// the first rules of all, somebody else has to approve.
	Loosened   []gate.Change `json:"loosened"`
	ProposedBy string        `json:"proposed_by"`
	ProposedAt time.Time     `json:"proposed_at"`
	ApprovedBy string        `json:"approved_by,omitempty"`
	Approval   string        `json:"approval_reason,omitempty"`
	InForceAt  time.Time     `json:"in_force_at,omitzero"` // zero while it waits
	InForce    bool          `json:"in_force"`
}

// RuleStore keeps rule sets.
type RuleStore interface {
	// RulesInForce returns the digest of a service's own rules, else of
	// everybody's; "" when there were never any.
	RulesInForce(ctx context.Context, service string) (string, error)
	// RuleChanges returns all, oldest first.
	RuleChanges(ctx context.Context) ([]RuleChange, error)
	// PutRuleChange keeps a change and its event. One with a Seq replaces what
	// it was. One with an InForceAt comes into force, but only while its base
	// still is; otherwise [ErrRulesMoved].
	PutRuleChange(ctx context.Context, c RuleChange, ev headgate.Event) error
}

// rules are those by which a service is judged now, also when another process
// changed them.
func (p *Plane) rules(ctx context.Context, service string) (gate.RuleSet, error) {
	digest, err := p.o.Store.RulesInForce(ctx, service)
	if err != nil || digest == "" {
		return p.o.Rules[""], err
	}
	if cached, ok := p.inForce.Load(service); ok && cached.(gate.RuleSet).Digest() == digest {
		return cached.(gate.RuleSet), nil
	}
	all, err := p.o.Store.RuleChanges(ctx)
	if err != nil {
		return gate.RuleSet{}, err
	}
	for _, c := range all {
		if !c.InForce || c.Digest != digest {
			continue
		}
		set, err := gate.ParseRules("rules in force", c.Rules)
		if err != nil {
			return gate.RuleSet{}, err
		}
		if set.Digest() != c.Digest {
			return gate.RuleSet{}, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
				"the stored rules are not those of digest %s: this build reads them otherwise, or they were changed; propose them again", c.Digest)
		}
		p.inForce.Store(service, set)
		return set, nil
	}
	return gate.RuleSet{}, ErrRulesMoved
}

// rulesOf are those by which a release is judged: its service's. What belongs
// to no release is judged as the only service is, if there is one only.
func (p *Plane) rulesOf(ctx context.Context, of named) (gate.RuleSet, error) {
	if of.releaseID != "" {
		rel, err := p.identity(ctx, of)
		if err != nil {
			return gate.RuleSet{}, err
		}
		if rel.Service != "" {
			return p.rules(ctx, rel.Service)
		}
	}
	s, err := p.Service("")
	if err != nil {
		return p.rules(ctx, "")
	}
	return p.rules(ctx, s.Name)
}

// AdoptRules takes what each headgate.yaml names as a proposal, unless it is
// what the file said last time. A store without any rules takes all of them;
// later ones come into force only when they loosen nothing. Call it once,
// before anything is judged.
func (p *Plane) AdoptRules(ctx context.Context) error {
	all, err := p.o.Store.RuleChanges(ctx)
	if err != nil {
		return err
	}
	for _, service := range slices.Sorted(maps.Keys(p.o.Rules)) {
		if err := p.adopt(ctx, service, all); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) adopt(ctx context.Context, service string, all []RuleChange) error {
	named := p.o.Rules[service]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].ProposedBy == descriptionActor && all[i].Service == service {
			if all[i].Digest == named.Digest() {
				return nil
			}
			break
		}
	}
	c, err := p.propose(ctx, access.Identity{Name: descriptionActor}, service, named, len(all) == 0)
	if err == nil && c.InForceAt.IsZero() {
		p.o.Logger.WarnContext(ctx, "the rules that headgate.yaml names loosen those in force and wait for an approval; headgate rules approve DIGEST",
			slog.String("digest", c.Digest), slog.String("service", service))
	}
	return err
}

// ruleKeeper refuses who must not change the rules of everybody.
func ruleKeeper(who access.Identity) error {
	if err := who.May(access.Approver); err != nil {
		return err
	}
	if len(who.Tenants) > 0 {
		return headgate.Errorf(headgate.CodeTenantScope, headgate.ClassSecuritySensitive,
			"rules hold for all tenants of a service; this needs a credential that is not confined to some")
	}
	return nil
}

// ProposeRules reads a rule file and puts it in force for a service, or for
// every service without rules of its own when service is empty. When it loosens
// something, it is kept until somebody else approves.
func (p *Plane) ProposeRules(ctx context.Context, who access.Identity, service string, src []byte) (RuleChange, error) {
	if err := ruleKeeper(who); err != nil {
		return RuleChange{}, err
	}
	if service != "" {
		if _, err := p.Service(service); err != nil {
			return RuleChange{}, err
		}
	}
	next, err := gate.ParseRules("rules", src)
	if err != nil {
		return RuleChange{}, err
	}
	// Nobody but headgate.yaml gives the first rules.
	if first, err := p.o.Store.RulesInForce(ctx, ""); err != nil {
		return RuleChange{}, err
	} else if first == "" {
		if err := p.AdoptRules(ctx); err != nil {
			return RuleChange{}, err
		}
	}
	now, err := p.rules(ctx, service)
	if err != nil {
		return RuleChange{}, err
	}
	if next.Digest() != now.Digest() && next.Version() <= now.Version() {
		return RuleChange{}, headgate.Invalidf("rules: version must be above %d, that of the rules in force; raise it with every change", now.Version())
	}
	return p.propose(ctx, who, service, next, false)
}

// propose keeps a rule set, and puts it in force unless it loosens something.
// With first it is in force whatever it loosens.
func (p *Plane) propose(ctx context.Context, who access.Identity, service string, next gate.RuleSet, first bool) (RuleChange, error) {
	base, err := p.o.Store.RulesInForce(ctx, service)
	if err != nil {
		return RuleChange{}, err
	}
	all, err := p.o.Store.RuleChanges(ctx)
	if err != nil {
		return RuleChange{}, err
	}
	for _, c := range all {
		if c.Service == service && c.Digest == next.Digest() && (c.InForce || (c.InForceAt.IsZero() && c.Base == base)) {
			return c, nil // proposing it again is the same proposal
		}
	}
	now := p.o.Now().UTC()
	c := RuleChange{
		Service: service, Digest: next.Digest(), Version: next.Version(), Owner: next.Owner(), Reason: next.Reason(), Base: base,
		Rules: next.Canonical(), Loosened: []gate.Change{}, ProposedBy: who.Holder(), ProposedAt: now,
	}
	if base != "" && !first {
		current, err := p.rules(ctx, service)
		if err != nil {
			return RuleChange{}, err
		}
		if current.Digest() != base {
			return RuleChange{}, ErrRulesMoved
		}
		c.Loosened = append(c.Loosened, gate.Loosened(current, next)...)
	}
	kind := "rules_proposed"
	if len(c.Loosened) == 0 {
		c.InForceAt, kind = now, "rules_in_force"
	}
	return p.putRules(ctx, who, c, kind, c.Reason)
}

// ApproveRules puts a loosened rule set of a service, or of all, in force.
// Whoever proposed it cannot, by whichever credential.
func (p *Plane) ApproveRules(ctx context.Context, who access.Identity, service, digest, reason string) (RuleChange, error) {
	if err := ruleKeeper(who); err != nil {
		return RuleChange{}, err
	}
	if err := giveReason(&reason); err != nil {
		return RuleChange{}, err
	}
	all, err := p.o.Store.RuleChanges(ctx)
	if err != nil {
		return RuleChange{}, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		c := all[i]
		switch {
		case c.Digest != digest || c.Service != service:
			continue
		case !c.InForceAt.IsZero():
			return c, nil
		case access.SamePerson(c.ProposedBy, who.Holder()):
			return RuleChange{}, headgate.Errorf(headgate.CodeApprovalRequired, headgate.ClassBusinessRule,
				"%s proposed these rules; somebody else has to approve them", c.ProposedBy)
		}
		c.ApprovedBy, c.Approval, c.InForceAt = who.Holder(), reason, p.o.Now().UTC()
		return p.putRules(ctx, who, c, "rules_in_force", reason)
	}
	return RuleChange{}, headgate.Errorf(CodeRulesNotFound, headgate.ClassBusinessRule,
		"nobody proposed rules of that digest for that service; headgate rules list shows what waits")
}

func (p *Plane) putRules(ctx context.Context, who access.Identity, c RuleChange, kind, reason string) (RuleChange, error) {
	ev := headgate.Event{
		Time: p.o.Now().UTC(), Kind: kind, Service: c.Service, TenantID: who.TenantID, Actor: who.Name, From: who.From, Reason: reason,
		Message: fmt.Sprintf("rules version %d of %s, %d loosened", c.Version, c.Owner, len(c.Loosened)),
		Data: map[string]any{
			"digest": c.Digest, "base": c.Base, "loosened": c.Loosened, "proposed_by": c.ProposedBy, "approved_by": c.ApprovedBy,
		},
	}
	if _, err := p.rawBlob(ctx, "rules.json", gate.Format, p.tool(), c.Rules); err != nil {
		return RuleChange{}, err
	}
	if err := p.o.Store.PutRuleChange(ctx, c, ev); err != nil {
		return RuleChange{}, err
	}
	p.Seal()
	c.InForce = !c.InForceAt.IsZero()
	return c, nil
}

// RuleChanges returns every change of the rules, oldest first.
func (p *Plane) RuleChanges(ctx context.Context) ([]RuleChange, error) {
	return p.o.Store.RuleChanges(ctx)
}
