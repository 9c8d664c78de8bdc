package feedback

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// StrategyRequest is the contract's body of POST …/strategy-tuning/apply.
// Numbers are pointers so that a missing one is told from zero.
type StrategyRequest struct {
	ReleaseID string `json:"release_id"`
	Selector  struct {
		RiskMixThreshold *float64 `json:"risk_mix_threshold"`
		RelationMode     string   `json:"relation_mode"`
	} `json:"selector"`
	ScoreCalibration struct {
		ConfidenceScale *float64 `json:"confidence_scale"`
		ScoreBias       *float64 `json:"score_bias"`
	} `json:"score_calibration"`
	ToolPolicy ToolPolicy `json:"tool_policy"`
}

// Strategy is a tenant's strategy version, as the contract answers it.
type Strategy struct {
	ReleaseID string `json:"release_id"`
	// Version is stg_v1, stg_v2, …
	Version          string           `json:"strategy_version"`
	Selector         Selector         `json:"selector"`
	ScoreCalibration ScoreCalibration `json:"score_calibration"`
	ToolPolicy       ToolPolicy       `json:"tool_policy"`
	// AppliedAt is for the record; the contract does not show it.
	AppliedAt time.Time `json:"-"`
}

// Selector chooses how retrieval mixes.
type Selector struct {
	// RiskMixThreshold is 0..1.
	RiskMixThreshold float64 `json:"risk_mix_threshold"`
	// RelationMode is local, global, hybrid or mix.
	RelationMode string `json:"relation_mode"`
}

// ScoreCalibration maps raw scores to reported ones.
type ScoreCalibration struct {
	// ConfidenceScale is above 0.
	ConfidenceScale float64 `json:"confidence_scale"`
	ScoreBias       float64 `json:"score_bias"`
}

// ToolPolicy names what may be done and what needs two people.
type ToolPolicy struct {
	RequireDoubleApprovalActions []string `json:"require_double_approval_actions"`
	AllowedTools                 []string `json:"allowed_tools"`
}

var relationModes = []string{"local", "global", "hybrid", "mix"}

// maxPolicyEntries and maxPolicyName bound a tool policy's lists.
const (
	maxPolicyEntries = 200
	maxPolicyName    = 200
)

// Validate checks the request against the contract; its errors are
// REQ_VALIDATION_FAILED.
func (r StrategyRequest) Validate() error {
	if r.ReleaseID == "" {
		return headgate.Invalidf("release_id is required")
	}
	threshold, scale, bias := r.Selector.RiskMixThreshold, r.ScoreCalibration.ConfidenceScale, r.ScoreCalibration.ScoreBias
	switch {
	case threshold == nil || math.IsNaN(*threshold) || *threshold < 0 || *threshold > 1:
		return headgate.Invalidf("selector.risk_mix_threshold must be a number from 0 to 1")
	case !slices.Contains(relationModes, r.Selector.RelationMode):
		return headgate.Invalidf("selector.relation_mode must be one of %s", strings.Join(relationModes, ", "))
	case scale == nil || !(*scale > 0) || math.IsInf(*scale, 0):
		return headgate.Invalidf("score_calibration.confidence_scale must be a number above 0")
	case bias == nil || math.IsNaN(*bias) || math.IsInf(*bias, 0):
		return headgate.Invalidf("score_calibration.score_bias must be a number")
	}
	if err := validNames("tool_policy.require_double_approval_actions", r.ToolPolicy.RequireDoubleApprovalActions); err != nil {
		return err
	}
	return validNames("tool_policy.allowed_tools", r.ToolPolicy.AllowedTools)
}

func validNames(field string, names []string) error {
	if len(names) > maxPolicyEntries {
		return headgate.Invalidf("%s may hold at most %d names", field, maxPolicyEntries)
	}
	for i, n := range names {
		if strings.TrimSpace(n) == "" || len(n) > maxPolicyName {
			return headgate.Invalidf("%s[%d] must be a name of at most %d bytes", field, i, maxPolicyName)
		}
	}
	return nil
}

// Apply validates a strategy and makes it the tenant's next version. While a
// rollback awaits its replay it is STRATEGY_FROZEN (409).
func (l *Loop) Apply(ctx context.Context, tenantID string, req StrategyRequest) (Strategy, error) {
	if err := req.Validate(); err != nil {
		return Strategy{}, err
	}
	scope := Scope{Service: l.cfg.Service, TenantID: tenantID}
	frozen, err := l.cfg.Freeze.Frozen(ctx, scope)
	if err != nil {
		return Strategy{}, err
	}
	if frozen {
		return Strategy{}, headgate.Errorf(headgate.CodeStrategyFrozen, headgate.ClassBusinessRule,
			"a rollback of this service awaits its replay; try again once the replay against stable has passed")
	}
	st := Strategy{
		ReleaseID: req.ReleaseID,
		Selector:  Selector{RiskMixThreshold: *req.Selector.RiskMixThreshold, RelationMode: req.Selector.RelationMode},
		ScoreCalibration: ScoreCalibration{
			ConfidenceScale: *req.ScoreCalibration.ConfidenceScale, ScoreBias: *req.ScoreCalibration.ScoreBias,
		},
		ToolPolicy: ToolPolicy{
			RequireDoubleApprovalActions: listed(req.ToolPolicy.RequireDoubleApprovalActions),
			AllowedTools:                 listed(req.ToolPolicy.AllowedTools),
		},
	}
	for range maxConflicts {
		newest, ok, err := l.cfg.Store.Strategy(ctx, scope)
		if err != nil {
			return Strategy{}, err
		}
		n := uint64(1)
		if ok {
			if n, err = newest.Number(); err != nil {
				return Strategy{}, err
			}
			n++
		}
		st.Version, st.AppliedAt = fmt.Sprintf("%s%d", strategyPrefix, n), l.cfg.Now().UTC()
		if err = l.cfg.Store.AppendStrategy(ctx, scope, st); !errors.Is(err, ErrConflict) {
			return st, err
		}
	}
	return Strategy{}, busy("strategy")
}

const strategyPrefix = "stg_v"

// Number returns the N of stg_vN.
func (s Strategy) Number() (uint64, error) {
	digits, ok := strings.CutPrefix(s.Version, strategyPrefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil {
		return 0, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "strategy version %q is not stg_vN", s.Version)
	}
	return n, nil
}

// Strategy returns the tenant's strategy, false before the first.
func (l *Loop) Strategy(ctx context.Context, tenantID string) (Strategy, bool, error) {
	return l.cfg.Store.Strategy(ctx, Scope{Service: l.cfg.Service, TenantID: tenantID})
}

// listed makes an absent list an empty one, so that the answer holds [].
func listed(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}
