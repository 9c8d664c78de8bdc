package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/traffic/routertest"
)

// start serves a proxy on a free port until the test ends.
func start(t testing.TB, cfg proxy.Config) (*proxy.Proxy, string) {
	t.Helper()
	if cfg.Service == "" {
		cfg.Service = routertest.Service
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p, routertest.Serve(t, p)
}

func TestProxyConforms(t *testing.T) {
	t.Parallel()
	routertest.Exercise(t, 100*time.Millisecond, func(t *testing.T, stable rollout.Backend, _ time.Duration) routertest.Setup {
		p, url := start(t, proxy.Config{Stable: stable, StatePath: t.TempDir() + "/state.json"})
		return routertest.Setup{Router: p, URL: url}
	})
}

func TestClientConforms(t *testing.T) {
	t.Parallel()
	routertest.Exercise(t, 100*time.Millisecond, func(t *testing.T, stable rollout.Backend, _ time.Duration) routertest.Setup {
		p, url := start(t, proxy.Config{Stable: stable})
		return routertest.Setup{Router: adminClient(t, p), URL: url}
	})
}

// TestFleetConforms sends traffic to two proxies in turn.
func TestFleetConforms(t *testing.T) {
	t.Parallel()
	routertest.Exercise(t, 100*time.Millisecond, func(t *testing.T, stable rollout.Backend, _ time.Duration) routertest.Setup {
		a, aURL := start(t, proxy.Config{Stable: stable})
		b, bURL := start(t, proxy.Config{Stable: stable})
		var turn atomic.Int64
		front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			next, _ := url.Parse([]string{aURL, bURL}[turn.Add(1)%2])
			r.SetURL(next)
		}})
		t.Cleanup(front.Close)
		return routertest.Setup{Router: traffic.Fleet(a, adminClient(t, b)), URL: front.URL}
	})
}

func adminClient(t *testing.T, p *proxy.Proxy) *proxy.Client {
	admin := httptest.NewServer(p.Admin("admin-token"))
	t.Cleanup(admin.Close)
	hc := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	t.Cleanup(hc.CloseIdleConnections)
	return proxy.NewClient(admin.URL, "admin-token", hc)
}
