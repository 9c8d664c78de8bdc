package control

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// RouteReport is what each route of a service did on both versions, for the
// tenants that may meet the candidate, the worst for the candidate first.
type RouteReport struct {
	ReleaseID string    `json:"release_id"`
	At        time.Time `json:"at"`
	// From is when the candidate first got a share; zero when that is not known:
	// the routers' counts then begin with the routers, earlier canaries included.
	From   time.Time      `json:"from,omitzero"`
	Routes []RouteFigures `json:"routes"`
}

// RouteFigures are one route's on both versions.
type RouteFigures struct {
	Route     string   `json:"route"`
	Candidate RouteArm `json:"candidate"`
	Stable    RouteArm `json:"stable"`
}

// RouteArm is what one version did on a route.
type RouteArm struct {
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"`
	// P95 is the 95th percentile of the latency in seconds, up to 5 % too high;
	// 0 without requests, and 549 for whatever took longer or was never answered.
	P95 float64 `json:"p95_s"`
}

// routesKind is the kind of the documents that hold what the routers had
// counted by route before a release's candidate first got a share.
const routesKind = "routes"

// routesTimeout bounds one reading of the routes.
const routesTimeout = 3 * time.Second

// routeMarks remembers for which release the routes were read last.
type routeMarks struct {
	mu      sync.Mutex
	release string
}

// markRoutes keeps what the routers have counted so far, once for a release.
// A failure costs the report its beginning and nothing else.
func (p *Plane) markRoutes(ctx context.Context, r watchedRouter, release string) {
	r.marks.mu.Lock()
	defer r.marks.mu.Unlock()
	if r.marks.release == release {
		return
	}
	r.marks.release = release
	_, held, err := p.o.Store.Document(ctx, routesKind, release)
	if err != nil || held {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, routesTimeout/3) // the share waits for it
	defer cancel()
	counts, err := rollout.Routes(ctx, r.Router)
	if err == nil {
		err = p.putDocument(ctx, routesKind, release, release, "", counts)
	}
	if err != nil {
		p.o.Logger.DebugContext(ctx, "the routes of a canary are not counted from its beginning", slog.String("release_id", release), slog.Any("error", err))
	}
}

// Routes reads from the routers what each route did. A caller who is confined
// to a tenant sees that tenant's requests. Returns UNAVAILABLE when a router
// does not answer or counts no routes.
func (p *Plane) Routes(ctx context.Context, who access.Identity, id string) (RouteReport, error) {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return RouteReport{}, err
	}
	tenant, err := who.Scope("")
	if err != nil {
		return RouteReport{}, err
	}
	s, err := p.Service(rec.Service)
	if err != nil {
		return RouteReport{}, err
	}
	out := RouteReport{ReleaseID: rec.ID, Routes: []RouteFigures{}}
	var before rollout.Counts
	doc, held, err := p.o.Store.Document(ctx, routesKind, rec.ID)
	if err == nil && held {
		out.From, err = doc.At.UTC(), json.Unmarshal(doc.Body, &before)
	}
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, routesTimeout)
	defer cancel()
	now, err := rollout.Routes(ctx, s.Router)
	if err != nil {
		return out, err
	}
	out.At = now.At.UTC()
	tenants := rec.Tenants()
	counts := now.Sub(before)
	counts.Cells = slices.DeleteFunc(counts.Cells, func(c rollout.Cell) bool {
		return c.Requests == 0 || !slices.Contains(tenants, c.Tenant) || tenant != "" && c.Tenant != tenant
	})
	out.Routes = byRoute(counts)
	return out, nil
}

// byRoute adds up the tenants and puts the worst first: by the errors that
// stable's rate does not explain, then by what the 95th percentile grew.
func byRoute(counts rollout.Counts) []RouteFigures {
	cells := map[string]rollout.Counts{}
	for _, c := range counts.Cells {
		of := cells[c.Route]
		of.Cells = append(of.Cells, c)
		cells[c.Route] = of
	}
	out := []RouteFigures{}
	for route, of := range cells {
		out = append(out, RouteFigures{Route: route, Candidate: routeArm(of.Arm(headgate.Candidate)), Stable: routeArm(of.Arm(headgate.Stable))})
	}
	slices.SortFunc(out, func(a, b RouteFigures) int {
		return cmp.Or(cmp.Compare(b.excess(), a.excess()), cmp.Compare(b.growth(), a.growth()), cmp.Compare(a.Route, b.Route))
	})
	return out
}

func (f RouteFigures) excess() float64 {
	errors := float64(f.Candidate.Errors)
	if f.Stable.Requests > 0 {
		errors -= float64(f.Candidate.Requests) * float64(f.Stable.Errors) / float64(f.Stable.Requests)
	}
	return errors
}

func (f RouteFigures) growth() float64 {
	if f.Candidate.Requests == 0 || f.Stable.Requests == 0 {
		return 0
	}
	return f.Candidate.P95 / f.Stable.P95
}

func routeArm(c rollout.Cell) RouteArm {
	out := RouteArm{Requests: c.Requests, Errors: min(c.Errors, c.Requests)}
	bounds := canary.LatencyBuckets()
	var below uint64
	for i, n := range c.Latency {
		if below += n; n > 0 && 20*below >= 19*c.Requests {
			out.P95 = bounds[min(i, len(bounds)-1)]
			break
		}
	}
	return out
}
