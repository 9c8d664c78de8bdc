package events

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// NamedQuery selects log records by the name of their event.
type NamedQuery struct {
	Service  string
	Names    []string  // any of these
	From, To time.Time // inclusive
}

// EachNamed calls use with every log record of a service that is an event of
// one of the names, in no particular order. A record that its sender repeated
// comes again.
func (s *Store) EachNamed(ctx context.Context, q NamedQuery, use func(telemetry.Event)) error {
	if q.Service == "" || len(q.Names) == 0 {
		return headgate.Invalidf("a query for events needs a service and their names")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, d := range s.days {
		if err := d.eachNamed(ctx, q, use); err != nil {
			return err
		}
	}
	return nil
}

func (d *day) eachNamed(ctx context.Context, q NamedQuery, use func(telemetry.Event)) error {
	from, to := q.From.UnixNano(), q.To.UnixNano()
	wants := func(time int64, ids *[idFields]string) bool {
		return from <= time && time <= to && ids[idService] == q.Service
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, b := range d.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		named := func(name string) bool { return b.filter.has(key(eventKey, name)) }
		if b.max < from || b.min > to || !slices.ContainsFunc(q.Names, named) {
			continue
		}
		in, err := d.read(b.id)
		if err != nil {
			return err
		}
		var r row
		for {
			ok, wanted, err := in.next(&r, wants)
			if err != nil {
				return fmt.Errorf("block %d of %s: %w", b.id, d.path, err)
			}
			if !ok {
				break
			}
			if !wanted || r.kind != kindLog {
				continue
			}
			if e := r.event(); slices.Contains(q.Names, e.Attributes[telemetry.AttrEvent]) {
				use(e)
			}
		}
	}
	return nil
}
