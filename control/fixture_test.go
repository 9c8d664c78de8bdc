package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/replay"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/store/sqlite"
	"github.com/headgate/headgate/telemetry"
)

var (
	start    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	operator = access.Identity{Name: "olga", Role: access.Operator, TenantID: "acme"}
)

// fixture is a plane over the real database, with a clock that tests move and
// a service that does what they say.
type fixture struct {
	*control.Plane
	db      *sqlite.DB
	dir     string
	now     time.Time
	figures *figures
	audit   []telemetry.Event
	// away is true while the evidence files cannot be written.
	away atomic.Bool
	// silent is the version whose telemetry stopped a minute ago.
	silent  string
	service *things
	router  *router
	// stop ends the plane's work, as the end of its process does.
	stop func()
}

func newFixture(t *testing.T, change func(*config.Service)) *fixture {
	t.Helper()
	f := &fixture{now: start, dir: t.TempDir(), figures: &figures{}, service: newThings(t), router: &router{}, stop: func() {}}
	var err error
	if f.db, err = sqlite.Open(t.Context(), f.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.db.Close(); err != nil {
			t.Error(err)
		}
	})
	f.Plane = f.plane(t, gate.DefaultRules())
	t.Cleanup(func() { f.stop() })
	svc, err := config.Parse("headgate.yaml", fmt.Appendf(nil, description, f.service.URL, f.service.URL, f.service.URL))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&svc)
	}
	suite, err := replay.Load(fstest.MapFS{"suite.yaml": {Data: []byte(suiteYAML)}}, "suite.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Add(t.Context(), svc, &suite, f.router, func(tenant string) string { return "token-" + tenant }); err != nil {
		t.Fatal(err)
	}
	f.run()
	return f
}

// run begins the plane's work.
func (f *fixture) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	plane := f.Plane
	go func() {
		defer close(done)
		plane.RunRollbacks(ctx)
	}()
	f.stop = func() {
		cancel()
		<-done
	}
}

// replace lets another process take over.
func (f *fixture) replace(t *testing.T) {
	t.Helper()
	f.stop()
	s, err := f.Service("")
	if err != nil {
		t.Fatal(err)
	}
	f.Plane = f.plane(t, gate.DefaultRules())
	if err := f.Add(t.Context(), s.Service, s.Suite, f.router, s.Credential); err != nil {
		t.Fatal(err)
	}
	f.run()
}

// plane is a plane over the fixture's database.
func (f *fixture) plane(t *testing.T, rules gate.RuleSet) *control.Plane {
	t.Helper()
	keys, err := evidence.OpenKeyring(filepath.Join(f.dir, "keys"), "test")
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := evidence.OpenFolder(filepath.Join(f.dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	dict, err := dictionary.Load("bea")
	if err != nil {
		t.Fatal(err)
	}
	return control.New(control.Options{
		Settings: config.DefaultSettings(), Store: f.db, Log: evidence.NewLog(f.db.EvidenceLog(), keys), Blobs: bucket{blobs, &f.away},
		Rules: map[string]gate.RuleSet{"": rules}, Dictionary: dict, Figures: f.figures, Stories: silence{audit: &f.audit},
		Freshness: func(_, version string) (time.Time, bool) {
			if version == f.silent {
				return f.now.Add(-time.Minute), true
			}
			return f.now, true
		},
		Notify: func(headgate.Event) {}, Version: "test", Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return f.now },
	})
}

// bucket keeps evidence files unless it is away.
type bucket struct {
	evidence.Blobs
	away *atomic.Bool
}

func (b bucket) Put(ctx context.Context, content []byte) (string, error) {
	if b.away.Load() {
		return "", headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the bucket does not answer")
	}
	return b.Blobs.Put(ctx, content)
}

// silence are logs and spans that tell nothing but an audit log.
type silence struct {
	telemetry.Finder
	audit *[]telemetry.Event
}

func (s silence) EachNamed(_ context.Context, service string, names []string, from, to time.Time, use func(telemetry.Event)) error {
	for _, e := range *s.audit {
		if e.Service == service && slices.Contains(names, e.Attributes[telemetry.AttrEvent]) && !e.Time.Before(from) && !e.Time.After(to) {
			use(e)
		}
	}
	return nil
}

func (silence) ErrorsOf(context.Context, dictionary.Scope, time.Time, time.Time) ([]telemetry.ErrorGroup, error) {
	return nil, nil
}

const description = `name: things
owner: team
on_call: somebody
runbooks: {rollback_failed_replay: https://runbooks.example/replay}
tenants:
  - {id: acme, size: small}
  - {id: borealis, size: large}
components:
  model_config: {current: mc-1, actuator: {kind: flag}}
  retrieval_params: {current: rp-1, actuator: {kind: flag}}
  workflow_version: {current: wf-1, actuator: {kind: flag}}
  release_version: {current: v1, actuator: {kind: router}}
targets:
  stable: {version: v1, url: %q}
  staging: {url: %q}
  candidate: {url: %q}
stages:
  reports:
    - {gate: quality, file: out/quality.json, format: gate-metrics}
    - {gate: security, file: reports/gitleaks.json, format: gitleaks}
replay:
  suite: suite.yaml
  tenant: acme
  other_tenants: [borealis]
  credentials:
    acme: {env: UNUSED}
    borealis: {env: UNUSED}
rollout:
  tenant_whitelist: [acme, borealis]
  enabled_project_sizes: [small, medium, large]
`

const suiteYAML = `name: things
sessions:
  - name: reader
    steps:
      - {name: read, method: GET, path: /things/1}
`

// figures answer every query with a value that passes, save those that hold
// one of the missing names.
type figures struct {
	mu      sync.Mutex
	missing []string
	// answer, if set and true, comes before everything else.
	answer func(promql string) (float64, bool)
	// times answers when a query has an answer.
	times func(promql string, from time.Time) []time.Time
	// series are a version's, by tenant, instance and bound.
	series map[string]map[[3]string]float64
}

func (f *figures) Number(_ context.Context, promql string, _ time.Time) (float64, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answer != nil {
		if v, ok := f.answer(promql); ok {
			return v, true, nil
		}
	}
	switch {
	case slices.ContainsFunc(f.missing, func(m string) bool { return strings.Contains(promql, m) }):
		return 0, false, nil
	case strings.Contains(promql, "redaction_hits"), strings.Contains(promql, "bea_jobs_completed_total") && strings.Contains(promql, " / "):
		return 0, true, nil
	}
	return 1, true, nil
}

func (f *figures) Each(_ context.Context, promql string, _ time.Time, use func(map[string]string, float64)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for version, series := range f.series {
		if strings.Contains(promql, `service_version="`+version+`"`) {
			for labels, v := range series {
				use(map[string]string{"tenant_id": labels[0], "instance": labels[1], "le": labels[2]}, v)
			}
		}
	}
	return nil
}

func (f *figures) Times(_ context.Context, promql string, from, _ time.Time, _ time.Duration) ([]time.Time, error) {
	return f.times(promql, from), nil
}

func (f *figures) lose(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missing = names
}

// things is a service with one thing of acme's.
type things struct {
	*httptest.Server
	// broken fails every request, leaking shows the thing to any tenant,
	// failing fails those who are not acme, and wrong whatever is not the health
	// check.
	broken, leaking, failing, wrong atomic.Bool
	// hang, if set, is closed by the next request that is not the health check,
	// which is then never answered.
	hang atomic.Pointer[chan struct{}]
}

func newThings(t *testing.T) *things {
	s := &things{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang := s.hang.Load(); hang != nil && r.URL.Path != "/healthz" && s.hang.CompareAndSwap(hang, nil) {
			close(*hang)
			<-r.Context().Done()
			return
		}
		owner := r.Header.Get("Authorization") == "Bearer token-acme"
		switch {
		case s.broken.Load(), s.wrong.Load() && r.URL.Path != "/healthz", !owner && s.failing.Load() && r.URL.Path == "/things/1":
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/healthz":
		case r.Header.Get("Authorization") == "":
			w.WriteHeader(http.StatusUnauthorized)
		case !owner && !s.leaking.Load():
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = w.Write([]byte(`{"data": {"thing": 1}}`))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// router does what it is told.
type router struct {
	mu      sync.Mutex
	split   rollout.Split
	applied []rollout.Split
}

func (r *router) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	r.mu.Lock()
	r.split, r.applied = s, append(r.applied, s)
	r.mu.Unlock()
	return r.Status(ctx)
}

func (r *router) Status(context.Context) (rollout.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rollout.Status{
		Service: "things", Epoch: r.split.Epoch, Share: r.split.Share,
		Backends: []rollout.BackendStatus{{Backend: r.split.Stable, Arm: headgate.Stable, Healthy: true}},
	}, nil
}

func (r *router) Counts(context.Context) (rollout.Counts, error) { return rollout.Counts{}, nil }

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

// release begins a release.
func (f *fixture) release(t *testing.T, id, digest string) control.View {
	t.Helper()
	v, err := f.CreateRelease(t.Context(), operator, control.ReleaseRequest{ID: id, Version: "v2", Digest: digest})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return headgate.AsError(err).Code
}
