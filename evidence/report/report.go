// Package report renders one release as a page that a person can read, print
// and keep: HTML without scripts or outside resources, Markdown, and JSON, in
// English and Chinese, all from the same view.
//
// It owns words, tables and pictures. It never judges, fetches or computes a
// verdict: what it shows was decided and recorded elsewhere. The same release
// gives the same bytes.
package report

import (
	"encoding/json"
	"io"
	"time"

	"github.com/headgate/headgate"
)

// Lang is the language of a report.
type Lang string

// The languages that reports are written in.
const (
	English Lang = "en"
	Chinese Lang = "zh-CN"
)

// Release is all that a report shows. Sections without data are left out,
// except that an absent gate, replay or canary is said to be absent.
type Release struct {
	headgate.Release
	GeneratedAt time.Time           `json:"generated_at"`
	Server      string              `json:"server,omitempty"` // which control plane, with its version
	Stages      []headgate.StageRun `json:"stages"`
	Gates       []Gate              `json:"gates"`
	Canary      *Canary             `json:"canary,omitempty"`
	Replays     []Replay            `json:"replays,omitempty"`
	Events      []headgate.Event    `json:"events"`
	Rollback    *Rollback           `json:"rollback,omitempty"`
	Readiness   *Readiness          `json:"readiness,omitempty"`
	Alerts      []Alert             `json:"alerts,omitempty"`
	Evidence    []Evidence          `json:"evidence"`
	// Overrides are shown at the top, loudly.
	Overrides []Override `json:"overrides,omitempty"`
	// HomeURL is where all releases are listed, for a page that a server shows;
	// empty for one that is kept as a file.
	HomeURL string `json:"-"`
}

// Gate is one gate's decision.
type Gate struct {
	Gate        headgate.Gate    `json:"gate"`
	Verdict     headgate.Verdict `json:"verdict"`
	Time        time.Time        `json:"time"`
	RulesDigest string           `json:"rules_digest,omitempty"`
	Declared    bool             `json:"declared,omitempty"` // only claimed
	Checks      []Check          `json:"checks"`
}

// Check is one line of a gate's table, with the fields of the gate's own check.
type Check struct {
	Name       string           `json:"name"`
	Code       string           `json:"code"`
	Value      any              `json:"value"`     // a number, a boolean, or nil for none
	Threshold  any              `json:"threshold"` // a number, a boolean, or a CEL expression
	Op         string           `json:"op"`        // ">=", "<=", "==", "cel" or "tool"
	Unit       string           `json:"unit"`
	Samples    *int64           `json:"samples"` // nil when nobody counted
	MinSamples int64            `json:"min_samples"`
	Window     string           `json:"window"`
	Source     string           `json:"source"`
	Distance   *float64         `json:"distance"` // positive on the good side
	Verdict    headgate.Verdict `json:"verdict"`
	Detail     string           `json:"detail,omitempty"`
}

// Canary is the comparison of the candidate with stable over time.
type Canary struct {
	Alpha  float64 `json:"alpha"` // the e-process rejects at 1/Alpha
	Points []Point `json:"points"`
}

// Point is the canary at one tick; counts are cumulative since its start.
type Point struct {
	Time              time.Time        `json:"time"`
	Share             float64          `json:"share"` // of traffic to the candidate, 0..1
	StableRequests    int64            `json:"stable_requests"`
	StableErrors      int64            `json:"stable_errors"`
	CandidateRequests int64            `json:"candidate_requests"`
	CandidateErrors   int64            `json:"candidate_errors"`
	StableP95S        float64          `json:"stable_p95_s,omitempty"`
	CandidateP95S     float64          `json:"candidate_p95_s,omitempty"`
	EValue            float64          `json:"e_value"`
	Verdict           headgate.Verdict `json:"verdict,omitempty"`
}

// Replay is one replay of recorded traffic.
type Replay struct {
	RunID    string    `json:"run_id"`
	Purpose  string    `json:"purpose,omitempty"` // before release, after rollback
	Time     time.Time `json:"time"`
	Sessions int       `json:"sessions"`
	Steps    int       `json:"steps"`
	Failed   int       `json:"failed"`
	Passed   bool      `json:"passed"`
	Failures []string  `json:"failures,omitempty"`
}

// Rollback is what a rollback did and when; a zero time has not come.
type Rollback struct {
	TriggerGate headgate.Gate `json:"trigger_gate,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	// Explanation says in one paragraph what failed, from the service's own
	// telemetry, and TraceID names an example. TraceURL is where its story can
	// be read, empty for nowhere.
	Explanation   string    `json:"explanation,omitempty"`
	TraceID       string    `json:"trace_id,omitempty"`
	TraceURL      string    `json:"trace_url,omitempty"`
	FirstBadAt    time.Time `json:"first_bad_at,omitzero"` // the first bad answer to a user
	TriggeredAt   time.Time `json:"triggered_at"`
	TrafficBackAt time.Time `json:"traffic_back_at,omitzero"`
	CompletedAt   time.Time `json:"completed_at,omitzero"`
	RestoredAt    time.Time `json:"restored_at,omitzero"`
	LimitS        float64   `json:"limit_s,omitempty"`
	Steps         []Step    `json:"steps"`
	ReplayJobID   string    `json:"replay_job_id,omitempty"`
	ReplayStatus  string    `json:"replay_status,omitempty"`
}

// Step is one component's way back.
type Step struct {
	Component headgate.Component `json:"component"`
	To        string             `json:"to,omitempty"`
	Status    string             `json:"status"`
	ReadBack  string             `json:"read_back,omitempty"`
	Error     string             `json:"error,omitempty"`
	StartedAt time.Time          `json:"started_at,omitzero"`
	EndedAt   time.Time          `json:"ended_at,omitzero"`
}

// Readiness is the assessment before release.
type Readiness struct {
	AssessmentID   string          `json:"assessment_id"`
	DatasetVersion string          `json:"dataset_version"`
	Admitted       bool            `json:"admitted"`
	ReplayPassed   bool            `json:"replay_passed"`
	ReplayReason   string          `json:"replay_reason,omitempty"`   // why the replay does not count
	ReplayEvidence string          `json:"replay_evidence,omitempty"` // the statement's digest
	FailedChecks   []string        `json:"failed_checks"`
	Gates          []ReadinessGate `json:"gates"`
}

// ReadinessGate is one of the seven gates with the evidence it rests on.
type ReadinessGate struct {
	Gate     headgate.Gate `json:"gate"`
	Passed   bool          `json:"passed"`
	Reason   string        `json:"reason,omitempty"`   // why the evidence does not count
	Evidence string        `json:"evidence,omitempty"` // the statement's digest
}

// Alert is one alert with what was done about it.
type Alert struct {
	Name       string    `json:"name"`
	Severity   string    `json:"severity"` // P0, P1 or P2
	Summary    string    `json:"summary,omitempty"`
	FiredAt    time.Time `json:"fired_at"`
	ActedAt    time.Time `json:"acted_at,omitzero"`
	ResolvedAt time.Time `json:"resolved_at,omitzero"`
	Action     string    `json:"action,omitempty"`
}

// Evidence is one statement of the log.
type Evidence struct {
	Index   int64            `json:"index"`
	Kind    string           `json:"kind"` // the last word of the predicate type, such as gate-decision
	About   string           `json:"about,omitempty"`
	Time    time.Time        `json:"time"`
	Digest  string           `json:"digest"`
	Verdict headgate.Verdict `json:"verdict,omitempty"`
	Inputs  []File           `json:"inputs,omitempty"`
}

// File is a raw file that a statement rests on.
type File struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Override is a gate that two people let pass.
type Override struct {
	Gate      headgate.Gate `json:"gate"`
	Actors    []string      `json:"actors"`
	Reason    string        `json:"reason"`
	ExpiresAt time.Time     `json:"expires_at"`
}

// HTML writes the report as one self-contained page, without scripts.
func HTML(w io.Writer, r Release, lang Lang) error {
	return page().Execute(w, compose(r, words{lang: lang}))
}

// Markdown writes the report as Markdown; its pictures become tables.
func Markdown(w io.Writer, r Release, lang Lang) error {
	_, err := io.WriteString(w, markdown(compose(r, words{lang: lang})))
	return err
}

// JSON writes the report's data, indented. Numbers that JSON cannot hold, NaN
// and infinity, are REQ_VALIDATION_FAILED.
func JSON(w io.Writer, r Release) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return headgate.Invalidf("the report holds a number that JSON cannot: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
