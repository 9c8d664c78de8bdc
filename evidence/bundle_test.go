package evidence_test

import (
	"archive/zip"
	"bytes"
	"context"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

func unzip(t testing.TB, b []byte) map[string][]byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	members := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		members[f.Name], err = io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
	}
	return members
}

// rezip packs members as a careful forger would: exactly like the original.
func rezip(t testing.TB, members map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		content := members[name]
		f, err := z.CreateRaw(&zip.FileHeader{
			Name: name, Method: zip.Store, CreatorVersion: 20, ReaderVersion: 20, ModifiedDate: 0x21, CRC32: crc32.ChecksumIEEE(content), //nolint:staticcheck // as the writer does
			CompressedSize64: uint64(len(content)), UncompressedSize64: uint64(len(content)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBundleVerifies(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	early := s.checkpointAfterEvent(r)
	s.record(r, s.decisions(r.ID))
	b := s.bundle(r, early)
	var judged int
	v := verify(t, b, evidence.VerifyOptions{
		TrustedKeys: s.keys.Public(), EarlierCheckpoint: early,
		Now: start.Add(time.Hour), MaxAge: 2 * time.Hour,
		Reevaluate: func(d evidence.GateDecision, rules []byte) (evidence.Reevaluation, error) {
			judged++
			if string(rules) != rulesJSON {
				t.Errorf("rules = %s", rules)
			}
			return evidence.Reevaluation{Verdict: d.Verdict, FailedChecks: d.FailedChecks, Thresholds: d.Thresholds, Values: d.Values}, nil
		},
		Reread: func(d evidence.GateDecision, files map[string][]byte) []string {
			if len(files) != len(d.Inputs) {
				t.Errorf("%d of the files of %v", len(files), d.Inputs)
			}
			return nil
		},
		ReplayCanary: func(c evidence.CanaryVerdict, ticks []byte) (headgate.Verdict, error) {
			if !strings.HasPrefix(string(ticks), `{"time"`) {
				t.Errorf("ticks = %s", ticks)
			}
			return headgate.Pass, nil
		},
	})
	if !v.OK() || len(v.Notes) != 0 {
		t.Fatalf("findings %v, notes %v", v.Findings, v.Notes)
	}
	if v.ReleaseID != "rel_a" || v.Statements != 9 || v.Blobs != 4 || judged != 1 || v.Checkpoint.Size != 11 {
		t.Errorf("release %s, %d statements, %d blobs, %d judged again, checkpoint %d", v.ReleaseID, v.Statements, v.Blobs, judged, v.Checkpoint.Size)
	}
	if !bytes.Equal(b, s.bundle(r, early)) {
		t.Error("the same log gave two different bundles")
	}
	if !bytes.Equal(b, rezip(t, unzip(t, b))) {
		t.Error("the archive's bytes do not follow from its members")
	}
}

// checkpointAfterEvent appends one event, so that there is something to sign.
func (s *server) checkpointAfterEvent(r headgate.Release) []byte {
	s.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "release_requested", ReleaseID: r.ID, Actor: "ada"}})
	return s.checkpoint()
}

func TestVerifySaysWhatItCouldNotCheck(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	s.record(r, s.decisions(r.ID))
	v := verify(t, s.bundle(r, nil), evidence.VerifyOptions{})
	if !v.OK() {
		t.Fatal(v.Findings)
	}
	for _, want := range []string{"no trusted keys", "no earlier checkpoint", "rules were not applied", "reports were not read again", "canaries were not judged"} {
		if !strings.Contains(strings.Join(v.Notes, "\n"), want) {
			t.Errorf("no note about %q in %v", want, v.Notes)
		}
	}
}

// TestEveryMemberIsProtected changes one byte in each member, once with the
// archive packed again around it and once in place.
func TestEveryMemberIsProtected(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	early := s.checkpointAfterEvent(r)
	s.record(r, s.decisions(r.ID))
	good := s.bundle(r, early)
	members := unzip(t, good)
	for name, content := range members {
		changed := bytes.Clone(content)
		changed[len(changed)/2] ^= 0x01
		forged := maps.Clone(members)
		forged[name] = changed
		v := verify(t, rezip(t, forged), evidence.VerifyOptions{TrustedKeys: s.keys.Public()})
		if !mentions(v, name) {
			t.Errorf("%s: one byte changed, findings do not name it: %v", name, v.Findings)
		}
		at := bytes.Index(good, content)
		inPlace := bytes.Clone(good)
		inPlace[at+len(content)/2] ^= 0x01
		if v := verify(t, inPlace, evidence.VerifyOptions{TrustedKeys: s.keys.Public()}); !mentions(v, name) {
			t.Errorf("%s: one byte changed in place, findings do not name it: %v", name, v.Findings)
		}
		removed := maps.Clone(members)
		delete(removed, name)
		v = verify(t, rezip(t, removed), evidence.VerifyOptions{TrustedKeys: s.keys.Public()})
		if !slices.ContainsFunc(v.Findings, func(f evidence.Finding) bool {
			return f.Code == evidence.FindingMemberMissing && f.Member == name
		}) {
			t.Errorf("%s was removed, findings do not say so: %v", name, v.Findings)
		}
	}
}

func mentions(v evidence.Verification, member string) bool {
	return slices.ContainsFunc(v.Findings, func(f evidence.Finding) bool { return f.Member == member })
}

// TestEveryByteIsProtected flips each byte of a whole file, headers included.
func TestEveryByteIsProtected(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	r.Outcome = headgate.Aborted
	s.checkpointAfterEvent(r)
	good := s.bundle(r, nil)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if v := verify(t, bad, evidence.VerifyOptions{TrustedKeys: s.keys.Public()}); v.OK() {
			t.Errorf("byte %d of %d changed unnoticed", i, len(good))
		}
	}
	for _, n := range []int{0, 1, len(good) / 2, len(good) - 1} {
		if v := verify(t, good[:n], evidence.VerifyOptions{}); v.OK() {
			t.Errorf("cut to %d of %d bytes unnoticed", n, len(good))
		}
	}
	if v := verify(t, append(bytes.Clone(good), '\n'), evidence.VerifyOptions{}); v.OK() {
		t.Error("an appended byte went unnoticed")
	}
}

func TestForkedLog(t *testing.T) {
	t.Parallel()
	keys, err := evidence.OpenKeyring(t.TempDir(), "ci.example.com")
	if err != nil {
		t.Fatal(err)
	}
	r := release("rel_a")
	honest, liar := serverWith(t, keys), serverWith(t, keys)
	kept := honest.checkpointAfterEvent(r)
	liar.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "nothing_happened", ReleaseID: r.ID, Actor: "eve"}})
	liarEarly := liar.checkpoint()
	liar.record(r, liar.decisions(r.ID))
	honest.record(r, honest.decisions(r.ID))
	trusted := evidence.VerifyOptions{TrustedKeys: keys.Public(), EarlierCheckpoint: kept}

	wantFindings(t, verify(t, liar.bundle(r, liarEarly), trusted),
		[]string{"CHECKPOINT_FORKED checkpoint: does not begin with the 1 entries of the checkpoint that you kept"})
	wantFindings(t, verify(t, liar.bundle(r, nil), trusted),
		[]string{"CHECKPOINT_UNPROVEN consistency.json: ask for the bundle to be exported again"})
	now := evidence.VerifyOptions{TrustedKeys: keys.Public(), EarlierCheckpoint: honest.checkpoint()}
	wantFindings(t, verify(t, liar.bundle(r, nil), now),
		[]string{"CHECKPOINT_FORKED checkpoint: has the 11 entries of the checkpoint that you kept but another root"})
	if v := verify(t, honest.bundle(r, nil), now); !v.OK() {
		t.Errorf("honest: %v", v.Findings)
	}
	old := honest.bundle(r, nil)
	honest.checkpointAfterEvent(r)
	later := evidence.VerifyOptions{TrustedKeys: keys.Public(), EarlierCheckpoint: honest.checkpoint()}
	wantFindings(t, verify(t, old, later), []string{"CHECKPOINT_FORKED checkpoint: fewer than the 12 of the checkpoint that you kept"})

	// Grafting the liar's checkpoint into the honest bundle.
	m := unzip(t, honest.bundle(r, nil))
	m["checkpoint"] = liar.checkpoint()
	v := verify(t, rezip(t, m), evidence.VerifyOptions{TrustedKeys: keys.Public()})
	wantFindings(t, v, []string{"MEMBER_CHANGED checkpoint", "INCLUSION_UNPROVEN statements/"})
}

func TestStrangersKey(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	s.record(r, s.decisions(r.ID))
	v := verify(t, s.bundle(r, nil), evidence.VerifyOptions{TrustedKeys: newServer(t).keys.Public()})
	if got := codes(v); !slices.Contains(got, evidence.FindingKeyUntrusted) {
		t.Errorf("codes %v", got)
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	s.record(r, s.decisions(r.ID)) // decided at start+10m
	b := s.bundle(r, nil)
	limit := evidence.VerifyOptions{Now: start.Add(70 * time.Minute), MaxAge: time.Hour}
	if v := verify(t, b, limit); !v.OK() {
		t.Errorf("exactly at the limit: %v", v.Findings)
	}
	limit.Now = limit.Now.Add(time.Second)
	wantFindings(t, verify(t, b, limit), []string{"EVIDENCE_STALE statements/: gate quality was decided 1h0m1s ago, the limit is 1h0m0s"})
	limit.Now = start
	wantFindings(t, verify(t, b, limit), []string{"EVIDENCE_FROM_FUTURE statements/: which has not come yet"})
	if _, err := evidence.Verify(bytes.NewReader(b), int64(len(b)), evidence.VerifyOptions{MaxAge: time.Hour}); err == nil {
		t.Error("an age limit without a time was accepted")
	}
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	file := func(h zip.FileHeader, content string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		f, err := z.CreateHeader(&h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, content); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	twice := func() []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for range 2 {
			if _, err := z.CreateHeader(&zip.FileHeader{Name: "checkpoint"}); err != nil {
				t.Fatal(err)
			}
		}
		_ = z.Close()
		return b.Bytes()
	}
	tests := map[string]struct {
		file []byte
		want string
	}{
		"bomb":        {file(zip.FileHeader{Name: "blobs/x", Method: zip.Deflate}, strings.Repeat("0", 1<<20)), "BUNDLE_UNREADABLE blobs/x: it is compressed"},
		"traversal":   {file(zip.FileHeader{Name: "../../etc/passwd"}, "x"), "BUNDLE_UNREADABLE ../../etc/passwd: leads outside"},
		"absolute":    {file(zip.FileHeader{Name: "/etc/passwd"}, "x"), "BUNDLE_UNREADABLE /etc/passwd: leads outside"},
		"backslashes": {file(zip.FileHeader{Name: `..\x`}, "x"), `BUNDLE_UNREADABLE ..\x: leads outside`},
		"folder":      {file(zip.FileHeader{Name: "keys/"}, ""), "BUNDLE_UNREADABLE keys/: leads outside"},
		"twice":       {twice(), "BUNDLE_UNREADABLE checkpoint: occurs twice"},
		"not a zip":   {[]byte("hello"), "BUNDLE_UNREADABLE: not a complete ZIP file"},
		"empty zip":   {rezip(t, nil), "MEMBER_MISSING manifest.dsse.json: there is no manifest"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			wantFindings(t, verify(t, tt.file, evidence.VerifyOptions{}), []string{tt.want})
		})
	}
}

func TestBundleIsCompleteOrNotWritten(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	var b bytes.Buffer
	err := evidence.WriteBundle(context.Background(), &b, r, evidence.BundleOptions{Log: s.log, Blobs: s.blobs})
	if headgate.AsError(err).Code != headgate.CodeNotFound || b.Len() != 0 {
		t.Errorf("no evidence: %v, %d bytes", err, b.Len())
	}
	s.append(r, evidence.StageResult{StageRun: headgate.StageRun{ReleaseID: r.ID}, Inputs: []evidence.Input{{Digest: "sha256:" + strings.Repeat("a", 64)}}})
	err = evidence.WriteBundle(context.Background(), &b, r, evidence.BundleOptions{Log: s.log, Blobs: s.blobs})
	if headgate.AsError(err).Code != headgate.CodeNotFound || b.Len() != 0 {
		t.Errorf("missing blob: %v, %d bytes", err, b.Len())
	}
}

func FuzzVerify(f *testing.F) {
	s, r := newServer(f), release("rel_a")
	s.checkpointAfterEvent(r)
	s.record(r, s.decisions(r.ID))
	f.Add(s.bundle(r, nil))
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := evidence.Verify(bytes.NewReader(b), int64(len(b)), evidence.VerifyOptions{})
		if err != nil {
			t.Errorf("a bad bundle is a finding, not an error: %v", err)
		}
	})
}

func BenchmarkVerify1000Statements(b *testing.B) {
	s, r := newServer(b), release("rel_a")
	for range 247 {
		for _, d := range s.decisions(r.ID) {
			s.append(r, d)
		}
	}
	s.record(r, s.decisions(r.ID))
	bundle := s.bundle(r, nil)
	o := evidence.VerifyOptions{TrustedKeys: s.keys.Public()}
	for b.Loop() {
		v, err := evidence.Verify(bytes.NewReader(bundle), int64(len(bundle)), o)
		if err != nil || len(v.Findings) > 0 || v.Statements < 990 {
			b.Fatal(v.Statements, v.Findings, err)
		}
	}
}

// BenchmarkAppend signs and appends without any disk.
func BenchmarkAppend(b *testing.B) {
	s, r := newServer(b), release("rel_a")
	d := s.decisions(r.ID)[1]
	for b.Loop() {
		s.append(r, d)
	}
}
