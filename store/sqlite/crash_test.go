package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/store/sqlite"
)

// childDir makes this test binary a child process that writes to the database
// in the named folder until it is killed.
const childDir = "HEADGATE_SQLITE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := writeForever(dir); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForever makes one write of each kind after the other and says so on
// stdout once the store has acknowledged it.
func writeForever(dir string) error {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, dir)
	if err != nil {
		return err
	}
	log := db.EvidenceLog()
	size, err := log.Size(ctx)
	if err != nil {
		return err
	}
	for i := size; ; i++ {
		id := fmt.Sprintf("w%d-%d", i, os.Getpid())
		if err := db.Record(ctx, "", headgate.Event{Kind: id, Actor: "child"}); err != nil {
			return err
		}
		fmt.Println("event", id)
		if _, err := db.CreateRelease(ctx, first(id)); err != nil {
			return err
		}
		fmt.Println("release", id)
		r, _, ok, err := db.Claim(ctx, "child", time.Minute, pipeline.PlanVersion)
		if err != nil || !ok {
			return fmt.Errorf("claim %v: %w", ok, err)
		}
		r.Stage = headgate.StageReplay
		r.NextRunAt = r.NextRunAt.Add(time.Hour)
		if err := db.Commit(ctx, pipeline.Commit{Record: r, ClaimedGen: r.Gen}); err != nil {
			return err
		}
		fmt.Println("commit", r.ID)
		if err := db.PutDocument(ctx, control.Document{Kind: "k", ID: id, Body: []byte(`{}`)}); err != nil {
			return err
		}
		fmt.Println("document", id)
		if err := db.SetFlag(ctx, id, "on"); err != nil {
			return err
		}
		fmt.Println("flag", id)
		entry := evidence.Entry{Index: i, Digest: id, Envelope: []byte(id)}
		hashes, err := tlog.StoredHashes(i, entry.Envelope, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			return log.Hashes(ctx, indexes)
		}))
		if err != nil {
			return err
		}
		if err := log.Append(ctx, i, []evidence.Entry{entry}, hashes); err != nil {
			return err
		}
		fmt.Println("entry", id)
	}
}

func first(id string) pipeline.Commit {
	plan, err := rollout.NewPlan(id, []string{"acme"}, headgate.ProjectSizes(), true)
	if err != nil {
		panic(err)
	}
	return pipeline.Begin(headgate.Release{ID: id, Service: "bidding", Digest: "sha256:" + id}, pipeline.Plan{Rollout: plan}, time.Now().Add(-time.Minute))
}

// child starts the writing child.
func child(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// Whatever the store has acknowledged survives kill -9, and so does the shape
// of the database: the next process goes on where it was.
func TestAcknowledgedWritesSurviveAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var acknowledged []string
	for round := range 20 {
		cmd, out := child(t, dir)
		// Kill it in the middle of something, every time of something else.
		enough := len(acknowledged) + 20 + 3*round
		for out.Scan() {
			if strings.HasPrefix(out.Text(), "error") {
				t.Fatal(out.Text())
			}
			acknowledged = append(acknowledged, out.Text())
			if len(acknowledged) == enough {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		if len(acknowledged) < enough {
			t.Fatalf("the child ended by itself after %d writes", len(acknowledged))
		}
	}

	db := open(t, dir)
	missing := func(line string) bool {
		kind, id, _ := strings.Cut(line, " ")
		var err error
		ok := true
		switch kind {
		case "event":
			var rows []control.EventRow
			rows, err = db.Events(t.Context(), control.EventQuery{Kind: id, Limit: 1})
			ok = len(rows) == 1
		case "release":
			_, err = db.Release(t.Context(), id)
		case "commit":
			var r pipeline.Record
			r, err = db.Release(t.Context(), id)
			ok = r.Stage == headgate.StageReplay
		case "document":
			_, ok, err = db.Document(t.Context(), "k", id)
		case "flag":
			var v string
			v, err = db.Flag(t.Context(), id)
			ok = v == "on"
		case "entry":
			var n int64
			n, err = db.EvidenceLog().Size(t.Context())
			ok = index(id) < n
		default:
			t.Fatalf("unknown line %q", line)
		}
		return err != nil || !ok
	}
	for _, line := range acknowledged {
		if missing(line) {
			t.Errorf("lost: %s", line)
		}
	}
	t.Logf("%d acknowledged writes", len(acknowledged))
}

// index is the number in an id of the child's.
func index(id string) (n int64) {
	if _, err := fmt.Sscanf(id, "w%d", &n); err != nil {
		return 1 << 60
	}
	return n
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, out := child(t, dir)
	if !out.Scan() {
		t.Fatal("the child wrote nothing")
	}
	_, err := sqlite.Open(t.Context(), dir)
	var e *headgate.Error
	if !errors.As(err, &e) || e.Code != headgate.CodeUnavailable || !e.Retryable {
		t.Fatalf("second process got %v, want UNAVAILABLE", err)
	}
	for _, want := range []string{dir, "another headgate process", "--data"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("message %q does not say %q", e.Message, want)
		}
	}
	// The lock dies with its owner.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for out.Scan() {
		continue
	}
	_ = cmd.Wait()
	open(t, dir)
}
