package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
)

// Quarantined returns the digests in quarantine, oldest first, of one service
// or of all when service is empty.
func (db *DB) Quarantined(ctx context.Context, service string) (out []control.Quarantined, err error) {
	rows, err := db.r.QueryContext(ctx, `SELECT q.service, q.digest, q.release_id, q.at, q.requested_by, q.requested_at, q.reason,
		COALESCE(json_extract(r.release, '$.tenant_id'), ''), COALESCE(json_extract(r.release, '$.version'), '')
		FROM quarantine q LEFT JOIN releases r ON r.id = q.release_id WHERE ? IN ('', q.service) ORDER BY q.at, q.digest`, service)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		var q control.Quarantined
		var at, requested int64
		if err := rows.Scan(&q.Service, &q.Digest, &q.ReleaseID, &at, &q.RequestedBy, &requested, &q.Reason, &q.TenantID, &q.Version); err != nil {
			return nil, storeError(err)
		}
		q.At, q.RequestedAt = fromMicros(at), fromMicros(requested)
		out = append(out, q)
	}
	return out, storeError(rows.Err())
}

// PutQuarantine implements [control.QuarantineStore].
func (db *DB) PutQuarantine(ctx context.Context, q control.Quarantined) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO quarantine (service, digest, release_id, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			q.Service, q.Digest, q.ReleaseID, micros(q.At))
		return err
	})
}

// RequestQuarantineRelease notes who asked first; QUARANTINE_MOVED when it was
// somebody else, or the digest is not in quarantine any more.
func (db *DB) RequestQuarantineRelease(ctx context.Context, q control.Quarantined, ev headgate.Event) error {
	return db.changeQuarantine(ctx, ev, `UPDATE quarantine SET requested_by = ?, requested_at = ?, reason = ?
		WHERE service = ? AND digest = ? AND requested_by = ''`,
		q.RequestedBy, micros(q.RequestedAt), q.Reason, q.Service, q.Digest)
}

// EndQuarantine lets a digest be released again; QUARANTINE_MOVED unless the
// request is still the one in q.
func (db *DB) EndQuarantine(ctx context.Context, q control.Quarantined, ev headgate.Event) error {
	return db.changeQuarantine(ctx, ev, `DELETE FROM quarantine
		WHERE service = ? AND digest = ? AND requested_by = ? AND requested_by <> '' AND requested_at = ?`,
		q.Service, q.Digest, q.RequestedBy, micros(q.RequestedAt))
}

func (db *DB) changeQuarantine(ctx context.Context, ev headgate.Event, statement string, args ...any) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, statement, args...)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n == 0 {
			err = control.ErrQuarantineMoved
		}
		if err != nil {
			return err
		}
		return insertEvent(ctx, tx, "", ev)
	})
}
