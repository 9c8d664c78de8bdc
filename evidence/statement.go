package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// StatementType is the _type of every statement: in-toto Statement v1.
const StatementType = "https://in-toto.io/Statement/v1"

// PayloadType is the DSSE payload type of in-toto statements.
const PayloadType = "application/vnd.in-toto+json"

// Statement says one thing about one subject. Its JSON, once signed, is never
// re-encoded: the signature is over the bytes as they were written.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is what a statement is about: a release by its id and the digest of
// what runs.
type Subject struct {
	Name string `json:"name"`
	// Digest maps an algorithm to lower-case hex, for example "sha256".
	Digest map[string]string `json:"digest"`
}

// Predicate is one of the facts that this package knows how to state:
// [GateDecision], [StageResult], [CanaryVerdict], [Rollback], [AuditEvent],
// [TestResult] and [VerificationSummary].
type Predicate interface {
	predicateType() string
}

// About returns the statement p about a release. The release's digest must
// look like "sha256:<hex>"; anything else is REQ_VALIDATION_FAILED.
func About(r headgate.Release, p Predicate) (Statement, error) {
	algorithm, value, ok := strings.Cut(r.Digest, ":")
	if _, err := hex.DecodeString(value); !ok || algorithm == "" || value == "" || err != nil || r.ID == "" {
		return Statement{}, headgate.Invalidf(
			"release %q has digest %q; evidence needs an id and a digest such as sha256:<hex> of what runs", r.ID, r.Digest)
	}
	return newStatement(Subject{Name: r.ID, Digest: map[string]string{algorithm: value}}, p)
}

// IsAbout reports whether the statement's subject is the release. One that was
// made under the release's id before there was a release of it is not.
func (s Statement) IsAbout(r headgate.Release) bool {
	algorithm, value, _ := strings.Cut(r.Digest, ":")
	return len(s.Subject) == 1 && s.Subject[0].Name == r.ID && s.Subject[0].Digest[algorithm] == value
}

// AboutServer returns the audit event e, which belongs to no release, as a
// statement about itself: its subject is the digest of the event's JSON.
func AboutServer(e headgate.Event) (Statement, error) {
	raw, err := marshal(AuditEvent{e})
	if err != nil {
		return Statement{}, err
	}
	sum := sha256.Sum256(raw)
	return newStatement(Subject{Name: "headgate", Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}}, AuditEvent{e})
}

func newStatement(s Subject, p Predicate) (Statement, error) {
	raw, err := marshal(p)
	if err != nil {
		return Statement{}, err
	}
	return Statement{Type: StatementType, Subject: []Subject{s}, PredicateType: p.predicateType(), Predicate: raw}, nil
}

// header holds the fields that every predicate of ours shares; the log indexes
// by them and freshness is measured from the time.
type header struct {
	ReleaseID string    `json:"release_id"`
	Time      time.Time `json:"time"`
}

func (s Statement) header() header {
	var h header
	_ = json.Unmarshal(s.Predicate, &h) // a foreign predicate has neither field
	return h
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, headgate.Invalidf("the evidence cannot be written as JSON (NaN or infinity?); give a missing value as null").Wrap(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
