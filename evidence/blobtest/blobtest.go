// Package blobtest holds the conformance suite of the stores of evidence
// files. It knows no store; what belongs to one alone is for its own tests.
package blobtest

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

// Store is an empty store under test.
type Store struct {
	evidence.Blobs
	// Reopen returns the same store as another process would see it.
	Reopen func(t *testing.T) evidence.Blobs
	// Spoil replaces what is stored under a name that evidence.BlobName gave,
	// behind the store's back.
	Spoil func(t *testing.T, name string, content []byte)
}

const (
	abc    = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	absent = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

// Run runs the suite, each test on a store of its own.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"StoringAgainChangesNothing", storingAgainChangesNothing},
		{"ContentComesBackAsItWas", contentComesBackAsItWas},
		{"ManyWritersOneBlob", manyWritersOneBlob},
		{"AbsentAndNonsense", absentAndNonsense},
		{"ChangedContentIsNeverReturned", changedContentIsNeverReturned},
		{"ADamagedBlobIsMended", aDamagedBlobIsMended},
		{"AnEndedContextStoresNothing", anEndedContextStoresNothing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, open(t))
		})
	}
}

func put(t *testing.T, s evidence.Blobs, content []byte) string {
	t.Helper()
	digest, err := s.Put(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func wantBlob(t *testing.T, s evidence.Blobs, digest string, want []byte) {
	t.Helper()
	if got, err := s.Get(t.Context(), digest); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d; %v", digest, len(got), len(want), err)
	}
}

func wantCount(t *testing.T, s evidence.Blobs, want int) {
	t.Helper()
	if n, found, err := s.Check(t.Context()); err != nil || n != want || len(found) != 0 {
		t.Errorf("%d blobs, want %d; damaged: %v; %v", n, want, found, err)
	}
}

func storingAgainChangesNothing(t *testing.T, s Store) {
	wantCount(t, s, 0)
	for range 2 {
		if digest := put(t, s, []byte("abc")); digest != abc {
			t.Errorf("digest %s", digest)
		}
	}
	wantBlob(t, s, abc, []byte("abc"))
	wantCount(t, s, 1)
}

func contentComesBackAsItWas(t *testing.T, s Store) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16+1) // over a mebibyte
	contents := [][]byte{{}, {0}, []byte("\r\n\x00\xff"), large}
	digests := make([]string, len(contents))
	for i, content := range contents {
		digests[i] = put(t, s, content)
	}
	again := s.Reopen(t)
	for i, content := range contents {
		wantBlob(t, again, digests[i], content)
	}
	wantCount(t, again, len(contents))
}

func manyWritersOneBlob(t *testing.T, s Store) {
	content := bytes.Repeat([]byte("rules"), 1000)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			digest, err := s.Put(t.Context(), content)
			if err != nil {
				t.Error(err)
				return
			}
			wantBlob(t, s, digest, content) // at once: what was acknowledged is there
		})
	}
	writers.Wait()
	wantCount(t, s, 1)
}

func absentAndNonsense(t *testing.T, s Store) {
	if _, err := s.Get(t.Context(), absent); headgate.AsError(err).Code != headgate.CodeNotFound {
		t.Errorf("absent: %v", err)
	}
	for _, bad := range []string{"", "abc", "sha256:../../etc/passwd", strings.ToUpper(abc), absent[:70]} {
		if _, err := s.Get(t.Context(), bad); headgate.AsError(err).Code != headgate.CodeValidation {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func changedContentIsNeverReturned(t *testing.T, s Store) {
	put(t, s, []byte("abc"))
	whole := put(t, s, []byte("whole"))
	name, err := evidence.BlobName(abc)
	if err != nil {
		t.Fatal(err)
	}
	s.Spoil(t, name, []byte("abd"))
	got, err := s.Get(t.Context(), abc)
	if headgate.AsError(err).Code != headgate.CodeInternal || !strings.Contains(err.Error(), "changed or damaged") || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	n, found, err := s.Check(t.Context())
	if err != nil || n != 2 || len(found) != 1 || !strings.Contains(found[0].Where, strings.TrimPrefix(abc, "sha256:")) {
		t.Errorf("%d blobs, damaged %v, %v", n, found, err)
	}
	wantBlob(t, s, whole, []byte("whole"))
}

func aDamagedBlobIsMended(t *testing.T, s Store) {
	put(t, s, []byte("abc"))
	name, err := evidence.BlobName(abc)
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"ab", "abd"} {
		s.Spoil(t, name, []byte(left))
		put(t, s, []byte("abc"))
		wantBlob(t, s, abc, []byte("abc"))
	}
}

func anEndedContextStoresNothing(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if digest, err := s.Put(ctx, []byte("abc")); err == nil {
		t.Errorf("%s was acknowledged for a request that had ended", digest)
	}
	wantCount(t, s.Reopen(t), 0)
}
