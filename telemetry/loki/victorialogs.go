package loki

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

// VictoriaLogs asks VictoriaLogs, whose records came through OTLP.
type VictoriaLogs struct {
	client *backend.Client
	now    func() time.Time
}

// NewVictoriaLogs returns a finder on the query API at the base URL. The rest
// is as for [New].
func NewVictoriaLogs(base string, transport http.RoundTripper, timeout time.Duration) (*VictoriaLogs, error) {
	c, err := backend.New("log server", base, transport, timeout)
	if err != nil {
		return nil, err
	}
	return &VictoriaLogs{client: c, now: time.Now}, nil
}

// Find implements [telemetry.Finder], 24 hours back unless the query says
// otherwise, for at most 5000 records.
func (v *VictoriaLogs) Find(ctx context.Context, q telemetry.Query) ([]telemetry.Event, error) {
	limit, err := q.Check()
	if err != nil {
		return nil, err
	}
	from, to := period(q, v.now())
	body, err := v.client.Ask(ctx, "/select/logsql/query", "application/json", url.Values{
		"query": {logsQL(q, min(limit, maxEntries))},
		"start": {from.Format(time.RFC3339Nano)}, "end": {to.Format(time.RFC3339Nano)},
	})
	if err != nil {
		return nil, err
	}
	var out []telemetry.Event
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		e, err := record(line)
		if err != nil {
			return nil, v.client.Unreadable(err)
		}
		if q.Matches(e) {
			out = append(out, e)
		}
	}
	return telemetry.Newest(out, limit), nil
}

// logsQL selects records by the query's identifiers, newest first.
func logsQL(q telemetry.Query, limit int) string {
	var conditions []string
	for _, f := range fields(q, "service.name", "service.version") {
		conditions = append(conditions, strconv.Quote(f.name)+":="+strconv.Quote(f.value))
	}
	return strings.Join(conditions, " AND ") + " | sort by (_time desc) limit " + strconv.Itoa(limit)
}

// record reads one line of the answer, a flat object of strings.
func record(line []byte) (telemetry.Event, error) {
	var all map[string]string
	if err := json.Unmarshal(line, &all); err != nil {
		return telemetry.Event{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, all["_time"])
	if err != nil {
		return telemetry.Event{}, err
	}
	e := telemetry.Event{Kind: telemetry.Log, Time: at.UTC(), Name: all["_msg"]}
	for k, value := range all {
		switch k {
		case "_time", "_msg", "_stream", "_stream_id", "scope.name", "scope.version":
		case "severity_text", "severity": // versions differ
			if e.Status == "" || k == "severity_text" {
				e.Status = severity(value)
			}
		default:
			describe(&e, k, value)
		}
	}
	return e, nil
}
