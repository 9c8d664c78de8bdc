// Package headgate is the vocabulary of the release control plane: releases,
// stages, components, verdicts and the one error type that every layer speaks.
//
// It owns the words and their invariants. It never does I/O, never reads a
// clock and imports the standard library only.
package headgate

import (
	"crypto/rand"
	"encoding/base32"
	"slices"
	"strings"
	"time"
)

// Component is one part of a release that changes and is rolled back by
// itself.
type Component string

// The four components of a release.
const (
	ModelConfig     Component = "model_config"
	RetrievalParams Component = "retrieval_params"
	WorkflowVersion Component = "workflow_version"
	ReleaseVersion  Component = "release_version"
)

// RollbackOrder returns the components in the order in which a rollback
// executes them. The order is fixed by the HTTP contract.
func RollbackOrder() []Component {
	return []Component{ModelConfig, RetrievalParams, WorkflowVersion, ReleaseVersion}
}

// Stage is one step of the release pipeline.
type Stage string

// The stages of the pipeline, in order.
const (
	StageBuild    Stage = "build"
	StageTest     Stage = "test"
	StageContract Stage = "contract"
	StageReplay   Stage = "replay"
	StageGateD    Stage = "gate_d"
	StageRollout  Stage = "rollout"
	StageCanary   Stage = "canary"
	StageFull     Stage = "full"
	StageFeedback Stage = "feedback"
)

// Stages returns every stage in pipeline order.
func Stages() []Stage {
	return []Stage{
		StageBuild, StageTest, StageContract, StageReplay, StageGateD,
		StageRollout, StageCanary, StageFull, StageFeedback,
	}
}

// Next returns the stage after s and whether there is one.
func (s Stage) Next() (Stage, bool) {
	all := Stages()
	i := slices.Index(all, s)
	if i < 0 || i+1 == len(all) {
		return "", false
	}
	return all[i+1], true
}

// Verdict is what a judge says.
type Verdict string

// The four verdicts. Only [Fail] means that the release is bad:
// [Insufficient] is too little data to decide, [Broken] is telemetry that is
// missing, stale, NaN or contradictory.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Insufficient Verdict = "insufficient"
	Broken       Verdict = "broken"
)

// Gate names one of the seven gates of the readiness assessment.
type Gate string

// The seven gates. The first four are Gate D.
const (
	GateQuality     Gate = "quality"
	GatePerformance Gate = "performance"
	GateSecurity    Gate = "security"
	GateCost        Gate = "cost"
	GateRollout     Gate = "rollout"
	GateRollback    Gate = "rollback"
	GateOps         Gate = "ops"
)

// GateD returns the four gates that judge a candidate before it meets a user.
func GateD() []Gate {
	return []Gate{GateQuality, GatePerformance, GateSecurity, GateCost}
}

// Gates returns all seven gates of the readiness assessment in contract order.
func Gates() []Gate {
	return append(GateD(), GateRollout, GateRollback, GateOps)
}

// ProjectSize is the size class by which a rollout widens.
type ProjectSize string

// The three size classes, smallest first.
const (
	SizeSmall  ProjectSize = "small"
	SizeMedium ProjectSize = "medium"
	SizeLarge  ProjectSize = "large"
)

// ProjectSizes returns the size classes in rollout order.
func ProjectSizes() []ProjectSize { return []ProjectSize{SizeSmall, SizeMedium, SizeLarge} }

// Arm is a side of the comparison between two versions under user traffic.
type Arm string

// The two arms. In doubt a request goes to [Stable].
const (
	Stable    Arm = "stable"
	Candidate Arm = "candidate"
)

// Change is one component's step from a version to another.
type Change struct {
	Component Component `json:"component"`
	From      string    `json:"from"`
	To        string    `json:"to"`
}

// Source says where a release comes from.
type Source struct {
	Commit string `json:"commit,omitempty"`
	Author string `json:"author,omitempty"`
	Link   string `json:"link,omitempty"`
}

// Outcome is how a release ended; empty while it runs.
type Outcome string

// The outcomes of a release.
const (
	Promoted     Outcome = "promoted"
	Blocked      Outcome = "blocked"
	RolledBack   Outcome = "rolled_back"
	Aborted      Outcome = "aborted"
	Inconclusive Outcome = "inconclusive"
)

// Release is one set of changes on its way through the pipeline.
type Release struct {
	ID       string   `json:"release_id"`
	Service  string   `json:"service"`
	TenantID string   `json:"tenant_id,omitempty"`
	Version  string   `json:"version"`
	Changes  []Change `json:"changes,omitempty"`
	Source   Source   `json:"source,omitzero"`
	// Digest identifies what runs ("sha256:…"). What passed is what ships.
	Digest string `json:"digest"`
	// StagingURL and CandidateURL are where the candidate answers before and
	// under user traffic.
	StagingURL   string `json:"staging_url"`
	CandidateURL string `json:"candidate_url"`
	HighRisk     bool   `json:"high_risk,omitempty"`

	Stage     Stage     `json:"stage"`
	Outcome   Outcome   `json:"outcome,omitempty"`
	StoppedAt Stage     `json:"stopped_at,omitempty"`
	Reasons   []string  `json:"reasons"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Done reports whether the release has ended.
func (r Release) Done() bool { return r.Outcome != "" }

// StageRun is one attempt at a stage with what it found.
type StageRun struct {
	ReleaseID string    `json:"release_id"`
	Stage     Stage     `json:"stage"`
	Attempt   int       `json:"attempt"`
	Verdict   Verdict   `json:"verdict,omitempty"`
	Reasons   []string  `json:"reasons,omitempty"`
	Summary   string    `json:"summary,omitempty"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
}

// Breach is a gate's metric that failed a number of times in a row.
type Breach struct {
	Gate                Gate   `json:"gate"`
	MetricCode          string `json:"metric_code"`
	ConsecutiveFailures int    `json:"consecutive_failures"`
}

// Event is one line of a release's decision trail and of the audit log: who
// did what, when, from where and why.
type Event struct {
	Time      time.Time      `json:"time"`
	Kind      string         `json:"kind"`
	ReleaseID string         `json:"release_id,omitempty"`
	Service   string         `json:"service,omitempty"`
	TenantID  string         `json:"tenant_id,omitempty"`
	Actor     string         `json:"actor"`
	From      string         `json:"from,omitempty"`
	Reason    string         `json:"reason,omitempty"`
	Stage     Stage          `json:"stage,omitempty"`
	Verdict   Verdict        `json:"verdict,omitempty"`
	Message   string         `json:"message,omitempty"`
	Data      map[string]any `json:"data,omitempty"`
}

// NewID returns a random identifier such as "rel_7h3k…": the prefix, an
// underscore and 100 bits in lower-case base32.
func NewID(prefix string) string {
	b := make([]byte, 13)
	rand.Read(b) // never fails, see crypto/rand
	id := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b)
	return prefix + "_" + strings.ToLower(id[:20])
}
