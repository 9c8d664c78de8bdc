package rollback

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// crash stands for kill -9: it unwinds the executor without letting it write.
var errCrash = errors.New("crash")

// world is everything outside the executor that survives a crash.
type world struct {
	mu       sync.Mutex
	records  map[string]Rollback
	order    []string
	versions map[headgate.Component]string
	sets     []headgate.Component
	calls    int // of every port
	crashAt  int // the call that does not return; 0 for never

	events   []headgate.Event
	keys     []string
	jobs     []string
	replay   func(jobID string) (JobStatus, error)
	setErr   map[headgate.Component]error
	delay    time.Duration
	stuck    map[headgate.Component]bool // Set is accepted and does nothing
	capacity func(context.Context) error
	full     bool // the store refuses writes of steps
}

func newWorld() *world {
	return &world{
		records:  map[string]Rollback{},
		versions: map[headgate.Component]string{},
		setErr:   map[headgate.Component]error{},
		stuck:    map[headgate.Component]bool{},
		replay:   func(string) (JobStatus, error) { return JobSucceeded, nil },
		capacity: func(context.Context) error { return nil },
	}
}

// point is where the process may die: before or after an effect.
func (w *world) point() {
	w.calls++
	if w.calls == w.crashAt {
		panic(errCrash)
	}
}

func (w *world) call(effect func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.point()
	effect()
	w.point()
}

func (w *world) SaveIntent(_ context.Context, r Rollback) (out Rollback, err error) {
	w.call(func() {
		if old, ok := w.records[r.ID]; ok {
			out = old
			return
		}
		w.records[r.ID], out = clone(r), clone(r)
		w.order = append(w.order, r.ID)
	})
	return out, nil
}

func (w *world) UpdateStep(_ context.Context, id string, s Step) (err error) {
	w.call(func() {
		if w.full {
			err = headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient, "disk full")
			return
		}
		r := clone(w.records[id])
		for i := range r.Steps {
			if r.Steps[i].Component == s.Component {
				r.Steps[i] = s
			}
		}
		w.records[id] = r
	})
	return err
}

func (w *world) UpdateProgress(_ context.Context, id string, p Progress) error {
	w.call(func() {
		r := w.records[id]
		r.Progress = p
		w.records[id] = clone(r)
	})
	return nil
}

func (w *world) Get(_ context.Context, id string) (Rollback, error) {
	r, ok := w.records[id]
	if !ok {
		return r, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "no rollback %s", id)
	}
	return clone(r), nil
}

func (w *world) Active(_ context.Context, service string) ([]Rollback, error) {
	var out []Rollback
	for _, id := range w.order {
		if r := w.records[id]; r.Service == service && r.Frozen() {
			out = append(out, clone(r))
		}
	}
	return out, nil
}

func (w *world) Set(ctx context.Context, c headgate.Component, version string) (err error) {
	if w.delay > 0 {
		select {
		case <-time.After(w.delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.call(func() {
		if err = w.setErr[c]; err != nil {
			return
		}
		w.sets = append(w.sets, c)
		if !w.stuck[c] {
			w.versions[c] = version
		}
	})
	return err
}

func (w *world) Read(_ context.Context, c headgate.Component) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.versions[c], nil
}

func (w *world) Check(ctx context.Context, _ string) error { return w.capacity(ctx) }

func (w *world) Verify(_ context.Context, jobID string, _ Rollback) (JobStatus, error) {
	w.call(func() { w.jobs = append(w.jobs, jobID) })
	return w.replay(jobID)
}

func (w *world) Record(_ context.Context, key string, e headgate.Event) error {
	w.call(func() {
		if !slices.Contains(w.keys, key) {
			w.keys, w.events = append(w.keys, key), append(w.events, e)
		}
	})
	return nil
}

func (w *world) kinds() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, e := range w.events {
		out = append(out, e.Kind+":"+string(e.Verdict))
	}
	return out
}

func clone(r Rollback) Rollback {
	r.Steps = slices.Clone(r.Steps)
	if r.Replay != nil {
		v := *r.Replay
		r.Replay = &v
	}
	return r
}

func (w *world) executor(service string) *Executor {
	actuators := map[headgate.Component]Actuator{}
	for _, c := range headgate.RollbackOrder() {
		actuators[c] = w
	}
	return New(Config{Service: service, Store: w, Actuators: actuators, Verifier: w, Audit: w, Capacity: w})
}

var targets = map[headgate.Component]string{
	headgate.ModelConfig: "m1", headgate.RetrievalParams: "r1",
	headgate.WorkflowVersion: "w1", headgate.ReleaseVersion: "v1",
}

func request() Request {
	return Request{
		ReleaseID: "rel_1", TenantID: "acme", Gate: headgate.GatePerformance, Targets: targets, Actor: "pipeline",
		Breaches: []headgate.Breach{{Gate: headgate.GatePerformance, MetricCode: "API_P95_EXCEEDED", ConsecutiveFailures: 2}},
	}
}
