package sqlite

import (
	"syscall"
	"testing"
)

// TestCloseGivesUpTheLock of a folder that a child process being started holds
// too: between fork and exec it has every file of its parent.
func TestCloseGivesUpTheLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	childs, err := syscall.Dup(int(db.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(childs) }()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatalf("the folder is still locked: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
