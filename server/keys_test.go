package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/server"
	"github.com/headgate/headgate/store/sqlite"
)

// TestInterruptedRotationIsEnded: headgate keys rotate was killed when the new
// key was in use, the old one not yet destroyed and nothing written down.
func TestInterruptedRotationIsEnded(t *testing.T) {
	t.Parallel()
	w := startWorld(t, false, nil)
	w.stop(t)
	dir := filepath.Join(w.options.Settings.DataDir, "keys")
	keys, err := evidence.OpenKeyring(dir, "headgate")
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, keys.Current().ID()+".key")
	secret, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	next, err := keys.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start has nothing to do
		w.serve(t)
		w.stop(t)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != next.ID()+".key" {
		t.Errorf("private keys: %v, %v", left, err)
	}
	db, err := sqlite.Open(t.Context(), w.options.Settings.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.Events(t.Context(), control.EventQuery{Kind: "key_rotated", Limit: 10})
	if err != nil || len(rows) != 1 || rows[0].Data["key"] != next.String() {
		t.Errorf("audit trail %+v, %v", rows, err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	w.serve(t) // for the cleanup to stop
}

// TestLostKeysAreNotReplaced: a new key in silence would leave all that was
// signed before without one.
func TestLostKeysAreNotReplaced(t *testing.T) {
	t.Parallel()
	w := startWorld(t, false, nil)
	w.startRelease(t, "rel-signed", "v9")
	w.send(t, "GET", "/api/v1/releases/rel-signed/bundle", nil) // holds all that happened, signed
	w.stop(t)
	keys := filepath.Join(w.options.Settings.DataDir, "keys")
	if err := os.Rename(keys, keys+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := server.New(t.Context(), w.options)
	if !errors.Is(err, &headgate.Error{Code: headgate.CodeConfigInvalid}) || !strings.Contains(err.Error(), "restore that folder") {
		t.Errorf("without its keys: %v", err)
	}
	if _, err := os.Stat(keys); err == nil {
		t.Error("keys were made")
	}
	if err := os.Rename(keys+".away", keys); err != nil {
		t.Fatal(err)
	}
	w.serve(t)
}
