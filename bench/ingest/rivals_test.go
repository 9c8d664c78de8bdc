//go:build unix

package ingest_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"go.opentelemetry.io/collector/pdata/ptrace"
	_ "modernc.org/sqlite" // the driver

	"github.com/headgate/headgate/telemetry"
)

// A rival is a store as one would write it in an afternoon. Close settles what
// it holds, so that the size of its files can be compared.
type rival interface {
	telemetry.TraceSink
	Close() error
}

// rowSink stores each span as a row with an index on every identifier, one
// transaction a batch.
type rowSink struct {
	mu sync.Mutex // SQLite has one writer
	db *sql.DB
}

func openRows(b *testing.B, dir string) rival {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "rows.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	_, err = db.Exec(`CREATE TABLE spans (trace TEXT, request TEXT, job TEXT, code TEXT, tenant TEXT, time INTEGER, data BLOB);
		CREATE INDEX by_trace ON spans (trace); CREATE INDEX by_request ON spans (request);
		CREATE INDEX by_job ON spans (job); CREATE INDEX by_code ON spans (code, time);`)
	if err != nil {
		b.Fatal(err)
	}
	return &rowSink{db: db}
}

func (s *rowSink) AppendTraces(_ context.Context, _ string, td ptrace.Traces) (telemetry.Rejected, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, err := s.db.Begin()
	if err != nil {
		return telemetry.Rejected{}, err
	}
	defer func() { _ = tx.Rollback() }()
	insert, err := tx.Prepare("INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return telemetry.Rejected{}, err
	}
	for _, e := range telemetry.SpanEvents(td) {
		data, err := json.Marshal(e)
		if err != nil {
			return telemetry.Rejected{}, err
		}
		if _, err := insert.Exec(e.TraceID, e.RequestID, e.JobID, e.ErrorCode, e.TenantID, e.Time.UnixNano(), data); err != nil {
			return telemetry.Rejected{}, err
		}
	}
	return telemetry.Rejected{}, tx.Commit()
}

// Close leaves no write-ahead log behind.
func (s *rowSink) Close() error { return s.db.Close() }

// badgerSink stores each span under its number and a key for every identifier,
// one transaction a batch.
type badgerSink struct {
	db   *badger.DB
	last atomic.Uint64
}

func openBadger(b *testing.B, dir string) rival {
	b.Helper()
	// Nothing is written twice, so conflicts need not be looked for.
	db, err := badger.Open(badger.DefaultOptions(dir).WithSyncWrites(true).WithDetectConflicts(false).WithLogger(nil))
	if err != nil {
		b.Fatal(err)
	}
	return &badgerSink{db: db}
}

func (s *badgerSink) AppendTraces(_ context.Context, _ string, td ptrace.Traces) (telemetry.Rejected, error) {
	return telemetry.Rejected{}, s.db.Update(func(tx *badger.Txn) error {
		for _, e := range telemetry.SpanEvents(td) {
			data, err := json.Marshal(e)
			if err != nil {
				return err
			}
			number := binary.BigEndian.AppendUint64(nil, s.last.Add(1))
			if err := tx.Set(append([]byte("span/"), number...), data); err != nil {
				return err
			}
			at := binary.BigEndian.AppendUint64(nil, uint64(e.Time.UnixNano()))
			for _, index := range []string{"trace/" + e.TraceID, "request/" + e.RequestID, "job/" + e.JobID, "code/" + e.ErrorCode + "/" + string(at)} {
				if err := tx.Set(append([]byte(index), number...), nil); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Close writes out what is in memory.
func (s *badgerSink) Close() error { return s.db.Close() }
