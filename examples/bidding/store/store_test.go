package store

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/instrument"
)

// setup returns a store and the hand of its clock.
func setup(t *testing.T) (*Store, func(time.Duration)) {
	t.Helper()
	tel, err := instrument.Setup(t.Context(), instrument.Options{Service: "bidding", Version: "v1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "with space.db"), tel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	now := time.Now()
	s.now = func() time.Time { return now }
	return s, func(d time.Duration) { now = now.Add(d) }
}

func enqueue(t *testing.T, s *Store, version string) string {
	t.Helper()
	var id string
	err := s.inTx(t.Context(), func(tx *Tx) error {
		doc, err := tx.AddDocument(t.Context(), Upload{TenantID: "acme", ProjectID: "p", SupplierID: "s", DocType: "bid", Filename: "a.txt", Content: []byte("x")})
		if err == nil {
			id, err = tx.Enqueue(t.Context(), "acme", JobParse, doc, version)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func lease(t *testing.T, s *Store, owner, version string) *Job {
	t.Helper()
	j, err := s.Lease(t.Context(), owner, version, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestWorkersLeaseTheirOwnVersionFirst(t *testing.T) {
	t.Parallel()
	s, advance := setup(t)
	id := enqueue(t, s, "v1.1.0")
	if j := lease(t, s, "a", "v1.0.0"); j != nil {
		t.Fatalf("a worker of v1.0.0 took %s of v1.1.0 at once", j.ID)
	}
	advance(adoptAfter)
	if j := lease(t, s, "a", "v1.0.0"); j == nil || j.ID != id {
		t.Errorf("nobody adopts the orphaned job, got %v", j)
	}
}

func TestLapsedLeaseIsTakenOverOnce(t *testing.T) {
	t.Parallel()
	s, advance := setup(t)
	enqueue(t, s, "v1.0.0")
	first := lease(t, s, "a", "v1.0.0")
	if again := lease(t, s, "b", "v1.0.0"); again != nil {
		t.Fatal("a leased job was leased again")
	}
	advance(31 * time.Second)
	second := lease(t, s, "b", "v1.0.0")
	if second == nil || second.Attempts != 2 {
		t.Fatalf("after the lease ran out: %+v, want the second attempt", second)
	}
	nothing := func(*Tx) error { return nil }
	if err := s.Succeed(t.Context(), *first, 1, nothing); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the first worker finished with %v, want ErrLeaseLost", err)
	}
	if err := s.Retry(t.Context(), *first, "X", 0); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the first worker retried with %v, want ErrLeaseLost", err)
	}
	if err := s.Fail(t.Context(), *first, "X", "x"); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the first worker failed the job with %v, want ErrLeaseLost", err)
	}
	if items, err := s.DeadLetters(t.Context(), "acme", 10); err != nil || len(items) != 0 {
		t.Errorf("a lost lease left %d dead letters, %v", len(items), err)
	}
	if err := s.Succeed(t.Context(), *second, 1, nothing); err != nil {
		t.Error(err)
	}
}

func TestFailedNeedsItsDeadLetter(t *testing.T) {
	t.Parallel()
	s, _ := setup(t)
	id := enqueue(t, s, "v1.0.0")
	if _, err := s.write.ExecContext(t.Context(), `UPDATE jobs SET status='failed' WHERE id=?`, id); err == nil || !strings.Contains(err.Error(), "dead-lettered before") {
		t.Errorf("the schema lets a job fail without a dead letter: %v", err)
	}
	if err := s.Fail(t.Context(), *lease(t, s, "a", "v1.0.0"), "CODE", "message"); err != nil {
		t.Fatal(err)
	}
	j, err := s.Job(t.Context(), "acme", id)
	if err != nil || j.Status != JobFailed || j.ErrorCode != "CODE" {
		t.Errorf("job %+v, %v", j, err)
	}
	if _, err := s.Job(t.Context(), "borealis", id); !errors.Is(err, notFound("job")) {
		t.Errorf("another tenant reads the job: %v", err)
	}
}

func TestTwoProcessesShareTheFile(t *testing.T) {
	t.Parallel()
	tel, err := instrument.Setup(t.Context(), instrument.Options{Service: "bidding", Version: "v1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "b.db")
	var stores [2]*Store
	for i := range stores {
		if stores[i], err = Open(t.Context(), path, tel); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := stores[i].Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	const jobs = 20
	for range jobs {
		enqueue(t, stores[0], "v1.0.0")
	}
	taken := make(chan string, 2*jobs)
	done := make(chan error, 2)
	for i, s := range stores {
		go func() {
			for {
				j, err := s.Lease(context.Background(), string(rune('a'+i)), "v1.0.0", time.Minute)
				if err != nil || j == nil {
					done <- err
					return
				}
				taken <- j.ID
			}
		}()
	}
	for range stores {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	close(taken)
	seen := map[string]bool{}
	for id := range taken {
		if seen[id] {
			t.Errorf("%s was leased twice", id)
		}
		seen[id] = true
	}
	if len(seen) != jobs {
		t.Errorf("%d of %d jobs leased", len(seen), jobs)
	}
}

func TestNewestParsedRevisionCounts(t *testing.T) {
	t.Parallel()
	s, advance := setup(t)
	upload := func(name, text string, parse bool) {
		advance(time.Second)
		err := s.inTx(t.Context(), func(tx *Tx) error {
			id, err := tx.AddDocument(t.Context(), Upload{TenantID: "acme", ProjectID: "p", SupplierID: "s", DocType: "bid", Filename: name, Content: []byte(text)})
			if err == nil && parse {
				err = tx.SavePages(t.Context(), id, []bidding.Page{{Number: 1, Text: text}})
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	upload("a.txt", "first", true)
	upload("a.txt", "second", true)
	upload("a.txt", "third", false)
	upload("b.txt", "only", false)
	docs, waiting, err := s.Documents(t.Context(), Scope{"acme", "p", "s", []string{"bid"}})
	if err != nil || len(docs) != 1 || docs[0].Pages[0].Text != "second" || waiting != 1 {
		t.Errorf("documents %+v, %d waiting, %v; want the second revision and one file waiting", docs, waiting, err)
	}
	if docs, _, err := s.Documents(t.Context(), Scope{"borealis", "p", "s", []string{"bid"}}); err != nil || len(docs) != 0 {
		t.Errorf("another tenant reads %d documents, %v", len(docs), err)
	}
}

func TestOnceConflicts(t *testing.T) {
	t.Parallel()
	s, _ := setup(t)
	runs := 0
	once := func(tenant, hash string) (string, error) {
		b, err := s.Once(t.Context(), tenant, "POST /x", "key", hash, func(*Tx) ([]byte, error) { runs++; return []byte(tenant), nil })
		return string(b), err
	}
	for range 2 {
		if got, err := once("acme", "h"); got != "acme" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got, err := once("borealis", "other"); got != "borealis" || err != nil {
		t.Errorf("a key is another tenant's, too: %q, %v", got, err)
	}
	if _, err := once("acme", "other"); headgate.AsError(err).Code != headgate.CodeIdempotencyConflict {
		t.Errorf("another body: %v", err)
	}
	if runs != 2 {
		t.Errorf("ran %d times, want once per tenant", runs)
	}
}
