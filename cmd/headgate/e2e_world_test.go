package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/traffic/proxy"
)

// poll is how often a test looks again at what it waits for.
const poll = 20 * time.Millisecond

// patience is how long a test waits for what should come within seconds, on a
// machine that is busy with other things. No assertion depends on it.
const patience = 10 * time.Minute

// await waits until ok; it never waits in the hope that something has happened.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
		time.Sleep(poll)
	}
}

// printed collects what a process prints.
type printed struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *printed) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *printed) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// program is headgate as a process of its own.
type program struct {
	cmd            *exec.Cmd
	stdout, stderr printed
	done           chan struct{}
}

// launch starts headgate with args. The process ends with the test at the
// latest.
func launch(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	self, err := exec.LookPath("headgate") // the test binary under that name
	if err != nil {
		t.Fatal(err)
	}
	return launchCommand(t, env, exec.Command(self, args...))
}

func launchCommand(t *testing.T, env []string, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ProcessState says how it ended
	}()
	t.Cleanup(p.kill)
	return p
}

// ready waits for the line "ready URL" and returns the URL.
func (p *program) ready(t *testing.T) string {
	t.Helper()
	var address string
	await(t, "a process to be ready", func() bool {
		if p.ended() {
			t.Fatalf("%v ended: %s", p.cmd.Args[1:], p.stderr.String())
		}
		rest, ok := strings.CutPrefix(p.stdout.String(), "ready ")
		address, _, _ = strings.Cut(rest, "\n")
		address, _, _ = strings.Cut(address, " ")
		return ok && strings.Contains(rest, "\n")
	})
	return address
}

func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill is kill -9.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // already gone is fine
	<-p.done
}

// signal pauses the process or lets it go on.
func (p *program) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// stop is SIGTERM; the process must end by itself, cleanly.
func (p *program) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // already gone is found below
	if code := p.wait(t); code != exitPassed {
		t.Errorf("%v ended with %d after SIGTERM: %s", p.cmd.Args[1:2], code, p.stderr.String())
	}
}

// wait returns the exit code.
func (p *program) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%v has not ended after %s: %s%s", p.cmd.Args[1:], patience, p.stdout.String(), p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// world is the reference service, shared by all scenarios: stable in
// production, and two versions in staging and as candidates. Each scenario has
// its own control plane and proxy.
type world struct {
	dir     string
	tokens  map[string]string
	stable  string
	staging map[string]string // by version
	cand    map[string]string
	planes  sync.Map // *plane → where it takes telemetry
}

const (
	goodVersion = "v1.1.0"
	badVersion  = "v1.3.0" // fails for one tenant
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), staging: map[string]string{}, cand: map[string]string{}}
	ex := &example{exampleOptions: exampleOptions{dir: w.dir}}
	if err := ex.layOut(); err != nil {
		t.Fatal(err)
	}
	w.tokens = ex.tokens
	start := func(role, version, env, db, source string) string {
		ex.otlp = w.relay(t, source)
		args := append([]string{"example", "bidding", role, "--listen", needs.Addrs(t, 1)[0]}, ex.flags(version, env, db)...)
		return launch(t, nil, args...).ready(t)
	}
	w.stable = start("serve", "v1.0.0", "production", "production.db", "stable")
	for _, version := range []string{goodVersion, badVersion} {
		w.staging[version] = start("serve", version, "staging", "staging-"+version+".db", "staging")
		w.cand[version] = start("api", version, "production", "production.db", "candidate")
	}
	w.staging[nowhere], w.cand[nowhere] = "http://"+needs.Addrs(t, 1)[0], "http://"+needs.Addrs(t, 1)[0]
	return w
}

// relay takes the telemetry of a part of the service and hands it to every
// control plane that wants it.
func (w *world) relay(t *testing.T, source string) string {
	t.Helper()
	hc := &http.Client{Timeout: 2 * time.Second}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.planes.Range(func(key, value any) bool {
			if key.(*plane).muted.Load() == source {
				return true
			}
			req, err := http.NewRequestWithContext(r.Context(), r.Method, value.(string)+r.URL.Path, bytes.NewReader(body))
			if err != nil {
				return true
			}
			req.Header = r.Header.Clone()
			if resp, err := hc.Do(req); err == nil { // one that was killed just misses it
				_ = resp.Body.Close()
			}
			return true
		})
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// valve is an HTTP hop at which a test can hold a request, before it takes
// effect or after, and so knows exactly what the sender is doing when it is
// killed.
type valve struct {
	URL  string
	next http.Handler
	rule atomic.Pointer[rule]
}

type rule struct {
	match   func(r *http.Request, body []byte) bool
	after   bool
	taken   atomic.Bool
	reached chan struct{}
	open    chan struct{}
}

// newValve leads to a URL; every request takes delay longer.
func newValve(t *testing.T, target string, delay time.Duration) *valve {
	t.Helper()
	return newValveAt(t, "127.0.0.1", target, delay)
}

func newValveAt(t *testing.T, host, target string, delay time.Duration) *valve {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	// Each user has a connection, as with the proxy: a service ends one whose
	// request is late, and a busy machine is late on new ones.
	transport := &http.Transport{MaxIdleConnsPerHost: 24}
	t.Cleanup(transport.CloseIdleConnections)
	reverse := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, err.Error())
		},
	}
	return startValveAt(t, host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(delay)
		reverse.ServeHTTP(w, r)
	}))
}

func startValve(t *testing.T, next http.Handler) *valve {
	t.Helper()
	return startValveAt(t, "127.0.0.1", next)
}

func startValveAt(t *testing.T, host string, next http.Handler) *valve {
	t.Helper()
	v := &valve{next: next}
	srv := httptest.NewUnstartedServer(v)
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Listener.Close() // never used
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	v.URL = srv.URL
	return v
}

func (v *valve) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	held := v.rule.Load()
	if held == nil {
		v.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !held.match(r, body) || held.taken.Swap(true) {
		v.next.ServeHTTP(w, r)
		return
	}
	if held.after {
		// The sender may be dead by the time that the effect is there.
		rec := httptest.NewRecorder()
		v.next.ServeHTTP(rec, r.WithContext(context.WithoutCancel(r.Context())))
		close(held.reached)
		held.wait(r.Context())
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
		return
	}
	close(held.reached)
	held.wait(r.Context())
	if r.Context().Err() == nil {
		v.next.ServeHTTP(w, r)
	}
}

func (h *rule) wait(sender context.Context) {
	select {
	case <-h.open:
	case <-sender.Done():
	}
}

// hold makes the next request that matches wait; after says whether its effect
// comes first. The function that it returns waits for such a request, and
// pass lets it and all others through again.
func (v *valve) hold(after bool, match func(r *http.Request, body []byte) bool) (reached func(t *testing.T), pass func()) {
	h := &rule{match: match, after: after, reached: make(chan struct{}), open: make(chan struct{})}
	v.rule.Store(h)
	reached = func(t *testing.T) {
		t.Helper()
		select {
		case <-h.reached:
		case <-time.After(patience):
			t.Fatalf("waited %s for the request to hold", patience)
		}
	}
	return reached, func() { v.rule.Store(nil); close(h.open) }
}

// answer is what a user got who asked at a time: the router decided after it,
// however late the answer was seen.
type answer struct {
	asked  time.Time
	route  string
	status int
	said   string // with a failure, for whoever reads that the test has failed
}

// users send requests through a proxy until the test ends.
type users struct {
	mu  sync.Mutex
	all []answer
}

// startUsers sends rps requests a second as the tenants that have tokens.
func startUsers(t *testing.T, base string, tokens map[string]string, rps float64) *users {
	t.Helper()
	u := &users{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	hc := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 24}}
	work := make(chan struct{})
	for range 24 {
		wg.Go(func() {
			for range work {
				u.ask(ctx, hc, base, tokens)
			}
		})
	}
	wg.Go(func() {
		defer close(work)
		ticker := time.NewTicker(time.Duration(float64(time.Second) / rps))
		defer ticker.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			select {
			case work <- struct{}{}:
			default: // all are waiting for an answer
			}
		}
	})
	return u
}

func (u *users) ask(ctx context.Context, hc *http.Client, base string, tokens map[string]string) {
	tenant := exampleTenants[rand.IntN(len(exampleTenants)-1)]
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/dlq/items", nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+tokens[tenant])
	req.Header.Set("x-tenant-id", tenant)
	req.Header.Set("x-session-id", fmt.Sprintf("s-%d", rand.IntN(500)))
	asked := time.Now()
	resp, err := hc.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			u.note(answer{asked: asked, said: err.Error()})
		}
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // only the header counts
	a := answer{asked: asked, route: resp.Header.Get(proxy.RouteHeader), status: resp.StatusCode}
	if a.status >= 500 || a.route == "" {
		a.said = string(body)
	}
	u.note(a)
}

func (u *users) note(a answer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all = append(u.all, a)
}

// between counts what was asked in a span of time and answered by a route, and
// what of it failed.
func (u *users) between(route headgate.Arm, from, to time.Time) (n, failed int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.all {
		if a.route != string(route) || a.asked.Before(from) || a.asked.After(to) {
			continue
		}
		n++
		if a.status >= 500 {
			failed++
		}
	}
	return n, failed
}

// failures are what users were told since a time who were not served.
func (u *users) failures(since time.Time) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var b strings.Builder
	for _, a := range u.all {
		if a.said != "" && !a.asked.Before(since) {
			fmt.Fprintf(&b, "\n%s %q %d %.300s", a.asked.Format("15:04:05.000"), a.route, a.status, a.said)
		}
	}
	return b.String()
}

// last is when a user asked to whom a route answered, the latest.
func (u *users) last(route headgate.Arm) (asked time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.all {
		if a.route == string(route) && a.asked.After(asked) {
			asked = a.asked
		}
	}
	return asked
}

// awaitStable waits until users have left the candidate: it answers none of two
// hundred and was last seen three seconds ago, where it had a quarter of them.
func (u *users) awaitStable(t *testing.T) {
	t.Helper()
	await(t, "users to be on stable", func() bool {
		last := u.last(headgate.Candidate)
		n, _ := u.between(headgate.Stable, last, time.Now())
		return n > 200 && time.Since(last) > 3*time.Second
	})
}

// switches keeps component values, as a service with a hook does, and counts
// how often each was set.
type switches struct {
	mu     sync.Mutex
	values map[string]string
	sets   map[string]int // by "component=version"
}

func (s *switches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	component := filepath.Base(r.URL.Path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPut {
		var v struct{ Version string }
		if err := decode(r.Body, &v); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.values[component] = v.Version
		s.sets[component+"="+v.Version]++
	}
	fmt.Fprintf(w, `{"version":%q}`, s.values[component])
}

func (s *switches) count(component headgate.Component, version string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sets[string(component)+"="+version]
}
