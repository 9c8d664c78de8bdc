package evidence_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/evidence/blobtest"
)

func TestFolder(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blobtest.Store {
		dir := t.TempDir()
		reopen := func(t *testing.T) evidence.Blobs { return openFolder(t, dir) }
		return blobtest.Store{Blobs: reopen(t), Reopen: reopen, Spoil: func(t *testing.T, name string, content []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

func openFolder(t testing.TB, dir string) *evidence.Folder {
	t.Helper()
	f, err := evidence.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFolderForgetsInterruptedUploads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := openFolder(t, dir).Put(t.Context(), []byte("abc")); err != nil {
		t.Fatal(err)
	}
	pattern := filepath.Join(dir, "sha256", "ba", "incoming-*")
	if left, err := filepath.Glob(pattern); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sha256", "ba", "incoming-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, found, err := openFolder(t, dir).Check(t.Context())
	if err != nil || n != 1 || len(found) != 0 {
		t.Errorf("%d blobs, damaged %v, %v", n, found, err)
	}
}
