package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/config"
)

// manifests reads the objects of a file as strictly as the API server does,
// unknown and repeated fields included, by kind and name.
func manifests(t *testing.T, file string) map[string]*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	types := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(types), gateway.Install(types)); err != nil {
		t.Fatal(err)
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, types, types, json.SerializerOptions{Yaml: true, Strict: true})
	all := map[string]*unstructured.Unstructured{}
	for r := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		one, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		object, kind, err := strict.Decode(one, nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, one)
		}
		u := &unstructured.Unstructured{}
		if u.Object, err = runtime.DefaultUnstructuredConverter.ToUnstructured(object); err != nil {
			t.Fatal(err)
		}
		all[kind.Kind+" "+u.GetName()] = u
	}
}

// at is what a manifest holds at a path of fields and indices.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

// The example for a cluster works together: what the description names, the
// manifests hold, and the programs are started with flags that they have.
func TestKubernetesExample(t *testing.T) {
	t.Parallel()
	const dir = "../../examples/kubernetes"
	svc, err := config.Load(filepath.Join(dir, "headgate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := manifests(t, filepath.Join(dir, "manifests.yaml"))
	route := svc.Router.GatewayAPI
	if u := all["HTTPRoute "+route.Route]; u == nil || u.GetNamespace() != route.Namespace {
		t.Errorf("no HTTPRoute %s/%s", route.Namespace, route.Route)
	} else if at(u.Object, "spec", "rules") != nil {
		t.Error("the route has rules, which Headgate would have to take over")
	}
	rules := fmt.Sprint(at(all["Role headgate"].Object, "rules"))
	if want := fmt.Sprintf("[map[apiGroups:[gateway.networking.k8s.io] resourceNames:[%s] resources:[httproutes] verbs:[get patch]]]", route.Route); rules != want {
		t.Errorf("the role allows %s, want %s", rules, want)
	}
	proxy, err := url.Parse(route.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	users := all["Service "+strings.TrimSuffix(proxy.Hostname(), "."+route.Namespace+".svc")]
	if users == nil || fmt.Sprint(at(users.Object, "spec", "ports", 0, "port")) != proxy.Port() {
		t.Errorf("router.gateway_api.proxy %s names no Service and port", route.Proxy)
	}

	fleet := all["StatefulSet headgate-proxy"]
	replicas, _ := at(fleet.Object, "spec", "replicas").(int64)
	serve := container(all["StatefulSet headgate"])
	for i := range replicas {
		admin := fmt.Sprintf("--proxy=http://%s-%d.%s.%s.svc:9901", fleet.GetName(), i, at(fleet.Object, "spec", "serviceName"), fleet.GetNamespace())
		if !strings.Contains(serve, admin) {
			t.Errorf("the control plane has no %s", admin)
		}
	}
	if n := strings.Count(serve, "--proxy="); int64(n) != replicas {
		t.Errorf("the control plane tells %d proxies, and there are %d", n, replicas)
	}
	for _, args := range []string{serve, container(fleet)} {
		words := strings.Fields(args)
		c, _, err := (&app{stdout: io.Discard, stderr: io.Discard}).root().Find(words[:1])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ParseFlags(words[1:]); err != nil {
			t.Errorf("headgate %s: %v", words[0], err)
		}
	}
}

// container is the command line of a set's one container.
func container(set *unstructured.Unstructured) string {
	args, _ := at(set.Object, "spec", "template", "spec", "containers", 0, "args").([]any)
	return strings.Trim(fmt.Sprint(args), "[]")
}
