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
