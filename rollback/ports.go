package rollback

import (
	"context"

	"github.com/headgate/headgate"
)

// Store keeps rollbacks. Every write is durable when it returns and harmless
// when repeated. A record that is not there is a RESOURCE_NOT_FOUND error.
type Store interface {
	// SaveIntent keeps r before anything is touched. When a rollback with
	// r.ID exists, it is returned as it is and nothing is written.
	SaveIntent(ctx context.Context, r Rollback) (Rollback, error)
	// UpdateStep replaces the step of the same component.
	UpdateStep(ctx context.Context, id string, s Step) error
	// UpdateProgress replaces the progress.
	UpdateProgress(ctx context.Context, id string, p Progress) error
	Get(ctx context.Context, id string) (Rollback, error)
	// Active returns the service's rollbacks that are not restored, oldest
	// first.
	Active(ctx context.Context, service string) ([]Rollback, error)
}

// Actuator moves one component. Set is idempotent. An error that is a
// headgate.Error and not retryable ends the attempts at once.
type Actuator interface {
	Set(ctx context.Context, c headgate.Component, version string) error
	// Read returns the version in force, asked from where it takes effect.
	Read(ctx context.Context, c headgate.Component) (string, error)
}

// Capacity says whether a version can carry all traffic; nil when it can.
type Capacity interface {
	Check(ctx context.Context, version string) error
}

// Verifier replays the service's suite against stable.
type Verifier interface {
	// Verify runs the replay under jobID and returns JobSucceeded or
	// JobFailed. Called again with the same jobID after a crash, it goes on
	// or starts over. An error means that the replay could not be run.
	Verify(ctx context.Context, jobID string, r Rollback) (JobStatus, error)
}

// Audit receives what happened. Key identifies the event, so that one
// repeated after a crash can be told from a new one.
type Audit interface {
	Record(ctx context.Context, key string, e headgate.Event) error
}

// The kinds of event.
const (
	// EventExecuted: every step has ended. Verdict says whether all are done.
	EventExecuted = "rollback_executed"
	// EventVerified: the replay has ended. Verdict says how.
	EventVerified = "rollback_replay_verified"
	// EventEscalated: a step, or the capacity of stable, needs a person now.
	EventEscalated = "rollback_step_escalated"
	// EventOverdue: the deadline has passed.
	EventOverdue = "rollback_deadline_exceeded"
)
