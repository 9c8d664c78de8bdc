package server_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/server"
)

// A watchdog is for weights alone, and says so instead of idling.
func TestWatchdogIsForWeights(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	svc := config.Service{Name: "things"}
	if err := server.Watchdog(t.Context(), svc, log); err == nil || headgate.AsError(err).Code != headgate.CodeConfigInvalid {
		t.Errorf("without a route: %v", err)
	}
	svc.Router.GatewayAPI = config.GatewayAPI{Mode: config.GatewayProxy, Namespace: "shop", Route: "things", Proxy: "http://proxy"}
	if err := server.Watchdog(t.Context(), svc, log); err == nil || !strings.Contains(err.Error(), "need no watchdog") {
		t.Errorf("behind proxies: %v", err)
	}
	svc.Router.GatewayAPI = config.GatewayAPI{Mode: config.GatewayWeights, Kubeconfig: "/nowhere", Namespace: "shop", Route: "things"}
	if err := server.Watchdog(t.Context(), svc, log); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("without a cluster: %v", err)
	}
}

// Two routers in front of one service would both give shares.
func TestHAProxyInsteadOfProxies(t *testing.T) {
	t.Parallel()
	svc := config.Service{Name: "things", Router: config.Router{HAProxy: config.HAProxy{Dir: "run", Listen: ":8080"}}}
	o := server.Options{
		Settings: settings(t.TempDir()), Services: []config.Service{svc}, Proxies: []string{"http://127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler),
	}
	if _, err := server.New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "has a router.haproxy, and --proxy names proxies") {
		t.Errorf("both: %v", err)
	}
	other := svc
	other.Name = "others"
	o.Services, o.Proxies, o.Settings = []config.Service{svc, other}, nil, settings(t.TempDir())
	if _, err := server.New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "have the same router.haproxy.dir") {
		t.Errorf("one HAProxy for two services: %v", err)
	}
}
