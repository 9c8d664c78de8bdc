package replay

import (
	"context"
	"errors"
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
	// Spoofed says that the probe claimed the owner in x-tenant-id.
	Spoofed bool   `json:"spoofed,omitempty"`
	Status  int    `json:"status"`
	Finding string `json:"finding,omitempty"`
}

// Isolation asks again, as every other tenant and as nobody, for what the
// owner saw in the run. Only steps that the owner passed are asked, so that a
// refusal means something. It is an error when nothing could be asked: no
// evidence is not a pass.
func Isolation(ctx context.Context, s Suite, t Target, r Run, owner string, others []string) (IsolationResult, error) {
	return IsolationResult{}, errors.ErrUnsupported
}
