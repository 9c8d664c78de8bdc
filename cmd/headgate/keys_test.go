package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/store/sqlite"
)

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out}
	rotate := func(args ...string) int { return a.run(t.Context(), append([]string{"keys", "rotate", dir}, args...)) }
	if code := rotate("--reason", "x"); code != exitError || !strings.Contains(out.String(), "no headgate.db") {
		t.Fatalf("an empty folder: exit %d, %s", code, &out)
	}
	db, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	old, err := evidence.OpenKeyring(filepath.Join(dir, "keys"), "headgate")
	if err != nil {
		t.Fatal(err)
	}
	if code := rotate("--reason", "x"); code != exitError {
		t.Errorf("while a server runs: exit %d", code)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if code := rotate(); code != exitUsage {
		t.Errorf("without a reason: exit %d", code)
	}
	out.Reset()
	if code := rotate("--reason", "yearly"); code != exitPassed {
		t.Fatalf("exit %d, %s", code, &out)
	}
	next, err := evidence.ParsePublicKey(out.String())
	if err != nil {
		t.Fatal(err)
	}
	now, err := evidence.OpenKeyring(filepath.Join(dir, "keys"), "headgate")
	if err != nil || now.Current().ID() != next.ID() || len(now.Public()) != 2 || next.ID() == old.Current().ID() {
		t.Errorf("keys %v, %v", now.Public(), err)
	}
	if db, err = sqlite.Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Events(t.Context(), control.EventQuery{Kind: "key_rotated", Limit: 10})
	if err != nil || len(rows) != 1 || rows[0].Reason != "yearly" || !strings.Contains(rows[0].Message, next.ID()) {
		t.Errorf("audit trail %+v, %v", rows, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
