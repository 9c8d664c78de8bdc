package sqlite_test

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/store/sqlite"
	"github.com/headgate/headgate/store/storetest"
)

func open(t *testing.T, dir string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (storetest.Store, evidence.LogStore) {
		db := open(t, t.TempDir())
		return db, db.EvidenceLog()
	})
}

func TestOpenRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	newer := t.TempDir()
	db, err := sqlite.Open(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", filepath.Join(newer, "headgate.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, want string }{
		{newer, "was written by a newer headgate (schema 9999"},
		{file, "cannot be used (not a directory)"},
	} {
		db, err := sqlite.Open(t.Context(), c.dir)
		if err == nil {
			t.Errorf("%s was opened, want: %s", c.dir, c.want)
			_ = db.Close() // it is wrong that it is there
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want: %s", c.dir, err, c.want)
		}
	}
}

func TestGarbageIsNoDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "headgate.db"), bytes.Repeat([]byte("garbage "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(t.Context(), dir)
	if !errors.Is(err, &headgate.Error{Code: headgate.CodeStorageDamaged}) || !strings.Contains(err.Error(), "restore the whole data folder") {
		t.Errorf("garbage: %v", err)
	}
}
