package events_test

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
)

// written makes a closed store of three blocks of ten spans and returns its
// only file.
func written(t *testing.T, attrs map[string]any) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	s, err := events.Open(dir, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		mustTraces(t, s, "", spans(i*10, 10, attrs))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return dir, files[0]
}

func execute(t *testing.T, file, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, dir string, repair bool) []telemetry.Damage {
	t.Helper()
	found, err := events.Verify(t.Context(), dir, repair)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func expectSpans(t *testing.T, dir string, want map[string]int) {
	t.Helper()
	s := open(t, dir, events.Options{})
	for request, n := range want {
		if got := find(t, s, telemetry.Query{RequestID: request}); len(got) != n {
			t.Errorf("%s has %d spans, want %d", request, len(got), n)
		}
	}
}

func TestVerifyTakesDamagedBlocksOut(t *testing.T) {
	t.Parallel()
	dir, file := written(t, nil)
	if found := verify(t, dir, false); len(found) != 0 {
		t.Fatalf("an intact store: %+v", found)
	}
	execute(t, file, "UPDATE blocks SET data = substr(data, 1, length(data) - 3) WHERE id = 2")
	if found := verify(t, dir, false); len(found) != 1 || found[0].Repair != "" {
		t.Fatalf("found %+v", found)
	}
	found := verify(t, dir, true)
	if len(found) != 1 || found[0].Block != 2 || found[0].Rows != 10 || found[0].Repair == "" || found[0].File != file {
		t.Fatalf("found %+v", found)
	}
	if found := verify(t, dir, false); len(found) != 0 {
		t.Errorf("after the repair: %+v", found)
	}
	expectSpans(t, dir, map[string]int{"req_0": 5, "req_2": 0, "req_4": 5})
}

func TestVerifyTakesDamagedErrorsOut(t *testing.T) {
	t.Parallel()
	dir, file := written(t, map[string]any{"error_code": "E1"})
	execute(t, file, "UPDATE errors SET data = x'ff' WHERE rowid <= 2")
	found := verify(t, dir, true)
	if len(found) != 1 || found[0].Rows != 2 || !strings.Contains(found[0].What, "table of errors") {
		t.Fatalf("found %+v", found)
	}
	expectSpans(t, dir, map[string]int{"req_0": 5})
	if got := find(t, open(t, dir, events.Options{}), telemetry.Query{ErrorCode: "E1"}); len(got) != 28 {
		t.Errorf("%d errors, want 28", len(got))
	}
}

func TestVerifyRebuildsADamagedFile(t *testing.T) {
	t.Parallel()
	dir, file := written(t, map[string]any{"error_code": "E1"})
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// The page that holds the index by time of the errors: what stands on other
	// pages is still there.
	execute(t, file, "PRAGMA wal_checkpoint(TRUNCATE)")
	var root int
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	err = db.QueryRow("SELECT rootpage FROM sqlite_schema WHERE name = 'errors_by_time'").Scan(&root)
	if err != nil || db.Close() != nil {
		t.Fatal(err)
	}
	const page = 4096
	copy(text[(root-1)*page:], bytes.Repeat([]byte{0xee}, page))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	found := verify(t, dir, true)
	if len(found) != 1 || !strings.Contains(found[0].What, "SQLite finds the file damaged") || !strings.Contains(found[0].Repair, "3 of 3 blocks and the 30 errors") {
		t.Fatalf("found %+v", found)
	}
	if found := verify(t, dir, false); len(found) != 0 {
		t.Errorf("after the repair: %+v", found)
	}
	if _, err := os.Stat(file + ".damaged"); err != nil {
		t.Errorf("the damaged file is gone: %v", err)
	}
	expectSpans(t, dir, map[string]int{"req_0": 5, "req_2": 5, "req_4": 5})
}

func TestVerifySetsAsideWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	dir, file := written(t, nil)
	if err := os.WriteFile(file, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Open(dir, events.Options{}); err == nil {
		t.Fatal("the store opened")
	}
	if found := verify(t, dir, true); len(found) != 1 || !strings.Contains(found[0].Repair, "set aside") {
		t.Fatalf("found %+v", found)
	}
	expectSpans(t, dir, map[string]int{"req_0": 0})
	if _, err := events.Verify(t.Context(), t.TempDir(), false); err == nil {
		t.Error("an empty folder was verified")
	}
}

// days writes one small batch a day and returns the folder.
func days(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	var passed atomic.Int64
	s, err := events.Open(dir, events.Options{Now: func() time.Time { return start.Add(time.Duration(passed.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		mustTraces(t, s, "acme", spans(i*500, 500, nil))
		passed.Add(int64(24 * time.Hour))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sizes(t *testing.T, dir string) (files int, total int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return len(paths), total
}

func TestRetentionByTimeAndSize(t *testing.T) {
	t.Parallel()
	const written = 5
	for name, tt := range map[string]struct {
		options func(total int64) events.Options
		files   int
	}{
		"time":          {func(int64) events.Options { return events.Options{Retention: 48 * time.Hour} }, 2},
		"size":          {func(total int64) events.Options { return events.Options{MaxBytes: total * 5 / 10} }, 2},
		"size for none": {func(int64) events.Options { return events.Options{MaxBytes: 1} }, 1},
		"room enough":   {func(total int64) events.Options { return events.Options{MaxBytes: 2 * total} }, written},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := days(t, written)
			_, total := sizes(t, dir)
			o := tt.options(total)
			o.Now = func() time.Time { return start.Add(written * 24 * time.Hour) }
			s := open(t, dir, o)
			if err := s.Compact(); err != nil {
				t.Fatal(err)
			}
			if files, left := sizes(t, dir); files != tt.files || o.MaxBytes > 1 && left > o.MaxBytes {
				t.Errorf("%d files of %d bytes are left of %d, want %d files", files, left, total, tt.files)
			}
			newest := find(t, s, telemetry.Query{TenantID: "acme", Limit: 1})
			if len(newest) != 1 || newest[0].SpanID != span(written*500-1).String() {
				t.Errorf("the newest span is %v", newest)
			}
		})
	}
}
