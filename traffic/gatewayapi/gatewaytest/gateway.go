// Package gatewaytest is a Kubernetes cluster for tests: an API server that
// keeps HTTPRoutes and Leases, and a Gateway that obeys one route. Both answer
// over HTTP on loopback.
//
// The API server merges as the real one does, but neither sets defaults nor
// validates; the Gateway knows header matches and weights and nothing else. No
// test that passes here says that a real implementation of either would do.
package gatewaytest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	clientconfig "k8s.io/client-go/tools/clientcmd"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// Namespace is where the routes are.
const Namespace = "shop"

// HTTPRoutes is the resource of HTTPRoutes.
var HTTPRoutes = schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "httproutes"}

// Gateway obeys one HTTPRoute of an API server. It reaches any Service under
// 127.0.0.1, at the port that the route names.
type Gateway struct {
	// URL is where users reach it.
	URL string
	// Kubeconfig and Name are the route's.
	Kubeconfig, Name string
	// Refuse is the reason for which it finds no backends, if any.
	Refuse atomic.Pointer[string]
	// Silent makes it take changes without saying so.
	Silent atomic.Bool

	t      testing.TB
	routes dynamic.ResourceInterface
	rules  atomic.Pointer[[]gateway.HTTPRouteRule]
	kept   http.Transport // keeps a connection for each of a test's users
}

var names atomic.Int64

// NewGateway makes a route without rules on the API server that kubeconfig
// names, and starts its Gateway.
func NewGateway(t testing.TB, kubeconfig string) *Gateway {
	t.Helper()
	cfg, err := clientconfig.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{
		t: t, kept: http.Transport{MaxIdleConnsPerHost: 32}, Kubeconfig: kubeconfig,
		Name: fmt.Sprintf("bidding-%d", names.Add(1)), routes: client.Resource(HTTPRoutes).Namespace(Namespace),
	}
	g.Apply("platform-team", map[string]any{"parentRefs": []any{map[string]any{"name": "edge"}}})
	srv := httptest.NewServer(g)
	g.URL = srv.URL
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			g.reconcile()
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		running.Wait()
		srv.Close()
		g.kept.CloseIdleConnections()
	})
	return g
}

// Apply applies a route of that spec as manager, by force.
func (g *Gateway) Apply(manager string, spec map[string]any) {
	g.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": g.Name, "namespace": Namespace}, "spec": spec,
	}}
	if _, err := g.routes.Apply(g.t.Context(), g.Name, u, metav1.ApplyOptions{FieldManager: manager, Force: true}); err != nil {
		g.t.Fatal(err)
	}
}

// Route is the route as it stands.
func (g *Gateway) Route() (*unstructured.Unstructured, *gateway.HTTPRoute, error) {
	u, err := g.routes.Get(g.t.Context(), g.Name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	route := &gateway.HTTPRoute{}
	return u, route, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, route)
}

// reconcile does what a Gateway's controller does: it obeys the route and then
// says so.
func (g *Gateway) reconcile() {
	u, route, err := g.Route()
	if err != nil {
		return // the test is over, or the next look sees it
	}
	g.rules.Store(&route.Spec.Rules)
	reason := g.Refuse.Load()
	resolved, why := "True", "ResolvedRefs"
	if reason != nil {
		resolved, why = "False", *reason
	}
	said := len(route.Status.Parents) == 1 && route.Status.Parents[0].Conditions[1].ObservedGeneration == route.Generation &&
		string(route.Status.Parents[0].Conditions[1].Status) == resolved
	if said || g.Silent.Load() {
		return
	}
	condition := func(kind, status, reason string) any {
		return map[string]any{
			"type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": route.Generation,
			"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		}
	}
	u.Object["status"] = map[string]any{"parents": []any{map[string]any{
		"parentRef": map[string]any{"name": "edge"}, "controllerName": "example.net/gateway",
		"conditions": []any{condition("Accepted", "True", "Accepted"), condition("ResolvedRefs", resolved, why)},
	}}}
	_, _ = g.routes.UpdateStatus(g.t.Context(), u, metav1.UpdateOptions{FieldManager: "gateway"}) // or at the next look
}

// ServeHTTP routes as the Gateway API says: of the rules that match, the one
// with the most header matches, then the first; and by weight in it.
func (g *Gateway) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var rules []gateway.HTTPRouteRule
	if loaded := g.rules.Load(); loaded != nil {
		rules = *loaded
	}
	var refs []gateway.HTTPBackendRef
	best := -1
	for _, rule := range rules {
		for _, m := range rule.Matches {
			if len(m.Headers) > best && !slices.ContainsFunc(m.Headers, func(h gateway.HTTPHeaderMatch) bool { return r.Header.Get(string(h.Name)) != h.Value }) {
				best, refs = len(m.Headers), rule.BackendRefs
			}
		}
	}
	sum := int32(0)
	for _, ref := range refs {
		sum += *ref.Weight
	}
	if sum == 0 {
		http.Error(rw, "no rule", http.StatusNotFound)
		return
	}
	pick := rand.Int32N(sum)
	for _, ref := range refs {
		if pick -= *ref.Weight; pick < 0 {
			target := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", *ref.Port)}
			to := httputil.NewSingleHostReverseProxy(target)
			to.Transport = &g.kept
			to.ServeHTTP(rw, r)
			return
		}
	}
}
