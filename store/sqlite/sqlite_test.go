package sqlite_test

import (
	"testing"

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
