package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/traffic/routertest"
)

// FuzzRequestHead sends bytes as a client would. Whatever they are, the backend
// may find in what the proxy makes of them no more requests than the proxy
// counted, or one was smuggled; and each with the proxy's decision only.
func FuzzRequestHead(f *testing.F) {
	for _, raw := range ambiguous {
		f.Add([]byte(raw))
	}
	for _, raw := range []string{
		"GET /a HTTP/1.1\r\nHost: x\r\nX-Release-Route: candidate\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Release-Route\r\n\r\n1;a=b\r\nx\r\n0\r\nX-Release-Route: candidate\r\n\r\n",
		"POST /a HTTP/1.1\nHost: x\nContent-Length: 3\nConnection: close, content-length\n\nabcGET /b HTTP/1.1\nHost: x\n\n",
		"GET http://y/a?b#c HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
		"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"HEAD / HTTP/1.1\r\nHost: x\r\nx_release_route: candidate\r\nX-Release-Route : candidate\r\n\r\n",
	} {
		f.Add([]byte(raw))
	}
	b := &recorder{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go b.serve(ln)
	f.Cleanup(func() { _ = ln.Close() })
	stable := rollout.Backend{Version: "v1", URL: "http://" + ln.Addr().String()}
	p, err := proxy.New(proxy.Config{Service: routertest.Service, Stable: stable, HealthInterval: time.Hour, ResponseHeaderTimeout: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go func() { _ = p.Serve(front) }()
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = p.Shutdown(ctx) // an upgraded connection may be left
	})
	counted := func() uint64 {
		c, err := p.Counts(context.Background())
		if err != nil {
			f.Fatal(err)
		}
		return c.Arm(headgate.Stable).Requests
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := counted()
		b.reset()
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = c.Write(raw)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		seen := b.seen()
		for deadline := time.Now().Add(30 * time.Second); counted()-before < uint64(len(seen)); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the backend found %d requests in what the proxy counted as %d", len(seen), counted()-before)
			}
		}
		for _, r := range seen {
			if route := r.Header.Values("X-Release-Route"); !slices.Equal(route, []string{"stable"}) || len(r.Trailer.Values("X-Release-Route")) > 0 {
				t.Fatalf("the backend sees route %q, trailers %v", route, r.Trailer)
			}
			if len(r.TransferEncoding) > 0 && r.Header.Get("Content-Length") != "" {
				t.Fatalf("the backend sees two lengths: %v", r.Header)
			}
		}
	})
}

// recorder is a backend that keeps what it parsed.
type recorder struct {
	mu   sync.Mutex
	kept []*http.Request
}

func (b *recorder) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = nil
}

func (b *recorder) seen() []*http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.kept)
}

func (b *recorder) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			br := bufio.NewReader(c)
			for {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
				b.mu.Lock()
				b.kept = append(b.kept, r)
				b.mu.Unlock()
				if _, err := io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
					return
				}
			}
		}()
	}
}
