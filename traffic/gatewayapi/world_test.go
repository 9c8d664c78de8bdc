package gatewayapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	coreconfigurations "k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	clientconfig "k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/applyconfiguration"

	"github.com/headgate/headgate/traffic/gatewayapi"
)

const namespace = "shop"

var httpRoutes = schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "httproutes"}

// world is an API server with one HTTPRoute, and a Gateway that obeys it.
type world struct {
	t          *testing.T
	kubeconfig string
	name       string
	routes     dynamic.ResourceInterface
	url        string // of the Gateway
	// refuse is the reason for which the Gateway finds no backends, if any;
	// silent makes it take changes without saying so.
	refuse atomic.Pointer[string]
	silent atomic.Bool
	rules  atomic.Pointer[[]gateway.HTTPRouteRule]
}

var names atomic.Int64

// newWorld starts the Gateway on the API server that kubeconfig names.
func newWorld(t *testing.T, kubeconfig string) *world {
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
	w := &world{t: t, kubeconfig: kubeconfig, name: fmt.Sprintf("bidding-%d", names.Add(1)), routes: client.Resource(httpRoutes).Namespace(namespace)}
	w.create(map[string]any{"parentRefs": []any{map[string]any{"name": "edge"}}})
	srv := httptest.NewServer(w)
	w.url = srv.URL
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			w.reconcile()
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
	})
	return w
}

func (w *world) create(spec map[string]any) {
	w.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": w.name, "namespace": namespace}, "spec": spec,
	}}
	if _, err := w.routes.Apply(w.t.Context(), w.name, u, metav1.ApplyOptions{FieldManager: "platform-team"}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) route() (*unstructured.Unstructured, *gateway.HTTPRoute, error) {
	u, err := w.routes.Get(w.t.Context(), w.name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	route := &gateway.HTTPRoute{}
	return u, route, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, route)
}

// reconcile does what a Gateway's controller does: it obeys the route and then
// says so.
func (w *world) reconcile() {
	u, route, err := w.route()
	if err != nil {
		return // the test is over, or the next look sees it
	}
	w.rules.Store(&route.Spec.Rules)
	reason := w.refuse.Load()
	resolved, why := "True", "ResolvedRefs"
	if reason != nil {
		resolved, why = "False", *reason
	}
	said := len(route.Status.Parents) == 1 && route.Status.Parents[0].Conditions[1].ObservedGeneration == route.Generation &&
		string(route.Status.Parents[0].Conditions[1].Status) == resolved
	if said || w.silent.Load() {
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
	_, _ = w.routes.UpdateStatus(w.t.Context(), u, metav1.UpdateOptions{FieldManager: "gateway"}) // or at the next look
}

// ServeHTTP routes as the Gateway API says: of the rules that match, the one
// with the most header matches, then the first; and by weight in it.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var rules []gateway.HTTPRouteRule
	if loaded := w.rules.Load(); loaded != nil {
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
			httputil.NewSingleHostReverseProxy(target).ServeHTTP(rw, r)
			return
		}
	}
}

func (w *world) config() gatewayapi.Config {
	return gatewayapi.Config{
		Service: "bidding", Kubeconfig: w.kubeconfig, Namespace: namespace, Route: w.name, Mode: gatewayapi.ModeWeights,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// fakeCluster serves controller-runtime's fake client, whose server-side apply
// is the API server's own code, over HTTP. The fake keeps no generation, so it
// is counted here; defaults and validation it does not know.
func fakeCluster(t *testing.T) (kubeconfig string) {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, gateway.Install} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	f := &fakeServer{generations: map[string]int64{}, client: fake.NewClientBuilder().WithScheme(s).
		WithTypeConverters(applyconfiguration.NewTypeConverter(s), coreconfigurations.NewTypeConverter(s)).
		WithStatusSubresource(&gateway.HTTPRoute{}).WithReturnManagedFields().Build()}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return writeKubeconfig(t, fmt.Sprintf("{server: %q}", srv.URL), "{}")
}

func writeKubeconfig(t *testing.T, cluster, user string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: %s}]
users: [{name: it, user: %s}]
`, cluster, user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

type fakeServer struct {
	client      client.Client
	mu          sync.Mutex
	generations map[string]int64
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, err := f.serve(r)
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			status = apierrors.NewInternalError(err)
		}
		body := status.Status()
		body.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		answer(w, int(body.Code), &body)
		return
	}
	answer(w, http.StatusOK, u)
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// serve answers /apis/<group>/<version>/namespaces/<ns>/<resource>/<name>[/status].
func (f *fakeServer) serve(r *http.Request) (*unstructured.Unstructured, error) {
	at := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	status := len(at) == 8 && at[7] == "status"
	kind := map[string]string{"httproutes": "HTTPRoute", "leases": "Lease"}[at[5]]
	now := &unstructured.Unstructured{}
	now.SetAPIVersion(at[1] + "/" + at[2])
	now.SetKind(kind)
	key := client.ObjectKey{Namespace: at[4], Name: at[6]}
	finish := func(u *unstructured.Unstructured) *unstructured.Unstructured {
		u.SetGeneration(f.generations[r.URL.Path])
		u.SetUID("c0ffee")
		return u
	}
	err := f.client.Get(r.Context(), key, now)
	if r.Method == http.MethodGet {
		return finish(now), err
	}
	next := &unstructured.Unstructured{}
	if err := json.NewDecoder(r.Body).Decode(&next.Object); err != nil {
		return nil, err
	}
	owner := client.FieldOwner(r.URL.Query().Get("fieldManager"))
	switch {
	case status:
		err = f.client.Status().Update(r.Context(), next, owner)
	case r.Method == http.MethodPut:
		err = f.client.Update(r.Context(), next, owner)
	default:
		options := []client.ApplyOption{owner}
		if r.URL.Query().Get("force") == "true" {
			options = append(options, client.ForceOwnership)
		}
		err = f.client.Apply(r.Context(), client.ApplyConfigurationFromUnstructured(next), options...)
	}
	if err != nil {
		return nil, err
	}
	if err := f.client.Get(r.Context(), key, next); err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(now.Object["spec"], next.Object["spec"]) {
		f.generations[r.URL.Path]++
	}
	return finish(next), nil
}
