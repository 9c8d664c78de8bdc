package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// routed is a router that counts by route.
type routed struct {
	router
	cells []rollout.Cell
}

func (r *routed) Routes(context.Context) (rollout.Counts, error) {
	return rollout.Counts{At: start, Cells: r.cells}, nil
}

func routeCell(arm headgate.Arm, tenant, route string, requests, errors uint64, latency float64) rollout.Cell {
	c := rollout.Cell{BootID: "b", Arm: arm, Tenant: tenant, Route: route, Requests: requests, Errors: errors, Latency: make([]uint64, canary.NumBuckets)}
	c.Latency[canary.BucketOf(latency)] = requests
	return c
}

// What another candidate did before, and tenants who cannot meet this one, are
// no part of a release's routes.
func TestRoutesSayWhichEndpointIsWorse(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t, nil), &routed{}
	s, err := f.Service("")
	if err != nil {
		t.Fatal(err)
	}
	f.release(t, "rel-1", digest("a"))
	if _, err := f.Routes(t.Context(), operator, "rel-1"); code(err) != headgate.CodeUnavailable {
		t.Errorf("routes of a router that counts none: %v", err)
	}
	if err := f.Add(t.Context(), s.Service, s.Suite, r, s.Credential); err != nil {
		t.Fatal(err)
	}
	r.cells = []rollout.Cell{routeCell(headgate.Candidate, "acme", "GET /good", 500, 500, 1)}
	if s, err = f.Service(""); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is a renewal
		if _, err := s.Router.Apply(t.Context(), rollout.Split{Service: s.Name, Share: 0.1, ReleaseID: "rel-1"}); err != nil {
			t.Fatal(err)
		}
		r.cells = []rollout.Cell{
			routeCell(headgate.Candidate, "acme", "GET /good", 600, 501, 1),
			routeCell(headgate.Candidate, "acme", "GET /bad", 50, 5, 0.2),
			routeCell(headgate.Candidate, "stranger", "GET /good", 50, 50, 1),
			routeCell(headgate.Stable, "acme", "GET /good", 1000, 10, 0.1),
			routeCell(headgate.Stable, "acme", "GET /bad", 500, 0, 0.1),
		}
	}
	rep, err := f.Routes(t.Context(), operator, "rel-1")
	if err != nil || rep.From.IsZero() || rep.At.Before(start.Add(-time.Minute)) || len(rep.Routes) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	bad, good := rep.Routes[0], rep.Routes[1]
	if bad.Route != "GET /bad" || bad.Candidate.Requests != 50 || bad.Candidate.Errors != 5 || bad.Stable.Requests != 500 {
		t.Errorf("the worst is %+v", bad)
	}
	if p := bad.Candidate.P95; p < 0.2 || p > 0.21 {
		t.Errorf("p95 %v, want 0.2", p)
	}
	if good.Candidate.Requests != 100 || good.Candidate.Errors != 1 || good.Stable.Errors != 10 {
		t.Errorf("the other is %+v", good)
	}
}
