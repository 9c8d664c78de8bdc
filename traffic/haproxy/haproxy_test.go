package haproxy_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/haproxy"
	"github.com/headgate/headgate/traffic/routertest"
)

func start(t *testing.T, stable rollout.Backend, ttl time.Duration) (r *haproxy.Router, url string) {
	t.Helper()
	r, url, _ = startProcess(t, stable, ttl)
	return r, url
}

// startProcess also returns a function that kills HAProxy and starts it again.
func startProcess(t *testing.T, stable rollout.Backend, ttl time.Duration) (r *haproxy.Router, url string, restart func()) {
	t.Helper()
	binary := needs.Program(t, "haproxy", "haproxy")
	dir, err := os.MkdirTemp("", "haproxy") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 30000+rand.IntN(2500))) // below the ports of outgoing connections
	if err != nil {
		t.Fatal(err)
	}
	listen := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = haproxy.New(haproxy.Config{Service: routertest.Service, Dir: dir, Listen: listen, Stable: stable, TTL: ttl})
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
		deadline := time.Now().Add(5 * time.Second)
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
	return r, "http://" + listen, func() { stop(); run() }
}

func TestConforms(t *testing.T) {
	t.Parallel()
	routertest.Exercise(t, 500*time.Millisecond, func(t *testing.T, stable rollout.Backend, ttl time.Duration) routertest.Setup {
		r, url := start(t, stable, ttl)
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

func TestRestartForgetsTheShare(t *testing.T) {
	t.Parallel()
	version := func(v string) rollout.Backend {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, v) }))
		t.Cleanup(srv.Close)
		return rollout.Backend{Version: v, URL: srv.URL}
	}
	v1, v2 := version("v1"), version("v2")
	r, url, restart := startProcess(t, v1, time.Minute)
	ask := func() string {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	split := rollout.Split{Service: routertest.Service, Epoch: 3, Stable: v1, Candidate: v2, Share: 1, AllTenants: true, TTL: time.Minute}
	before, err := r.Apply(t.Context(), split)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "v2" {
		t.Errorf("answered by %s, want v2", got)
	}
	restart()
	if got := ask(); got != "v1" {
		t.Errorf("answered by %s after a restart, want v1", got)
	}
	after, err := r.Status(t.Context())
	if err != nil || after.Share != 0 || after.BootID == before.BootID {
		t.Errorf("status %+v %v", after, err)
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
