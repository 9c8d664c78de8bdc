package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/headgate/headgate/evidence"
)

// EvidenceLog is the store of the evidence log.
type EvidenceLog struct{ db *DB }

// EvidenceLog returns the part of the database that package evidence writes.
func (db *DB) EvidenceLog() EvidenceLog { return EvidenceLog{db} }

// Size implements [evidence.LogStore].
func (l EvidenceLog) Size(ctx context.Context) (int64, error) {
	var n int64
	err := l.db.r.QueryRowContext(ctx, `SELECT COALESCE(MAX(idx) + 1, 0) FROM log_entries`).Scan(&n)
	return n, storeError(err)
}

// Append implements [evidence.LogStore].
func (l EvidenceLog) Append(ctx context.Context, size int64, entries []evidence.Entry, hashes []tlog.Hash) error {
	return l.db.write(ctx, func(tx *sql.Tx) error {
		var now int64
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(idx) + 1, 0) FROM log_entries`).Scan(&now); err != nil {
			return err
		}
		if now != size {
			return evidence.ErrLogMoved
		}
		for _, e := range entries {
			_, err := tx.ExecContext(ctx, `INSERT INTO log_entries (idx, release_id, predicate_type, at, digest, envelope) VALUES (?, ?, ?, ?, ?, ?)`,
				e.Index, e.ReleaseID, e.PredicateType, micros(e.Time), e.Digest, e.Envelope)
			if err != nil {
				return err
			}
			if e.Event == 0 {
				continue
			}
			if err := markSealed(ctx, tx, e.Event); err != nil {
				return err
			}
		}
		first := tlog.StoredHashCount(size)
		for i, h := range hashes {
			if _, err := tx.ExecContext(ctx, `INSERT INTO log_hashes (idx, hash) VALUES (?, ?)`, first+int64(i), h[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Hashes implements [evidence.LogStore].
func (l EvidenceLog) Hashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, idx := range indexes {
		var h []byte
		if err := l.db.r.QueryRowContext(ctx, `SELECT hash FROM log_hashes WHERE idx = ?`, idx).Scan(&h); err != nil {
			return nil, fmt.Errorf("hash %d of the evidence log: %w", idx, storeError(err))
		}
		if len(h) != tlog.HashSize {
			return nil, fmt.Errorf("hash %d of the evidence log has %d bytes", idx, len(h))
		}
		copy(out[i][:], h)
	}
	return out, nil
}

// Entries implements [evidence.LogStore].
func (l EvidenceLog) Entries(ctx context.Context, q evidence.EntryQuery) (out []evidence.Entry, err error) {
	limit := q.Limit
	if limit == 0 {
		limit = -1
	}
	rows, err := l.db.r.QueryContext(ctx, `SELECT idx, release_id, predicate_type, at, digest, envelope FROM log_entries
		WHERE ? IN ('', release_id) AND ? IN ('', predicate_type) AND idx >= ? ORDER BY idx LIMIT ?`,
		q.ReleaseID, q.PredicateType, q.From, limit)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		var e evidence.Entry
		var at int64
		if err := rows.Scan(&e.Index, &e.ReleaseID, &e.PredicateType, &at, &e.Digest, &e.Envelope); err != nil {
			return nil, storeError(err)
		}
		e.Time = fromMicros(at)
		out = append(out, e)
	}
	return out, storeError(rows.Err())
}
