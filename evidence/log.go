package evidence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Entry is one line of the log as it is stored. The leaf of the Merkle tree is
// Envelope, byte for byte.
type Entry struct {
	Index         int64
	ReleaseID     string // empty for events of the server itself
	PredicateType string
	Time          time.Time // the predicate's time
	Digest        string    // "sha256:<hex>" of Envelope
	Envelope      []byte    // DSSE envelope, JSON
	// Event is the number of the audit event that an entry brings into the log,
	// 0 for none. Only Append looks at it.
	Event int64
}

// Statement returns what the entry states, without verifying its signature.
func (e Entry) Statement() (Statement, error) {
	_, _, s, err := unseal(e.Envelope)
	if err != nil {
		return s, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent,
			"entry %d of the evidence log is damaged; restore the database from a backup", e.Index).Wrap(err)
	}
	return s, nil
}

// EntryQuery selects entries. The zero query is the whole log.
type EntryQuery struct {
	ReleaseID     string // empty for all
	PredicateType string // empty for all
	From          int64  // the lowest index
	Limit         int    // at most so many; 0 for all
}

// ErrLogMoved says that another writer appended first.
var ErrLogMoved = headgate.Errorf("EVIDENCE_LOG_MOVED", headgate.ClassTransient, "the evidence log has grown meanwhile; try again")

// ErrEventSealed says that an audit event is in the log already.
var ErrEventSealed = headgate.Errorf("EVENT_SEALED", headgate.ClassPermanent, "the audit event is in the evidence log already")

// LogStore keeps the log's entries and tree hashes. An implementation never
// changes or deletes what it holds.
type LogStore interface {
	// Size returns the number of entries.
	Size(ctx context.Context) (int64, error)
	// Append stores entries, numbered from size upward, and the hashes that
	// belong to them, the first at stored hash index
	// tlog.StoredHashCount(size), in one transaction that is durable when it
	// returns. When the log no longer has exactly size entries it stores
	// nothing and returns [ErrLogMoved]. An entry that names an Event marks it
	// as sealed in the same transaction; when it was sealed before, nothing is
	// stored and the error is [ErrEventSealed].
	Append(ctx context.Context, size int64, entries []Entry, hashes []tlog.Hash) error
	// Hashes returns the hashes at the given stored hash indexes, in the order
	// asked for. A missing one is an error.
	Hashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error)
	// Entries returns the selected entries by rising index.
	Entries(ctx context.Context, q EntryQuery) ([]Entry, error)
}

// Record is the receipt for an appended statement.
type Record struct {
	Index  int64     `json:"index"`
	Digest string    `json:"digest"` // "sha256:<hex>" of the signed envelope
	Time   time.Time `json:"time"`
}

// Log is the append-only Merkle log of statements. It is safe for concurrent
// use; appends that meet share one transaction.
type Log struct {
	store LogStore
	keys  *Keyring

	waiting struct {
		sync.Mutex
		list []*appending
	}
	commit sync.Mutex // held by the one who writes for all who wait
}

type appending struct {
	entry Entry
	done  bool
	err   error
}

// commitTimeout bounds one transaction of the log.
const commitTimeout = 10 * time.Second

// maxStatement bounds a signed statement, in bytes.
const maxStatement = 1 << 20

// maxBatch bounds how many statements share a transaction.
const maxBatch = 256

// NewLog returns the log in store, whose statements and checkpoints are signed
// with the current key of keys.
func NewLog(store LogStore, keys *Keyring) *Log {
	return &Log{store: store, keys: keys}
}

// Append signs a statement and adds it to the log. It is durable when Append
// returns without an error; after an error it may be in the log or not. A
// context that ends while the statement is being written does not interrupt it.
func (l *Log) Append(ctx context.Context, s Statement) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the request ended before its evidence was written: %w", err)
	}
	a, err := l.sign(ctx, s)
	if err != nil {
		return Record{}, err
	}
	l.waiting.Lock()
	l.waiting.list = append(l.waiting.list, a)
	l.waiting.Unlock()

	l.commit.Lock()
	for !a.done {
		l.commitWaiting(context.WithoutCancel(ctx))
	}
	l.commit.Unlock()
	if a.err != nil {
		return Record{}, a.err
	}
	return Record{Index: a.entry.Index, Digest: a.entry.Digest, Time: a.entry.Time}, nil
}

// AppendEvent adds what tells of the audit event with number seq, all of it and
// exactly once, however often it is called and whenever the process dies.
func (l *Log) AppendEvent(ctx context.Context, seq int64, statements ...Statement) error {
	batch := make([]*appending, len(statements))
	for i, s := range statements {
		var err error
		if batch[i], err = l.sign(ctx, s); err != nil {
			return err
		}
	}
	batch[0].entry.Event = seq
	l.commit.Lock()
	defer l.commit.Unlock()
	err := l.commitBatch(context.WithoutCancel(ctx), batch)
	if errors.Is(err, ErrEventSealed) {
		return nil
	}
	return err
}

func (l *Log) sign(ctx context.Context, s Statement) (*appending, error) {
	envelope, err := l.keys.signer().seal(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(envelope) > maxStatement {
		return nil, headgate.Invalidf("a statement may have %d KiB and this one has %d; store what is large as a file and name its digest", maxStatement>>10, len(envelope)>>10)
	}
	h := s.header()
	return &appending{entry: Entry{
		ReleaseID: h.ReleaseID, PredicateType: s.PredicateType, Time: h.Time, Digest: Digest(envelope), Envelope: envelope,
	}}, nil
}

// commitWaiting writes what waits. The caller holds commit.
func (l *Log) commitWaiting(ctx context.Context) {
	l.waiting.Lock()
	n := min(len(l.waiting.list), maxBatch)
	batch := l.waiting.list[:n:n]
	l.waiting.list = l.waiting.list[n:]
	l.waiting.Unlock()

	err := l.commitBatch(ctx, batch)
	for _, a := range batch {
		a.err, a.done = err, true
	}
}

// commitBatch writes a batch in one transaction. The caller holds commit.
func (l *Log) commitBatch(ctx context.Context, batch []*appending) (err error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	for range 5 { // another replica may append between Size and Append
		if err = l.write(ctx, batch); !errors.Is(err, ErrLogMoved) {
			break
		}
	}
	return err
}

func (l *Log) write(ctx context.Context, batch []*appending) error {
	size, err := l.store.Size(ctx)
	if err != nil {
		return fmt.Errorf("size of the evidence log: %w", err)
	}
	first := tlog.StoredHashCount(size)
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return l.readHashes(ctx, first, hashes, indexes)
	})
	entries := make([]Entry, len(batch))
	for i, a := range batch {
		a.entry.Index = size + int64(i)
		entries[i] = a.entry
		more, err := tlog.StoredHashes(a.entry.Index, a.entry.Envelope, reader)
		if err != nil {
			return fmt.Errorf("hashes of the evidence log: %w", err)
		}
		hashes = append(hashes, more...)
	}
	return l.store.Append(ctx, size, entries, hashes)
}

// readHashes reads stored hashes of which those from first upward are not
// stored yet.
func (l *Log) readHashes(ctx context.Context, first int64, fresh []tlog.Hash, indexes []int64) ([]tlog.Hash, error) {
	var stored []int64
	for _, i := range indexes {
		if i < first {
			stored = append(stored, i)
		}
	}
	var old []tlog.Hash
	if len(stored) > 0 {
		var err error
		if old, err = l.store.Hashes(ctx, stored); err != nil {
			return nil, err
		}
		if len(old) != len(stored) {
			return nil, fmt.Errorf("asked for %d hashes, got %d", len(stored), len(old))
		}
	}
	all := make([]tlog.Hash, len(indexes))
	for n, i := range indexes {
		if i < first {
			all[n], old = old[0], old[1:]
		} else {
			all[n] = fresh[i-first]
		}
	}
	return all, nil
}

func (l *Log) reader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return l.store.Hashes(ctx, indexes)
	})
}

// Entries returns the selected entries by rising index.
func (l *Log) Entries(ctx context.Context, q EntryQuery) ([]Entry, error) {
	return l.store.Entries(ctx, q)
}

// Checkpoint signs the log's size and root as they are now. Whoever keeps the
// checkpoint elsewhere can later prove that nothing before it was changed.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	size, err := l.store.Size(ctx)
	if err != nil {
		return nil, fmt.Errorf("size of the evidence log: %w", err)
	}
	root, err := tlog.TreeHash(size, l.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("root of the evidence log: %w", err)
	}
	return l.keys.signer().signCheckpoint(size, root)
}

// Inclusion proves that entry index is in the log of the given size.
func (l *Log) Inclusion(ctx context.Context, size, index int64) (tlog.RecordProof, error) {
	if index < 0 || index >= size {
		return nil, headgate.Invalidf("a log of %d entries has no entry %d", size, index)
	}
	return tlog.ProveRecord(size, index, l.reader(ctx))
}

// Consistency proves that the log of size old is the beginning of the log of
// size now.
func (l *Log) Consistency(ctx context.Context, old, now int64) (tlog.TreeProof, error) {
	if old < 1 || old > now {
		return nil, headgate.Invalidf("a log of %d entries does not begin with one of %d", now, old)
	}
	return tlog.ProveTree(now, old, l.reader(ctx))
}

// OpenCheckpoint reads a checkpoint that one of keys has signed.
func OpenCheckpoint(signed []byte, keys []PublicKey) (Checkpoint, error) {
	var known []note.Verifier
	for _, k := range keys {
		v, err := note.NewVerifier(k.String())
		if err != nil {
			return Checkpoint{}, headgate.Invalidf("key %s of the log is not usable: %w", k.ID(), err)
		}
		known = append(known, v)
	}
	n, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return Checkpoint{}, headgate.Invalidf("the checkpoint is not signed by a known key: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, headgate.Invalidf("the checkpoint cannot be read: %w", err)
	}
	return c, nil
}
