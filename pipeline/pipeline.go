// Package pipeline is the one resumable state machine that puts the stages of
// a release in order: build, test, contract, replay, gate_d, rollout, canary,
// full, feedback.
//
// It is a level-triggered reconciler in the manner of a Kubernetes
// controller. The truth is rows in a database; wake-ups only make it prompt.
// Each turn claims one due release (raising its epoch), lets the pure function
// decide say what to do, does that one effect, and commits only where the
// epoch still matches. State therefore changes exactly once; side effects
// happen at least once and are harmless because their targets are idempotent
// and refuse an older epoch.
//
// It never judges: verdicts come from the stage runners and from package
// canary. It never runs a command that it was sent.
package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// PlanVersion is the version of [Plan] that this build writes. A replica claims
// only the plan versions that it knows: version 1 had one tier.
const PlanVersion = 2

var knownPlans = []int{1, PlanVersion}

// Plan is what was decided about a release when it was created. It is frozen:
// a change of configuration during the release does not change it.
type Plan struct {
	// Rollout says which tenants the candidate may meet.
	Rollout rollout.Plan `json:"rollout"`
	// Tenants are those that the first tier of the canary may meet: whitelisted
	// and of a size that the plan enables.
	Tenants []string `json:"tenants"`
	// Share of the admitted tenants' requests that the first tier gets, 0 to 1.
	Share float64 `json:"share"`
	// Wider are the tiers after the first, in order. Each admits everybody that
	// the one before it admits, to no smaller share.
	Wider []Tier `json:"wider,omitempty"`
	// LeaseTTL is how long a router keeps the share without a renewal.
	LeaseTTL time.Duration `json:"lease_ttl"`
	// CanaryMax is how long a tier may be watched and stay undecided before
	// traffic goes back to stable; 0 leaves that to the stage's timeout, which
	// begins anew with each tier. Time without telemetry does not count.
	CanaryMax time.Duration `json:"canary_max"`
	// Canary holds the frozen parameters of the judge, in the first tier.
	Canary canary.Config `json:"canary"`
	// ApprovalRequired holds the release before the rollout until a person
	// with the approver role lets it go on.
	ApprovalRequired bool `json:"approval_required"`
	// OnBusy says what the release does when another one of the service meets
	// users; empty is [BusyWait].
	OnBusy Busy `json:"on_busy,omitempty"`
	// StageTimeout bounds each stage; a stage past it is not passed.
	StageTimeout map[headgate.Stage]time.Duration `json:"stage_timeout"`
	// Stable is where traffic goes back to.
	Stable rollout.Backend `json:"stable"`
}

// Busy is what a release does when an older one of its service is under canary.
type Busy string

// A release waits until the other has ended, or takes its place: the other's
// traffic goes back to stable first.
const (
	BusyWait      Busy = "wait"
	BusySupersede Busy = "supersede"
)

// Phase says what the engine is doing with a release.
type Phase string

// The phases of a release. An unknown phase is parked, never guessed at.
const (
	PhaseRunning     Phase = "running"
	PhaseRollingBack Phase = "rolling_back"
	PhaseDone        Phase = "done"
)

// Record is a release with the engine's own columns.
type Record struct {
	headgate.Release
	PlanVersion int
	Plan        Plan
	Phase       Phase
	// Attempt counts the tries at the present stage, from 1.
	Attempt int
	// Gen rises with every signal, Epoch with every claim.
	Gen, Epoch int64
	// NextRunAt is when the release is due; DeadlineAt ends the stage.
	NextRunAt, DeadlineAt time.Time
	StageStartedAt        time.Time
	State                 State
}

// State is the progress inside a stage that must survive a crash.
type State struct {
	// Holding is true from when this release alone may meet the service's users
	// until it has ended; stopping it then takes a rollback.
	Holding bool `json:"holding,omitempty"`
	// AdmittedAt is when a release that had waited to meet users was admitted
	// anew, zero before that.
	AdmittedAt time.Time `json:"admitted_at,omitzero"`
	// Superseded is the release that was told to make way for this one.
	Superseded string `json:"superseded,omitempty"`
	// Granted is true once a router has acknowledged the canary's share. A
	// share that was granted and has lapsed means roll back, never resume.
	Granted bool `json:"granted,omitempty"`
	// Share is what the canary has now; throttling lowers it.
	Share float64 `json:"share,omitempty"`
	// Unconfirmed says why it is not known that the routers do what Share says,
	// empty when they confirmed it at the last look.
	Unconfirmed string `json:"unconfirmed,omitempty"`
	// Steady is true when the share did not change at the last tick.
	Steady bool `json:"steady,omitempty"`
	// Tier is the canary's, counted from 0; TierSince is when it began.
	Tier      int       `json:"tier,omitempty"`
	TierSince time.Time `json:"tier_since,omitzero"`
	// JudgedFrom is the number of ticks before those that the present judge has
	// seen: each tier has its own verdict.
	JudgedFrom int64 `json:"judged_from,omitempty"`
	// Evicted are the tenants that were taken off the candidate.
	Evicted []Evicted `json:"evicted,omitempty"`
	// Wanted is the share that a person set, 0 for the plan's.
	Wanted float64 `json:"wanted,omitempty"`
	// Paused is true while a person keeps the canary from being promoted.
	Paused bool `json:"paused,omitempty"`
	// Promotions counts the demands to promote that were answered.
	Promotions int `json:"promotions,omitempty"`
	// Counts are the router's cumulative counts at the last committed tick.
	Counts rollout.Counts `json:"counts,omitzero"`
	// Costs are the task costs counted at the last committed tick, nil before
	// the first.
	Costs []TaskCosts `json:"costs"`
	// Ticks is the number of committed ticks.
	Ticks int64 `json:"ticks,omitempty"`
	// Canary is the judge's last decision. Its verdict decides between rolled
	// back and inconclusive when time runs out.
	Canary *canary.Decision `json:"canary,omitempty"`
	// OutageSince is when the stage first met the outage that it is in.
	OutageSince time.Time `json:"outage_since,omitzero"`
	// Note tells a person what the release waits for.
	Note string `json:"note,omitempty"`
	// Rollback is set in phase rolling_back.
	Rollback *RollbackIntent `json:"rollback,omitempty"`
}

func (s State) verdict() headgate.Verdict {
	if s.Canary == nil {
		return ""
	}
	return s.Canary.Verdict
}

// RollbackIntent is written before the first step of a rollback.
type RollbackIntent struct {
	TriggerGate headgate.Gate    `json:"trigger_gate,omitempty"`
	Reasons     []string         `json:"reasons"`
	Message     string           `json:"message"`
	Outcome     headgate.Outcome `json:"outcome"`
	TriggeredAt time.Time        `json:"triggered_at"`
	// StoppedAt is when the candidate's share was read back as zero; zero
	// until then.
	StoppedAt time.Time `json:"stopped_at,omitzero"`
}

// FactKind names what somebody told the engine.
type FactKind string

// The kinds of facts.
const (
	FactStageResult FactKind = "stage_result"
	FactEvidence    FactKind = "evidence"
	FactApproval    FactKind = "approval"
	FactAbort       FactKind = "abort"
	FactRollback    FactKind = "rollback"
	// FactSupersede ends a canary in favour of a newer release of the service.
	FactSupersede FactKind = "supersede"
	// FactPause keeps a canary from being promoted and its share from rising
	// until FactResume; it is judged on.
	FactPause  FactKind = "pause"
	FactResume FactKind = "resume"
	// FactShare sets a canary's share, below the judge's limit.
	FactShare FactKind = "share"
	// FactPromote asks to end a canary in the candidate's favour, as far as
	// [CheckPromotion] allows at the next look.
	FactPromote FactKind = "promote"
)

// Fact is a signal: something that somebody told the engine. Facts are only
// ever added.
type Fact struct {
	Kind    FactKind         `json:"kind"`
	Stage   headgate.Stage   `json:"stage,omitempty"`
	Verdict headgate.Verdict `json:"verdict,omitempty"`
	Actor   string           `json:"actor"`
	From    string           `json:"from,omitempty"`
	Reason  string           `json:"reason,omitempty"`
	Summary string           `json:"summary,omitempty"`
	// Share is a FactShare's, above 0 to 1.
	Share float64   `json:"share,omitempty"`
	At    time.Time `json:"at"`
}

// TickRow is one canary look with what the judge said about it.
type TickRow struct {
	Seq      int64           `json:"seq"`
	Tick     canary.Tick     `json:"tick"`
	Decision canary.Decision `json:"decision"`
}

// Commit is everything one turn changes, written in one transaction.
type Commit struct {
	// Record holds the new values of the release; its Epoch must still be
	// the row's.
	Record Record
	// ClaimedGen is the generation at the claim: where the row's is higher
	// by now, the store makes the release due at once, so that a signal is
	// not lost to this commit.
	ClaimedGen int64
	// Runs are stored by release and stage; a later one replaces an earlier.
	Runs   []headgate.StageRun
	Events []headgate.Event
	Ticks  []TickRow
	// Quarantine, when set, is a digest that must not be released again.
	Quarantine string
	// Serve, when set, is the backend that is the service's stable one from
	// now on.
	Serve *rollout.Backend
	// HoldTraffic takes the service's traffic for this release, so that no
	// second release meets users at the same time and none does while the
	// service is frozen; ReleaseTraffic gives it back.
	HoldTraffic, ReleaseTraffic bool
}

// Store is the database of the pipeline. All times are the database's own.
type Store interface {
	// CreateRelease inserts a release with its first stage run and events.
	// The same ID with the same digest and service is the same release and
	// returns the stored one; otherwise IDEMPOTENCY_CONFLICT. A quarantined
	// digest is DIGEST_QUARANTINED.
	CreateRelease(ctx context.Context, first Commit) (Record, error)
	// Release returns RELEASE_NOT_FOUND when there is none.
	Release(ctx context.Context, id string) (Record, error)
	// Claim leases one release that is due and free to owner for ttl, gives
	// it the next epoch of the whole store, and returns it with all its
	// facts; ok is false when nothing is due.
	Claim(ctx context.Context, owner string, ttl time.Duration, planVersions ...int) (r Record, facts []Fact, ok bool, err error)
	// NextEpoch returns a number higher than any epoch of the store and than
	// after; all later ones are higher still. After is what a router answers: one
	// that is ahead of the store was told by a controller with later state. Only
	// to take traffic off a candidate may it be overtaken.
	NextEpoch(ctx context.Context, after int64) (int64, error)
	// Extend prolongs the lease; STALE_EPOCH when somebody else has it.
	Extend(ctx context.Context, id string, epoch int64, ttl time.Duration) error
	// Commit writes c and gives up the lease; STALE_EPOCH when the row has
	// moved on or its lease was given up. HoldTraffic fails with RELEASE_ACTIVE
	// when another release of the service meets users or a rollback is not
	// over, with the detail "held_by" in the first case; with DIGEST_QUARANTINED or STABLE_MOVED when the release must not
	// meet users any more.
	Commit(ctx context.Context, c Commit) error
	// Signal adds a fact and its event and makes the release due at once.
	// RELEASE_DONE when the release has ended.
	Signal(ctx context.Context, id string, f Fact, ev headgate.Event) error
	// Facts returns what a release was told, oldest first.
	Facts(ctx context.Context, id string) ([]Fact, error)
	// NextWake is the earliest moment at which Claim, with the same plan
	// versions, can return a release; ok is false when only a signal can make
	// one due.
	NextWake(ctx context.Context, planVersions ...int) (at time.Time, ok bool, err error)
	// StageRuns and Ticks return what a release left, oldest first.
	StageRuns(ctx context.Context, id string) ([]headgate.StageRun, error)
	Ticks(ctx context.Context, id string) ([]TickRow, error)
	// Now is the database's time.
	Now(ctx context.Context) (time.Time, error)
}

// Result is what a stage runner found.
type Result struct {
	Verdict headgate.Verdict
	// Reasons are stable codes, Summary is one sentence for a person.
	Reasons []string
	Summary string
	// Waiting, when set, means that the stage cannot be judged yet and says
	// what is missing; the engine asks again after the next fact or a few
	// seconds.
	Waiting string
}

// ErrOutage marks a runner's error of which the release is innocent: a store of
// the control plane's own does not answer. The stage is tried again until it
// does, for an hour at most.
var ErrOutage = errors.New("an outage of the control plane's own")

// Runner judges one automatic stage of a release. It is called at least once
// per (release, stage, attempt) and must be idempotent. An error means that
// the stage could not be judged; it is tried again.
type Runner func(ctx context.Context, r Record) (Result, error)

// Observation is what the canary's surroundings say at a tick.
type Observation struct {
	// Checks are the performance gate's metrics on the candidate's live
	// figures.
	Checks []canary.Check
	// Costs are those of both arms' tasks, cumulative.
	Costs []TaskCosts
	// Stale, when set, says which telemetry has stopped.
	Stale string
}

// Observer looks at the candidate's live telemetry.
type Observer func(ctx context.Context, r Record) (Observation, error)

// RollbackResult is what a finished rollback reports.
type RollbackResult struct {
	// Restored is true when the replay against stable has passed; only then
	// is the freeze lifted.
	Restored    bool
	Escalations []string
	Summary     string
}

// Rollbacker executes the ordered rollback of a release and the replay after
// it. It is resumable: called again after a crash it goes on.
type Rollbacker func(ctx context.Context, r Record) (RollbackResult, error)

// Publisher puts a promoted release's component values in force, in order,
// each read back.
type Publisher func(ctx context.Context, r Record) error
