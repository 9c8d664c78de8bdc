package evidence_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"golang.org/x/mod/sumdb/tlog"
)

func TestConcurrentAppendsShareTransactions(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	const n = 400
	records := make([]evidence.Record, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			records[i] = s.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "tick", ReleaseID: r.ID, Actor: "headgate", Data: map[string]any{"n": i}}})
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, rec := range records {
		entries, err := s.log.Entries(context.Background(), evidence.EntryQuery{From: rec.Index, Limit: 1})
		if err != nil || len(entries) != 1 || entries[0].Digest != rec.Digest {
			t.Fatalf("entry %d: %v, %v", rec.Index, entries, err)
		}
		seen[rec.Index] = true
	}
	if len(seen) != n {
		t.Errorf("%d different places for %d statements", len(seen), n)
	}
	for _, size := range []int64{1, 2, 255, 256, 257, n} {
		checkProofs(t, s, size)
	}
}

// checkProofs proves the first and the last entry of a tree, and that the whole
// log continues it.
func checkProofs(t *testing.T, s *server, size int64) {
	t.Helper()
	ctx := context.Background()
	reader := tlog.HashReaderFunc(func(i []int64) ([]tlog.Hash, error) { return s.store.Hashes(ctx, i) })
	root, err := tlog.TreeHash(size, reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{0, size - 1} {
		p, err := s.log.Inclusion(ctx, size, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, size, root, i, tlog.RecordHash(s.store.entries[i].Envelope)); err != nil {
			t.Errorf("entry %d of %d: %v", i, size, err)
		}
	}
	c, err := evidence.OpenCheckpoint(s.checkpoint(), s.keys.Public())
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.log.Consistency(ctx, size, c.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckTree(p, c.Size, c.Root, size, root); err != nil {
		t.Errorf("%d to %d: %v", size, c.Size, err)
	}
}

func TestAppendFollowsAnotherWriter(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	other := evidence.NewLog(s.store, s.keys)
	stolen := false
	s.store.fail = func() error {
		if stolen {
			return nil
		}
		stolen = true
		s.store.mu.Unlock() // another replica appends in between
		defer s.store.mu.Lock()
		st, err := evidence.About(r, evidence.AuditEvent{Event: headgate.Event{Time: start, ReleaseID: r.ID, Kind: "first"}})
		if err == nil {
			_, err = other.Append(context.Background(), st)
		}
		return err
	}
	if rec := s.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, ReleaseID: r.ID, Kind: "second"}}); rec.Index != 1 {
		t.Errorf("index %d, want 1", rec.Index)
	}
	checkProofs(t, s, 2)
}

func TestAppendReportsFailure(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	full := headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient, "full")
	s.store.fail = func() error { return full }
	st, err := evidence.About(r, evidence.AuditEvent{Event: headgate.Event{Time: start, ReleaseID: r.ID}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.log.Append(context.Background(), st); !errors.Is(err, full) {
		t.Errorf("err = %v", err)
	}
	s.store.fail = nil
	if rec, err := s.log.Append(context.Background(), st); err != nil || rec.Index != 0 {
		t.Errorf("after the disk was freed: %v, %v", rec, err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.log.Append(ended, st); err == nil {
		t.Error("a statement of an ended request was accepted")
	}
}

func TestStatementsNeedADigest(t *testing.T) {
	t.Parallel()
	for _, digest := range []string{"", "sha256:", "sha256:zz", "abc", ":ab"} {
		r := release("rel_a")
		r.Digest = digest
		if _, err := evidence.About(r, evidence.AuditEvent{}); headgate.AsError(err).Code != headgate.CodeValidation {
			t.Errorf("digest %q: %v", digest, err)
		}
	}
	s, err := evidence.AboutServer(headgate.Event{Time: start, Kind: "server_started", Actor: "headgate"})
	if err != nil || len(s.Subject) != 1 || len(s.Subject[0].Digest["sha256"]) != 64 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestKeyring(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k, err := evidence.OpenKeyring(dir, "ci.example.com")
	if err != nil {
		t.Fatal(err)
	}
	first := k.Current()
	second, err := k.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	again, err := evidence.OpenKeyring(dir, "other-name")
	if err != nil {
		t.Fatal(err)
	}
	if again.Current().String() != second.String() {
		t.Errorf("current key %s, want %s", again.Current(), second)
	}
	if ids := keyIDs(again); !slices.Contains(ids, first.ID()) || !slices.Contains(ids, second.ID()) || len(ids) != 2 {
		t.Errorf("public keys %v", ids)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 4 { // one private key, two public, the name of the current
		t.Errorf("files %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	parsed, err := evidence.ParsePublicKey(" " + second.String() + "\n")
	if err != nil || parsed.ID() != second.ID() {
		t.Errorf("parsed %v, %v", parsed, err)
	}
	if _, err := evidence.ParsePublicKey("ci+00000000+AAAA"); headgate.AsError(err).Code != headgate.CodeValidation {
		t.Errorf("a bad key: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, second.ID()+".key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.OpenKeyring(dir, "ci"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	for _, name := range []string{"", "a b", "a+b", "名"} {
		if _, err := evidence.OpenKeyring(t.TempDir(), name); err == nil {
			t.Errorf("name %q accepted", name)
		}
	}
}

func keyIDs(k *evidence.Keyring) []string {
	var ids []string
	for _, p := range k.Public() {
		ids = append(ids, p.ID())
	}
	return ids
}

func TestBundleAfterRotationHoldsBothKeys(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	early := s.checkpointAfterEvent(r)
	before, oldKey := s.bundle(release("rel_a"), nil), s.keys.Current()
	if _, err := s.keys.Rotate(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, before, evidence.VerifyOptions{TrustedKeys: []evidence.PublicKey{oldKey}}); slices.Contains(codes(v), evidence.FindingSignature) || slices.Contains(codes(v), evidence.FindingKeyUntrusted) {
		t.Errorf("a bundle from before the rotation: %v", v.Findings)
	}
	s.record(r, s.decisions(r.ID))
	b := s.bundle(r, early)
	if e := string(unzip(t, b)["statements/0000000005.dsse.json"]); !strings.Contains(e, s.keys.Current().ID()) || strings.Contains(e, oldKey.ID()) {
		t.Errorf("after the rotation a statement is signed as %s", e[len(e)-200:])
	}
	if v := verify(t, b, evidence.VerifyOptions{TrustedKeys: s.keys.Public(), EarlierCheckpoint: early}); !v.OK() {
		t.Error(v.Findings)
	}
	newOnly := evidence.VerifyOptions{TrustedKeys: []evidence.PublicKey{s.keys.Current()}}
	wantFindings(t, verify(t, b, newOnly), []string{"KEY_UNTRUSTED statements/0000000000.dsse.json: not among the keys to believe"})
}
