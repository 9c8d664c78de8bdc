package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
)

func insertEvent(ctx context.Context, tx *sql.Tx, key string, ev headgate.Event) error {
	doc, err := toJSON(ev)
	if err != nil {
		return err
	}
	// A conflict would use up a number, and the trail must have no holes.
	_, err = tx.ExecContext(ctx, `INSERT INTO events (key, release_id, tenant_id, kind, event)
		SELECT NULLIF(?, ''), ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM events WHERE key = NULLIF(?, ''))`,
		key, ev.ReleaseID, ev.TenantID, ev.Kind, doc, key)
	return err
}

// Record adds an event to the audit trail; a second one under the same key,
// unless that is empty, is the same event.
func (db *DB) Record(ctx context.Context, key string, ev headgate.Event) error {
	return db.write(ctx, func(tx *sql.Tx) error { return insertEvent(ctx, tx, key, ev) })
}

// Events returns the selected part of the audit trail.
func (db *DB) Events(ctx context.Context, q control.EventQuery) ([]control.EventRow, error) {
	return db.events(ctx, `SELECT seq, event FROM events WHERE ? IN ('', release_id) AND ? IN ('', tenant_id)
		AND ? IN ('', kind) AND seq > ? ORDER BY seq LIMIT ?`, q.ReleaseID, q.TenantID, q.Kind, q.After, q.Limit)
}

// Unsealed returns the oldest events that are not in the evidence log yet.
func (db *DB) Unsealed(ctx context.Context, limit int) ([]control.EventRow, error) {
	return db.events(ctx, `SELECT seq, event FROM events WHERE sealed = 0 ORDER BY seq LIMIT ?`, limit)
}

func (db *DB) events(ctx context.Context, q string, args ...any) (out []control.EventRow, err error) {
	rows, err := db.r.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		var row control.EventRow
		var doc []byte
		if err := rows.Scan(&row.Seq, &doc); err != nil {
			return nil, storeError(err)
		}
		if err := json.Unmarshal(doc, &row.Event); err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, storeError(rows.Err())
}

// markSealed says that an event is in the evidence log.
func markSealed(ctx context.Context, tx *sql.Tx, seq int64) error {
	res, err := tx.ExecContext(ctx, `UPDATE events SET sealed = 1 WHERE seq = ? AND sealed = 0`, seq)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return evidence.ErrEventSealed
	}
	return err
}
