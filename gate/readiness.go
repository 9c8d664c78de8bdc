package gate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// Mode says how far claims are trusted.
type Mode string

// The two evidence modes.
const (
	// Verified: a claim of true counts only with fresh passing evidence.
	Verified Mode = "verified"
	// Declared: claims count, and the assessment says so. For development.
	Declared Mode = "declared"
)

// Evidence is what the server holds for one gate, or for the replay, of the
// release in question. The caller has established whose it is and how old.
type Evidence struct {
	ID      string           `json:"evidence_id"`
	Digest  string           `json:"digest"`
	Verdict headgate.Verdict `json:"verdict"`
	// Fresh is false when the evidence is too old, of another digest, or made
	// under other rules.
	Fresh bool `json:"fresh"`
	// Reason is why it is not fresh, or what was found where it is no pass.
	Reason string `json:"reason,omitempty"`
}

// ReadinessInput is a readiness request and the evidence held.
type ReadinessInput struct {
	// AssessmentID ("ra_…") and TenantID are copied to the assessment.
	AssessmentID   string
	TenantID       string
	ReleaseID      string
	DatasetVersion string
	// ReplayPassed and GateResults are claims. A gate that is not in
	// GateResults counts as failed; a name that is not a gate is ignored.
	ReplayPassed bool
	GateResults  map[headgate.Gate]bool
	// Mode is [Verified] unless it is [Declared].
	Mode     Mode
	Evidence map[headgate.Gate]Evidence
	// Replay is the evidence of the replay; nil when there is none.
	Replay *Evidence
	// Overrides are gates that two people let pass for now. One of the security
	// gate is ignored, and there is none for the replay.
	Overrides map[headgate.Gate]Override
}

// Override is a gate that two people let pass.
type Override struct {
	ID        string        `json:"override_id"`
	Gate      headgate.Gate `json:"gate"`
	Actors    []string      `json:"actors"`
	Reason    string        `json:"reason"`
	ExpiresAt time.Time     `json:"expires_at"`
}

// Overridable reports whether two people may let a gate pass: every one but
// security.
func Overridable(g headgate.Gate) bool {
	return g != headgate.GateSecurity && slices.Contains(headgate.Gates(), g)
}

// Assessment is the answer of the readiness endpoint.
type Assessment struct {
	AssessmentID   string `json:"assessment_id"`
	ReleaseID      string `json:"release_id"`
	TenantID       string `json:"tenant_id"`
	DatasetVersion string `json:"dataset_version"`
	Admitted       bool   `json:"admitted"`
	// FailedChecks: the dataset, the gates in contract order, the replay.
	FailedChecks []string `json:"failed_checks"`
	// ReplayPassed and GateResults say what counted, not what was claimed.
	ReplayPassed bool                   `json:"replay_passed"`
	GateResults  map[headgate.Gate]bool `json:"gate_results"`

	EvidenceMode Mode `json:"evidence_mode"`
	// Basis says for each gate, then for "replay", what the answer rests on.
	Basis []Basis `json:"basis"`
	// Overridden lists the overrides without which the release would not be
	// admitted.
	Overridden []Override `json:"overridden,omitempty"`
}

// Basis is what the answer on one gate rests on.
type Basis struct {
	// Check is the gate's name, or "replay".
	Check   string `json:"check"`
	Claimed bool   `json:"claimed"`
	Passed  bool   `json:"passed"`
	// Support is "evidence", "override" when two people let it pass, "declared"
	// when only the claim supports it, or "none".
	Support  string    `json:"support"`
	Evidence *Evidence `json:"evidence,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// Readiness assesses a release over the seven gates and the replay. A claim of
// false always blocks.
func Readiness(in ReadinessInput) Assessment {
	a := Assessment{
		AssessmentID: in.AssessmentID, ReleaseID: in.ReleaseID, TenantID: in.TenantID,
		DatasetVersion: in.DatasetVersion, FailedChecks: []string{},
		GateResults: map[headgate.Gate]bool{}, EvidenceMode: Verified,
	}
	if in.Mode == Declared {
		a.EvidenceMode = Declared
	}
	if strings.TrimSpace(in.DatasetVersion) == "" {
		a.FailedChecks = append(a.FailedChecks, "DATASET_VERSION_REQUIRED")
	}
	for _, g := range headgate.Gates() {
		var held *Evidence
		if e, ok := in.Evidence[g]; ok {
			held = &e
		}
		prefix := strings.ToUpper(string(g))
		var override *Override
		if o, ok := in.Overrides[g]; ok && Overridable(g) {
			override = &o
		}
		a.GateResults[g] = a.weigh(string(g), in.GateResults[g], held, override, prefix+"_GATE_FAILED", prefix+"_EVIDENCE_MISSING")
	}
	a.ReplayPassed = a.weigh("replay", in.ReplayPassed, in.Replay, nil, "REPLAY_E2E_FAILED", "REPLAY_EVIDENCE_MISSING")
	a.Admitted = len(a.FailedChecks) == 0
	return a
}

// weigh records whether a claim counts.
func (a *Assessment) weigh(check string, claimed bool, held *Evidence, override *Override, failed, missing string) bool {
	b := Basis{Check: check, Claimed: claimed, Support: "none", Evidence: held}
	proven, why := held.proves()
	if proven {
		b.Support = "evidence"
	}
	switch {
	case !claimed:
		b.Reason = "not claimed to have passed"
		a.FailedChecks = append(a.FailedChecks, failed)
	case proven:
		b.Passed = true
	case override != nil:
		b.Passed, b.Support = true, "override"
		b.Reason = fmt.Sprintf("OVERRIDDEN by %s until %s (%s): %s", strings.Join(override.Actors, " and "),
			override.ExpiresAt.UTC().Format(time.RFC3339), override.Reason, why)
		a.Overridden = append(a.Overridden, *override)
	case a.EvidenceMode == Declared:
		b.Passed, b.Support = true, "declared"
		b.Reason = "only declared: " + why
	default:
		b.Reason = why + next(check, a.ReleaseID)
		a.FailedChecks = append(a.FailedChecks, missing)
	}
	a.Basis = append(a.Basis, b)
	return b.Passed
}

// next says how evidence of a check is made anew. The gates that a server looks
// at afresh say themselves what they miss.
func next(check, release string) string {
	switch {
	case check == "replay":
		return "; POST /api/v1/internal/release/replay/e2e with this release_id replays it anew"
	case slices.Contains(headgate.GateD(), headgate.Gate(check)):
		return "; headgate gate evaluate " + check + " FILE… --release " + release + " judges it anew"
	}
	return ""
}

// proves reports whether the evidence supports a claim and, if not, why.
func (e *Evidence) proves() (bool, string) {
	switch {
	case e == nil:
		return false, "no evidence is held for this release"
	case e.Verdict != headgate.Pass:
		return false, e.because("the evidence held says " + string(e.Verdict))
	case !e.Fresh:
		return false, e.because("the evidence held is stale")
	}
	return true, ""
}

func (e *Evidence) because(what string) string {
	if e.Reason == "" {
		return what
	}
	return what + ": " + e.Reason
}
