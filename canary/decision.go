package canary

import (
	"time"

	"github.com/headgate/headgate"
)

// Action is what the judge asks the actors to do after a tick.
type Action string

// The actions. [Hold] keeps the present share; [Throttle] asks for at most
// Decision.Share; [Release] takes that limit away; [Alert] keeps the share and
// calls a person.
const (
	Hold     Action = "hold"
	Throttle Action = "throttle"
	Release  Action = "release"
	Promote  Action = "promote"
	Rollback Action = "rollback"
	Alert    Action = "alert"
)

// Codes in Decision.Reasons. They never change.
const (
	CodeErrorsWorse      = "CANARY_ERRORS_WORSE"
	CodeLatencyWorse     = "CANARY_LATENCY_WORSE"
	CodeCostWorse        = "CANARY_COST_WORSE"
	CodeSLOExceeded      = "CANARY_SLO_EXCEEDED"
	CodeConsecutive      = "CANARY_CONSECUTIVE_BREACHES"
	CodeThrottled        = "CANARY_THROTTLED"
	CodeNoWorse          = "CANARY_NO_WORSE_THAN_STABLE"
	CodeBelowSLO         = "CANARY_ERRORS_BELOW_SLO"
	CodeMinDuration      = "CANARY_MIN_DURATION"
	CodeNoTraffic        = "CANARY_NO_TRAFFIC"
	CodeNoStable         = "CANARY_NO_STABLE_TRAFFIC"
	CodeLooksWorse       = "CANARY_LOOKS_WORSE"
	CodeMoreData         = "CANARY_NEEDS_MORE_DATA"
	CodeCheckUndecided   = "CANARY_CHECK_UNDECIDED"
	CodeOneTenant        = "CANARY_ONE_TENANT_ONLY"
	CodeTickInvalid      = "CANARY_TICK_INVALID"
	CodeTimeNotRising    = "CANARY_TIME_NOT_RISING"
	CodeTelemetryMissing = "CANARY_TELEMETRY_MISSING"
	CodeTelemetryStale   = "CANARY_TELEMETRY_STALE"
	CodeSplitMismatch    = "CANARY_SPLIT_MISMATCH"
	CodeBrokenTooLong    = "CANARY_BROKEN_TOO_LONG"
)

// Decision is what is known after a tick.
type Decision struct {
	Time    time.Time        `json:"time"`
	Verdict headgate.Verdict `json:"verdict"`
	Action  Action           `json:"action"`
	// Share is the most the candidate may get, 0 to 1. It is 1 unless the
	// candidate is throttled or failed.
	Share float64 `json:"share"`
	// Reason is one sentence for a person, Reasons are its stable codes.
	Reason  string   `json:"reason"`
	Reasons []string `json:"reasons"`
	// Evidence holds the present level of each test; see docs/canary-math.md.
	Evidence Evidence `json:"evidence"`
	// Stable and Candidate are all requests and errors judged so far.
	Stable    Totals `json:"stable"`
	Candidate Totals `json:"candidate"`
	// ElapsedSeconds counts observed time only: gaps and broken ticks are not.
	ElapsedSeconds float64 `json:"elapsed_s"`
	// RemainingSeconds is the expected time to a pass if the candidate is as
	// good as stable and traffic stays as it is; negative when there is no
	// telling.
	RemainingSeconds float64 `json:"remaining_s"`
	// ModelBased marks a verdict on whole tenants, which rests on their error
	// rates before the release and not on a concurrent comparison alone.
	ModelBased bool `json:"model_based,omitempty"`
	// Evict names a tenant that alone carries the evidence against the
	// candidate. When its errors go on after it was moved to stable, they are
	// that tenant's incident and not the release's.
	Evict string `json:"evict,omitempty"`
	// Breaches are the contract metrics now in breach, with their count in a
	// row, in the order in which they were first breached.
	Breaches []headgate.Breach `json:"breaches,omitempty"`
	// Undecided are the metrics of whose last evaluation nothing can be said.
	Undecided []string `json:"undecided,omitempty"`
}

// Evidence holds levels of evidence. 1 is none; a level reaches x by chance
// with probability 1/x at most.
type Evidence struct {
	// Combined rolls back at 1/alpha. Errors, Latency and Cost are its parts
	// before weighting.
	Combined float64 `json:"combined"`
	Errors   float64 `json:"errors"`
	Latency  float64 `json:"latency"`
	Cost     float64 `json:"cost"`
	// Alarm throttles; it is not damped.
	Alarm float64 `json:"alarm"`
	// NoWorse passes at 1.25/beta. BelowSLO does at 1/beta when Quiet, that
	// stable hardly fails, is at 5/beta.
	NoWorse  float64 `json:"no_worse"`
	BelowSLO float64 `json:"below_slo"`
	Quiet    float64 `json:"quiet"`
	// Kill is the evidence against the absolute limit of errors, Split against
	// the configured split.
	Kill  float64 `json:"kill"`
	Split float64 `json:"split"`
	// Tempering is the divisor of evidence in use.
	Tempering float64 `json:"tempering"`
}

// Totals are requests and errors of one arm.
type Totals struct {
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors"`
}
