package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/traffic/gatewayapi/gatewaytest"
	"github.com/headgate/headgate/traffic/proxy"
)

// behindAGateway takes a release to users and back in a cluster: the control
// plane makes the HTTPRoute lead to the proxy, and users of the Gateway meet
// the candidate until the rollback, after it stable alone, and never an error.
func behindAGateway(t *testing.T, w *world) {
	const id = "rel-gateway"
	gw := gatewaytest.NewGateway(t, gatewaytest.NewCluster(t))
	p := newPlane(t, w, goodVersion, planeOptions{canary: longCanary, gateway: gw})
	await(t, "the route to lead to the proxy, and the Gateway to follow it", func() bool {
		resp, err := http.Get(gw.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return backends(t, gw) == "headgate-proxy" && resp.Header.Get(proxy.RouteHeader) != ""
	})
	p.users = startUsers(t, gw.URL, w.tokens, userRPS)
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	if _, err := p.client.Rollback(t.Context(), id, "a test of the Gateway"); err != nil {
		t.Fatal(err)
	}
	if rel := p.awaitEnd(t, id); rel.Outcome != headgate.RolledBack {
		t.Errorf("the release ended %s: %v", rel.Outcome, rel.Reasons)
	}
	ended := time.Now()
	await(t, "users of stable after the rollback", func() bool {
		n, _ := p.users.between(headgate.Stable, ended, time.Now())
		return n > userRPS
	})
	if n, _ := p.users.between(headgate.Candidate, ended, time.Now()); n > 0 {
		t.Errorf("the candidate answered %d users after the rollback", n)
	}
	p.noneFailed(t, time.Time{})
	if got := backends(t, gw); got != "headgate-proxy" {
		t.Errorf("after the rollback the route leads to %q", got)
	}
}

// backends are where the route leads.
func backends(t *testing.T, gw *gatewaytest.Gateway) (names string) {
	t.Helper()
	_, route, err := gw.Route()
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range route.Spec.Rules {
		for _, ref := range rule.BackendRefs {
			names += string(ref.Name)
		}
	}
	return names
}
