// Package rollback takes a service back to its stable version as a
// transaction: a durable intent first, then one step per component in the
// fixed order, each read back, then a replay against stable that must pass
// before the freeze is lifted.
//
// It owns the trigger rule, the order, the deadline and the freeze. It never
// judges a release, never decides what stable is, and touches a service only
// through the ports declared here.
package rollback

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// DefaultLimit is the recovery limit when none is configured.
const DefaultLimit = 30 * time.Minute

// Triggered applies the contract's rule: some breach has failed at least
// threshold times in a row. The gate is that of the first such breach.
func Triggered(threshold int, breaches []headgate.Breach) (headgate.Gate, bool) {
	for _, b := range breaches {
		if b.ConsecutiveFailures >= threshold {
			return b.Gate, true
		}
	}
	return "", false
}

// Validate checks a trigger as the HTTP contract requires it: a threshold and
// counts of at least 1, at least one breach, and Gate D's gates only. Its
// errors are REQ_VALIDATION_FAILED.
func Validate(threshold int, breaches []headgate.Breach) error {
	if threshold < 1 {
		return headgate.Invalidf("consecutive_threshold must be at least 1")
	}
	if len(breaches) == 0 {
		return headgate.Invalidf("breaches must hold at least one breach")
	}
	for i, b := range breaches {
		if !slices.Contains(headgate.GateD(), b.Gate) {
			return headgate.Invalidf("breaches[%d].gate must be one of quality, performance, security, cost", i)
		}
		if b.MetricCode == "" {
			return headgate.Invalidf("breaches[%d].metric_code is required", i)
		}
		if b.ConsecutiveFailures < 1 {
			return headgate.Invalidf("breaches[%d].consecutive_failures must be at least 1", i)
		}
	}
	return nil
}

// StepStatus is how far one component is.
type StepStatus string

// The states of a step. A step goes pending → running → done or escalated;
// an escalated step is tried again when the rollback is resumed.
const (
	StepPending StepStatus = "pending"
	StepRunning StepStatus = "running"
	StepDone    StepStatus = "done"
	// StepUnchanged: the release did not change this component.
	StepUnchanged StepStatus = "unchanged"
	// StepEscalated: it could not be done; a person has to.
	StepEscalated StepStatus = "escalated"
)

// Step is one component's way back.
type Step struct {
	Component headgate.Component `json:"component"`
	// To is the version to go back to, "" when the release did not change it.
	To       string     `json:"to,omitempty"`
	Status   StepStatus `json:"status"`
	Attempts int        `json:"attempts"`
	// ReadBack is the version that the actuator reported last.
	ReadBack  string    `json:"read_back,omitempty"`
	Error     string    `json:"error,omitempty"`
	Warning   string    `json:"warning,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
}

func (s Step) finished() bool { return s.Status == StepDone || s.Status == StepUnchanged }

// JobStatus is the state of a replay job, as GET /api/v1/jobs/{id} shows it.
type JobStatus string

// The states of a job.
const (
	JobQueued    JobStatus = "queued"
	JobRunning   JobStatus = "running"
	JobSucceeded JobStatus = "succeeded"
	JobFailed    JobStatus = "failed"
)

// Verification is the replay against stable.
type Verification struct {
	// JobID starts with "job_". It is durable before the replay begins.
	JobID  string    `json:"job_id"`
	Status JobStatus `json:"status"`
	// EndedAt is zero while the replay runs.
	EndedAt time.Time `json:"ended_at,omitzero"`
}

// Progress is the part of a rollback that changes beside its steps.
type Progress struct {
	// CompletedAt is when every step had ended, done or escalated.
	CompletedAt time.Time `json:"completed_at,omitzero"`
	// Replay is the latest verification, nil before the first.
	Replay *Verification `json:"replay,omitempty"`
	// RestoredAt is when the freeze was lifted: all steps done and the replay
	// passed. While it is zero, the service is frozen.
	RestoredAt time.Time `json:"restored_at,omitzero"`
	// Overdue says that the deadline passed before RestoredAt.
	Overdue bool `json:"overdue,omitempty"`
}

// Rollback is the durable record.
type Rollback struct {
	ID          string            `json:"rollback_id"`
	ReleaseID   string            `json:"release_id"`
	Service     string            `json:"service"`
	TenantID    string            `json:"tenant_id,omitempty"`
	Gate        headgate.Gate     `json:"trigger_gate,omitempty"`
	Breaches    []headgate.Breach `json:"breaches,omitempty"`
	Actor       string            `json:"actor"`
	Reason      string            `json:"reason,omitempty"`
	TriggeredAt time.Time         `json:"triggered_at"`
	Deadline    time.Time         `json:"deadline"`
	Steps       []Step            `json:"steps"`
	Progress
}

// Frozen reports whether strategy and rollout changes of the service are to
// be refused.
func (r Rollback) Frozen() bool { return r.RestoredAt.IsZero() }

// StepsDone reports whether every component is back, read back.
func (r Rollback) StepsDone() bool {
	for _, s := range r.Steps {
		if !s.finished() {
			return false
		}
	}
	return true
}

// Escalated returns the components that a person has to take back.
func (r Rollback) Escalated() []headgate.Component {
	var out []headgate.Component
	for _, s := range r.Steps {
		if s.Status == StepEscalated {
			out = append(out, s.Component)
		}
	}
	return out
}

// Elapsed is measured from the trigger to the restoration, or to the end of
// the failed replay, or to now while neither has happened.
func (r Rollback) Elapsed(now time.Time) time.Duration {
	end := now
	switch {
	case !r.RestoredAt.IsZero():
		end = r.RestoredAt
	case r.Replay != nil && !r.Replay.EndedAt.IsZero():
		end = r.Replay.EndedAt
	}
	return max(0, end.Sub(r.TriggeredAt))
}

// Result is the contract's answer to POST …/rollback/execute.
type Result struct {
	ReleaseID          string               `json:"release_id"`
	Triggered          bool                 `json:"triggered"`
	TriggerGate        *headgate.Gate       `json:"trigger_gate"`
	RollbackOrder      []headgate.Component `json:"rollback_order"`
	ReplayVerification *ReplayVerification  `json:"replay_verification"`
	// ElapsedMinutes is measured.
	ElapsedMinutes float64 `json:"elapsed_minutes"`
	// CompletedInTime: every component is back and the replay has ended, both
	// before the configured limit (30 minutes unless configured).
	CompletedInTime bool `json:"rollback_completed_within_30m"`
	ServiceRestored bool `json:"service_restored"`
}

// ReplayVerification is the verification as the contract shows it.
type ReplayVerification struct {
	JobID  string    `json:"job_id"`
	Status JobStatus `json:"status"`
}

// NotTriggered is the answer when no breach reached the threshold.
func NotTriggered(releaseID string) Result {
	return Result{ReleaseID: releaseID, RollbackOrder: headgate.RollbackOrder()}
}

// Result renders the record as the contract's answer.
func (r Rollback) Result(now time.Time) Result {
	out := NotTriggered(r.ReleaseID)
	out.Triggered = true
	if r.Gate != "" {
		out.TriggerGate = &r.Gate
	}
	elapsed := r.Elapsed(now)
	ended := false
	if r.Replay != nil {
		out.ReplayVerification = &ReplayVerification{r.Replay.JobID, r.Replay.Status}
		ended = !r.Replay.EndedAt.IsZero()
	}
	out.ElapsedMinutes = elapsed.Minutes()
	out.CompletedInTime = ended && r.StepsDone() && elapsed <= r.Deadline.Sub(r.TriggeredAt)
	out.ServiceRestored = !r.RestoredAt.IsZero()
	return out
}
