// Package feedback is Gate F: what went wrong in a release becomes samples of
// the next dataset version, and tuning becomes a strategy version.
//
// It owns samples, dataset versions and strategy versions. It never reads a
// service except through [Source], and never changes what a service runs.
package feedback

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/headgate/headgate"
)

// FirstDataset is the version a dataset has before the first feedback.
const FirstDataset = "v1.0.0"

// Scope is whose dataset and strategy: a tenant of a service.
type Scope struct {
	Service  string `json:"service"`
	TenantID string `json:"tenant_id"`
}

// Kind says what a sample is for.
type Kind string

// The kinds of sample.
const (
	// Counterexample comes from a dead-letter item.
	Counterexample Kind = "counterexample"
	// GoldCandidate comes from a review that overrode the service.
	GoldCandidate Kind = "gold_candidate"
)

// Sample is one entry of a dataset.
type Sample struct {
	// ID is the same for the same scope, kind and origin: a sample is never
	// added twice.
	ID       string `json:"sample_id"`
	Kind     Kind   `json:"kind"`
	SourceID string `json:"source_id"`
	// Payload is the item as the service showed it.
	Payload   json.RawMessage `json:"payload"`
	ReleaseID string          `json:"release_id"`
	AddedAt   time.Time       `json:"added_at"`
}

// DatasetVersion is one step of a dataset.
type DatasetVersion struct {
	Scope
	ReleaseID string `json:"release_id"`
	Before    string `json:"before"`
	After     string `json:"after"`
	// Counterexamples and GoldCandidates count the samples that were new.
	Counterexamples int       `json:"counterexamples"`
	GoldCandidates  int       `json:"gold_candidates"`
	CreatedAt       time.Time `json:"created_at"`
	// Key is the request's key, "" for none.
	Key string `json:"key,omitempty"`
}

// Store keeps datasets and strategies. Writes are durable and atomic.
type Store interface {
	// Dataset returns the newest version, false before the first.
	Dataset(ctx context.Context, s Scope) (DatasetVersion, bool, error)
	// DatasetByKey returns the version made under a key, false for none.
	DatasetByKey(ctx context.Context, s Scope, key string) (DatasetVersion, bool, error)
	// CommitDataset adds the samples that are not there yet, fills in v's
	// counts and keeps v, all or nothing. It returns ErrConflict when v.Before
	// is no longer the newest version (FirstDataset when there is none).
	CommitDataset(ctx context.Context, v DatasetVersion, samples []Sample) (DatasetVersion, error)
	// Strategy returns the newest strategy, false before the first.
	Strategy(ctx context.Context, s Scope) (Strategy, bool, error)
	// AppendStrategy keeps st, whose number must be one above the newest;
	// otherwise it returns ErrConflict.
	AppendStrategy(ctx context.Context, s Scope, st Strategy) error
}

// ErrConflict is returned by a store when somebody else was first.
var ErrConflict = errors.New("feedback: version has moved on")

// Item is a dead-letter item or a review as the service shows it.
type Item struct {
	ID string
	// Decision is the review's decision, "" for a dead-letter item.
	Decision string
	Payload  json.RawMessage
}

// Source shows what a service holds for a tenant.
type Source interface {
	DeadLetters(ctx context.Context, tenantID string) ([]Item, error)
	Reviews(ctx context.Context, tenantID string) ([]Item, error)
}

// Freeze says whether strategy changes are refused, because a rollback awaits
// its replay.
type Freeze interface {
	Frozen(ctx context.Context, s Scope) (bool, error)
}

// Config holds what a [Loop] works with. All but Now are required.
type Config struct {
	Service string
	Store   Store
	Source  Source
	Freeze  Freeze
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Loop closes the circle from a release to the next one's dataset and
// strategy.
type Loop struct{ cfg Config }

// New returns a loop.
func New(cfg Config) *Loop {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Loop{cfg: cfg}
}

// Request is the contract's body of POST …/data-feedback/run.
type Request struct {
	ReleaseID string   `json:"release_id"`
	DLQIDs    []string `json:"dlq_ids"`
	// VersionBump is major, minor or patch; empty means patch.
	VersionBump string `json:"version_bump,omitempty"`
	// IncludeOverrides is true unless given.
	IncludeOverrides *bool `json:"include_manual_override_candidates,omitempty"`
	// Key makes the request repeatable for the pipeline: the second one under
	// a key returns what the first one did.
	Key string `json:"-"`
}

// Result is the contract's answer.
type Result struct {
	ReleaseID           string `json:"release_id"`
	CounterexampleAdded int    `json:"counterexample_added"`
	GoldCandidatesAdded int    `json:"gold_candidates_added"`
	Before              string `json:"dataset_version_before"`
	After               string `json:"dataset_version_after"`
	// UnknownDLQIDs are those asked for that the tenant does not have.
	UnknownDLQIDs []string `json:"unknown_dlq_ids,omitempty"`
}

// Run adds the tenant's dead letters and overrides to its dataset and makes
// the next version. The version changes even when nothing was new.
func (l *Loop) Run(ctx context.Context, tenantID string, req Request) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

// Dataset returns the tenant's dataset version.
func (l *Loop) Dataset(ctx context.Context, tenantID string) (string, error) {
	v, ok, err := l.cfg.Store.Dataset(ctx, Scope{l.cfg.Service, tenantID})
	if err != nil {
		return "", err
	}
	if !ok {
		return FirstDataset, nil
	}
	return v.After, nil
}

// Apply validates a strategy and makes it the tenant's next version. While a
// rollback awaits its replay it is STRATEGY_FROZEN (409).
func (l *Loop) Apply(ctx context.Context, tenantID string, req StrategyRequest) (Strategy, error) {
	return Strategy{}, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "not there yet")
}
