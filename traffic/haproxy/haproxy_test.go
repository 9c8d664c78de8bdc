package haproxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/haproxy"
	"github.com/headgate/headgate/traffic/routertest"
)

func start(t testing.TB, stable rollout.Backend, ttl time.Duration) (r *haproxy.Router, url string) {
	t.Helper()
	r, url, _ = startProcess(t, stable, ttl)
	return r, url
}

// process is HAProxy. Restart kills it and starts it again.
type process struct {
	restart func()
	signal  func(os.Signal)
}

func startProcess(t testing.TB, stable rollout.Backend, ttl time.Duration) (r *haproxy.Router, url string, p process) {
	t.Helper()
	cfg, r, p := startConfig(t, haproxy.Config{Stable: stable, TTL: ttl})
	return r, "http://" + cfg.Listen, p
}

// startConfig completes cfg with a service and a place, and starts HAProxy with
// it.
func startConfig(t testing.TB, cfg haproxy.Config) (_ haproxy.Config, r *haproxy.Router, p process) {
	t.Helper()
	binary := needs.Program(t, "haproxy", "haproxy")
	dir, err := os.MkdirTemp("", "haproxy") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg.Service, cfg.Dir, cfg.Listen = routertest.Service, dir, needs.Addrs(t, 1)[0]
	r, err = haproxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	file, err := r.Write()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var cmd *exec.Cmd
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	run := func() {
		cmd = exec.Command(binary, "-db", "-f", file)
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for {
			if _, err := r.Status(t.Context()); err == nil {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("%v: %s", err, log.String())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	run()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("haproxy says: %s", log.String())
		}
	})
	return cfg, r, process{
		restart: func() { stop(); run() },
		signal: func(s os.Signal) {
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestConforms(t *testing.T) {
	t.Parallel()
	routertest.Exercise(t, 500*time.Millisecond, func(t *testing.T, stable rollout.Backend, ttl time.Duration) routertest.Setup {
		r, url := start(t, stable, ttl)
		return routertest.Setup{Router: r, URL: url}
	})
}

// A backend that takes connections and cannot serve is out of service.
func TestBackendsAreAskedForTheirHealth(t *testing.T) {
	t.Parallel()
	var ill atomic.Bool
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(service.Close)
	_, r, _ := startConfig(t, haproxy.Config{Stable: rollout.Backend{Version: "v1", URL: service.URL}, TTL: time.Minute, HealthPath: "/healthz"})
	healthy := func(want bool) func() bool {
		return func() bool {
			st, err := r.Status(t.Context())
			return err == nil && len(st.Backends) > 0 && st.Backends[0].Healthy == want
		}
	}
	await(t, "stable is well", healthy(true))
	ill.Store(true)
	await(t, "stable is ill", healthy(false))
	ill.Store(false)
	await(t, "stable is well again", healthy(true))
}

// BenchmarkRollback is [routertest.BenchmarkRollback].
func BenchmarkRollback(b *testing.B) {
	routertest.BenchmarkRollback(b, func(stable rollout.Backend, ttl time.Duration) routertest.Setup {
		r, url := start(b, stable, ttl)
		return routertest.Setup{Router: r, URL: url}
	})
}

func TestDeadStableIsCounted(t *testing.T) {
	t.Parallel()
	r, url := start(t, rollout.Backend{Version: "v1", URL: routertest.Dead}, time.Minute)
	for range 3 {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("answered %d, want 503", resp.StatusCode)
		}
	}
	counts, err := r.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := counts.Arm(headgate.Stable); c.Requests != 3 || c.Errors != 3 {
		t.Errorf("counted %d errors of %d requests, want 3 of 3", c.Errors, c.Requests)
	}
}

func version(t testing.TB, v string) rollout.Backend {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/nowhere" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, v)
	}))
	t.Cleanup(srv.Close)
	return rollout.Backend{Version: v, URL: srv.URL}
}

// get returns what answered, or the status when it is a 5xx.
func get(t testing.TB, url, tenant string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Tenant-Id", tenant)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 500 {
		return resp.Status[:3]
	}
	return string(body)
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// TestPauseDoesNotProlongTheLease stops the process for longer than the lease:
// HAProxy takes the pause for a jump of the clock and lets its tables live on.
func TestPauseDoesNotProlongTheLease(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second
	v1, v2 := version(t, "v1"), version(t, "v2")
	r, url, p := startProcess(t, v1, ttl)
	split := rollout.Split{Service: routertest.Service, Epoch: 1, Stable: v1, Candidate: v2, Share: 1, AllTenants: true, TTL: ttl}
	for v := "v1"; v != "v2"; split.Epoch++ { // a lease is over when the machine stalls for as long
		begin := time.Now()
		if _, err := r.Apply(t.Context(), split); err != nil {
			t.Fatal(err)
		}
		if v = get(t, url, ""); v != "v2" && time.Since(begin) < ttl {
			t.Fatalf("answered by %s, want v2", v)
		}
	}
	split.Epoch--
	p.signal(syscall.SIGSTOP)
	time.Sleep(ttl + 1100*time.Millisecond) // what passes is what is tested
	p.signal(syscall.SIGCONT)
	// A thread may finish the round in which it was stopped with the time it
	// read then. The table's entry would serve v2 for all that was left of it.
	for late := 0; get(t, url, "") != "v1"; late++ {
		if late == 20 {
			t.Fatal("still answered by v2 after the lease, want v1")
		}
	}
	if st, err := r.Status(t.Context()); err != nil || st.Share != 0 || st.LeaseRemaining != 0 {
		t.Errorf("status %+v %v", st, err)
	}
	if _, err := r.Apply(t.Context(), split); headgate.AsError(err).Code != rollout.CodeLeaseLapsed {
		t.Errorf("late renewal: %v, want LEASE_LAPSED", err)
	}
}

// TestDeadStable is that of the embedded proxy.
func TestDeadStable(t *testing.T) {
	t.Parallel()
	v1, v2 := rollout.Backend{Version: "v1", URL: routertest.Dead}, version(t, "v2")
	r, url := start(t, v1, time.Minute)
	split := rollout.Split{Service: routertest.Service, Epoch: 1, Stable: v1, Candidate: v2, Share: 0.0001, Tenants: []string{"acme"}, TTL: time.Minute}
	if _, err := r.Apply(t.Context(), split); err != nil {
		t.Fatal(err)
	}
	await(t, "stable to be seen dead", func() bool {
		st, err := r.Status(t.Context())
		return err == nil && !st.Backends[0].Healthy
	})
	before, err := r.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, url, "acme"); got != "v2" {
		t.Errorf("answered %s with only the candidate alive", got)
	}
	if got := get(t, url, "globex"); got != "503" {
		t.Errorf("a tenant that is not admitted is answered %s", got)
	}
	after, err := r.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	delta := after.Sub(before)
	if s, c := delta.Arm(headgate.Stable), delta.Arm(headgate.Candidate); s.Requests != 2 || s.Errors != 2 || c.Requests != 0 {
		t.Errorf("counted %d errors of %d requests for stable, %d requests for the candidate", s.Errors, s.Requests, c.Requests)
	}
	split.Epoch, split.Share = 2, 0
	if _, err := r.Apply(t.Context(), split); err != nil {
		t.Fatal(err)
	}
	if got := get(t, url, "acme"); got != "503" {
		t.Errorf("answered %s after the candidate was rolled back", got)
	}
}

func TestRoutesAreCountedApart(t *testing.T) {
	t.Parallel()
	v1 := version(t, "v1")
	r, url := start(t, v1, time.Minute)
	for _, path := range []string{"/api/v1/jobs/17?q=1", "/api/v1/jobs/18/6f2c-41aa", "/api/v1/jobs/19", "/api/v1/jobs", "/nowhere"} {
		get(t, url+path, "acme")
	}
	counts, err := r.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, cell := range counts.Cells {
		got[cell.Route] = cell.Requests
	}
	if want := "map[GET /api/v1/jobs:1 GET /api/v1/jobs/{id}:2 GET /api/v1/jobs/{id}/{id}:1]"; fmt.Sprint(got) != want {
		t.Errorf("counted %v, want %s", got, want)
	}
}

func TestRestartForgetsTheShare(t *testing.T) {
	t.Parallel()
	v1, v2 := version(t, "v1"), version(t, "v2")
	r, url, p := startProcess(t, v1, time.Minute)
	ask := func() string { return get(t, url, "") }
	split := rollout.Split{Service: routertest.Service, Epoch: 3, Stable: v1, Candidate: v2, Share: 1, AllTenants: true, TTL: time.Minute}
	before, err := r.Apply(t.Context(), split)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "v2" {
		t.Errorf("answered by %s, want v2", got)
	}
	p.restart()
	if got := ask(); got != "v1" {
		t.Errorf("answered by %s after a restart, want v1", got)
	}
	after, err := r.Status(t.Context())
	if err != nil || after.Share != 0 || after.BootID == before.BootID {
		t.Errorf("status %+v %v", after, err)
	}
}

// What HAProxy serves counts, not what a newer description says.
func TestAnOlderFileTells(t *testing.T) {
	t.Parallel()
	v1, v2 := version(t, "v1"), version(t, "v2")
	cfg, _, _ := startConfig(t, haproxy.Config{Stable: v1})
	cfg.Stable = v2
	r, err := haproxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := r.Status(t.Context()); err != nil || st.Backends[0].URL != v1.URL {
		t.Errorf("status %+v %v, want stable at %s", st, err, v1.URL)
	}
	if _, err := r.Apply(t.Context(), rollout.Split{Service: routertest.Service, Epoch: 1, Stable: v2}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, "http://"+cfg.Listen, ""); got != "v2" {
		t.Errorf("answered by %s, want v2", got)
	}
}

func TestHeadersOfTheService(t *testing.T) {
	t.Parallel()
	v1, v2 := version(t, "v1"), version(t, "v2")
	cfg, r, _ := startConfig(t, haproxy.Config{Stable: v1, TenantHeader: "x-org", SessionHeader: "x-visit"})
	split := rollout.Split{Service: routertest.Service, Epoch: 1, Stable: v1, Candidate: v2, Share: 0.5, Tenants: []string{"acme"}}
	if _, err := r.Apply(t.Context(), split); err != nil {
		t.Fatal(err)
	}
	// met counts the versions that twenty sessions meet.
	met := func(tenantHeader, sessionHeader string) int {
		versions := map[string]bool{}
		for i := range 20 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.Listen, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(tenantHeader, "acme")
			req.Header.Set(sessionHeader, fmt.Sprint("s-", i))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			versions[resp.Header.Get("x-release-route")] = true
			_ = resp.Body.Close()
		}
		return len(versions)
	}
	if n := met("x-org", "x-visit"); n != 2 {
		t.Errorf("twenty sessions of the tenant met %d versions, want both", n)
	}
	if n := met("x-tenant-id", "x-visit"); n != 1 {
		t.Errorf("twenty sessions of nobody met %d versions, want stable", n)
	}
	if n := met("x-org", "x-session-id"); n != 1 {
		t.Errorf("one client without a session met %d versions", n)
	}
}

func TestSplitsThatDoNotFit(t *testing.T) {
	t.Parallel()
	stable := rollout.Backend{Version: "v1", URL: "http://127.0.0.1:1"}
	r, err := haproxy.New(haproxy.Config{Service: "x", Dir: t.TempDir(), Listen: "127.0.0.1:0", Stable: stable})
	if err != nil {
		t.Skip(err) // a temporary directory with an unusual name
	}
	good := rollout.Split{Service: "x", Epoch: 1, Stable: stable, Candidate: stable, Tenants: []string{"acme"}}
	for name, change := range map[string]func(*rollout.Split){
		"a tenant that would inject a command": func(s *rollout.Split) { s.Tenants = []string{"a\n;shutdown"} },
		"another lease":                        func(s *rollout.Split) { s.TTL = time.Second },
		"a host name":                          func(s *rollout.Split) { s.Candidate.URL = "http://localhost:80" },
		"TLS":                                  func(s *rollout.Split) { s.Stable.URL = "https://127.0.0.1:80" },
	} {
		s := good
		change(&s)
		if _, err := r.Apply(t.Context(), s); headgate.AsError(err).Code != headgate.CodeValidation {
			t.Errorf("%s: %v, want REQ_VALIDATION_FAILED", name, err)
		}
	}
	if _, err := r.Apply(t.Context(), good); headgate.AsError(err).Code != headgate.CodeUnavailable {
		t.Errorf("no HAProxy there: %v, want UNAVAILABLE", err)
	}
}
