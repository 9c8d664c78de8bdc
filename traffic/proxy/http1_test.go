package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/traffic/proxy"
)

// ambiguous requests could be read in two ways, or in none.
var ambiguous = map[string]string{
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
	"tab before the colon":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length\t: 5\r\n\r\nhello",
	"folded length":          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\t6\r\n\r\nhello!",
	"folded first line":      "GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
	"hexadecimal length":     "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
	"huge length":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
	"chunked, then identity": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
	"gzip, then chunked":     "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding and no version":  "POST /\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"bare return in a value": "POST / HTTP/1.1\r\nHost: x\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"null in a value":        "GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
	"the route as trailer":   "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-A, x-release-route\r\n\r\n0\r\nX-Release-Route: candidate\r\n\r\n",
	"all lines end in LF":    "GET / HTTP/1.1\nHost: x\n\n",
	"LF after CR LF":         "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\nhello",
	"CR LF after LF":         "GET / HTTP/1.1\nHost: x\n\r\n",
	"LF before a header":     "POST / HTTP/1.1\r\nHost: x\r\nX: a\nContent-Length: 5\r\n\r\nhello",
	"LF in HTTP/1.0":         "GET / HTTP/1.0\n\n",
	"LF in chunks":           "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
	"no request":             "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
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
	for name, raw := range ambiguous {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := reached.Load()
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
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
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
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
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
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
	case <-time.After(30 * time.Second):
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
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}
