package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/store/sqlite"
)

// promoted is a bundle that "headgate demo" wrote: a real service, released.
const promoted = "testdata/bundle/promoted.bundle.zip"

// TestDamagedBundles spoils a real release's bundle in each way that somebody
// could, on its way or on the server itself with the server's key, and has it
// verified by Headgate and by the verifier in Python: both name the damage.
func TestDamagedBundles(t *testing.T) {
	t.Parallel()
	python := needs.Program(t, "python3", "python3")
	original, err := os.ReadFile(promoted)
	if err != nil {
		t.Fatal(err)
	}
	members := openBundle(t, original)
	keys, err := evidence.OpenKeyring(t.TempDir(), "headgate")
	if err != nil {
		t.Fatal(err)
	}
	quality := decisionOf(t, members, headgate.GateQuality)
	performance := decisionOf(t, members, headgate.GatePerformance)
	damage := func(fn func(m map[string][]byte)) []byte {
		m := maps.Clone(members)
		fn(m)
		return packBundle(t, m)
	}
	forked, _ := restate(t, keys, members, func(_ string, p string) string { return strings.Replace(p, `"stage_started"`, `"stage_begun"`, 1) })
	honest, kept := restate(t, keys, members, nil)
	swapped, _ := restate(t, keys, members, func(name, p string) string {
		if name != performance {
			return p
		}
		return strings.ReplaceAll(p, `"api_p95_s_max":1.5`, `"api_p95_s_max":9.5`)
	})
	// The whole statement agrees with itself; only its input says otherwise.
	forged, _ := restate(t, keys, members, func(name, p string) string {
		if name != quality {
			return p
		}
		return strings.Replace(p, `"ragas.faithfulness":0.975`, `"ragas.faithfulness":0.1`, 1)
	})
	// Everything agrees, save the report that the figure is said to come from.
	misread, _ := restate(t, keys, members, func(name, p string) string {
		if name != quality {
			return p
		}
		return strings.ReplaceAll(p, `0.975`, `0.985`)
	})
	verdict, _ := restate(t, keys, members, func(name, p string) string {
		if name != quality {
			return p
		}
		return strings.Replace(p, `"value":0.975`, `"value":0.1`, 1)
	})
	for _, tt := range []struct {
		name       string
		bundle     []byte
		checkpoint []byte // that the verifier kept; nil for none
		want       []string
		// python is what the verifier in Python says, when it does not say the
		// same: it has no gate to judge the input again, and no reader of reports.
		python []string
	}{
		{name: "as it was", bundle: original},
		{name: "stated again", bundle: honest, checkpoint: kept},
		{name: "one byte changed", bundle: damage(func(m map[string][]byte) {
			m[quality] = bytes.Clone(m[quality])
			m[quality][200] ^= 1
		}), want: []string{"MEMBER_CHANGED " + quality, "INCLUSION_UNPROVEN " + quality}},
		{name: "file removed", bundle: damage(func(m map[string][]byte) { delete(m, firstBlob(m)) }),
			want: []string{"MEMBER_MISSING " + firstBlob(members)}},
		{name: "entries reordered", bundle: damage(func(m map[string][]byte) {
			m[quality], m[performance] = m[performance], m[quality]
		}), want: []string{"ENTRY_REORDERED " + quality, "ENTRY_REORDERED " + performance}},
		{name: "checkpoint forked", bundle: forked, checkpoint: kept, want: []string{"CHECKPOINT_FORKED checkpoint"}},
		{name: "threshold swapped", bundle: swapped, want: []string{"THRESHOLD_SWAPPED " + performance}},
		{name: "value forged", bundle: verdict, want: []string{"VERDICT_FORGED " + quality}},
		{name: "verdict forged against its input", bundle: forged, want: []string{"VERDICT_FORGED " + quality}, python: []string{}},
		{name: "figure that its report does not say", bundle: misread, want: []string{
			"INPUT_MISMATCH " + quality + ": gate quality",
		}, python: []string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "bundle.zip")
			args := []string{path}
			write := func(name string, content []byte) {
				if err := os.WriteFile(name, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(path, tt.bundle)
			if tt.checkpoint != nil {
				write(filepath.Join(dir, "kept"), tt.checkpoint)
				args = append(args, "--checkpoint", filepath.Join(dir, "kept"))
			}
			var out bytes.Buffer
			a := &app{stdout: &out, stderr: io.Discard}
			code := a.run(t.Context(), append([]string{"evidence", "verify"}, args...))
			wantFindings(t, "headgate", out.String(), code, tt.want)
			script := append([]string{filepath.Join("..", "..", "examples", "verifier", "verify.py")}, args...)
			raw, err := exec.CommandContext(t.Context(), python, script...).Output() //nolint:gosec // our own script
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			code = 0
			if exit != nil {
				code = exit.ExitCode()
			}
			if tt.python == nil {
				tt.python = tt.want
			}
			wantFindings(t, "verify.py", string(raw), code, tt.python)
		})
	}
}

func wantFindings(t *testing.T, who, out string, code int, want []string) {
	t.Helper()
	if (code == 0) != (len(want) == 0) || code > 1 {
		t.Errorf("%s ends with %d:\n%s", who, code, out)
	}
	for _, w := range want {
		if !strings.Contains("\n"+out, "\n"+w+": ") {
			t.Errorf("%s does not say %s:\n%s", who, w, out)
		}
	}
}

func openBundle(t *testing.T, b []byte) map[string][]byte {
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
		if members[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return members
}

func packBundle(t *testing.T, members map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = f.Write(members[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func statementIn(t *testing.T, envelope []byte) (payload string, st evidence.Statement) {
	t.Helper()
	var e struct{ Payload string }
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(e.Payload)
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), st
}

func statementNames(m map[string][]byte) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(n string) bool { return !strings.HasPrefix(n, "statements/") })
}

func decisionOf(t *testing.T, m map[string][]byte, g headgate.Gate) string {
	t.Helper()
	for _, name := range statementNames(m) {
		if p, st := statementIn(t, m[name]); st.PredicateType == evidence.TypeGateDecision && strings.Contains(p, `"gate":"`+string(g)+`"`) {
			return name
		}
	}
	t.Fatalf("the bundle has no decision of gate %s", g)
	return ""
}

func firstBlob(m map[string][]byte) string {
	names := slices.Sorted(maps.Keys(m))
	return names[slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "blobs/") })]
}

// blobsOf reads the files of a bundle.
type blobsOf map[string][]byte

func (b blobsOf) Get(_ context.Context, digest string) ([]byte, error) {
	if content, ok := b["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]; ok {
		return content, nil
	}
	return nil, evidence.BlobMissing(digest)
}

// restate is a server with a key of its own that states what a bundle says, at
// the same places in its log, each statement as edit makes it. It returns the
// release's bundle and the log's checkpoint.
func restate(t *testing.T, keys *evidence.Keyring, members map[string][]byte, edit func(name, payload string) string) (bundle, checkpoint []byte) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	log := evidence.NewLog(db.EvidenceLog(), keys)
	other, err := evidence.AboutServer(headgate.Event{Time: time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC), Kind: "rules_adopted"})
	if err == nil {
		_, err = log.Append(t.Context(), other)
	}
	if err != nil {
		t.Fatal(err)
	}
	changed := false
	for _, name := range statementNames(members) {
		payload, st := statementIn(t, members[name])
		if edit != nil {
			edited := edit(name, payload)
			changed = changed || edited != payload
			if err := json.Unmarshal([]byte(edited), &st); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := log.Append(t.Context(), st); err != nil {
			t.Fatal(err)
		}
	}
	if edit != nil && !changed {
		t.Fatal("the edit changed nothing")
	}
	_, manifest := statementIn(t, members["manifest.dsse.json"])
	var about struct{ Release headgate.Release }
	if err := json.Unmarshal(manifest.Predicate, &about); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err = evidence.WriteBundle(t.Context(), &b, about.Release, evidence.BundleOptions{Log: log, Blobs: blobsOf(members)})
	if err == nil {
		checkpoint, err = log.Checkpoint(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), checkpoint
}
