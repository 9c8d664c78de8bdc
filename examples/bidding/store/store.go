// Package store keeps the bidding service's documents, jobs, evaluations and
// dead letters in one SQLite file that the API and the worker processes of all
// running versions share.
//
// Every read and write names its tenant. A write is durable when it returns
// (synchronous=FULL) and carries its database event in the same transaction.
// The package never parses, scores or decides.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/instrument"
)

const schema = `
CREATE TABLE IF NOT EXISTS documents (
	id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, project_id TEXT NOT NULL, supplier_id TEXT NOT NULL,
	doc_type TEXT NOT NULL, filename TEXT NOT NULL, content BLOB NOT NULL, status TEXT NOT NULL, created_ns INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS documents_scope ON documents(tenant_id, project_id, supplier_id);
CREATE TABLE IF NOT EXISTS pages (
	document_id TEXT NOT NULL REFERENCES documents(id), page INTEGER NOT NULL, text TEXT NOT NULL,
	PRIMARY KEY (document_id, page)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
	id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, type TEXT NOT NULL, subject_id TEXT NOT NULL, version TEXT NOT NULL,
	carrier TEXT NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, run_at_ns INTEGER NOT NULL,
	lease_owner TEXT NOT NULL DEFAULT '', lease_until_ns INTEGER NOT NULL DEFAULT 0,
	error_code TEXT NOT NULL DEFAULT '', cost_usd REAL NOT NULL DEFAULT 0,
	created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs(status, run_at_ns) WHERE status IN ('queued', 'running');
CREATE TABLE IF NOT EXISTS evaluations (
	id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, project_id TEXT NOT NULL, supplier_id TEXT NOT NULL,
	request TEXT NOT NULL, status TEXT NOT NULL, report TEXT NOT NULL DEFAULT '', high_risk INTEGER NOT NULL DEFAULT 0,
	resume_token TEXT NOT NULL DEFAULT '', review TEXT NOT NULL DEFAULT '', created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS dead_letters (
	id TEXT PRIMARY KEY, job_id TEXT NOT NULL UNIQUE, tenant_id TEXT NOT NULL, job_type TEXT NOT NULL, subject_id TEXT NOT NULL,
	version TEXT NOT NULL, error_code TEXT NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL, created_ns INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS dead_letters_tenant ON dead_letters(tenant_id, created_ns);
CREATE TABLE IF NOT EXISTS idempotency (
	tenant_id TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL, body_hash TEXT NOT NULL,
	answer TEXT NOT NULL, created_ns INTEGER NOT NULL, PRIMARY KEY (tenant_id, route, key)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS failed_only_when_dead_lettered BEFORE UPDATE OF status ON jobs
WHEN NEW.status = 'failed' AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE job_id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a job is dead-lettered before it is marked failed'); END;
` + instrument.EventSchema

// readers bounds the concurrent read connections; each costs a few MB of
// cache.
const readers = 4

// Store is the open database. Its methods are safe for concurrent use, also
// by several processes on the same file.
type Store struct {
	write *sql.DB
	read  *sql.DB
	tel   *instrument.Telemetry
	now   func() time.Time
}

// Open opens the file, and creates it when missing.
func Open(ctx context.Context, path string, tel *instrument.Telemetry) (*Store, error) {
	pragmas := "&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_pragma=temp_store(2)&_pragma=mmap_size(134217728)"
	file := (&url.URL{Scheme: "file", Opaque: url.PathEscape(path)}).String()
	write, err := sql.Open("sqlite", file+"?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+pragmas)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// SQLite has one writer; queueing here is cheaper than its busy handler.
	write.SetMaxOpenConns(1)
	if _, err := write.ExecContext(ctx, schema); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", path, errors.Join(err, write.Close()))
	}
	read, err := sql.Open("sqlite", file+"?_pragma=query_only(1)"+pragmas)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, errors.Join(err, write.Close()))
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &Store{write: write, read: read, tel: tel, now: time.Now}, nil
}

// Close closes the database. Nothing is lost without it.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.read.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// Tx is one write transaction.
type Tx struct {
	*sql.Tx
	s *Store
}

// inTx commits what fn did, or nothing.
func (s *Store) inTx(ctx context.Context, fn func(*Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := fn(&Tx{tx, s}); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Once runs fn in a transaction and keeps its answer under the tenant's
// idempotency key: the same key and body hash get the same answer without
// running fn again, another body is an IDEMPOTENCY_CONFLICT.
func (s *Store) Once(ctx context.Context, tenant, route, key, bodyHash string, fn func(*Tx) (answer []byte, err error)) ([]byte, error) {
	var answer []byte
	err := s.inTx(ctx, func(tx *Tx) error {
		var hash, kept string
		err := tx.QueryRowContext(ctx, `SELECT body_hash, answer FROM idempotency WHERE tenant_id=? AND route=? AND key=?`,
			tenant, route, key).Scan(&hash, &kept)
		switch {
		case err == nil && hash != bodyHash:
			return headgate.Errorf(headgate.CodeIdempotencyConflict, headgate.ClassBusinessRule,
				"this Idempotency-Key was used with another body; use a new key")
		case err == nil:
			answer = []byte(kept)
			return nil
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if answer, err = fn(tx); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO idempotency (tenant_id, route, key, body_hash, answer, created_ns) VALUES (?,?,?,?,?,?)`,
			tenant, route, key, bodyHash, string(answer), s.now().UnixNano())
		return err
	})
	return answer, err
}

// RecordEvent writes a database event that belongs to no other change.
func (s *Store) RecordEvent(ctx context.Context, name string, attrs map[string]string) error {
	return s.inTx(ctx, func(tx *Tx) error { return s.tel.RecordEvent(ctx, tx, name, attrs) })
}

// PublishEvents sends up to limit waiting database events as log records.
func (s *Store) PublishEvents(ctx context.Context, limit int) (int, error) {
	return s.tel.PublishEvents(ctx, s.write, limit)
}

func notFound(what string) *headgate.Error {
	return headgate.Errorf(headgate.CodeNotFound, headgate.ClassBusinessRule, "no such %s of this tenant; check the id", what)
}

func orNotFound(err error, what string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return notFound(what)
	}
	return err
}
