package storetest

import (
	"reflect"
	"testing"

	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
)

func quarantineEndsByTwo(t *testing.T, s Store) {
	ctx := t.Context()
	register(t, s)
	parked(t, s, "rel-1", digestA)
	must(t, turn(t, s, "rel-1", func(c *pipeline.Commit) { c.Quarantine = digestA }))
	only := func() control.Quarantined {
		t.Helper()
		all, err := s.Quarantined(ctx, "")
		must(t, err)
		if len(all) != 1 {
			t.Fatalf("in quarantine: %+v", all)
		}
		return all[0]
	}
	q := only()
	if q.Service != service || q.Digest != digestA || q.ReleaseID != "rel-1" || q.At.IsZero() || q.RequestedBy != "" || !q.RequestedAt.IsZero() {
		t.Errorf("in quarantine: %+v", q)
	}
	if others, err := s.Quarantined(ctx, "another"); err != nil || len(others) != 0 {
		t.Errorf("of another service: %v, %v", others, err)
	}

	wantCode(t, s.EndQuarantine(ctx, q, eventOf("end", "rel-1", "")), control.CodeQuarantineMoved) // nobody asked
	first, second := q, q
	first.RequestedBy, first.RequestedAt, first.Reason = "ann", at, "a false alarm"
	second.RequestedBy, second.RequestedAt = "bob", at
	must(t, s.RequestQuarantineRelease(ctx, first, eventOf("request", "rel-1", "")))
	wantCode(t, s.RequestQuarantineRelease(ctx, second, eventOf("request", "rel-1", "")), control.CodeQuarantineMoved)
	if got := only(); !reflect.DeepEqual(got, first) {
		t.Errorf("requested: %+v, want %+v", got, first)
	}
	wantCode(t, s.EndQuarantine(ctx, second, eventOf("end", "rel-1", "")), control.CodeQuarantineMoved) // not what was asked
	_, err := s.CreateRelease(ctx, begin(t, s, "rel-2", digestA))
	wantCode(t, err, "DIGEST_QUARANTINED") // a request releases nothing
	must(t, s.EndQuarantine(ctx, first, eventOf("end", "rel-1", "")))
	wantCode(t, s.EndQuarantine(ctx, first, eventOf("end", "rel-1", "")), control.CodeQuarantineMoved)
	parked(t, s, "rel-2", digestA)

	var kinds []string
	rows, err := s.Events(ctx, control.EventQuery{ReleaseID: "rel-1", Limit: 100})
	must(t, err)
	for _, row := range rows {
		if row.Kind == "request" || row.Kind == "end" {
			kinds = append(kinds, row.Kind)
		}
	}
	if !reflect.DeepEqual(kinds, []string{"request", "end"}) {
		t.Errorf("a refused change left an event, or a change left none: %v", kinds)
	}

	// Rolled back once more, it needs two people once more.
	must(t, turn(t, s, "rel-1", func(c *pipeline.Commit) { c.Quarantine = digestA }))
	if got := only(); got.RequestedBy != "" {
		t.Errorf("the old request counts again: %+v", got)
	}
}
