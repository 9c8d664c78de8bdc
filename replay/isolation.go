package replay

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/headgate/headgate"
)

// IsolationResult counts what strangers could see of a run.
type IsolationResult struct {
	// TenantScopeViolations counts answers given to another tenant.
	TenantScopeViolations int `json:"tenant_scope_violations"`
	// AuthBypassFindings counts answers given without a credential.
	AuthBypassFindings int `json:"auth_bypass_findings"`
	// Inconclusive counts probes that prove nothing: the service failed, or
	// did not accept the other tenant's credential at all.
	Inconclusive int     `json:"inconclusive"`
	Probes       []Probe `json:"probes"`
}

// Probe is one question asked as somebody else.
type Probe struct {
	Session string `json:"session"`
	Step    string `json:"step"`
	// As is the tenant that asked, "" for nobody.
	As string `json:"as"`
	// Spoofed says that the probe claimed to be the owner in the tenant header.
	Spoofed bool   `json:"spoofed,omitempty"`
	Status  int    `json:"status"`
	Finding string `json:"finding,omitempty"`
}

// The findings of a probe.
const (
	FindingTenantScope  = "tenant_scope_violation"
	FindingAuthBypass   = "auth_bypass"
	FindingInconclusive = "inconclusive"
)

// probeAttempts are made while the service fails; a failure proves nothing.
const probeAttempts = 3

// Isolation asks again, as every other tenant and as nobody, for what the
// owner saw in the run; each also claims to be the owner in the tenant header.
// Only steps that the owner passed are asked, so that a refusal means
// something. It is an error when nothing could be asked: no evidence is not a
// pass.
func Isolation(ctx context.Context, s Suite, t Target, r Run, others []string) (IsolationResult, error) {
	c, err := newCaller(s, t)
	if err != nil {
		return IsolationResult{}, err
	}
	if r.SuiteDigest != s.Digest {
		return IsolationResult{}, headgate.Invalidf("replay %s was made with another version of suite %q; replay again", r.ID, s.Name)
	}
	strangers, err := c.strangers(r.Vars.Tenant, others)
	if err != nil {
		return IsolationResult{}, err
	}
	var out IsolationResult
	for i, session := range s.Sessions {
		if i >= len(r.Sessions) {
			break
		}
		for j, step := range session.Steps {
			if step.Isolation == Unprobed || !passed(r.Sessions[i], j) {
				continue
			}
			for _, who := range strangers {
				p, err := c.probe(ctx, step, who, r.Vars, r.Sessions[i].Captures)
				if err != nil {
					return out, fmt.Errorf("isolation of %s/%s: %w", session.Name, step.Name, err)
				}
				p.Session, p.Step = session.Name, step.Name
				out.add(p)
			}
		}
	}
	if len(out.Probes) == 0 {
		return out, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"replay %s passed no step that can be asked as another tenant; isolation is not proven", r.ID)
	}
	return out, nil
}

func passed(s SessionResult, step int) bool {
	return step < len(s.Steps) && s.Steps[step].Outcome == StepPassed && s.Steps[step].Status/100 == 2
}

func (r *IsolationResult) add(p Probe) {
	switch p.Finding {
	case FindingTenantScope:
		r.TenantScopeViolations++
	case FindingAuthBypass:
		r.AuthBypassFindings++
	case FindingInconclusive:
		r.Inconclusive++
	}
	r.Probes = append(r.Probes, p)
}

// stranger is somebody who must not see what the owner sees.
type stranger struct {
	tenant string // "" for nobody
	token  string
	claim  string // the tenant header, "" for none
}

func (c *caller) strangers(owner string, others []string) ([]stranger, error) {
	out := []stranger{{}, {claim: owner}}
	for _, o := range others {
		if o == owner {
			continue
		}
		token := c.credential(o)
		if token == "" || token == c.credential(owner) {
			return nil, headgate.Invalidf("tenant %q has no credential of its own; isolation cannot be proven without one", o)
		}
		out = append(out, stranger{tenant: o, token: token}, stranger{tenant: o, token: token, claim: owner})
	}
	if len(out) == 2 {
		return nil, headgate.Invalidf("isolation needs a second tenant; add one to the service's description")
	}
	return out, nil
}

func (c *caller) probe(ctx context.Context, step Step, who stranger, v Vars, captures map[string]any) (Probe, error) {
	scope := v.scope()
	for name, value := range captures {
		scope[name] = value
	}
	p := Probe{As: who.tenant, Spoofed: who.claim != ""}
	var a answer
	for attempt := 1; ; attempt++ {
		var err error
		a, err = c.send(ctx, step, who.token, scope, &who.claim)
		if ctx.Err() != nil {
			return p, ctx.Err()
		}
		if err == nil && a.status < 500 && a.status != http.StatusTooManyRequests {
			break
		}
		p.Status = a.status
		if attempt == probeAttempts {
			p.Finding = FindingInconclusive
			return p, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return p, err
		}
	}
	p.Status = a.status
	p.Finding = c.finding(step, who, a, scope)
	return p, nil
}

func (c *caller) finding(step Step, who stranger, a answer, scope map[string]any) string {
	success := a.status/100 == 2
	switch {
	case who.token == "" && success:
		return FindingAuthBypass
	case who.token == "":
		return ""
	case success && (step.Isolation == Refused || c.leaks(a, scope)):
		return FindingTenantScope
	case a.status == http.StatusUnauthorized:
		// A credential that is not accepted would make everything look refused.
		return FindingInconclusive
	}
	return ""
}

// leaks reports whether the answer holds an identifier of the session.
func (c *caller) leaks(a answer, scope map[string]any) bool {
	for _, name := range c.suite.Compare.Identifiers {
		if id := text(scope[name]); len(id) >= minIdentifier && bytes.Contains(a.body, []byte(id)) {
			return true
		}
	}
	return false
}
