//go:build unix

package main

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/server"
)

// TestStoreVerify takes a real data folder through what happens to one: it is
// in use, it is sound, and it is damaged.
func TestStoreVerify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st := config.DefaultSettings()
	st.DataDir, st.Listen, st.OTLPGRPC, st.OTLPHTTP, st.ProxyListen = dir, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	s, err := server.New(t.Context(), server.Options{Settings: st, Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.IssueToken(t.Context(), "a test", access.Viewer, nil); err != nil {
		t.Fatal(err)
	}
	verify := func(args ...string) (code int, stdout, stderr string) {
		var out, log bytes.Buffer
		a := &app{stdout: &out, stderr: &log}
		code = a.run(context.Background(), append([]string{"store", "verify", dir}, args...))
		return code, out.String(), log.String()
	}
	if code, _, log := verify(); code != exitError || !strings.Contains(log, "a server is running on "+dir+"; stop it first") {
		t.Errorf("while the server runs: exit %d, %s", code, log)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if code, out, log := verify(); code != exitPassed || !strings.HasPrefix(out, dir+" is sound: ") {
		t.Fatalf("a sound folder: exit %d, %s%s", code, out, log)
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256", "00"), 0o700); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs", "sha256", "00", strings.Repeat("0", 64))
	if err := os.WriteFile(blob, []byte("not what its name says"), 0o600); err != nil {
		t.Fatal(err)
	}
	spoil(t, filepath.Join(dir, "metrics", "wal"))
	code, out, log := verify("--repair")
	if code != exitError || !strings.Contains(out, "evidence files: file "+blob) || !strings.Contains(log, "from a backup") {
		t.Errorf("a damaged evidence file: exit %d, %s%s", code, out, log)
	}
	if !strings.Contains(out, "metrics: ") || !strings.Contains(out, "; cut before the damage") {
		t.Errorf("damaged metrics are not mended: %s", out)
	}
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if code, out, log := verify("--output", "json"); code != exitPassed || !strings.Contains(out, `"damage":[]`) {
		t.Errorf("after the repair: exit %d, %s%s", code, out, log)
	}
}

// spoil changes a byte in the middle of the largest file below dir.
func spoil(t *testing.T, dir string) {
	t.Helper()
	var largest string
	var size int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil || size == 0 {
		t.Fatalf("nothing to spoil in %s: %v", dir, err)
	}
	b, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/8] ^= 0xff
	if err := os.WriteFile(largest, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
