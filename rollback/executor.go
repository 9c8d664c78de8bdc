package rollback

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/headgate/headgate"
)

// Config holds what an [Executor] works with. Store, Verifier and Audit are
// required; an Actuator is for each component that a release can change.
type Config struct {
	// Service is the one service this executor rolls back.
	Service   string
	Store     Store
	Actuators map[headgate.Component]Actuator
	Verifier  Verifier
	Audit     Audit
	// Capacity is asked before release_version moves; nil means not asked.
	Capacity Capacity
	Log      *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Limit is ROLLBACK_MAX_MINUTES; 0 means DefaultLimit.
	Limit time.Duration
	// Attempts at a step before it is escalated; 0 means 4.
	Attempts int
	// Backoff before the second attempt, doubled up to 5 s; 0 means 200 ms.
	Backoff time.Duration
	// StepTimeout bounds each call of a port; 0 means 10 s.
	StepTimeout time.Duration
	// VerifyTimeout bounds the replay; 0 means 10 min.
	VerifyTimeout time.Duration
}

// Request asks for a rollback.
type Request struct {
	// ID makes the request repeatable; empty means a new id.
	ID        string
	ReleaseID string
	TenantID  string
	// Gate and Breaches say what triggered it; empty for a manual one.
	Gate     headgate.Gate
	Breaches []headgate.Breach
	// Targets are the versions to go back to, of the components that the
	// release changed.
	Targets map[headgate.Component]string
	Actor   string
	Reason  string
	// TriggeredAt is when the clock began; zero means now.
	TriggeredAt time.Time
}

// Executor executes rollbacks of one service, one at a time.
type Executor struct {
	cfg  Config
	busy chan struct{}
}

// New returns an executor with the defaults of cfg filled in.
func New(cfg Config) *Executor {
	return &Executor{cfg: cfg, busy: make(chan struct{}, 1)}
}

// Begin makes the intent durable and freezes the service; nothing is touched
// yet. A request whose ID exists, or without an ID for a release that is
// already being rolled back, returns that rollback.
func (x *Executor) Begin(ctx context.Context, req Request) (Rollback, error) {
	return Rollback{}, errors.ErrUnsupported
}

// Resume carries the rollback on from the first undone step to the end of
// its replay. Escalated steps and a failed replay are tried again. A restored
// rollback is returned as it is. An error means that the record could not be
// kept or ctx ended; what was reached is durable, and Resume goes on from it.
func (x *Executor) Resume(ctx context.Context, id string) (Rollback, error) {
	return Rollback{}, errors.ErrUnsupported
}

// Execute is Begin and Resume.
func (x *Executor) Execute(ctx context.Context, req Request) (Rollback, error) {
	r, err := x.Begin(ctx, req)
	if err != nil {
		return Rollback{}, err
	}
	return x.Resume(ctx, r.ID)
}

// Frozen reports whether a rollback of the service awaits its replay, and
// the oldest one that does.
func (x *Executor) Frozen(ctx context.Context) (Rollback, bool, error) {
	active, err := x.cfg.Store.Active(ctx, x.cfg.Service)
	if err != nil || len(active) == 0 {
		return Rollback{}, false, err
	}
	return active[0], true, nil
}
