package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
)

func openIn(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// A full disk is said in words, loses nothing, and is over once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	db := openIn(t, t.TempDir())
	limit := func(pages int) {
		t.Helper()
		if _, err := db.w.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // the pages that there are
	big := headgate.Event{Kind: "big", Actor: "test", Message: strings.Repeat("x", 2000)}
	acknowledged := 0
	var err error
	for acknowledged < 1000 {
		if err = db.Record(t.Context(), "", big); err != nil {
			break
		}
		acknowledged++
	}
	var e *headgate.Error
	if !errors.As(err, &e) || e.Code != headgate.CodeStorageFull || !e.Retryable || !strings.Contains(e.Message, "disk") {
		t.Fatalf("writing to a full disk: %v, want STORAGE_FULL", err)
	}
	count := func() int {
		t.Helper()
		rows, err := db.Events(t.Context(), control.EventQuery{Kind: "big", Limit: 2000})
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	if got := count(); got != acknowledged {
		t.Errorf("%d events after the disk was full, want the %d acknowledged", got, acknowledged)
	}
	limit(1 << 20)
	if err := db.Record(t.Context(), "", big); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
	if got := count(); got != acknowledged+1 {
		t.Errorf("%d events, want %d", got, acknowledged+1)
	}
}

// Acknowledged means on disk.
func TestWritesAreSynchronous(t *testing.T) {
	t.Parallel()
	db := openIn(t, t.TempDir())
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
		var got string
		if err := db.w.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
		}
	}
}

func TestOpenExplainsItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "headgate.db"), []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "headgate.db")) {
		t.Errorf("a damaged file: %v; want an error that names it", err)
	}
	// A failed start leaves no lock behind.
	if err := os.Remove(filepath.Join(dir, "headgate.db")); err != nil {
		t.Fatal(err)
	}
	openIn(t, dir)
}

func TestCancelledWriteChangesNothing(t *testing.T) {
	t.Parallel()
	db := openIn(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.SetFlag(ctx, "k", "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("write under an ended context: %v", err)
	}
	if v, err := db.Flag(t.Context(), "k"); err != nil || v != "" {
		t.Errorf("flag %q, %v", v, err)
	}
}
