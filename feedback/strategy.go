package feedback

import "time"

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
