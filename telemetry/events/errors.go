package events

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// ErrorQuery selects what [Store.Errors] counts. Empty fields do not narrow,
// but Service is required. What names no environment belongs to every one.
type ErrorQuery struct {
	Service, Version, Environment, TenantID string
	From, To                                time.Time // inclusive; zero is open
}

// maxErrorGroups bounds an answer.
const maxErrorGroups = 1_000

// Errors counts the events that carry an error code, the spans that failed and
// the log records of severity ERROR or above, by code, tenant and name, with one
// example trace each, the most frequent first. The name of a log record is its
// body's pattern, in which words with digits are "#". Within a trace, what failed
// is counted where it entered, at the outermost span, and not again at the spans,
// log records and database events that it led to; where something in it has a
// code, what has none is taken for a consequence.
func (s *Store) Errors(ctx context.Context, q ErrorQuery) ([]telemetry.ErrorGroup, error) {
	if q.Service == "" {
		return nil, headgate.Invalidf("a query for errors needs a service")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	groups := make(errorGroups)
	for _, d := range s.days {
		if err := d.countErrors(ctx, q, groups); err != nil {
			return nil, err
		}
	}
	out := make([]telemetry.ErrorGroup, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b telemetry.ErrorGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code), cmp.Compare(a.TenantID, b.TenantID), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), maxErrorGroups)], nil
}

// A repeated batch repeats its rows, so rows that are alike count once.
const findErrors = `
SELECT DISTINCT code, tenant, trace, name, time, data
FROM errors
WHERE time BETWEEN ? AND ? AND service = ? AND (? = '' OR version = ?) AND (? = '' OR tenant = ?)
ORDER BY tenant, trace, code DESC`

func (d *day) countErrors(ctx context.Context, q ErrorQuery, into errorGroups) error {
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if !q.From.IsZero() {
		from = q.From.UnixNano()
	}
	if !q.To.IsZero() {
		to = q.To.UnixNano()
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	rows, err := d.db.QueryContext(ctx, findErrors, from, to, q.Service, q.Version, q.Version, q.TenantID, q.TenantID)
	if err != nil {
		return fmt.Errorf("count errors in %s: %w", d.path, err)
	}
	defer rows.Close()
	var of occurrence
	for rows.Next() {
		var next occurrence
		var one sighting
		var raw []byte
		if err := rows.Scan(&next.code, &next.tenant, &next.trace, &one.name, &one.time, &raw); err != nil {
			return fmt.Errorf("count errors in %s: %w", d.path, err)
		}
		log, environment, err := origin(raw)
		if err != nil {
			return fmt.Errorf("count errors in %s: %w", d.path, err)
		}
		if q.Environment != "" && environment != "" && environment != q.Environment {
			continue
		}
		one.log = log
		if next.trace == "" || next.code != of.code || next.tenant != of.tenant || next.trace != of.trace {
			into.count(of)
			next.coded = next.trace != "" && next.trace == of.trace && next.tenant == of.tenant && (of.coded || of.code != "")
			of = next
		}
		of.seen = append(of.seen, one)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("count errors in %s: %w", d.path, err)
	}
	into.count(of)
	return nil
}

// origin reports whether a row of the errors is a log record, and where it is
// from.
func origin(raw []byte) (log bool, environment string, err error) {
	in, err := newReader(raw)
	if err != nil {
		return false, "", err
	}
	var r row
	_, _, err = in.next(&r, func(int64, *[idFields]string) bool { return true })
	return r.kind == kindLog, r.text[textEnvironment], err
}

// occurrence is one error code within one trace.
type occurrence struct {
	code, tenant, trace string
	coded               bool // the trace has another one, with a code
	seen                []sighting
}

// sighting is a row that carries the code.
type sighting struct {
	log  bool
	time int64
	name string
}

// variable is what differs between log records that say the same: identifiers,
// numbers, times and addresses.
var variable = regexp.MustCompile(`[\w.:-]*\d[\w.:-]*`)

type errorGroups map[telemetry.ErrorKey]*telemetry.ErrorGroup

// count adds an occurrence under the name of its outermost span: the one that
// began first. Where there is none, the first log record says what failed.
func (g errorGroups) count(o occurrence) {
	if len(o.seen) == 0 || o.code == "" && o.coded {
		return
	}
	entered := slices.MinFunc(o.seen, func(a, b sighting) int {
		if a.log != b.log {
			if b.log {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.time, b.time)
	})
	key := telemetry.ErrorKey{Code: o.code, TenantID: o.tenant, Name: entered.name}
	if entered.log {
		key.Name = variable.ReplaceAllLiteralString(key.Name, "#")
	}
	group := g[key]
	if group == nil {
		group = &telemetry.ErrorGroup{ErrorKey: key, First: time.Unix(0, entered.time).UTC()}
		g[key] = group
	}
	for _, s := range o.seen {
		if s.name != entered.name || s.log != entered.log {
			continue
		}
		at := time.Unix(0, s.time).UTC()
		group.Count++
		if at.Before(group.First) {
			group.First = at
		}
		if !at.Before(group.Last) {
			group.Last, group.TraceID = at, o.trace
		}
	}
}
