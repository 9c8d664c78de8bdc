package gatewayapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

type condition = metav1.Condition

// manager is the field manager under which everything is written.
const manager = "headgate"

// timeout bounds one request to the API server.
const timeout = 5 * time.Second

// cluster is one route and one lease of an API server.
type cluster struct {
	namespace, name string
	routes, leases  dynamic.ResourceInterface
}

func connect(kubeconfig, namespace, name string) (cluster, error) {
	load := rest.InClusterConfig
	if kubeconfig != "" {
		load = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{}).ClientConfig
	}
	cfg, err := load()
	if err != nil {
		return cluster{}, invalid("the cluster cannot be found: %w; name a kubeconfig, or run in a pod with a service account", err)
	}
	cfg.Timeout = timeout
	cfg.QPS = -1 // a rollback does not wait for a token bucket
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return cluster{}, invalid("the kubeconfig cannot be used: %w", err)
	}
	return cluster{
		namespace: namespace, name: name,
		routes: client.Resource(schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "httproutes"}).Namespace(namespace),
		leases: client.Resource(schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}).Namespace(namespace),
	}, nil
}

func (c cluster) get(ctx context.Context) (*httpRoute, error) {
	u, err := c.routes.Get(ctx, c.name, metav1.GetOptions{})
	if err != nil {
		return nil, c.explain(err)
	}
	route := &httpRoute{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, route); err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent, "the API server's HTTPRoute is not of the form gateway.networking.k8s.io/v1").Wrap(err)
	}
	return route, nil
}

// write applies the rules of s with the given share. The route must still be
// what before says, so that of two controllers one learns that it is late.
func (r *Router) write(ctx context.Context, before state, s rollout.Split, share float64) error {
	routed := s
	routed.Share = share
	rules, err := r.rules(routed)
	if err != nil {
		return err
	}
	metadata := map[string]any{"name": r.cfg.Route, "namespace": r.cfg.Namespace, "resourceVersion": before.route.ResourceVersion}
	if r.cfg.Mode != ModeProxy { // whose rules are the same for every split
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		metadata["annotations"] = map[string]any{annotation: string(text)}
	}
	patch, err := plain(map[string]any{
		"apiVersion": gateway.GroupVersion.String(), "kind": "HTTPRoute",
		"metadata": metadata, "spec": map[string]any{"rules": rules},
	})
	if err != nil {
		return err
	}
	_, err = r.cluster.routes.Apply(ctx, r.cfg.Route, patch, metav1.ApplyOptions{FieldManager: manager, Force: r.cfg.Force})
	return r.cluster.explain(err)
}

// plain is v as the dynamic client takes it.
func plain(v any) (*unstructured.Unstructured, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	return u, u.UnmarshalJSON(text)
}

// explain says what to do about an answer of the API server.
func (c cluster) explain(err error) error {
	where := c.namespace + "/" + c.name
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err) && apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict):
		var taken []string
		if errors.As(err, &status) {
			for _, cause := range status.Status().Details.Causes {
				taken = append(taken, fmt.Sprintf("%s (%s)", cause.Field, cause.Message))
			}
		}
		return headgate.Errorf(CodeConflict, headgate.ClassBusinessRule,
			"HTTPRoute %s: another field manager owns what Headgate must change: %s; take the rules out of what that manager applies, or allow Headgate to take them over with force",
			where, strings.Join(taken, ", ")).Wrap(err)
	case moved(err):
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "HTTPRoute %s changed in the same moment; apply again", where).Wrap(err)
	case apierrors.IsNotFound(err):
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"HTTPRoute %s or its kind does not exist; install the Gateway API and create the route with parentRefs and hostnames, and without rules", where).Wrap(err)
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"the API server refuses Headgate's account; it needs get and patch on httproutes, and create, get and patch on leases, in namespace %s", c.namespace).Wrap(err)
	case apierrors.IsInvalid(err):
		return headgate.Invalidf("the API server refuses the rules of HTTPRoute %s: %.500s", where, err.Error())
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the Kubernetes API server does not answer; check the kubeconfig and the network").Wrap(err)
}

// moved reports whether the object changed between reading and writing it.
func moved(err error) bool {
	return apierrors.IsConflict(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict)
}

// others says who else wrote the route's rules.
func others(route *httpRoute) string {
	var names []string
	for _, m := range route.ManagedFields {
		if m.Subresource == "" && m.FieldsV1 != nil && strings.Contains(m.FieldsV1.GetRawString(), `"f:rules"`) && m.Manager != manager {
			names = append(names, fmt.Sprintf("%q", m.Manager))
		}
	}
	if len(names) == 0 {
		return "another process under Headgate's name changed it"
	}
	return "they belong to the field manager " + strings.Join(slices.Compact(names), ", ")
}
