package traffic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/dataset"
)

// people are how many of a tenant's users are at work at the same time.
const people = 100

// maxKept bounds the reports that a tenant's users still read and the jobs
// that they wait for.
const maxKept = 64

// Driver is a traffic run whose counts can be taken while it goes on.
type Driver struct {
	opts  Options
	data  dataset.Dataset
	users []*tenant

	mu    sync.Mutex
	stats Stats
}

// New checks opts and returns a driver that has not started.
func New(opts Options) (*Driver, error) {
	if opts.BaseURL == "" || len(opts.Tokens) == 0 {
		return nil, errors.New("traffic: BaseURL and at least one token are required")
	}
	opts.RPS = cmp.Or(opts.RPS, 50)
	if !(opts.RPS > 0 && opts.RPS <= 10000) {
		return nil, fmt.Errorf("traffic: RPS must be above 0 and at most 10000, not %g", opts.RPS)
	}
	opts.Concurrency = cmp.Or(opts.Concurrency, 16)
	if opts.HTTP == nil {
		opts.HTTP = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: opts.Concurrency}}
	}
	data, err := dataset.Load()
	if err != nil {
		return nil, err
	}
	d := &Driver{opts: opts, data: data}
	for _, id := range slices.Sorted(maps.Keys(opts.Tokens)) {
		d.users = append(d.users, &tenant{id: id, token: opts.Tokens[id], project: headgate.NewID("proj")})
	}
	return d, nil
}

// Run drives traffic until ctx ends and its requests have returned.
func (d *Driver) Run(ctx context.Context) error {
	ticks := make(chan struct{})
	var wg sync.WaitGroup
	for i := range d.opts.Concurrency {
		rnd := rand.New(rand.NewPCG(d.opts.Seed, uint64(i)))
		wg.Go(func() {
			for range ticks {
				d.step(ctx, d.users[rnd.IntN(len(d.users))], rnd)
			}
		})
	}
	ticker := time.NewTicker(time.Duration(float64(time.Second) / d.opts.RPS))
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			select {
			case ticks <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}
	close(ticks)
	wg.Wait()
	return nil
}

// Take returns the counts since the last Take and starts new ones.
func (d *Driver) Take() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	d.stats = Stats{}
	return s
}

// Snapshot returns the counts since the last Take and goes on counting.
func (d *Driver) Snapshot() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.ByStatus, s.ByRoute = maps.Clone(s.ByStatus), maps.Clone(s.ByRoute)
	return s
}

func (d *Driver) count(ctx context.Context, res *http.Response, err error) {
	if err != nil && ctx.Err() != nil {
		return // our own end, not the service's failure
	}
	now, status, route := time.Now().UTC(), 0, ""
	if err == nil {
		status, route = res.StatusCode, res.Header.Get("x-release-route")
	}
	bad := status == 0 || status >= 500
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.stats
	if s.ByStatus == nil {
		s.ByStatus, s.ByRoute = map[int]int64{}, map[string]RouteStats{}
	}
	s.Requests++
	s.ByStatus[status]++
	r := s.ByRoute[route]
	r.Requests++
	r.Last = now
	if r.First.IsZero() {
		r.First = now
	}
	if bad {
		s.Failed++
		r.Failed++
		if r.FirstBad.IsZero() {
			r.FirstBad = now
		}
		if s.FirstBad.IsZero() {
			s.FirstBad = now
		}
	}
	s.ByRoute[route] = r
	if route == string(headgate.Candidate) {
		s.LastCandidate = now
	}
}

// tenant is what one tenant's users have done so far.
type tenant struct {
	id, token, project string

	mu       sync.Mutex
	uploaded int
	session  int
	waiting  []job
	ready    []string // suppliers with a parsed bid
	reports  []string // evaluations to read
}

// job is a queued job and what follows from its success.
type job struct{ id, supplier, evaluation string }

// step makes one request as the tenant: the next one of its story while there
// is something to do, and a read otherwise.
func (d *Driver) step(ctx context.Context, t *tenant, rnd *rand.Rand) {
	t.mu.Lock()
	// Several people of a tenant are at work; now and then one leaves and
	// another comes.
	if rnd.IntN(2) == 0 {
		t.session++
	}
	person := t.session + rnd.IntN(people)
	c := &client.Client{
		BaseURL: d.opts.BaseURL, Token: t.token, HTTP: d.opts.HTTP,
		Header: http.Header{
			"X-Tenant-Id":  {t.id},
			"X-Session-Id": {fmt.Sprintf("%s-%d", t.project, person)},
		},
		Observe: func(res *http.Response, err error) { d.count(ctx, res, err) },
	}
	bids := d.data.Bids()
	dice := rnd.Float64()
	var act func()
	switch {
	case len(t.waiting) > 0 && (dice < .3 || len(t.waiting) > maxKept):
		j := t.waiting[0]
		t.waiting = t.waiting[1:]
		act = func() { t.poll(ctx, c, j) }
	case t.uploaded < len(bids) || dice >= .3 && dice < .32:
		bid := bids[t.uploaded%len(bids)]
		t.uploaded++
		act = func() { t.upload(ctx, c, bid) }
	case len(t.ready) > 0 && (len(t.reports) == 0 || dice >= .32 && dice < .36):
		supplier := t.ready[rnd.IntN(len(t.ready))]
		force := rnd.IntN(10) == 0
		act = func() { t.evaluate(ctx, c, supplier, d.data.RulePackVersion, force) }
	case len(t.reports) > 0:
		id := t.reports[rnd.IntN(len(t.reports))]
		act = func() { t.read(ctx, c, id) }
	default:
		act = func() { _, _ = c.DeadLetters(ctx) } // counted by Observe
	}
	t.mu.Unlock()
	act()
}

func (t *tenant) upload(ctx context.Context, c *client.Client, bid dataset.Document) {
	q, err := c.Upload(ctx, t.project, bid.Supplier, bid.DocType, bid.File, bid.Data)
	if err == nil {
		t.wait(job{id: q.JobID, supplier: bid.Supplier})
	}
}

func (t *tenant) evaluate(ctx context.Context, c *client.Client, supplier, rulePack string, force bool) {
	q, err := c.Evaluate(ctx, client.Evaluation{Project: t.project, Supplier: supplier, RulePack: rulePack, ForceHITL: force})
	if err == nil {
		t.wait(job{id: q.JobID, evaluation: q.EvaluationID})
	}
}

func (t *tenant) wait(j job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, j)
}

func (t *tenant) poll(ctx context.Context, c *client.Client, j job) {
	state, err := c.Job(ctx, j.id)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil || state.Status == "queued" || state.Status == "running":
		t.waiting = append(t.waiting, j)
	case state.Status != "succeeded":
	case j.supplier != "" && !slices.Contains(t.ready, j.supplier):
		t.ready = append(t.ready, j.supplier)
	case j.evaluation != "":
		t.reports = append(t.reports, j.evaluation)
		if len(t.reports) > maxKept {
			t.reports = t.reports[1:]
		}
	}
}

// read reads a report, and decides on it when it waits for a reviewer.
func (t *tenant) read(ctx context.Context, c *client.Client, id string) {
	rep, err := c.Report(ctx, id)
	if err == nil && rep.NeedsHumanReview && rep.Interrupt != nil {
		_, _ = c.Resume(ctx, id, rep.Interrupt.ResumeToken, "approve", "reviewer@"+t.id) // counted by Observe
	}
}
