package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/rollout"
)

// PutDocument keeps d; one with the same kind and id is replaced.
func (db *DB) PutDocument(ctx context.Context, d control.Document) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO documents (kind, id, release_id, tenant_id, at, body) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (kind, id) DO UPDATE SET release_id = excluded.release_id, tenant_id = excluded.tenant_id,
				body = excluded.body, at = excluded.at`,
			d.Kind, d.ID, d.ReleaseID, d.TenantID, micros(d.At), string(d.Body))
		return err
	})
}

// Document returns a document, false when there is none.
func (db *DB) Document(ctx context.Context, kind, id string) (control.Document, bool, error) {
	d, err := scanDocument(db.r.QueryRowContext(ctx, `SELECT `+documentColumns+` FROM documents WHERE kind = ? AND id = ?`, kind, id))
	if errors.Is(err, sql.ErrNoRows) {
		return d, false, nil
	}
	return d, err == nil, storeError(err)
}

// Documents returns a release's documents of a kind, oldest first.
func (db *DB) Documents(ctx context.Context, kind, releaseID string) (out []control.Document, err error) {
	rows, err := db.r.QueryContext(ctx, `SELECT `+documentColumns+` FROM documents WHERE kind = ? AND release_id = ? ORDER BY at, id`, kind, releaseID)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		d, err := scanDocument(rows)
		if err != nil {
			return nil, storeError(err)
		}
		out = append(out, d)
	}
	return out, storeError(rows.Err())
}

const documentColumns = `kind, id, release_id, tenant_id, at, body`

func scanDocument(row interface{ Scan(...any) error }) (control.Document, error) {
	var d control.Document
	var at int64
	var body string
	err := row.Scan(&d.Kind, &d.ID, &d.ReleaseID, &d.TenantID, &at, &body)
	d.At, d.Body = fromMicros(at), json.RawMessage(body)
	return d, err
}

// PutPlan keeps a tenant's rollout plan of a release; posting again replaces it.
func (db *DB) PutPlan(ctx context.Context, tenant string, p rollout.Plan) error {
	doc, err := toJSON(p)
	if err != nil {
		return err
	}
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO plans (tenant_id, release_id, plan) VALUES (?, ?, ?)
			ON CONFLICT (tenant_id, release_id) DO UPDATE SET plan = excluded.plan`, tenant, p.ReleaseID, doc)
		return err
	})
}

// Plan returns a tenant's rollout plan of a release, RELEASE_POLICY_NOT_FOUND
// when it posted none.
func (db *DB) Plan(ctx context.Context, tenant, releaseID string) (rollout.Plan, error) {
	p, ok, err := first[rollout.Plan](ctx, db.r, `SELECT plan FROM plans WHERE tenant_id = ? AND release_id = ?`, tenant, releaseID)
	if err == nil && !ok {
		err = headgate.Errorf(headgate.CodeReleasePolicyNotFound, headgate.ClassBusinessRule,
			"no rollout plan was posted for this release; POST …/release/rollout/plan first")
	}
	return p, err
}

// PutCredential keeps a new credential, and the event that tells of it.
func (db *DB) PutCredential(ctx context.Context, c access.Credential, ev headgate.Event) error {
	doc, err := toJSON(c)
	if err != nil {
		return err
	}
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO credentials (id, hash, credential) VALUES (?, ?, ?)`, c.ID, c.Hash, doc)
		if err != nil {
			return err
		}
		return insertEvent(ctx, tx, "", ev)
	})
}

// Credential returns a credential, false when there is none.
func (db *DB) Credential(ctx context.Context, id string) (access.Credential, bool, error) {
	return db.credentials.get(id, func() (access.Credential, bool, error) {
		var c access.Credential
		var hash, doc []byte
		err := db.r.QueryRowContext(ctx, `SELECT hash, credential FROM credentials WHERE id = ?`, id).Scan(&hash, &doc)
		if errors.Is(err, sql.ErrNoRows) {
			return c, false, nil
		}
		if err == nil {
			err = json.Unmarshal(doc, &c)
		}
		c.Hash = hash
		return c, err == nil, storeError(err)
	})
}

// Credentials returns all credentials, oldest first.
func (db *DB) Credentials(ctx context.Context) ([]access.Credential, error) {
	return query[access.Credential](ctx, db.r, `SELECT credential FROM credentials ORDER BY rowid`)
}

// DeleteCredential revokes a credential and keeps the event that tells of it;
// false when there was none.
func (db *DB) DeleteCredential(ctx context.Context, id string, ev headgate.Event) (bool, error) {
	defer db.credentials.forget()
	found := false
	err := db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM credentials WHERE id = ?`, id)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if found = n > 0; err != nil || !found {
			return err
		}
		return insertEvent(ctx, tx, "", ev)
	})
	return found && err == nil, err
}
