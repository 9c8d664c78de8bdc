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

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/server"
	"github.com/headgate/headgate/telemetry/events"
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

	day := storeSpan(t, filepath.Join(dir, "events"))
	ruin(t, day)
	if code, out, log := verify(); code != exitError || !strings.Contains(out, "events: "+day+": ") || !strings.Contains(log, "--repair") {
		t.Errorf("damaged events: exit %d, %s%s", code, out, log)
	}
	if code, out, log := verify("--repair"); code != exitPassed || !strings.Contains(out, "events: "+day+": ") || !strings.Contains(out, " is sound: ") {
		t.Errorf("events being repaired: exit %d, %s%s", code, out, log)
	}
	db := filepath.Join(dir, "headgate.db")
	ruin(t, db)
	if code, out, log := verify("--repair"); code != exitError || !strings.Contains(out, "database: "+db+": ") || !strings.Contains(log, "from a backup") {
		t.Errorf("a damaged database: exit %d, %s%s", code, out, log)
	}
}

// storeSpan puts a span into the event store in dir and returns the file that
// it is in.
func storeSpan(t *testing.T, dir string) (file string) {
	t.Helper()
	s, err := events.Open(dir, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	td := ptrace.NewTraces()
	td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().SetName("work")
	if _, err := s.AppendTraces(t.Context(), "", td); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return files[0]
}

// ruin leaves of a database its first page.
func ruin(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for i := page; i < len(text); i++ {
		text[i] = 0xee
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
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
