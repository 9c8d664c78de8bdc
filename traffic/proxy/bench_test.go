package proxy_test

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/traffic/routertest"
)

// BenchmarkProxy compares, in one run, the embedded proxy with a canary under
// way and counts on, and net/http's ReverseProxy without either.
func BenchmarkProxy(b *testing.B) {
	body := strings.Repeat("x", 512)
	backend := func() rollout.Backend {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		srv := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(body) }}
		go func() { _ = srv.Serve(ln) }()
		b.Cleanup(func() { _ = srv.Shutdown() })
		return rollout.Backend{Version: "v", URL: "http://" + ln.Addr().String()}
	}
	stable, candidate := backend(), backend()
	candidate.Version = "v2"
	p, own := start(b, proxy.Config{Stable: stable})
	split := allToCandidate(stable, candidate)
	split.Share, split.AllTenants, split.Tenants = 0.1, false, []string{"acme"}
	apply(b, p, split)

	target, err := url.Parse(stable.URL)
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	plain := &http.Server{ReadHeaderTimeout: time.Minute, Handler: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}}
	go func() { _ = plain.Serve(ln) }()
	b.Cleanup(func() { _ = plain.Close() })

	for _, tc := range []struct{ name, url string }{{"direct", stable.URL}, {"headgate", own}, {"ReverseProxy", "http://" + ln.Addr().String()}} {
		b.Run(tc.name, func(b *testing.B) { load(b, tc.url) })
	}
}

// load sends b.N requests over 64 connections.
func load(b *testing.B, url string) {
	client := &fasthttp.Client{MaxConnsPerHost: 64}
	defer client.CloseIdleConnections()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		wg.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			req.SetRequestURI(url + "/api/v1/jobs/1")
			req.Header.Set("X-Tenant-Id", "acme")
			req.Header.Set("Authorization", "Bearer 0123456789abcdef0123456789abcdef")
			req.Header.Set("Accept", "application/json")
			for left.Add(-1) >= 0 {
				if err := client.Do(req, resp); err != nil || resp.StatusCode() != http.StatusOK || len(resp.Body()) != 512 {
					b.Errorf("answered %d: %v", resp.StatusCode(), err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

// BenchmarkRollback is [routertest.BenchmarkRollback].
func BenchmarkRollback(b *testing.B) {
	routertest.BenchmarkRollback(b, func(stable rollout.Backend, _ time.Duration) routertest.Setup {
		p, url := start(b, proxy.Config{Stable: stable, StatePath: b.TempDir() + "/state.json"})
		return routertest.Setup{Router: p, URL: url}
	})
}
