package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/headgate/headgate/feedback"
)

// Dataset implements [feedback.Store].
func (db *DB) Dataset(ctx context.Context, s feedback.Scope) (feedback.DatasetVersion, bool, error) {
	return first[feedback.DatasetVersion](ctx, db.r, `SELECT version FROM dataset_versions
		WHERE service = ? AND tenant_id = ? ORDER BY seq DESC LIMIT 1`, s.Service, s.TenantID)
}

// DatasetByKey implements [feedback.Store].
func (db *DB) DatasetByKey(ctx context.Context, s feedback.Scope, key string) (feedback.DatasetVersion, bool, error) {
	return first[feedback.DatasetVersion](ctx, db.r, `SELECT version FROM dataset_versions
		WHERE service = ? AND tenant_id = ? AND key = ? LIMIT 1`, s.Service, s.TenantID, key)
}

// CommitDataset implements [feedback.Store].
func (db *DB) CommitDataset(ctx context.Context, v feedback.DatasetVersion, samples []feedback.Sample) (feedback.DatasetVersion, error) {
	err := db.write(ctx, func(tx *sql.Tx) error {
		newest := feedback.FirstDataset
		err := tx.QueryRowContext(ctx, `SELECT after FROM dataset_versions WHERE service = ? AND tenant_id = ? ORDER BY seq DESC LIMIT 1`,
			v.Service, v.TenantID).Scan(&newest)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if newest != v.Before {
			return feedback.ErrConflict
		}
		v.Counterexamples, v.GoldCandidates = 0, 0
		for _, s := range samples {
			added, err := insertSample(ctx, tx, v.Scope, s)
			if err != nil {
				return err
			}
			switch {
			case !added:
			case s.Kind == feedback.Counterexample:
				v.Counterexamples++
			default:
				v.GoldCandidates++
			}
		}
		doc, err := toJSON(v)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO dataset_versions (service, tenant_id, key, after, version) VALUES (?, ?, ?, ?, ?)`,
			v.Service, v.TenantID, v.Key, v.After, doc)
		return err
	})
	return v, err
}

func insertSample(ctx context.Context, tx *sql.Tx, s feedback.Scope, sample feedback.Sample) (bool, error) {
	doc, err := toJSON(sample)
	if err != nil {
		return false, err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO samples (service, tenant_id, id, sample) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		s.Service, s.TenantID, sample.ID, doc)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// Strategy implements [feedback.Store].
func (db *DB) Strategy(ctx context.Context, s feedback.Scope) (st feedback.Strategy, ok bool, err error) {
	var doc []byte
	var at int64
	err = db.r.QueryRowContext(ctx, `SELECT at, strategy FROM strategies WHERE service = ? AND tenant_id = ? ORDER BY number DESC LIMIT 1`,
		s.Service, s.TenantID).Scan(&at, &doc)
	if errors.Is(err, sql.ErrNoRows) {
		return st, false, nil
	}
	if err != nil {
		return st, false, storeError(err)
	}
	err = json.Unmarshal(doc, &st)
	st.AppliedAt = fromMicros(at)
	return st, err == nil, err
}

// AppendStrategy implements [feedback.Store].
func (db *DB) AppendStrategy(ctx context.Context, s feedback.Scope, st feedback.Strategy) error {
	number, err := strconv.Atoi(strings.TrimPrefix(st.Version, "stg_v"))
	if err != nil {
		return fmt.Errorf("strategy version %q: %w", st.Version, err)
	}
	doc, err := toJSON(st)
	if err != nil {
		return err
	}
	return db.write(ctx, func(tx *sql.Tx) error {
		var newest int
		err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), 0) FROM strategies WHERE service = ? AND tenant_id = ?`,
			s.Service, s.TenantID).Scan(&newest)
		if err != nil {
			return err
		}
		if number != newest+1 {
			return feedback.ErrConflict
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO strategies (service, tenant_id, number, at, strategy) VALUES (?, ?, ?, ?, ?)`,
			s.Service, s.TenantID, number, micros(st.AppliedAt), doc)
		return err
	})
}
