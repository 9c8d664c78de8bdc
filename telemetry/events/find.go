package events

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/headgate/headgate/telemetry"
)

// Find implements [telemetry.Finder]. Rows that a sender repeated because it
// missed the acknowledgement are returned once.
func (s *Store) Find(ctx context.Context, q telemetry.Query) ([]telemetry.Event, error) {
	p, err := newPlan(q)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, d := range slices.Backward(s.days) {
		find := d.find
		if p.onlyCode {
			find = d.findErrors
		}
		if err := find(ctx, p); err != nil {
			return nil, err
		}
	}
	return p.answer(), nil
}

// plan is a query being answered.
type plan struct {
	want     [idFields]string
	keys     []uint64
	from, to int64
	limit    int
	onlyCode bool // answered from the table of errors
	found    []telemetry.Event
	seen     map[string]bool
}

func newPlan(q telemetry.Query) (*plan, error) {
	limit, err := q.Check()
	if err != nil {
		return nil, err
	}
	p := &plan{from: math.MinInt64, to: math.MaxInt64, limit: limit, seen: make(map[string]bool)}
	p.want = [idFields]string{
		idTrace: q.TraceID, idRequest: q.RequestID, idJob: q.JobID, idCode: q.ErrorCode,
		idTenant: q.TenantID, idService: q.Service, idVersion: q.Version,
	}
	for i, v := range p.want[:indexed] {
		if v != "" {
			p.keys = append(p.keys, key(i, v))
		}
	}
	if !q.From.IsZero() {
		p.from = q.From.UnixNano()
	}
	if !q.To.IsZero() {
		p.to = q.To.UnixNano()
	}
	p.onlyCode = q.ErrorCode != "" && q.TraceID == "" && q.RequestID == "" && q.JobID == ""
	return p, nil
}

func (p *plan) wants(time int64, ids *[idFields]string) bool {
	if time < p.from || time > p.to {
		return false
	}
	for i, v := range p.want {
		if v != "" && ids[i] != v {
			return false
		}
	}
	return true
}

// keep adds a row unless it is there already.
func (p *plan) keep(r *row) {
	e := r.event()
	id := string(e.Kind) + e.TraceID + e.SpanID
	if r.kind == kindLog {
		id = fmt.Sprint(id, r.time, r.ids, r.text, r.attrs)
	} else if e.SpanID == "" {
		id = fmt.Sprint(id, r.time, r.end, r.text, r.attrs)
	}
	if !p.seen[id] {
		p.seen[id] = true
		p.found = append(p.found, e)
	}
}

// trim sorts by time and keeps the newest.
func (p *plan) trim() { p.found = telemetry.Newest(p.found, p.limit) }

func (p *plan) answer() []telemetry.Event {
	p.trim()
	return p.found
}

// find looks into the blocks that may hold what is wanted, newest first.
func (d *day) find(ctx context.Context, p *plan) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	candidates := make([]block, 0, 8)
	for _, b := range d.blocks {
		if b.min <= p.to && b.max >= p.from && b.holds(p.keys) {
			candidates = append(candidates, b)
		}
	}
	slices.SortFunc(candidates, func(a, b block) int { return cmp.Compare(b.max, a.max) })
	for _, b := range candidates {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.full(b.max) {
			return nil
		}
		if err := d.scan(b, p); err != nil {
			return err
		}
	}
	return nil
}

func (b block) holds(keys []uint64) bool {
	for _, k := range keys {
		if !b.filter.has(k) {
			return false
		}
	}
	return true
}

// full reports whether rows up to newest are all older than what is kept.
func (p *plan) full(newest int64) bool {
	if len(p.found) < p.limit {
		return false
	}
	p.trim()
	return p.found[0].Time.UnixNano() > newest
}

func (d *day) scan(b block, p *plan) error {
	in, err := d.read(b.id)
	if err != nil {
		return err
	}
	var r row
	for {
		ok, wanted, err := in.next(&r, p.wants)
		if err != nil {
			return fmt.Errorf("block %d of %s: %w", b.id, d.path, err)
		}
		if !ok {
			return nil
		}
		if wanted {
			p.keep(&r)
		}
	}
}

// findErrors answers from the table of rows that carry an error code.
func (d *day) findErrors(ctx context.Context, p *plan) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	rows, err := d.db.QueryContext(ctx,
		"SELECT data FROM errors WHERE code = ? AND time BETWEEN ? AND ? AND (? = '' OR tenant = ?) ORDER BY time DESC",
		p.want[idCode], p.from, p.to, p.want[idTenant], p.want[idTenant])
	if err != nil {
		return fmt.Errorf("find errors in %s: %w", d.path, err)
	}
	defer rows.Close()
	for len(p.found) < p.limit && rows.Next() {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return fmt.Errorf("find errors in %s: %w", d.path, err)
		}
		in, err := newReader(raw)
		if err != nil {
			return fmt.Errorf("find errors in %s: %w", d.path, err)
		}
		var r row
		if _, wanted, err := in.next(&r, p.wants); err != nil {
			return fmt.Errorf("find errors in %s: %w", d.path, err)
		} else if wanted {
			p.keep(&r)
		}
	}
	return rows.Err()
}

func (r *row) event() telemetry.Event {
	e := telemetry.Event{
		Kind:        telemetry.Span,
		Time:        time.Unix(0, r.time).UTC(),
		End:         time.Unix(0, r.end).UTC(),
		TraceID:     r.ids[idTrace],
		RequestID:   r.ids[idRequest],
		JobID:       r.ids[idJob],
		ErrorCode:   r.ids[idCode],
		TenantID:    r.ids[idTenant],
		Service:     r.ids[idService],
		Version:     r.ids[idVersion],
		SpanID:      r.text[textSpan],
		ParentID:    r.text[textParent],
		Environment: r.text[textEnvironment],
		Instance:    r.text[textInstance],
		Name:        r.text[textName],
		Status:      r.text[textStatus],
		Message:     r.text[textMessage],
	}
	if r.kind == kindLog {
		e.Kind, e.End = telemetry.Log, time.Time{}
	}
	if len(r.links) > 0 {
		e.Links = slices.Clone(r.links)
	}
	if len(r.attrs) > 0 {
		e.Attributes = make(map[string]string, len(r.attrs))
		for _, a := range r.attrs {
			e.Attributes[a.key] = a.value
		}
	}
	return e
}
