package instrument

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"
)

// EventSchema creates the outbox table of database events (SQLite dialect).
// The service owns the database and runs it with its migrations.
const EventSchema = `
CREATE TABLE IF NOT EXISTS db_events (
	id         INTEGER PRIMARY KEY,
	at_ns      INTEGER NOT NULL,
	version    TEXT NOT NULL,
	name       TEXT NOT NULL,
	trace_id   TEXT NOT NULL,
	span_id    TEXT NOT NULL,
	request_id TEXT NOT NULL,
	tenant_id  TEXT NOT NULL,
	job_id     TEXT NOT NULL,
	error_code TEXT NOT NULL,
	attrs      TEXT NOT NULL,
	published  INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS db_events_pending ON db_events(published, id) WHERE published = 0;
CREATE INDEX IF NOT EXISTS db_events_job ON db_events(job_id);
`

// Execer is the part of *sql.Tx that records an event.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// RecordEvent writes an event into the outbox. Call it with the transaction
// of the change it tells of: then there is no change without its event and no
// event without its change. A name that begins with "audit." is sent as it
// stands, any other after "db.".
func (t *Telemetry) RecordEvent(ctx context.Context, tx Execer, name string, attrs map[string]string) error {
	sc, f := trace.SpanContextFromContext(ctx), FieldsOf(ctx)
	if attrs == nil {
		attrs = map[string]string{}
	}
	text, err := json.Marshal(attrs)
	if err != nil {
		return fmt.Errorf("instrument: event %s: %w", name, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO db_events
		(at_ns, version, name, trace_id, span_id, request_id, tenant_id, job_id, error_code, attrs)
		VALUES (?,?,?,?,?,?,?,?,?,?)`,
		time.Now().UnixNano(), t.opts.Version, name, sc.TraceID().String(), sc.SpanID().String(),
		f.RequestID, f.TenantID, f.JobID, f.ErrorCode, string(text))
	if err != nil {
		return fmt.Errorf("instrument: event %s: %w", name, err)
	}
	return nil
}

// adoptAfter is how long another version's event waits before any process may
// publish it, so that a removed version's last events are not lost.
const adoptAfter = 10 * time.Second

// PublishEvents sends up to limit waiting events of this service version (and
// orphaned ones of others) as log records with the trace they belong to, and
// returns how many. An event may be sent again after a crash; it is never lost
// before the exporter has it.
func (t *Telemetry) PublishEvents(ctx context.Context, db *sql.DB, limit int) (int, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, at_ns, name, trace_id, span_id, request_id, tenant_id, job_id, error_code, attrs
		FROM db_events WHERE published = 0 AND (version = ? OR at_ns < ?) ORDER BY id LIMIT ?`,
		t.opts.Version, time.Now().Add(-adoptAfter).UnixNano(), limit)
	if err != nil {
		return 0, fmt.Errorf("instrument: read events: %w", err)
	}
	defer rows.Close()
	logger := t.logs.Logger("instrument.db_events")
	var ids []int64
	for rows.Next() {
		var (
			id, at                     int64
			name, traceID, spanID, kvs string
			f                          Fields
		)
		if err := rows.Scan(&id, &at, &name, &traceID, &spanID, &f.RequestID, &f.TenantID, &f.JobID, &f.ErrorCode, &kvs); err != nil {
			return 0, fmt.Errorf("instrument: read event: %w", err)
		}
		emitEvent(ctx, logger, time.Unix(0, at), name, traceID, spanID, kvs, f)
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil || len(ids) == 0 {
		return 0, err
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return 0, err
	}
	_, err = db.ExecContext(ctx, `UPDATE db_events SET published = 1 WHERE id IN (SELECT value FROM json_each(?))`, string(list))
	if err != nil {
		return 0, fmt.Errorf("instrument: mark events: %w", err)
	}
	return len(ids), nil
}

func emitEvent(ctx context.Context, logger log.Logger, at time.Time, name, traceID, spanID, attrs string, f Fields) {
	var r log.Record
	r.SetTimestamp(at)
	r.SetBody(attribute.StringValue(name))
	if !strings.HasPrefix(name, "audit.") {
		name = "db." + name
	}
	r.SetEventName(name)
	r.SetSeverity(log.SeverityInfo)
	if f.ErrorCode != "" {
		r.SetSeverity(log.SeverityError)
	}
	r.AddAttributes(attribute.String("event.source", "database"), attribute.String("trace_id", traceID))
	r.AddAttributes(f.attributes()...)
	var kvs map[string]string
	if json.Unmarshal([]byte(attrs), &kvs) == nil {
		for k, v := range kvs {
			r.AddAttributes(attribute.String(k, v))
		}
	}
	tid, _ := trace.TraceIDFromHex(traceID)
	sid, _ := trace.SpanIDFromHex(spanID)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: sid, TraceFlags: trace.FlagsSampled})
	logger.Emit(trace.ContextWithSpanContext(ctx, sc), r)
}
