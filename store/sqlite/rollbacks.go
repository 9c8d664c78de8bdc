package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollback"
)

// SaveIntent implements [rollback.Store].
func (db *DB) SaveIntent(ctx context.Context, r rollback.Rollback) (rollback.Rollback, error) {
	doc, err := toJSON(r)
	if err != nil {
		return r, err
	}
	err = db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO rollbacks (id, service, release_id, started_at, rollback) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, r.ID, r.Service, r.ReleaseID, micros(r.TriggeredAt), doc)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		r, err = getRollback(ctx, tx, r.ID)
		return err
	})
	return r, err
}

func getRollback(ctx context.Context, tx *sql.Tx, id string) (r rollback.Rollback, err error) {
	var doc []byte
	err = tx.QueryRowContext(ctx, `SELECT rollback FROM rollbacks WHERE id = ?`, id).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return r, noRollback(id)
	}
	if err == nil {
		err = json.Unmarshal(doc, &r)
	}
	return r, err
}

func noRollback(id string) error {
	return headgate.Errorf("ROLLBACK_NOT_FOUND", headgate.ClassBusinessRule, "there is no rollback %s", id)
}

func (db *DB) changeRollback(ctx context.Context, id string, change func(r *rollback.Rollback)) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		r, err := getRollback(ctx, tx, id)
		if err != nil {
			return err
		}
		change(&r)
		doc, err := toJSON(r)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE rollbacks SET rollback = ?, restored = ? WHERE id = ?`, doc, micros(r.RestoredAt), id)
		return err
	})
}

// UpdateStep implements [rollback.Store].
func (db *DB) UpdateStep(ctx context.Context, id string, s rollback.Step) error {
	return db.changeRollback(ctx, id, func(r *rollback.Rollback) {
		for i := range r.Steps {
			if r.Steps[i].Component == s.Component {
				r.Steps[i] = s
			}
		}
	})
}

// UpdateProgress implements [rollback.Store].
func (db *DB) UpdateProgress(ctx context.Context, id string, p rollback.Progress) error {
	return db.changeRollback(ctx, id, func(r *rollback.Rollback) { r.Progress = p })
}

// Get implements [rollback.Store].
func (db *DB) Get(ctx context.Context, id string) (rollback.Rollback, error) {
	r, ok, err := first[rollback.Rollback](ctx, db.r, `SELECT rollback FROM rollbacks WHERE id = ?`, id)
	if err == nil && !ok {
		err = noRollback(id)
	}
	return r, err
}

// Active implements [rollback.Store].
func (db *DB) Active(ctx context.Context, service string) ([]rollback.Rollback, error) {
	return query[rollback.Rollback](ctx, db.r, `SELECT rollback FROM rollbacks WHERE service = ? AND restored = 0 ORDER BY started_at`, service)
}

// Rollbacks returns a release's rollbacks, oldest first.
func (db *DB) Rollbacks(ctx context.Context, releaseID string) ([]rollback.Rollback, error) {
	return query[rollback.Rollback](ctx, db.r, `SELECT rollback FROM rollbacks WHERE release_id = ? ORDER BY started_at`, releaseID)
}

// SetFlag implements [rollback.FlagStore].
func (db *DB) SetFlag(ctx context.Context, key, value string) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO flags (key, value) VALUES (?, ?)
			ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
		return err
	})
}

// Flag implements [rollback.FlagStore]; a flag that was never set is empty.
func (db *DB) Flag(ctx context.Context, key string) (string, error) {
	var v string
	err := db.r.QueryRowContext(ctx, `SELECT value FROM flags WHERE key = ?`, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, storeError(err)
}
