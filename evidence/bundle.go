package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"golang.org/x/mod/sumdb/tlog"
)

// TypeBundle is the predicate type of a bundle's manifest.
const TypeBundle = "https://headgate.dev/attestation/bundle/v1"

// maxBundle bounds a bundle's bytes, written or verified: it is held in memory.
const maxBundle = 512 << 20

// The members of a bundle.
const (
	manifestMember    = "manifest.dsse.json"
	checkpointMember  = "checkpoint"
	earlierMember     = "earlier-checkpoint"
	consistencyMember = "consistency.json"
	keysFolder        = "keys/"
	statementsFolder  = "statements/"
	proofsFolder      = "proofs/"
	blobsFolder       = "blobs/sha256/"
	exportsFolder     = "exports/"
)

// BundleOptions is what a bundle is made from besides the release.
type BundleOptions struct {
	Log   *Log
	Blobs BlobReader
	// EarlierCheckpoint is one that the recipient already holds; the bundle
	// then proves that the log only grew since. Empty for none.
	EarlierCheckpoint []byte
}

// manifest is the signed table of contents.
type manifest struct {
	ReleaseID  string           `json:"release_id"`
	Release    headgate.Release `json:"release"`
	Statements []listed         `json:"statements"` // by rising index
	Members    []member         `json:"members"`    // by name, all but the manifest
}

type listed struct {
	Index         int64  `json:"index"`
	PredicateType string `json:"predicate_type"`
	Digest        string `json:"digest"`
}

type member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

func (manifest) predicateType() string { return TypeBundle }

// inclusion is the form of a member under proofs/.
type inclusion struct {
	Index    int64            `json:"index"`
	TreeSize int64            `json:"tree_size"`
	Hashes   tlog.RecordProof `json:"hashes"`
}

// consistency is the form of consistency.json.
type consistency struct {
	From   int64          `json:"from"`
	To     int64          `json:"to"`
	Hashes tlog.TreeProof `json:"hashes"`
}

func statementMember(index int64) string {
	return fmt.Sprintf("%s%010d.dsse.json", statementsFolder, index)
}

func proofMember(index int64) string { return fmt.Sprintf("%s%010d.json", proofsFolder, index) }

func blobMember(digest string) string {
	return blobsFolder + strings.TrimPrefix(digest, "sha256:")
}

// WriteBundle writes all that the log holds about a release as one ZIP file:
// statements with proofs of inclusion, the blobs that they name, a fresh
// checkpoint, the public keys and a signed manifest. The same log gives the
// same bytes. A blob that a statement names and that is not stored is
// RESOURCE_NOT_FOUND: a bundle is complete or not written.
func WriteBundle(ctx context.Context, w io.Writer, r headgate.Release, o BundleOptions) error {
	b := bundle{log: o.Log, members: map[string][]byte{}, manifest: manifest{ReleaseID: r.ID, Release: r, Statements: []listed{}}}
	b.signer = o.Log.keys.signer()
	if err := b.addLog(ctx, r); err != nil {
		return err
	}
	if len(o.EarlierCheckpoint) > 0 {
		if err := b.addConsistency(ctx, o.EarlierCheckpoint); err != nil {
			return err
		}
	}
	if err := b.addBlobs(ctx, o.Blobs); err != nil {
		return err
	}
	if err := b.addExports(ctx, r); err != nil {
		return err
	}
	for _, k := range o.Log.keys.Public() {
		b.members[keysFolder+k.ID()+".pub"] = []byte(k.String() + "\n")
	}
	if err := b.seal(ctx, r); err != nil {
		return err
	}
	return writeArchive(w, b.members)
}

// bundle is one being written.
type bundle struct {
	log        *Log
	signer     signingKey
	members    map[string][]byte
	manifest   manifest
	size       int64 // of the log
	entries    []Entry
	statements []Statement // of entries
}

func (b *bundle) addLog(ctx context.Context, r headgate.Release) error {
	signed, err := b.log.Checkpoint(ctx)
	if err != nil {
		return err
	}
	c, err := OpenCheckpoint(signed, b.log.keys.Public())
	if err != nil {
		return err
	}
	b.size = c.Size
	b.members[checkpointMember] = signed
	entries, err := b.log.Entries(ctx, EntryQuery{ReleaseID: r.ID})
	if err != nil {
		return fmt.Errorf("entries of the evidence log: %w", err)
	}
	for _, e := range entries {
		if e.Index >= b.size {
			break // appended after the checkpoint
		}
		s, err := e.Statement()
		if err != nil {
			return err
		}
		if !s.IsAbout(r) {
			continue
		}
		hashes, err := b.log.Inclusion(ctx, b.size, e.Index)
		if err != nil {
			return fmt.Errorf("proof for entry %d: %w", e.Index, err)
		}
		proof, err := marshal(inclusion{Index: e.Index, TreeSize: b.size, Hashes: hashes})
		if err != nil {
			return err
		}
		b.entries, b.statements = append(b.entries, e), append(b.statements, s)
		b.members[statementMember(e.Index)] = e.Envelope
		b.members[proofMember(e.Index)] = proof
		b.manifest.Statements = append(b.manifest.Statements, listed{e.Index, e.PredicateType, e.Digest})
	}
	if len(b.entries) == 0 {
		return headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation,
			"there is no evidence about release %q yet; a bundle can be made once its first stage has run", r.ID)
	}
	return nil
}

func (b *bundle) addConsistency(ctx context.Context, earlier []byte) error {
	c, err := OpenCheckpoint(earlier, b.log.keys.Public())
	if err != nil {
		return err
	}
	proof := consistency{From: c.Size, To: b.size, Hashes: tlog.TreeProof{}}
	if c.Size > 0 {
		if proof.Hashes, err = b.log.Consistency(ctx, c.Size, b.size); err != nil {
			return err
		}
	}
	raw, err := marshal(proof)
	if err != nil {
		return err
	}
	b.members[earlierMember] = earlier
	b.members[consistencyMember] = raw
	return nil
}

// references are the blobs that a predicate names.
type references struct {
	Rules  RuleSet `json:"rules"`
	Inputs []Input `json:"inputs"`
}

func (s Statement) references() []string {
	if s.PredicateType == TypeAuditEvent {
		return nil
	}
	var r references
	if json.Unmarshal(s.Predicate, &r) != nil {
		return nil
	}
	var digests []string
	for _, in := range r.Inputs {
		digests = append(digests, in.Digest)
	}
	if r.Rules.Digest != "" {
		digests = append(digests, r.Rules.Digest)
	}
	return digests
}

func (b *bundle) addBlobs(ctx context.Context, blobs BlobReader) error {
	var total int64
	for i, s := range b.statements {
		for _, d := range s.references() {
			name := blobMember(d)
			if b.members[name] != nil {
				continue
			}
			content, err := blobs.Get(ctx, d)
			if err != nil {
				return fmt.Errorf("statement %d rests on a file that is not here: %w", b.entries[i].Index, err)
			}
			b.members[name] = content
			total += int64(len(content))
			if total > maxBundle { // before the rest takes memory, too
				return b.tooLarge(total)
			}
		}
	}
	return nil
}

func (b *bundle) tooLarge(total int64) error {
	return headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassPermanent,
		"the evidence of release %q is %d MiB or more, a bundle holds at most %d; fetch its files one by one",
		b.manifest.ReleaseID, total>>20, maxBundle>>20)
}

// seal adds the manifest over all other members.
func (b *bundle) seal(ctx context.Context, r headgate.Release) error {
	var total int64
	for name, content := range b.members {
		total += int64(len(content))
		b.manifest.Members = append(b.manifest.Members, member{name, int64(len(content)), Digest(content)})
	}
	if total > maxBundle {
		return b.tooLarge(total)
	}
	slices.SortFunc(b.manifest.Members, func(x, y member) int { return strings.Compare(x.Name, y.Name) })
	s, err := About(r, b.manifest)
	if err != nil {
		return err
	}
	b.members[manifestMember], err = b.signer.seal(ctx, s)
	return err
}

// addExports adds the decisions in the predicates that other tools know.
func (b *bundle) addExports(ctx context.Context, r headgate.Release) error {
	decisions, err := b.decisions()
	if err != nil {
		return err
	}
	exports := map[string]Predicate{}
	for _, d := range decisions {
		exports[d.exportMember()] = d.testResult()
	}
	if len(decisions) > 0 {
		exports[summaryMember] = summarise(r, b.signer.public.Name, decisions)
	}
	for name, p := range exports {
		s, err := About(r, p)
		if err != nil {
			return err
		}
		if b.members[name], err = b.signer.seal(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (b *bundle) decisions() ([]decided, error) {
	var all []decided
	for i, s := range b.statements {
		if s.PredicateType != TypeGateDecision {
			continue
		}
		d := decided{index: b.entries[i].Index, digest: b.entries[i].Digest}
		if err := json.Unmarshal(s.Predicate, &d.GateDecision); err != nil {
			return nil, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent,
				"the gate decision in entry %d of the evidence log cannot be read", d.index).Wrap(err)
		}
		all = append(all, d)
	}
	return all, nil
}
