// Package rollout decides who may meet a candidate: the plan of a release, the
// decision for one request, the sticky assignment of a session to an arm, and
// the [Router] port through which a traffic split is carried out.
//
// It owns the rules and the words; it never moves a byte of traffic (package
// traffic does), never judges a candidate and never keeps state.
package rollout

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// DecisionStage is the stage that every [Decision] names.
const DecisionStage = "tenant_whitelist+project_size"

// Reasons for which a [Decision] does not admit.
const (
	ReasonTenantNotInWhitelist  = "TENANT_NOT_IN_WHITELIST"
	ReasonProjectSizeNotEnabled = "PROJECT_SIZE_NOT_ENABLED"
)

// Plan says which tenants and project sizes a release may reach. Make one with
// [NewPlan] or decode it from JSON; both validate and normalise.
type Plan struct {
	ReleaseID           string                 `json:"release_id"`
	TenantWhitelist     []string               `json:"tenant_whitelist"`
	EnabledProjectSizes []headgate.ProjectSize `json:"enabled_project_sizes"`
	// HighRiskHITLEnforced is recorded as posted. It cannot weaken
	// [Plan.Decide]: high risk forces human review in any case.
	HighRiskHITLEnforced bool `json:"high_risk_hitl_enforced"`
}

// NewPlan returns a plan with the whitelist de-duplicated and sorted and the
// sizes in rollout order. It returns REQ_VALIDATION_FAILED when the release id
// is empty, when whitelist or sizes are empty or hold an unknown value.
func NewPlan(releaseID string, whitelist []string, sizes []headgate.ProjectSize, enforceHITL bool) (Plan, error) {
	if strings.TrimSpace(releaseID) == "" {
		return Plan{}, headgate.Invalidf("release_id is empty; name the release to roll out")
	}
	if len(whitelist) == 0 {
		return Plan{}, headgate.Invalidf("tenant_whitelist is empty; name at least one tenant")
	}
	if len(sizes) == 0 {
		return Plan{}, headgate.Invalidf("enabled_project_sizes is empty; name at least one of small, medium, large")
	}
	for _, t := range whitelist {
		if strings.TrimSpace(t) == "" {
			return Plan{}, headgate.Invalidf("tenant_whitelist holds an empty tenant; remove it")
		}
	}
	for _, s := range sizes {
		if !slices.Contains(headgate.ProjectSizes(), s) {
			return Plan{}, headgate.Invalidf("enabled_project_sizes holds an unknown size; use small, medium or large")
		}
	}
	p := Plan{ReleaseID: releaseID, TenantWhitelist: sortedSet(whitelist), HighRiskHITLEnforced: enforceHITL}
	for _, s := range headgate.ProjectSizes() {
		if slices.Contains(sizes, s) {
			p.EnabledProjectSizes = append(p.EnabledProjectSizes, s)
		}
	}
	return p, nil
}

// UnmarshalJSON decodes and validates a plan as [NewPlan] does. A missing
// high_risk_hitl_enforced is true.
func (p *Plan) UnmarshalJSON(data []byte) error {
	type wire Plan
	w := wire{HighRiskHITLEnforced: true}
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	plan, err := NewPlan(w.ReleaseID, w.TenantWhitelist, w.EnabledProjectSizes, w.HighRiskHITLEnforced)
	if err != nil {
		return err
	}
	*p = plan
	return nil
}

// Subject is what a decision is about.
type Subject struct {
	TenantID    string
	ProjectSize headgate.ProjectSize
	HighRisk    bool
}

// Decision is the answer for one [Subject]. Reasons is never nil.
type Decision struct {
	ReleaseID        string   `json:"release_id"`
	Admitted         bool     `json:"admitted"`
	Stage            string   `json:"stage"`
	MatchedWhitelist bool     `json:"matched_whitelist"`
	ForceHITL        bool     `json:"force_hitl"`
	Reasons          []string `json:"reasons"`
}

// Decide says whether the plan admits s to the candidate. Everything that
// stands against it is a reason. High risk always forces human review.
func (p Plan) Decide(s Subject) Decision {
	d := Decision{ReleaseID: p.ReleaseID, Stage: DecisionStage, ForceHITL: s.HighRisk, Reasons: []string{}}
	_, d.MatchedWhitelist = slices.BinarySearch(p.TenantWhitelist, s.TenantID)
	if !d.MatchedWhitelist {
		d.Reasons = append(d.Reasons, ReasonTenantNotInWhitelist)
	}
	if !slices.Contains(p.EnabledProjectSizes, s.ProjectSize) {
		d.Reasons = append(d.Reasons, ReasonProjectSizeNotEnabled)
	}
	d.Admitted = len(d.Reasons) == 0
	return d
}

// Tier is one step by which a rollout widens.
type Tier string

// The tiers. Each admits everyone that the one before it admits.
const (
	TierWhitelist Tier = "whitelist"
	TierSmall     Tier = "small"
	TierMedium    Tier = "medium"
	TierLarge     Tier = "large"
)

// Tiers returns the tiers in the order in which a rollout takes them.
func Tiers() []Tier { return []Tier{TierWhitelist, TierSmall, TierMedium, TierLarge} }

// Widen returns the plan as of tier t: the whitelist joined by every tenant of
// sizes whose size class t or a tier before it opens. An unknown tier, like
// [TierWhitelist], adds nobody. Sizes that the plan does not enable stay out.
func (p Plan) Widen(t Tier, sizes map[string]headgate.ProjectSize) Plan {
	reached := slices.Index(Tiers(), t)
	whitelist := slices.Clone(p.TenantWhitelist)
	for tenant, size := range sizes {
		opens := slices.Index(Tiers(), Tier(size))
		if opens > 0 && opens <= reached && slices.Contains(p.EnabledProjectSizes, size) {
			whitelist = append(whitelist, tenant)
		}
	}
	p.TenantWhitelist = sortedSet(whitelist)
	return p
}

// Admitted returns, sorted, the tenants that the plan admits given each
// tenant's size: what [Split.Tenants] takes. A tenant without a known size
// stays on stable.
func (p Plan) Admitted(sizes map[string]headgate.ProjectSize) []string {
	admitted := []string{}
	for _, tenant := range p.TenantWhitelist {
		if p.Decide(Subject{TenantID: tenant, ProjectSize: sizes[tenant]}).Admitted {
			admitted = append(admitted, tenant)
		}
	}
	return admitted
}

func sortedSet(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}
