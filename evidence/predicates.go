package evidence

import (
	"encoding/json"
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
	TypeOverride      = "https://headgate.dev/attestation/override/v1"
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
	// Columns is the column map that a report was read with.
	Columns map[string]string `json:"columns,omitempty"`
	Tool    Tool              `json:"tool,omitzero"`
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

// Check is one line of a gate's decision. It has the fields of the gate's own
// check, so that one converts to the other.
type Check struct {
	Name string `json:"name"` // the key in values, such as api_p95_s
	Code string `json:"code"` // such as API_P95_EXCEEDED
	// Value is a number or a boolean, null when there was none to measure.
	Value any `json:"value"`
	// Threshold is a number, a boolean, or a CEL expression when Op is "cel".
	Threshold any    `json:"threshold"`
	Op        string `json:"op"` // ">=", "<=", "==", "cel" or "tool"; boundaries pass
	Unit      string `json:"unit"`
	// Samples is how many observations the value rests on, null when nobody
	// counted; MinSamples is how many the rule demands, 0 for no demand.
	Samples    *int64 `json:"samples"`
	MinSamples int64  `json:"min_samples"`
	Window     string `json:"window"`
	Source     string `json:"source"` // the query or the file that the value was read from
	// Distance is how far the value is on the good side of the threshold, in
	// Unit; negative when it failed; null without a number.
	Distance *float64         `json:"distance"`
	Verdict  headgate.Verdict `json:"verdict"`
	Detail   string           `json:"detail,omitempty"`
}

// GateDecision is a gate's verdict with all that it rests on.
type GateDecision struct {
	ReleaseID string        `json:"release_id"`
	Time      time.Time     `json:"time"`
	Gate      headgate.Gate `json:"gate"`
	DatasetID string        `json:"dataset_id"`
	Rules     RuleSet       `json:"rules"`
	// Request is the gate's whole input as it was judged. A verifier judges it
	// again under the rule set.
	Request      json.RawMessage  `json:"request,omitempty"`
	Thresholds   map[string]any   `json:"thresholds"` // numbers and booleans
	Values       map[string]any   `json:"values"`     // numbers and booleans
	Checks       []Check          `json:"checks"`
	FailedChecks []string         `json:"failed_checks"`
	Verdict      headgate.Verdict `json:"verdict"`
	Inputs       []Input          `json:"inputs"` // the files behind the values
	MadeBy       Tool             `json:"made_by"`
	// Declared marks a claim that nothing backs; it never counts as evidence.
	Declared bool `json:"declared,omitempty"`
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
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors"`
}

// TickLog is the Format of the [Input] that holds a canary's ticks, one JSON
// object per line.
const TickLog = "headgate-ticks/v1"

// CanaryVerdict is what the canary's judge said last. With the tick log among
// its inputs and the judge's configuration, the verdict can be computed again.
type CanaryVerdict struct {
	ReleaseID string           `json:"release_id"`
	Time      time.Time        `json:"time"`
	StartedAt time.Time        `json:"started_at"`
	Share     float64          `json:"share"` // of traffic to the candidate at the end, 0..1
	Stable    ArmCounts        `json:"stable"`
	Candidate ArmCounts        `json:"candidate"`
	EValue    float64          `json:"e_value"` // finite
	Alpha     float64          `json:"alpha"`
	Verdict   headgate.Verdict `json:"verdict"`
	Reasons   []string         `json:"reasons"`
	Config    json.RawMessage  `json:"config,omitempty"`   // the judge's configuration
	Decision  json.RawMessage  `json:"decision,omitempty"` // the judge's last decision in full
	Inputs    []Input          `json:"inputs"`
	MadeBy    Tool             `json:"made_by"`
}

// RollbackStep is one component's way back.
type RollbackStep struct {
	Component headgate.Component `json:"component"`
	To        string             `json:"to,omitempty"`
	Status    string             `json:"status"`
	ReadBack  string             `json:"read_back,omitempty"` // the version reported after the step
	Error     string             `json:"error,omitempty"`
	StartedAt time.Time          `json:"started_at,omitzero"`
	EndedAt   time.Time          `json:"ended_at,omitzero"`
}

// Rollback is the record of one rollback; a zero time has not come.
type Rollback struct {
	ReleaseID   string            `json:"release_id"`
	Time        time.Time         `json:"time"`
	RollbackID  string            `json:"rollback_id,omitempty"`
	TriggerGate headgate.Gate     `json:"trigger_gate,omitempty"`
	Breaches    []headgate.Breach `json:"breaches,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	TriggeredAt time.Time         `json:"triggered_at"`
	// TrafficBackAt is when the router's weights, read back, sent nothing to
	// the candidate; CompletedAt when every step had ended; RestoredAt when the
	// replay had passed and the freeze was lifted.
	TrafficBackAt time.Time      `json:"traffic_back_at,omitzero"`
	CompletedAt   time.Time      `json:"completed_at,omitzero"`
	RestoredAt    time.Time      `json:"restored_at,omitzero"`
	LimitSeconds  float64        `json:"limit_s,omitempty"`
	Steps         []RollbackStep `json:"steps"`
	ReplayJobID   string         `json:"replay_job_id,omitempty"`
	ReplayStatus  string         `json:"replay_status,omitempty"`
	MadeBy        Tool           `json:"made_by"`
}

// Override is a gate that two people let pass for a time. There is none of the
// security gate and none of the replay.
type Override struct {
	ReleaseID      string        `json:"release_id"`
	Time           time.Time     `json:"time"` // when the second person agreed
	OverrideID     string        `json:"override_id"`
	Gate           headgate.Gate `json:"gate"`
	Reason         string        `json:"reason"`
	RequestedBy    string        `json:"requested_by"`
	RequestedAt    time.Time     `json:"requested_at"`
	ApprovedBy     string        `json:"approved_by"`
	ApprovalReason string        `json:"approval_reason"`
	ExpiresAt      time.Time     `json:"expires_at"`
	MadeBy         Tool          `json:"made_by"`
}

// AuditEvent is one line of the audit trail.
type AuditEvent struct{ headgate.Event }

func (GateDecision) predicateType() string  { return TypeGateDecision }
func (StageResult) predicateType() string   { return TypeStageResult }
func (CanaryVerdict) predicateType() string { return TypeCanaryVerdict }
func (Rollback) predicateType() string      { return TypeRollback }
func (Override) predicateType() string      { return TypeOverride }
func (AuditEvent) predicateType() string    { return TypeAuditEvent }
