package gatewayapi_test

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/gatewayapi"
	"github.com/headgate/headgate/traffic/gatewayapi/gatewaytest"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/traffic/routertest"
)

// named is a router that knows the suite's backends, which listen on loopback,
// by the names of Services.
type named struct{ rollout.Router }

func (n named) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	s.Stable.URL, s.Candidate.URL = serviceURL(s.Stable.URL), serviceURL(s.Candidate.URL)
	st, err := n.Router.Apply(ctx, s)
	return local(st), err
}

func (n named) Status(ctx context.Context) (rollout.Status, error) {
	st, err := n.Router.Status(ctx)
	return local(st), err
}

func serviceURL(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.Hostname() == "127.0.0.1" {
		return "http://at-" + u.Port() + ".shop.svc:" + u.Port()
	}
	return raw
}

func local(st rollout.Status) rollout.Status {
	for i, b := range st.Backends {
		_, port, _ := strings.Cut(b.URL, ".shop.svc:")
		st.Backends[i].URL = "http://127.0.0.1:" + port
	}
	return st
}

// clusters are the API servers that the suite runs against.
func clusters(t *testing.T, run func(t *testing.T, kubeconfig string)) {
	t.Run("fake", func(t *testing.T) { t.Parallel(); run(t, "") })
	t.Run("kube-apiserver", func(t *testing.T) { t.Parallel(); run(t, realCluster(t)) })
}

// world is a Gateway on one of them.
type world struct{ *gatewaytest.Gateway }

func worldOn(t *testing.T, kubeconfig string) *world {
	t.Helper()
	if kubeconfig == "" {
		kubeconfig = gatewaytest.NewCluster(t)
	}
	return &world{gatewaytest.NewGateway(t, kubeconfig)}
}

func (w *world) config() gatewayapi.Config {
	return gatewayapi.Config{
		Service: "bidding", Kubeconfig: w.Kubeconfig, Namespace: gatewaytest.Namespace, Route: w.Name, Mode: gatewayapi.ModeWeights,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func newRouter(t *testing.T, cfg gatewayapi.Config) *gatewayapi.Router {
	t.Helper()
	r, err := gatewayapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func startProxy(t *testing.T, stable rollout.Backend) (*proxy.Proxy, string) {
	t.Helper()
	p, err := proxy.New(proxy.Config{Service: routertest.Service, Stable: stable})
	if err != nil {
		t.Fatal(err)
	}
	return p, routertest.Serve(t, p)
}

func TestProxyModeConforms(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		routertest.Exercise(t, 500*time.Millisecond, func(t *testing.T, stable rollout.Backend, _ time.Duration) routertest.Setup {
			w := worldOn(t, kubeconfig)
			p, at := startProxy(t, stable)
			cfg := w.config()
			cfg.Mode, cfg.Front, cfg.Proxy = gatewayapi.ModeProxy, p, serviceURL(at)
			return routertest.Setup{Router: newRouter(t, cfg), URL: w.URL}
		})
	})
}

func TestHeaderModeConforms(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		routertest.Exercise(t, 500*time.Millisecond, func(t *testing.T, stable rollout.Backend, _ time.Duration) routertest.Setup {
			w := worldOn(t, kubeconfig)
			gateway := rollout.Backend{Version: stable.Version, URL: w.URL}
			p, at := startProxy(t, gateway)
			cfg := w.config()
			cfg.Mode, cfg.Front, cfg.Gateway = gatewayapi.ModeHeader, p, w.URL
			return routertest.Setup{Router: named{newRouter(t, cfg)}, URL: at, Lacks: []routertest.Guarantee{routertest.Failover}}
		})
	})
}

func TestWeightsModeConforms(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		routertest.Exercise(t, 2*time.Second, func(t *testing.T, _ rollout.Backend, _ time.Duration) routertest.Setup {
			w := worldOn(t, kubeconfig)
			r := newRouter(t, w.config())
			ctx, stop := context.WithCancel(context.Background())
			watching := make(chan struct{})
			go func() { defer close(watching); r.Watch(ctx) }()
			t.Cleanup(func() { stop(); <-watching })
			return routertest.Setup{Router: named{r}, URL: w.URL, Lacks: []routertest.Guarantee{routertest.Sticky, routertest.Counting, routertest.Failover}}
		})
	})
}
