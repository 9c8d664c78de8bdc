package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/traffic/routertest"
)

func serve(t testing.TB, version string, h http.HandlerFunc) rollout.Backend {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return rollout.Backend{Version: version, URL: srv.URL}
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func newClient(t testing.TB) *http.Client {
	c := &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{DisableCompression: true, ExpectContinueTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// do sends a request with header pairs and returns the answer with its body.
func do(t testing.TB, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func allToCandidate(stable, candidate rollout.Backend) rollout.Split {
	return rollout.Split{Service: routertest.Service, Epoch: 1, ReleaseID: "rel_1", Stable: stable, Candidate: candidate, Share: 1, AllTenants: true, Salt: "s", TTL: time.Minute}
}

func apply(t testing.TB, r rollout.Router, s rollout.Split) {
	t.Helper()
	if _, err := r.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return headgate.AsError(err).Code
}

// eventually waits until the arm has counted requests and errors.
func eventually(t testing.TB, r rollout.Router, arm headgate.Arm, requests, errs uint64) rollout.Cell {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := r.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := c.Arm(arm)
		if got.Requests == requests && got.Errors == errs {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s counted %d errors of %d requests, want %d of %d", arm, got.Errors, got.Requests, errs, requests)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(30 * time.Second):
		}
	}
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", hang), ResponseHeaderTimeout: 100 * time.Millisecond})
	resp, body := do(t, newClient(t), "GET", url, nil)
	if resp.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, headgate.CodeUnavailable) || resp.Header.Get("X-Release-Route") != "stable" {
		t.Errorf("answered %d %s", resp.StatusCode, body)
	}
	if c := eventually(t, p, headgate.Stable, 1, 1); c.Latency[canary.TimeoutBucket] != 1 {
		t.Error("the timeout is not in the timeout bucket")
	}
}

func TestClientDisconnectIsNoError(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{100, 64 << 10} {
		p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, piece)); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		})})
		resp, err := newClient(t).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		eventually(t, p, headgate.Stable, 1, 0)
	}
}

func TestAnswerCutShortIsAnError(t *testing.T) {
	t.Parallel()
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(make([]byte, 50000))
		panic(http.ErrAbortHandler)
	})})
	resp, err := newClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the client cannot tell that the answer was cut short")
	}
	_ = resp.Body.Close()
	eventually(t, p, headgate.Stable, 1, 1)
}

// TestShortAnswerCutShortIsAnError knows it before anything is passed on.
func TestShortAnswerCutShortIsAnError(t *testing.T) {
	t.Parallel()
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 500))
		panic(http.ErrAbortHandler)
	})})
	resp, body := do(t, newClient(t), "POST", url, nil)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, headgate.CodeUnavailable) || resp.Header.Get("X-Release-Route") != "stable" {
		t.Errorf("answered %d %s", resp.StatusCode, body)
	}
	eventually(t, p, headgate.Stable, 1, 1)
}

// TestAnswersOfEveryLength are those around the bounds up to which an answer is
// passed on in one piece, on one connection.
func TestAnswersOfEveryLength(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789abcdef", 1<<10)
	_, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.URL.Query().Get("size"))
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Header().Set("X-Long", content[:size/2])
		_, _ = io.WriteString(w, content[:size])
	})})
	client := newClient(t)
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, 16384, 512, 0, 2} {
		resp, body := do(t, client, "GET", fmt.Sprintf("%s/?size=%d", url, size), nil)
		if resp.StatusCode != http.StatusOK || body != content[:size] || resp.Header.Get("X-Long") != content[:size/2] || resp.ContentLength != int64(size) {
			t.Errorf("of %d bytes, %d came with %v", size, len(body), resp.Status)
		}
		resp, body = do(t, client, "HEAD", fmt.Sprintf("%s/?size=%d", url, size), nil)
		if resp.StatusCode != http.StatusOK || body != "" || resp.ContentLength != int64(size) {
			t.Errorf("HEAD of %d bytes is answered with %v and %d bytes of %d", size, resp.Status, len(body), resp.ContentLength)
		}
	}
}

// TestBrokenChunkIsAnError sends it together with a good one, which the client
// gets.
func TestBrokenChunkIsAnError(t *testing.T) {
	t.Parallel()
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\nno length\r\n")
		_ = c.Close()
	})})
	resp, err := newClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "good" || err == nil {
		t.Errorf("the client read %q, %v", body, err)
	}
	eventually(t, p, headgate.Stable, 1, 1)
}

// TestKeptConnectionsThatEnd restarts the backend between requests: writes on
// closed connections must not reach the user as errors.
func TestKeptConnectionsThatEnd(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(says("v1"))
	t.Cleanup(srv.Close)
	p, url := start(t, proxy.Config{Stable: rollout.Backend{Version: "v1", URL: srv.URL}})
	c := newClient(t)
	for range 3 {
		if resp, _ := do(t, c, "POST", url, strings.NewReader("x")); resp.StatusCode != http.StatusOK {
			t.Errorf("POST answered %d", resp.StatusCode)
		}
		srv.CloseClientConnections()
		time.Sleep(150 * time.Millisecond) // the connection rests long enough to be looked at
	}
	eventually(t, p, headgate.Stable, 3, 0)
}

// flaky closes the first n connections after reading a request.
func flaky(t *testing.T, n int32) (rollout.Backend, *atomic.Int32) {
	var tries atomic.Int32
	return serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) <= n {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "ok")
	}), &tries
}

func TestRetries(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		method        string
		breaks        int32
		status, tries int
		errs          uint64
	}{
		{"GET", 1, 200, 2, 0},
		{"GET", 9, 502, 2, 1},
		{"POST", 1, 502, 1, 1},
		{"DELETE", 1, 502, 1, 1},
	} {
		t.Run(fmt.Sprintf("%s with %d breaks", tc.method, tc.breaks), func(t *testing.T) {
			t.Parallel()
			stable, tries := flaky(t, tc.breaks)
			p, url := start(t, proxy.Config{Stable: stable})
			resp, _ := do(t, newClient(t), tc.method, url, nil)
			if resp.StatusCode != tc.status || int(tries.Load()) != tc.tries {
				t.Errorf("answered %d after %d tries, want %d after %d", resp.StatusCode, tries.Load(), tc.status, tc.tries)
			}
			eventually(t, p, headgate.Stable, 1, tc.errs)
		})
	}
}

func TestDeadCandidateIsEjected(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1", says("v1"))
	candidate := rollout.Backend{Version: "v2", URL: routertest.Dead}
	p, url := start(t, proxy.Config{Stable: stable, HealthInterval: 20 * time.Millisecond})
	apply(t, p, allToCandidate(stable, candidate))
	c := newClient(t)
	sent := uint64(0)
	deadline := time.Now().Add(30 * time.Second)
	for {
		sent++
		resp, body := do(t, c, "POST", url, nil)
		if resp.StatusCode == http.StatusOK && body == "v1" && resp.Header.Get("X-Release-Route") == "stable" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("writes still go to a dead candidate")
		}
	}
	eventually(t, p, headgate.Candidate, sent, sent)
	if st, err := p.Status(t.Context()); err != nil || st.Backends[1].Healthy || !st.Backends[0].Healthy {
		t.Errorf("status %+v %v", st, err)
	}
}

func TestUnhealthyCandidateRecovers(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	stable := serve(t, "v1", says("v1"))
	candidate := serve(t, "v2", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "v2")
	})
	p, url := start(t, proxy.Config{Stable: stable, HealthPath: "/health", HealthInterval: 20 * time.Millisecond})
	apply(t, p, allToCandidate(stable, candidate))
	c := newClient(t)
	for _, want := range []string{"v1", "v2"} {
		deadline := time.Now().Add(30 * time.Second)
		for {
			if _, got := do(t, c, "GET", url, nil); got == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("never answered by %s", want)
			}
		}
		broken.Store(false)
	}
}

func TestTesters(t *testing.T) {
	t.Parallel()
	var header atomic.Pointer[http.Header]
	stable := serve(t, "v1", says("v1"))
	candidate := serve(t, "v2", func(w http.ResponseWriter, r *http.Request) {
		header.Store(&r.Header)
		_, _ = io.WriteString(w, "v2")
	})
	p, url := start(t, proxy.Config{Stable: stable, TesterSecret: "s3cret"})
	c := newClient(t)
	send := func(secret string) string {
		_, got := do(t, c, "GET", url, nil, "x-release-tester", "candidate", "x-release-tester-secret", secret)
		return got
	}
	if got := send("s3cret"); got != "v1" {
		t.Errorf("met %s with no release under way", got)
	}
	s := allToCandidate(stable, candidate)
	s.Share, s.AllTenants = 0.0001, false
	apply(t, p, s)
	if got := send("wrong"); got != "v1" {
		t.Errorf("met %s with a wrong secret", got)
	}
	if got := send("s3cret"); got != "v2" {
		t.Errorf("met %s as a tester", got)
	}
	if h := *header.Load(); h.Get("X-Release-Tester") != "" || h.Get("X-Release-Tester-Secret") != "" {
		t.Error("the secret reached the service")
	}
	eventually(t, p, headgate.Candidate, 0, 0)
}

func TestRestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.json")
	v1, v2, v3 := serve(t, "v1", says("v1")), serve(t, "v2", says("v2")), serve(t, "v3", says("v3"))
	cfg := proxy.Config{Service: routertest.Service, Stable: v1, StatePath: path}
	first, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := allToCandidate(v2, v3)
	s.Epoch = 7
	apply(t, first, s)
	// No Shutdown before the second starts: the first might have been killed.
	t.Cleanup(func() { _ = first.Shutdown(context.Background()) })

	second, url := start(t, cfg)
	if _, got := do(t, newClient(t), "GET", url, nil); got != "v2" {
		t.Errorf("a restarted proxy serves %s, want the stable version v2", got)
	}
	st, err := second.Status(t.Context())
	if err != nil || st.Epoch != 7 || st.Share != 0 || len(st.Backends) != 1 {
		t.Errorf("status after the restart %+v %v", st, err)
	}
	for _, tc := range []struct {
		epoch int64
		share float64
		code  string
	}{{6, 0, headgate.CodeStaleEpoch}, {7, 1, rollout.CodeLeaseLapsed}, {7, 0, ""}, {8, 1, ""}} {
		s.Epoch, s.Share = tc.epoch, tc.share
		if _, err := second.Apply(t.Context(), s); codeOf(err) != tc.code {
			t.Errorf("epoch %d, share %v: %v, want %q", tc.epoch, tc.share, err, tc.code)
		}
	}
}

func TestStateFileTrouble(t *testing.T) {
	t.Parallel()
	v1, v2 := serve(t, "v1", says("v1")), serve(t, "v2", says("v2"))
	dir := filepath.Join(t.TempDir(), "sub")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p, _ := start(t, proxy.Config{Stable: v1, StatePath: filepath.Join(dir, "state.json")})
	s := allToCandidate(v1, v2)
	apply(t, p, s)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.Epoch = 2
	if _, err := p.Apply(t.Context(), s); codeOf(err) != headgate.CodeStorageFull {
		t.Errorf("a share that would not survive: %v, want STORAGE_FULL", err)
	}
	s.Share = 0
	apply(t, p, s) // going back to stable needs no disk

	broken := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := proxy.New(proxy.Config{Service: "x", Stable: v1, StatePath: broken}); codeOf(err) != headgate.CodeValidation || !strings.Contains(err.Error(), broken) {
		t.Errorf("a broken state file: %v", err)
	}
}

func TestTenantsAreBounded(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1", says("v1"))
	p, url := start(t, proxy.Config{Stable: stable, MaxTenants: 2})
	c := newClient(t)
	for _, tenant := range []string{"a", "b", "c", "d", "a", ""} {
		do(t, c, "GET", url, nil, "X-Tenant-Id", tenant)
	}
	s := allToCandidate(stable, stable)
	s.Share, s.Candidate, s.Tenants = 0, rollout.Backend{}, []string{"admitted"}
	apply(t, p, s)
	do(t, c, "GET", url, nil, "X-Tenant-Id", "admitted")
	eventually(t, p, headgate.Stable, 7, 0)
	counts, err := p.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, cell := range counts.Cells {
		got[cell.Tenant] = cell.Requests
	}
	if fmt.Sprint(got) != "map[a:2 admitted:1 b:1 other:3]" {
		t.Errorf("counted %v", got)
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	p, _ := start(t, proxy.Config{Stable: serve(t, "v1", says("v1"))})
	admin := httptest.NewServer(p.Admin("right"))
	t.Cleanup(admin.Close)
	open := httptest.NewServer(p.Admin(""))
	t.Cleanup(open.Close)
	c := newClient(t)
	for _, tc := range []struct {
		url, token string
		status     int
	}{
		{admin.URL + "/healthz", "", 204},
		{admin.URL + "/route", "right", 200},
		{admin.URL + "/counts", "right", 200},
		{admin.URL + "/route", "wrong", 401},
		{admin.URL + "/counts", "", 401},
		{open.URL + "/route", "", 401},
		{admin.URL + "/nothing", "right", 404},
	} {
		if resp, _ := do(t, c, "GET", tc.url, nil, "Authorization", "Bearer "+tc.token); resp.StatusCode != tc.status {
			t.Errorf("GET %s with token %q: %d, want %d", tc.url, tc.token, resp.StatusCode, tc.status)
		}
	}
	if resp, body := do(t, c, "PUT", admin.URL+"/route", strings.NewReader("{"), "Authorization", "Bearer right"); resp.StatusCode != 400 || !strings.Contains(body, headgate.CodeValidation) {
		t.Errorf("a broken split: %d %s", resp.StatusCode, body)
	}
	if _, err := proxy.NewClient("http://127.0.0.1:1", "x", nil).Status(t.Context()); codeOf(err) != headgate.CodeUnavailable {
		t.Errorf("no proxy there: %v, want UNAVAILABLE", err)
	}
	if _, err := proxy.NewClient(admin.URL, "wrong", nil).Counts(t.Context()); codeOf(err) != headgate.CodeUnauthorized {
		t.Errorf("wrong token: %v, want AUTH_UNAUTHORIZED", err)
	}
}

func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	stable := serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	p, err := proxy.New(proxy.Config{Service: "x", Stable: stable})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(ln) }()
	idle, err := net.Dial("tcp", ln.Addr().String()) // says nothing, must not delay
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	answer := make(chan string, 1)
	go func() {
		resp, err := newClient(t).Get("http://" + ln.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		answer <- string(body)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- p.Shutdown(t.Context()) }()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("still accepts while draining")
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped (%v) with a request in flight", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("the request in flight got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := p.Apply(t.Context(), rollout.Split{Service: "x", Epoch: 1, Stable: stable}); !errors.Is(err, headgate.Errorf(headgate.CodeUnavailable, "", "")) {
		t.Errorf("apply after shutdown: %v, want UNAVAILABLE", err)
	}
}
