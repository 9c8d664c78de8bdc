package evidence

import (
	"context"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/mod/sumdb/tlog"
)

// Damage is one thing that is not as it was stored.
type Damage struct {
	Where string `json:"where"` // "entry 17", "the log", or a file's digest
	What  string `json:"what"`
}

// checkBatch is how many entries are in memory at once.
const checkBatch = 256

// CheckLog reads the whole log in store, recomputes its Merkle tree and returns
// the log's size and root with what is damaged: entries that are missing,
// were changed after one of keys signed them, or are not what the stored tree
// says. It changes nothing.
func CheckLog(ctx context.Context, store LogStore, keys []PublicKey) (Checkpoint, []Damage, error) {
	size, err := store.Size(ctx)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c := &logCheck{store: store, computed: make([]tlog.Hash, 0, tlog.StoredHashCount(size))}
	for _, k := range keys {
		c.keys = append(c.keys, dsseVerifier{k.Key, k.ID()})
	}
	for c.next < size {
		entries, err := store.Entries(ctx, EntryQuery{From: c.next, Limit: checkBatch})
		if err != nil {
			return Checkpoint{}, c.found, fmt.Errorf("read the evidence log: %w", err)
		}
		if len(entries) == 0 || entries[0].Index != c.next {
			// Nothing after a hole can be recomputed.
			c.find("entry %d", c.next, "it is missing, and with it the proof of all that follows")
			return Checkpoint{Size: size}, c.found, nil
		}
		for _, e := range entries {
			if e.Index != c.next {
				break
			}
			if err := c.entry(ctx, e); err != nil {
				return Checkpoint{}, c.found, err
			}
		}
	}
	if _, err := store.Hashes(ctx, []int64{int64(len(c.computed))}); err == nil {
		c.found = append(c.found, Damage{"the log", fmt.Sprintf("its tree has more entries than the %d that are there: the last ones are missing", size)})
	}
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(c.hashes))
	return Checkpoint{Size: size, Root: root}, c.found, err
}

// logCheck is a log being read from its beginning.
type logCheck struct {
	store    LogStore
	keys     []dsse.Verifier
	next     int64
	computed []tlog.Hash // by stored hash index
	found    []Damage
}

func (c *logCheck) find(where string, index int64, what string) {
	c.found = append(c.found, Damage{fmt.Sprintf(where, index), what})
}

func (c *logCheck) hashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, idx := range indexes {
		out[i] = c.computed[idx]
	}
	return out, nil
}

func (c *logCheck) entry(ctx context.Context, e Entry) error {
	fresh, err := tlog.StoredHashes(e.Index, e.Envelope, tlog.HashReaderFunc(c.hashes))
	if err != nil {
		return fmt.Errorf("hash entry %d of the evidence log: %w", e.Index, err)
	}
	indexes := make([]int64, len(fresh))
	for i := range fresh {
		indexes[i] = int64(len(c.computed) + i)
	}
	stored, err := c.store.Hashes(ctx, indexes)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		c.find("entry %d", e.Index, "the tree has no hash of it")
	case stored[0] != fresh[0]:
		c.find("entry %d", e.Index, "it is not the entry that the tree was built of")
	default:
		for i := range fresh {
			if stored[i] != fresh[i] {
				c.find("the tree above entry %d", e.Index, "a hash is not what its entries give")
				break
			}
		}
	}
	if problem := c.envelope(ctx, e); problem != "" {
		c.find("entry %d", e.Index, problem)
	}
	c.computed = append(c.computed, fresh...)
	c.next++
	return nil
}

// envelope says what is wrong with an entry by itself, "" for nothing.
func (c *logCheck) envelope(ctx context.Context, e Entry) string {
	env, _, st, err := unseal(e.Envelope)
	switch {
	case err != nil:
		return err.Error()
	case Digest(e.Envelope) != e.Digest:
		return "its digest is not that of its content"
	case st.PredicateType != e.PredicateType || st.header().ReleaseID != e.ReleaseID:
		return "it is filed under another release or kind than it states"
	}
	verifier, err := dsse.NewEnvelopeVerifier(c.keys...)
	if err == nil {
		_, err = verifier.Verify(ctx, &env)
	}
	if err != nil {
		return "none of the keys in the data folder has signed it as it is"
	}
	return ""
}
