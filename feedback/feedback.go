// Package feedback is Gate F: what went wrong in a release becomes samples of
// the next dataset version, and tuning becomes a strategy version.
//
// It owns samples, dataset versions and strategy versions. It never reads a
// service except through [Source], and never changes what a service runs.
package feedback

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	if req.ReleaseID == "" {
		return Result{}, headgate.Invalidf("release_id is required")
	}
	if req.VersionBump = cmp.Or(req.VersionBump, "patch"); !slices.Contains(bumps, req.VersionBump) {
		return Result{}, headgate.Invalidf("version_bump must be one of %s", strings.Join(bumps, ", "))
	}
	scope := Scope{Service: l.cfg.Service, TenantID: tenantID}
	if req.Key != "" {
		if v, ok, err := l.cfg.Store.DatasetByKey(ctx, scope, req.Key); err != nil || ok {
			return result(v, nil), err
		}
	}
	samples, unknown, err := l.collect(ctx, scope, req)
	if err != nil {
		return Result{}, err
	}
	for range maxConflicts {
		v := DatasetVersion{Scope: scope, ReleaseID: req.ReleaseID, Key: req.Key, CreatedAt: l.cfg.Now().UTC()}
		if v.Before, err = l.Dataset(ctx, tenantID); err != nil {
			return Result{}, err
		}
		if v.After, err = bump(v.Before, req.VersionBump); err != nil {
			return Result{}, err
		}
		v, err = l.cfg.Store.CommitDataset(ctx, v, samples)
		if !errors.Is(err, ErrConflict) {
			return result(v, unknown), err
		}
	}
	return Result{}, busy("dataset")
}

// maxConflicts bounds how often a version is tried for when others are first.
const maxConflicts = 10

var bumps = []string{"major", "minor", "patch"}

func busy(what string) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"too many changes to the %s at once; try again", what)
}

func result(v DatasetVersion, unknown []string) Result {
	return Result{
		ReleaseID: v.ReleaseID, CounterexampleAdded: v.Counterexamples, GoldCandidatesAdded: v.GoldCandidates,
		Before: v.Before, After: v.After, UnknownDLQIDs: unknown,
	}
}

// collect reads the service. Ids that the tenant does not have are returned,
// without saying whether another tenant has them.
func (l *Loop) collect(ctx context.Context, scope Scope, req Request) ([]Sample, []string, error) {
	letters, err := l.cfg.Source.DeadLetters(ctx, scope.TenantID)
	if err != nil {
		return nil, nil, err
	}
	var unknown []string
	if len(req.DLQIDs) > 0 {
		letters, unknown = choose(letters, req.DLQIDs)
	}
	now := l.cfg.Now().UTC()
	var samples []Sample
	for _, it := range letters {
		samples = append(samples, sample(scope, Counterexample, it, req.ReleaseID, now))
	}
	if req.IncludeOverrides != nil && !*req.IncludeOverrides {
		return samples, unknown, nil
	}
	reviews, err := l.cfg.Source.Reviews(ctx, scope.TenantID)
	if err != nil {
		return nil, nil, err
	}
	for _, it := range reviews {
		if it.Decision == "reject" || it.Decision == "edit_scores" {
			samples = append(samples, sample(scope, GoldCandidate, it, req.ReleaseID, now))
		}
	}
	return samples, unknown, nil
}

func choose(items []Item, ids []string) (chosen []Item, unknown []string) {
	for _, it := range items {
		if slices.Contains(ids, it.ID) {
			chosen = append(chosen, it)
		}
	}
	for _, id := range ids {
		known := slices.ContainsFunc(items, func(it Item) bool { return it.ID == id })
		if !known && !slices.Contains(unknown, id) {
			unknown = append(unknown, id)
		}
	}
	return chosen, unknown
}

func sample(s Scope, kind Kind, it Item, releaseID string, now time.Time) Sample {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", s.Service, s.TenantID, kind, it.ID))
	return Sample{
		ID: "smp_" + hex.EncodeToString(sum[:12]), Kind: kind, SourceID: it.ID,
		Payload: it.Payload, ReleaseID: releaseID, AddedAt: now,
	}
}

// bump returns the version after v ("v1.2.3").
func bump(v, part string) (string, error) {
	var n [3]uint64
	fields := strings.Split(strings.TrimPrefix(v, "v"), ".")
	if !strings.HasPrefix(v, "v") || len(fields) != len(n) {
		return "", headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "dataset version %q is not vMAJOR.MINOR.PATCH", v)
	}
	for i, f := range fields {
		var err error
		if n[i], err = strconv.ParseUint(f, 10, 32); err != nil {
			return "", headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "dataset version %q is not vMAJOR.MINOR.PATCH", v)
		}
	}
	switch part {
	case "major":
		n = [3]uint64{n[0] + 1, 0, 0}
	case "minor":
		n = [3]uint64{n[0], n[1] + 1, 0}
	default:
		n[2]++
	}
	return fmt.Sprintf("v%d.%d.%d", n[0], n[1], n[2]), nil
}

// Dataset returns the tenant's dataset version.
func (l *Loop) Dataset(ctx context.Context, tenantID string) (string, error) {
	v, ok, err := l.cfg.Store.Dataset(ctx, Scope{Service: l.cfg.Service, TenantID: tenantID})
	if err != nil {
		return "", err
	}
	if !ok {
		return FirstDataset, nil
	}
	return v.After, nil
}
