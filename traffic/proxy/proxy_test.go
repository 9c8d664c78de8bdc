package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
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
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{DisableCompression: true, ExpectContinueTimeout: 5 * time.Second},
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
	deadline := time.Now().Add(5 * time.Second)
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

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	stable := serve(t, "v1", func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			reached.Add(1)
		}
	})
	_, url := start(t, proxy.Config{Stable: stable})
	for name, raw := range map[string]string{
		"length and chunked":     "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
		"chunked and length":     "POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
		"two lengths":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"same length twice":      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"length list":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
		"signed length":          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
		"negative length":        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
		"identity coding":        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
		"unknown coding":         "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"coding twice":           "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"space before the colon": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"vertical tab in coding": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"chunked in HTTP/1.0":    "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"bad chunk size":         "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
		"signed chunk size":      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
		"huge chunk size":        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
		"chunk without its end":  "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
		"folded header":          "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\nhello",
		"two hosts":              "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"no header name":         "GET / HTTP/1.1\r\nHost: x\r\n: v\r\n\r\n",
		"no host":                "GET / HTTP/1.1\r\n\r\n",
		"null in a name":         "GET / HTTP/1.1\r\nHost: x\r\nTransfer-\x00Encoding: chunked\r\n\r\n",
		"no request":             "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := reached.Load()
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.WriteString(c, raw); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c) // until the proxy closes the connection
			if err != nil {
				t.Fatalf("the connection stays open: %v after %q", err, answer)
			}
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) || bytes.Count(answer, []byte("HTTP/1.1")) != 1 {
				t.Errorf("answered %q, want one 400", answer)
			}
			if n := reached.Load(); n != before {
				t.Error("the backend took the request for complete")
			}
		})
	}
}

func TestRequestHeader(t *testing.T) {
	t.Parallel()
	var got atomic.Pointer[http.Request]
	echo := func(w http.ResponseWriter, r *http.Request) {
		got.Store(r)
		w.Header().Set("X-Release-Route", "forged")
		w.Header().Set("Keep-Alive", "timeout=1")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
	}
	_, url := start(t, proxy.Config{Stable: serve(t, "v1", echo)})
	resp, _ := do(t, newClient(t), "GET", url+"//a/../b%2Fc;d?q=%20+&", nil,
		"x-release-route", "candidate", "X-Forwarded-For", "6.6.6.6", "Forwarded", "for=6.6.6.6", "X-Real-IP", "6.6.6.6", "Connection", "x-secret-hop", "X-Secret-Hop", "1",
		"Te", "trailers", "Proxy-Authorization", "p", "X-Keep", "kept", "User-Agent", "")
	r := got.Load()
	for name, want := range map[string]string{
		"X-Release-Route": "stable", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": strings.TrimPrefix(url, "http://"),
		"Forwarded": "", "X-Real-Ip": "", "X-Secret-Hop": "", "Te": "", "Proxy-Authorization": "", "Connection": "", "X-Keep": "kept", "User-Agent": "",
	} {
		if v := strings.Join(r.Header.Values(name), "|"); v != want {
			t.Errorf("backend sees %s: %q, want %q", name, v, want)
		}
	}
	if r.RequestURI != "//a/../b%2Fc;d?q=%20+&" {
		t.Errorf("backend sees the path as %s", r.RequestURI)
	}
	if r.Host != strings.TrimPrefix(url, "http://") {
		t.Errorf("backend sees host %s", r.Host)
	}
	if v := resp.Header.Values("X-Release-Route"); !slices.Equal(v, []string{"stable"}) {
		t.Errorf("client sees route %v", v)
	}
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("Keep-Alive") != "" || len(resp.Header.Values("Set-Cookie")) != 2 || resp.Header.Get("Server") != "" {
		t.Errorf("client sees %d %v", resp.StatusCode, resp.Header)
	}
}

func TestConnectionHeaderCannotDropTheBody(t *testing.T) {
	t.Parallel()
	_, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s for %s", body, r.Header.Get("X-Tenant-Id"))
	})})
	for _, body := range []io.Reader{strings.NewReader("hello"), struct{ io.Reader }{strings.NewReader("hello")}} {
		resp, got := do(t, newClient(t), "POST", url, body, "Connection", "content-length, transfer-encoding, host, x-tenant-id", "X-Tenant-Id", "acme")
		if got != "hello for acme" {
			t.Errorf("%d %q", resp.StatusCode, got)
		}
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	_, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "42"+r.Trailer.Get("X-Sent"))
	})})
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, struct{ io.Reader }{strings.NewReader("x")})
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Sent": {"sent"}}
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "body" || resp.Trailer.Get("X-Sum") != "42sent" {
		t.Errorf("got %q, trailers %v, %v", body, resp.Trailer, err)
	}
}

func TestUnusualTargets(t *testing.T) {
	t.Parallel()
	_, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+r.Host)
	})})
	for target, want := range map[string]string{
		"OPTIONS *":                   "200 ",
		"GET http://x/absolute?q=1":   "200 GET /absolute?q=1 x",
		"GET /%2e%2e/a%00b":           "200 GET /%2e%2e/a%00b x",
		"PROPFIND /dav":               "200 PROPFIND /dav x",
		"GET http://elsewhere/path/x": "200 GET /path/x elsewhere",
		"CONNECT x:443":               "405",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		body, _ := io.ReadAll(resp.Body)
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
		_ = c.Close()
	}
}

func TestForwardedHeadersOfATrustedProxyAreKept(t *testing.T) {
	t.Parallel()
	var got atomic.Pointer[http.Header]
	_, url := start(t, proxy.Config{TrustForwarded: true, Stable: serve(t, "v1", func(_ http.ResponseWriter, r *http.Request) { got.Store(&r.Header) })})
	do(t, newClient(t), "GET", url, nil, "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "example.org")
	h := *got.Load()
	if h.Get("X-Forwarded-For") != "1.2.3.4, 127.0.0.1" || h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-Host") != "example.org" {
		t.Errorf("backend sees %v", h)
	}
}

func TestBodiesPassUnchanged(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", r.Header.Get("Content-Length"))
		}
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		// net/http drops what it has not read when the answer begins.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body)
	})
	p, url := start(t, proxy.Config{Stable: stable})
	c := newClient(t)
	big := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB
	sent := uint64(0)
	for _, body := range []string{"", "x", strings.Repeat("y", 8<<10), strings.Repeat("z", 70<<10), big} {
		for _, path := range []string{"/", "/sized"} {
			sent++
			resp, got := do(t, c, "POST", url+path, strings.NewReader(body))
			if got != body || resp.Header.Get("X-Length") != fmt.Sprint(len(body)) {
				t.Errorf("%d bytes came back as %d, the backend saw a length of %s", len(body), len(got), resp.Header.Get("X-Length"))
			}
		}
		sent++
		// A reader of unknown length is sent in chunks.
		if resp, got := do(t, c, "PUT", url+"/", struct{ io.Reader }{strings.NewReader(body)}); got != body {
			t.Errorf("%d chunked bytes came back as %d (length %s)", len(body), len(got), resp.Header.Get("X-Length"))
		}
	}
	sent++
	if resp, got := do(t, c, "POST", url+"/", strings.NewReader(big), "Expect", "100-continue"); got != big {
		t.Errorf("a body sent after 100-continue: %d, %d bytes", resp.StatusCode, len(got))
	}
	sent++
	if resp, _ := do(t, c, "POST", url+"/none", nil); resp.StatusCode != http.StatusNoContent {
		t.Errorf("204 became %d", resp.StatusCode)
	}
	eventually(t, p, headgate.Stable, sent, 0)
}

func TestHeadKeepsTheLength(t *testing.T) {
	t.Parallel()
	_, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "4321") })})
	if resp, _ := do(t, newClient(t), "HEAD", url, nil); resp.ContentLength != 4321 {
		t.Errorf("length %d, want 4321", resp.ContentLength)
	}
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	p, url := start(t, proxy.Config{MaxBodyBytes: 100 << 10, Stable: serve(t, "v1", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })})
	c := newClient(t)
	body := strings.Repeat("x", 100<<10)
	if resp, _ := do(t, c, "POST", url, strings.NewReader(body)); resp.StatusCode != http.StatusOK {
		t.Errorf("a body of the limit is answered %d", resp.StatusCode)
	}
	for name, r := range map[string]io.Reader{"sized": strings.NewReader(body + "x"), "chunked": struct{ io.Reader }{strings.NewReader(body + "x")}} {
		resp, got := do(t, c, "POST", url, r)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(got, headgate.CodeBodyTooLarge) {
			t.Errorf("%s: a body over the limit is answered %d %s", name, resp.StatusCode, got)
		}
	}
	if c, err := p.Counts(t.Context()); err != nil || c.Arm(headgate.Stable).Errors != 0 {
		t.Errorf("the client's fault was counted as the service's: %+v %v", c, err)
	}
}

func TestServerSentEventsAreNotBuffered(t *testing.T) {
	t.Parallel()
	next, gone := make(chan string), make(chan struct{})
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for {
			select {
			case event := <-next:
				_, _ = fmt.Fprintf(w, "data: %s\n\n", event)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	})})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := newClient(t).Do(req) // the header comes before the first event
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for _, event := range []string{"one", "two"} {
		next <- event // the backend sends the next only after the client has the last
		for lines.Scan() && lines.Text() == "" {
		}
		if lines.Text() != "data: "+event {
			t.Fatalf("got %q (%v), want event %s", lines.Text(), lines.Err(), event)
		}
	}
	eventually(t, p, headgate.Stable, 1, 0)
	cancel()
	_ = resp.Body.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the backend never learns that the client is gone")
	}
}

func TestServerSentEventsEndWithTheProxy(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	p, url := start(t, proxy.Config{Stable: stable})
	resp, err := newClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
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
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})})
	resp, err := newClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	eventually(t, p, headgate.Stable, 1, 0)
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
	srv := httptest.NewServer(says("v2"))
	candidate := rollout.Backend{Version: "v2", URL: srv.URL}
	srv.Close()
	p, url := start(t, proxy.Config{Stable: stable, HealthInterval: 20 * time.Millisecond})
	apply(t, p, allToCandidate(stable, candidate))
	c := newClient(t)
	sent := uint64(0)
	deadline := time.Now().Add(5 * time.Second)
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
		deadline := time.Now().Add(5 * time.Second)
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
