package evidence

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// checkCheckpoints verifies the bundle's checkpoint and that it continues the
// earlier ones: the bundle's and the verifier's.
func (v *verification) checkCheckpoints() {
	now, ok := v.checkpoint(checkpointMember, v.members[checkpointMember])
	if !ok {
		return
	}
	v.result.Checkpoint = now
	proof, proven := v.consistency()
	if earlier := v.members[earlierMember]; earlier != nil {
		if c, ok := v.checkpoint(earlierMember, earlier); ok {
			v.continues(c, now, proof, proven, "the earlier checkpoint in the bundle")
		}
	}
	if len(v.options.EarlierCheckpoint) == 0 {
		v.note("no earlier checkpoint was given: that the log's holder rewrote its history as a whole cannot be ruled out")
		return
	}
	c, ok := v.checkpoint("", v.options.EarlierCheckpoint)
	if !ok {
		return
	}
	v.continues(c, now, proof, proven, "the checkpoint that you kept")
}

// checkpoint opens one; member is empty for the verifier's own.
func (v *verification) checkpoint(member string, signed []byte) (Checkpoint, bool) {
	what := "the checkpoint"
	if member == "" {
		what = "the checkpoint that you kept"
	}
	if signed == nil {
		v.find(FindingMemberMissing, member, "without a checkpoint no entry can be proven to be in the log")
		return Checkpoint{}, false
	}
	c, err := OpenCheckpoint(signed, v.keys)
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		v.find(FindingKeyUntrusted, member, "%s is not signed by any of the keys to believe", what)
	case errors.As(err, &invalid):
		v.find(FindingCheckpoint, member, "the signature of key %s+%08x on %s does not match: it was changed after it was signed", invalid.Name, invalid.Hash, what)
	case err != nil:
		v.find(FindingCheckpoint, member, "%s cannot be read as a signed note", what)
	}
	return c, err == nil
}

func (v *verification) consistency() (consistency, bool) {
	raw := v.members[consistencyMember]
	if raw == nil {
		return consistency{}, false
	}
	var c consistency
	if decode(raw, &c) != nil {
		v.find(FindingMemberInvalid, consistencyMember, "it is not a consistency proof")
		return c, false
	}
	return c, true
}

// continues checks that the log of now begins with the log of earlier.
func (v *verification) continues(earlier, now Checkpoint, proof consistency, proven bool, what string) {
	switch {
	case earlier.Origin != now.Origin:
		v.find(FindingForked, checkpointMember, "it is of the log %q, %s is of the log %q", now.Origin, what, earlier.Origin)
	case earlier.Size > now.Size:
		v.find(FindingForked, checkpointMember, "it has %d entries, fewer than the %d of %s: entries were taken out of the log, or an old log was put back", now.Size, earlier.Size, what)
	case earlier.Size == now.Size && earlier.Root != now.Root:
		v.find(FindingForked, checkpointMember, "it has the %d entries of %s but another root: the log's history was rewritten", now.Size, what)
	case earlier.Size == now.Size || earlier.Size == 0:
	case !proven || proof.From != earlier.Size || proof.To != now.Size:
		v.find(FindingUnproven, consistencyMember, "the bundle does not prove that its log of %d entries continues %s of %d; ask for the bundle to be exported again from that checkpoint", now.Size, what, earlier.Size)
	case tlog.CheckTree(proof.Hashes, now.Size, now.Root, earlier.Size, earlier.Root) != nil:
		v.find(FindingForked, checkpointMember, "its log does not begin with the %d entries of %s: the log's history was rewritten", earlier.Size, what)
	}
}

// checkStatements verifies each statement's signature, place in the log and
// subject.
func (v *verification) checkStatements() {
	listedAt := map[string]listed{}
	for i, l := range v.manifest.Statements {
		if i > 0 && l.Index <= v.manifest.Statements[i-1].Index {
			v.find(FindingReordered, manifestMember, "it lists entry %d after entry %d", l.Index, v.manifest.Statements[i-1].Index)
		}
		listedAt[statementMember(l.Index)] = l
	}
	proofs := v.readProofs()
	for _, name := range v.names(statementsFolder) {
		v.result.Statements++
		st, ok := v.open(name)
		index, err := indexOf(name)
		if err != nil {
			v.find(FindingMemberInvalid, name, "its name does not give its place in the log")
			continue
		}
		v.checkInclusion(name, index, proofs)
		if !ok {
			continue
		}
		st.index = index
		if l, ok := listedAt[name]; v.manifest.ReleaseID != "" && (!ok || l.PredicateType != st.PredicateType || l.Digest != st.digest) {
			v.find(FindingManifest, name, "the manifest lists another statement for this place in the log")
		}
		v.checkSubject(st)
		v.statements = append(v.statements, st)
	}
	v.checkKeyOrder()
}

// checkKeyOrder refuses what was signed with a key after another had replaced
// it. The manifest is signed last.
func (v *verification) checkKeyOrder() {
	replaced, last := map[string]bool{}, ""
	for _, s := range append(slices.Clone(v.statements), v.contents) {
		if s.key == "" || s.key == last {
			continue
		}
		if replaced[s.key] {
			v.find(FindingKeyUntrusted, s.name, "it is signed with key %.64q, which key %.64q had replaced before", s.key, last)
			continue
		}
		replaced[last], last = true, s.key
	}
}

func indexOf(name string) (int64, error) {
	var index int64
	base := strings.TrimPrefix(name, statementsFolder)
	if _, err := fmt.Sscanf(base, "%d.dsse.json", &index); err != nil || statementMember(index) != name {
		return 0, errors.New("not a statement's name")
	}
	return index, nil
}

func (v *verification) readProofs() map[int64]inclusion {
	proofs := map[int64]inclusion{}
	for _, name := range v.names(proofsFolder) {
		var p inclusion
		if decode(v.members[name], &p) != nil || proofMember(p.Index) != name {
			v.find(FindingMemberInvalid, name, "it is not the proof that its name says")
			continue
		}
		proofs[p.Index] = p
	}
	return proofs
}

// maxSearches bounds the proofs tried on behalf of misplaced entries, of which
// a hostile bundle can hold tens of thousands.
const maxSearches = 100_000

func (v *verification) checkInclusion(name string, index int64, proofs map[int64]inclusion) {
	tree := v.result.Checkpoint
	if tree.Size == 0 {
		return // the checkpoint's own finding says why nothing can be proven
	}
	p, ok := proofs[index]
	if !ok {
		v.find(FindingInclusion, name, "there is no proof that it is entry %d of the log", index)
		return
	}
	leaf := tlog.RecordHash(v.members[name])
	included := func(p inclusion) bool {
		return p.TreeSize == tree.Size && tlog.CheckRecord(p.Hashes, tree.Size, tree.Root, p.Index, leaf) == nil
	}
	if included(p) {
		return
	}
	for _, other := range slices.Sorted(maps.Keys(proofs)) {
		if v.searches++; v.searches > maxSearches {
			break
		}
		if included(proofs[other]) {
			v.find(FindingReordered, name, "it is given as entry %d, but it is entry %d of the log", index, other)
			return
		}
	}
	v.find(FindingInclusion, name, "it is not entry %d of the log that the checkpoint signs", index)
}

func (v *verification) checkSubject(s stated) {
	if v.manifest.ReleaseID == "" {
		return
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != v.subject.Name || !maps.Equal(s.Subject[0].Digest, v.subject.Digest) || s.about() != v.subject.Name {
		v.find(FindingSubject, s.name, "it is not about release %q with digest %s", v.subject.Name, v.release)
	}
}

// about returns the release that a statement's predicate names.
func (s stated) about() string {
	predicate, _ := s.document.(map[string]any)
	id, _ := predicate["release_id"].(string)
	return id
}
