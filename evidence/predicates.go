package evidence

import (
	"time"

	"github.com/headgate/headgate"
)

// The predicate types that Headgate defines; docs/bundle-format.md describes
// their fields.
const (
	TypeGateDecision  = "https://headgate.dev/attestation/gate-decision/v1"
	TypeStageResult   = "https://headgate.dev/attestation/stage-result/v1"
	TypeCanaryVerdict = "https://headgate.dev/attestation/canary-verdict/v1"
	TypeRollback      = "https://headgate.dev/attestation/rollback/v1"
	TypeAuditEvent    = "https://headgate.dev/attestation/audit-event/v1"
)

// The standard predicate types that a bundle is exported with, for other tools.
const (
	TypeTestResult          = "https://in-toto.io/attestation/test-result/v0.1"
	TypeVerificationSummary = "https://slsa.dev/verification_summary/v1"
)

// Tool is what made a piece of evidence.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// Input is a raw file on which a statement rests.
type Input struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // of a blob: "sha256:<hex>"
	Size   int64  `json:"size"`   // bytes
	Format string `json:"format,omitempty"`
	Tool   Tool   `json:"tool,omitzero"`
}

// RuleSet names the rules under which a verdict was made. Digest is the sha256
// of the rule set's bytes, which are a blob of that digest, so that anyone can
// apply the same rules again.
type RuleSet struct {
	Digest string `json:"digest"`
	Name   string `json:"name,omitempty"`
	Owner  string `json:"owner,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Op compares a check's value with its threshold. Boundaries pass.
type Op string

// The comparisons. A yes-or-no check is 1 or 0 against 1 with [Equal].
const (
	AtLeast Op = ">="
	AtMost  Op = "<="
	Equal   Op = "=="
)

// Check is one line of a gate's decision.
type Check struct {
	Code   string `json:"code"`   // the failed-check code, such as API_P95_EXCEEDED
	Metric string `json:"metric"` // the name in values, such as api_p95_s
	// Value is null when there was none to measure; never NaN.
	Value         *float64 `json:"value"`
	Op            Op       `json:"op"`
	Threshold     float64  `json:"threshold"`
	ThresholdName string   `json:"threshold_name,omitempty"` // the name in thresholds, such as api_p95_s_max
	Unit          string   `json:"unit,omitempty"`
	// Samples is how many observations the value rests on; MinSamples is how
	// many the rule demands, 0 for no demand.
	Samples    int64 `json:"samples"`
	MinSamples int64 `json:"min_samples,omitempty"`
	// WindowSeconds is the length of the measured window; 0 for a file.
	WindowSeconds float64 `json:"window_s,omitempty"`
	// Source is the query or the file that the value was read from.
	Source string `json:"source,omitempty"`
	// Distance is how far the value is from the threshold in the check's unit:
	// positive inside, negative outside, null without a value.
	Distance *float64         `json:"distance"`
	Verdict  headgate.Verdict `json:"verdict"`
}

// GateDecision is a gate's verdict with all that it rests on.
type GateDecision struct {
	ReleaseID    string             `json:"release_id"`
	Time         time.Time          `json:"time"`
	Gate         headgate.Gate      `json:"gate"`
	DatasetID    string             `json:"dataset_id,omitempty"`
	Rules        RuleSet            `json:"rules"`
	Thresholds   map[string]any     `json:"thresholds"` // numbers and booleans
	Values       map[string]any     `json:"values"`     // numbers and booleans
	Samples      map[string]int64   `json:"samples,omitempty"`
	Checks       []Check            `json:"checks"`
	FailedChecks []string           `json:"failed_checks"`
	Verdict      headgate.Verdict   `json:"verdict"`
	Inputs       []Input            `json:"inputs"`
	MadeBy       Tool               `json:"made_by"`
	Declared     bool               `json:"declared,omitempty"` // a claim that nothing backs
	Extra        map[string]float64 `json:"extra,omitempty"`
}

// StageResult is how one attempt at a pipeline stage ended.
type StageResult struct {
	headgate.StageRun
	// Time is when the result was stated, normally StageRun.EndedAt.
	Time   time.Time      `json:"time"`
	Inputs []Input        `json:"inputs,omitempty"`
	Facts  map[string]any `json:"facts,omitempty"`
	MadeBy Tool           `json:"made_by"`
}

// ArmCounts is what one arm answered in a canary, cumulative since it began.
type ArmCounts struct {
	Requests int64   `json:"requests"`
	Errors   int64   `json:"errors"`
	P95      float64 `json:"p95_s,omitempty"`
}

// CanaryVerdict is what the canary's judge said, with the counts from which it
// can be computed again.
type CanaryVerdict struct {
	ReleaseID string           `json:"release_id"`
	Time      time.Time        `json:"time"`
	StartedAt time.Time        `json:"started_at"`
	Share     float64          `json:"share"` // 0..1
	Stable    ArmCounts        `json:"stable"`
	Candidate ArmCounts        `json:"candidate"`
	EValue    float64          `json:"e_value"`
	Alpha     float64          `json:"alpha"`
	Rules     RuleSet          `json:"rules,omitzero"`
	Reasons   []string         `json:"reasons,omitempty"`
	Verdict   headgate.Verdict `json:"verdict"`
	Inputs    []Input          `json:"inputs,omitempty"` // the recorded ticks
	MadeBy    Tool             `json:"made_by"`
}

// RollbackStep is one component's step back.
type RollbackStep struct {
	headgate.Change
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	Error     string    `json:"error,omitempty"`
}

// Rollback is the record of one rollback: each time is zero until it happened.
type Rollback struct {
	ReleaseID   string            `json:"release_id"`
	Time        time.Time         `json:"time"`
	TriggerGate headgate.Gate     `json:"trigger_gate,omitempty"`
	Breaches    []headgate.Breach `json:"breaches,omitempty"`
	Reasons     []string          `json:"reasons,omitempty"`
	TriggeredAt time.Time         `json:"triggered_at"`
	// TrafficBackAt is when the router's weights, read back, sent nothing to
	// the candidate; CompletedAt when the last component was back; RestoredAt
	// when the replay had succeeded.
	TrafficBackAt time.Time      `json:"traffic_back_at,omitzero"`
	CompletedAt   time.Time      `json:"completed_at,omitzero"`
	RestoredAt    time.Time      `json:"restored_at,omitzero"`
	LimitSeconds  float64        `json:"limit_s,omitempty"`
	Steps         []RollbackStep `json:"steps,omitempty"`
	ReplayJobID   string         `json:"replay_job_id,omitempty"`
	ReplayStatus  string         `json:"replay_status,omitempty"`
	MadeBy        Tool           `json:"made_by"`
}

// AuditEvent is one line of the audit trail.
type AuditEvent struct{ headgate.Event }

func (GateDecision) predicateType() string  { return TypeGateDecision }
func (StageResult) predicateType() string   { return TypeStageResult }
func (CanaryVerdict) predicateType() string { return TypeCanaryVerdict }
func (Rollback) predicateType() string      { return TypeRollback }
func (AuditEvent) predicateType() string    { return TypeAuditEvent }
