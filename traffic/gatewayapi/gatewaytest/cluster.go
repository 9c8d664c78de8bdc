package gatewaytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	coreconfigurations "k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/applyconfiguration"
)

// NewCluster starts an API server and returns a kubeconfig for it. It is
// controller-runtime's fake client, whose server-side apply is the API server's
// own code, behind HTTP. The fake keeps no generation, so that is counted here.
func NewCluster(t testing.TB) (kubeconfig string) {
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
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: %q}}]
users: [{name: it, user: {}}]
`, srv.URL)
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

// serve answers /apis/<group>/<version>/Namespaces/<ns>/<resource>/<name>[/status].
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
