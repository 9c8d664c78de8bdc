package events

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// ErrorQuery selects what [Store.Errors] counts. Empty fields do not narrow,
// but Service is required.
type ErrorQuery struct {
	Service, Version, TenantID string
	From, To                   time.Time // inclusive; zero is open
}

// maxErrorGroups bounds an answer.
const maxErrorGroups = 1_000

// Errors counts the events that carry an error code, by code, tenant and
// name, with one example trace each, the most frequent first.
func (s *Store) Errors(ctx context.Context, q ErrorQuery) ([]telemetry.ErrorGroup, error) {
	if q.Service == "" {
		return nil, headgate.Invalidf("a query for errors needs a service")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	groups := make(map[telemetry.ErrorKey]*telemetry.ErrorGroup)
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
const countErrors = `
SELECT code, tenant, name, COUNT(DISTINCT data), MIN(time), MAX(time), MAX(trace)
FROM errors
WHERE time BETWEEN ? AND ? AND service = ? AND (? = '' OR version = ?) AND (? = '' OR tenant = ?)
GROUP BY code, tenant, name`

func (d *day) countErrors(ctx context.Context, q ErrorQuery, into map[telemetry.ErrorKey]*telemetry.ErrorGroup) error {
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if !q.From.IsZero() {
		from = q.From.UnixNano()
	}
	if !q.To.IsZero() {
		to = q.To.UnixNano()
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	rows, err := d.db.QueryContext(ctx, countErrors, from, to, q.Service, q.Version, q.Version, q.TenantID, q.TenantID)
	if err != nil {
		return fmt.Errorf("count errors in %s: %w", d.path, err)
	}
	defer rows.Close()
	for rows.Next() {
		var g telemetry.ErrorGroup
		var first, last int64
		if err := rows.Scan(&g.Code, &g.TenantID, &g.Name, &g.Count, &first, &last, &g.TraceID); err != nil {
			return fmt.Errorf("count errors in %s: %w", d.path, err)
		}
		g.First, g.Last = time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
		if known, ok := into[g.ErrorKey]; ok {
			known.Count += g.Count
			known.First, known.Last = minTime(known.First, g.First), maxTime(known.Last, g.Last)
			continue
		}
		into[g.ErrorKey] = &g
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("count errors in %s: %w", d.path, err)
	}
	return nil
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
