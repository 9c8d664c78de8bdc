// Package sqlite keeps the control plane's state in one SQLite file: it is the
// store of pipeline, rollback, feedback, evidence and api.
//
// Every acknowledged write is on disk (WAL, synchronous=FULL). One process
// owns the file: a lock beside it keeps a second one off.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

//go:embed migrations/*.sql
var migrations embed.FS

var _ control.Store = (*DB)(nil)

// DB is the store. It is safe for concurrent use.
type DB struct {
	w, r *sql.DB
	lock *os.File
	// Every request asks for these, and nobody but this process changes them.
	credentials cache[access.Credential]
	rulesDigest cache[string]
}

// Open opens, and if need be creates, the database dir/headgate.db and brings
// its schema up to date. It returns UNAVAILABLE when another process owns it.
func Open(ctx context.Context, dir string) (*DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	lock, err := acquire(filepath.Join(dir, "headgate.lock"))
	if err != nil {
		return nil, err
	}
	db := &DB{lock: lock}
	path := filepath.Join(dir, "headgate.db")
	if db.w, err = open(path, "immediate", 1); err == nil {
		err = migrate(ctx, db.w, path)
	}
	if err == nil {
		db.r, err = open(path, "deferred", 4)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, storeError(err)), db.Close())
	}
	return db, nil
}

func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unusable(filepath.Dir(path), err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"another headgate process uses %s; stop it or choose another --data folder", filepath.Dir(path)).Wrap(err)
	}
	return f, nil
}

// unusable says why files cannot be made in the data folder.
func unusable(dir string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
		"the data folder %s cannot be used (%w); let this user write there, or choose another --data folder", dir, err)
}

func open(path, txlock string, conns int) (*sql.DB, error) {
	q := url.Values{"_txlock": {txlock}, "_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
	}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate brings the schema of the file at path up to date, and refuses one of
// a newer version, which may keep what this one would not mind.
func migrate(ctx context.Context, db *sql.DB, path string) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	has, known, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if has > known {
		return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"%s was written by a newer headgate (schema %d, this one knows %d); use that version, or a copy of the folder from before it", path, has, known)
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the database and gives up the lock.
func (db *DB) Close() error {
	var errs []error
	for _, d := range []*sql.DB{db.r, db.w} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	// A child process being started holds the file too until its program runs:
	// closing it here would not give up the lock.
	if err := syscall.Flock(int(db.lock.Fd()), syscall.LOCK_UN); err != nil {
		errs = append(errs, fmt.Errorf("unlock %s: %w", db.lock.Name(), err))
	}
	return errors.Join(append(errs, db.lock.Close())...)
}

// Now returns the database's time.
func (db *DB) Now(ctx context.Context) (time.Time, error) {
	var us int64
	err := db.r.QueryRowContext(ctx, `SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)`).Scan(&us)
	return fromMicros(us), storeError(err)
}

// NextEpoch implements [pipeline.Store].
func (db *DB) NextEpoch(ctx context.Context, after int64) (int64, error) {
	var epoch int64
	err := db.write(ctx, func(tx *sql.Tx) error {
		return nextEpoch(ctx, tx, after, &epoch)
	})
	return epoch, err
}

func nextEpoch(ctx context.Context, tx *sql.Tx, after int64, epoch *int64) error {
	return tx.QueryRowContext(ctx, `UPDATE epochs SET value = MAX(value, ?) + 1 WHERE id = 1 RETURNING value`, after).Scan(epoch)
}

// write runs f in one transaction that is durable when write returns nil.
func (db *DB) write(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := db.w.BeginTx(ctx, nil)
	if err != nil {
		return storeError(err)
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the first error is the one to tell
		return storeError(err)
	}
	return storeError(tx.Commit())
}

// storeError turns what SQLite says into what a person can act on.
func storeError(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient,
			"the disk under the data folder is full; nothing was lost, free some space and try again").Wrap(err)
	case sqlite3.SQLITE_BUSY:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the database is busy; try again").Wrap(err)
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return headgate.Errorf(headgate.CodeStorageDamaged, headgate.ClassPermanent,
			"the database headgate.db is damaged (%w); stop the server and restore the whole data folder from a backup; headgate store verify DIR says whether a copy is whole", err)
	}
	return err
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// query returns the documents in the only column of the rows, decoded.
func query[T any](ctx context.Context, db *sql.DB, q string, args ...any) (out []T, err error) {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		var doc string
		var v T
		if err := rows.Scan(&doc); err != nil {
			return nil, storeError(err)
		}
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			return nil, fmt.Errorf("stored document: %w", err)
		}
		out = append(out, v)
	}
	return out, storeError(rows.Err())
}

// first returns the only document of the rows, false when there is none.
func first[T any](ctx context.Context, db *sql.DB, q string, args ...any) (v T, ok bool, err error) {
	all, err := query[T](ctx, db, q, args...)
	if err != nil || len(all) == 0 {
		return v, false, err
	}
	return all[0], true, nil
}

func placeholders(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }
