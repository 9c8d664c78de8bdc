package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/headgate/headgate"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
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
	// Reread reads the reports behind gate decisions again; nil believes what
	// the server says that it read in them, and a note says so.
	Reread Reread
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

// Reread compares a decision's request with what its raw reports say, given by
// digest, and returns one sentence for each difference. The composer makes one
// from package gate/report.
type Reread func(d GateDecision, files map[string][]byte) []string

// ReplayCanary feeds a recorded tick log to the canary's judge under the
// recorded configuration and returns its last verdict. The composer makes one
// from package canary.
type ReplayCanary func(v CanaryVerdict, ticks []byte) (headgate.Verdict, error)

// The codes of findings. Stable; docs/bundle-format.md says what each means.
const (
	FindingNotBundle        = "BUNDLE_UNREADABLE"
	FindingArchive          = "ARCHIVE_ALTERED"
	FindingManifest         = "MANIFEST_INVALID"
	FindingMemberChanged    = "MEMBER_CHANGED"
	FindingMemberMissing    = "MEMBER_MISSING"
	FindingMemberUnexpected = "MEMBER_UNEXPECTED"
	FindingMemberInvalid    = "MEMBER_INVALID"
	FindingKeyUntrusted     = "KEY_UNTRUSTED"
	FindingSignature        = "SIGNATURE_INVALID"
	FindingInclusion        = "INCLUSION_UNPROVEN"
	FindingReordered        = "ENTRY_REORDERED"
	FindingCheckpoint       = "CHECKPOINT_INVALID"
	FindingForked           = "CHECKPOINT_FORKED"
	FindingUnproven         = "CHECKPOINT_UNPROVEN"
	FindingSubject          = "SUBJECT_MISMATCH"
	FindingThreshold        = "THRESHOLD_SWAPPED"
	FindingVerdict          = "VERDICT_FORGED"
	FindingInput            = "INPUT_MISMATCH"
	FindingExport           = "EXPORT_MISMATCH"
	FindingStale            = "EVIDENCE_STALE"
	FindingFuture           = "EVIDENCE_FROM_FUTURE"
	FindingOutcome          = "OUTCOME_UNSUPPORTED"
)

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
// finding; an error is returned only when the file could not be read or the
// options cannot be used.
func Verify(r io.ReaderAt, size int64, o VerifyOptions) (Verification, error) {
	if o.MaxAge > 0 && o.Now.IsZero() {
		return Verification{}, headgate.Invalidf("an age limit needs the time to measure from")
	}
	v := verification{options: o}
	v.result.Findings, v.result.Notes, v.result.Keys = []Finding{}, []string{}, []string{}
	var bad *errNotBundle
	members, err := readArchive(r, size)
	if errors.As(err, &bad) {
		v.find(FindingNotBundle, bad.member, "%s", bad.reason)
		return v.result, nil
	}
	if err != nil {
		return Verification{}, err
	}
	v.members = members
	v.chooseKeys()
	v.readManifest()
	v.checkMembers()
	v.checkBlobs()
	v.checkCheckpoints()
	v.checkStatements()
	v.checkDecisions()
	v.checkExports()
	v.checkOutcome()
	if len(v.result.Findings) == 0 {
		// Only what no member explains is left: headers, gaps, padding.
		write := func(w io.Writer) error { return writeArchive(w, members) }
		at, same, err := equalBytes(r, size, write)
		if err != nil {
			return Verification{}, err
		}
		if !same {
			v.find(FindingArchive, "", "byte %d of the file differs from what its members give: the ZIP structure was changed after the bundle was made", at)
		}
	}
	return v.result, nil
}

// verification is one in progress.
type verification struct {
	options    VerifyOptions
	members    map[string][]byte
	keys       []PublicKey
	bundled    map[string]bool // ids of the keys that are in the bundle
	dsse       []dsse.Verifier
	manifest   manifest
	contents   stated // the manifest's statement
	subject    Subject
	release    string // the digest of what runs, "sha256:<hex>"
	statements []stated
	decisions  []decided
	searches   int // for misplaced entries
	result     Verification
}

// stated is a statement of the bundle that could be read.
type stated struct {
	Statement
	document any // its predicate, as parse returns it
	key      string
	index    int64
	name     string
	digest   string
}

func (v *verification) find(code, member, format string, args ...any) {
	v.result.Findings = append(v.result.Findings, Finding{code, printable(member), printable(fmt.Sprintf(format, args...))})
}

// printable keeps what a bundle says from forging lines or terminal controls.
func printable(s string) string {
	const limit = 500
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

func (v *verification) note(format string, args ...any) {
	v.result.Notes = append(v.result.Notes, fmt.Sprintf(format, args...))
}

// names returns the members in a folder, sorted.
func (v *verification) names(folder string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(v.members)) {
		if strings.HasPrefix(name, folder) {
			names = append(names, name)
		}
	}
	return names
}

// chooseKeys decides whom to believe.
func (v *verification) chooseKeys() {
	var own []PublicKey
	v.bundled = map[string]bool{}
	for _, name := range v.names(keysFolder) {
		k, err := ParsePublicKey(string(v.members[name]))
		if err != nil {
			v.find(FindingMemberInvalid, name, "it is not a public key")
			continue
		}
		if name != keysFolder+k.ID()+".pub" {
			v.find(FindingMemberInvalid, name, "it holds key %s, which its name does not say", k.ID())
		}
		own = append(own, k)
		v.bundled[k.ID()] = true
	}
	v.keys = v.options.TrustedKeys
	if len(v.keys) == 0 {
		v.keys = own
		v.note("no trusted keys were given: signatures were checked against the bundle's own keys, which proves that the bundle is whole but not who made it")
	}
	for _, k := range v.keys {
		v.dsse = append(v.dsse, dsseVerifier{k.Key, k.ID()})
		v.result.Keys = append(v.result.Keys, k.ID())
	}
}

// open reads a signed member and reports everything wrong with its envelope.
// The statement is returned whenever it can be read, so that what it says can
// be examined even when nobody vouches for it.
func (v *verification) open(name string) (stated, bool) {
	e, payload, s, err := unseal(v.members[name])
	if err != nil {
		v.find(FindingMemberInvalid, name, "%s", err)
		return stated{}, false
	}
	document, err := parse(payload)
	if err == nil {
		err = decodeParsed(document, payload, &s)
	}
	if err != nil {
		v.find(FindingMemberInvalid, name, "its payload can be read in more than one way: %s", err)
		return stated{}, false
	}
	st := stated{Statement: s, name: name, digest: Digest(v.members[name])}
	object, _ := document.(map[string]any)
	st.document = object["predicate"]
	switch len(e.Signatures) {
	case 1:
	case 0:
		v.find(FindingSignature, name, "it carries no signature")
		return st, true
	default:
		v.find(FindingSignature, name, "it carries %d signatures instead of one", len(e.Signatures))
		return st, true
	}
	st.key = e.Signatures[0].KeyID
	known := slices.ContainsFunc(v.keys, func(k PublicKey) bool { return k.ID() == st.key })
	verifier, err := dsse.NewEnvelopeVerifier(v.dsse...)
	if known && err == nil {
		_, err = verifier.Verify(context.Background(), &e)
	}
	switch {
	case !known:
		v.find(FindingKeyUntrusted, name, "it is signed with key %.64q, which is not among the keys to believe", st.key)
	case err != nil:
		v.find(FindingSignature, name, "the signature of key %.64q does not match: the statement was changed after it was signed", st.key)
	}
	if !written(v.members[name], e, payload) {
		v.find(FindingMemberInvalid, name, "its envelope is not written in the one documented way; readers could disagree about what it holds")
	}
	return st, true
}

// read reads a statement's predicate into p and reports when it cannot be, or
// when another reader could read something else.
func (v *verification) read(s stated, p Predicate, what string) bool {
	if err := decodeParsed(s.document, s.Predicate, p); err != nil {
		v.find(FindingMemberInvalid, s.name, "its predicate is not %s: %s", what, err)
		return false
	}
	return true
}

func (v *verification) readManifest() {
	if v.members[manifestMember] == nil {
		v.find(FindingMemberMissing, manifestMember, "there is no manifest, so nobody can tell whether the bundle is complete")
		return
	}
	s, ok := v.open(manifestMember)
	if !ok {
		return
	}
	if s.PredicateType != TypeBundle || decodeParsed(s.document, s.Predicate, &v.manifest) != nil || len(s.Subject) != 1 {
		v.find(FindingManifest, manifestMember, "it is not a manifest of bundle version 1")
		v.manifest = manifest{}
		return
	}
	v.contents = s
	v.subject, v.release = s.Subject[0], v.manifest.Release.Digest
	v.result.ReleaseID, v.result.Digest = v.manifest.ReleaseID, v.release
	algorithm, value, _ := strings.Cut(v.release, ":")
	if v.subject.Name != v.manifest.ReleaseID || v.manifest.Release.ID != v.manifest.ReleaseID || v.subject.Digest[algorithm] != value || value == "" {
		v.find(FindingSubject, manifestMember, "it is about release %q but describes release %q", v.subject.Name, v.manifest.Release.ID)
	}
}

// checkMembers compares what is there with what the manifest lists.
func (v *verification) checkMembers() {
	if v.manifest.ReleaseID == "" {
		return
	}
	expected := map[string]bool{manifestMember: true}
	for _, m := range v.manifest.Members {
		expected[m.Name] = true
		content, ok := v.members[m.Name]
		switch {
		case !ok:
			v.find(FindingMemberMissing, m.Name, "the manifest lists it, but it is not in the bundle: it was removed or renamed")
		case Digest(content) != m.Digest:
			v.find(FindingMemberChanged, m.Name, "it is not the file that the manifest lists: %d bytes with digest %s instead of %d with %s", len(content), Digest(content), m.Size, m.Digest)
		}
	}
	for _, name := range v.names("") {
		if !expected[name] {
			v.find(FindingMemberUnexpected, name, "the manifest does not list it: it was added or renamed")
		}
	}
}

// checkBlobs compares each blob with the digest that is its name.
func (v *verification) checkBlobs() {
	for _, name := range v.names(blobsFolder) {
		v.result.Blobs++
		if want := "sha256:" + strings.TrimPrefix(name, blobsFolder); Digest(v.members[name]) != want {
			v.find(FindingMemberChanged, name, "its content has digest %s: the file was changed", Digest(v.members[name]))
		}
	}
}
