package gatewayapi_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	clientconfig "k8s.io/client-go/tools/clientcmd"

	"github.com/headgate/headgate/traffic/gatewayapi/gatewaytest"
)

// assets is the folder of etcd and kube-apiserver, named as envtest names it.
const assets = "KUBEBUILDER_ASSETS"

var real struct {
	once       sync.Once
	kubeconfig string
	err        error
	stop       func()
}

func TestMain(m *testing.M) {
	code := m.Run()
	if real.stop != nil {
		real.stop()
	}
	os.Exit(code)
}

// realCluster starts one kube-apiserver with the Gateway API for all tests.
func realCluster(t *testing.T) (kubeconfig string) {
	t.Helper()
	dir := os.Getenv(assets)
	if dir == "" {
		t.Skipf("%s does not name a folder with etcd and kube-apiserver; make kube builds them and runs this test", assets)
	}
	real.once.Do(func() { real.kubeconfig, real.err = startCluster(dir) })
	if real.err != nil {
		t.Fatal(real.err)
	}
	return real.kubeconfig
}

func startCluster(assets string) (string, error) {
	dir, err := os.MkdirTemp("", "kube")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	real.stop = func() {
		cancel()
		running.Wait()
		_ = os.RemoveAll(dir)
	}
	var log bytes.Buffer
	run := func(program string, args ...string) {
		cmd := exec.CommandContext(ctx, filepath.Join(assets, program), args...)
		cmd.Stdout, cmd.Stderr = &log, &log
		running.Go(func() { _ = cmd.Run() }) // its log says why it ended
	}
	etcd, peer, api := freePort(), freePort(), freePort()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string]string{
		"sa.key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"tokens": "test,admin,1,system:masters\n",
		"kubeconfig": fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: "https://127.0.0.1:%d", insecure-skip-tls-verify: true}}]
users: [{name: it, user: {token: test}}]
`, api),
	} {
		if err := os.WriteFile(at(name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	run("etcd", "--data-dir", at("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", local4(etcd), "--advertise-client-urls", local4(etcd),
		"--listen-peer-urls", local4(peer), "--initial-advertise-peer-urls", local4(peer), "--initial-cluster", "default="+local4(peer))
	run("kube-apiserver", "--etcd-servers", local4(etcd), "--cert-dir", at("certs"), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(api),
		"--token-auth-file", at("tokens"), "--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", at("sa.key"),
		"--service-account-signing-key-file", at("sa.key"), "--service-cluster-ip-range", "10.0.0.0/24")
	if err := install(ctx, at("kubeconfig")); err != nil {
		return "", fmt.Errorf("%w\n%s", err, log.String()[max(0, log.Len()-4000):])
	}
	return at("kubeconfig"), nil
}

// install adds the namespace and HTTPRoute's definition, and waits until the
// API server serves both.
func install(ctx context.Context, kubeconfig string) error {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(module)), "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"))
	if err != nil {
		return err
	}
	definition := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &definition.Object); err != nil {
		return err
	}
	shop := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": gatewaytest.Namespace}}}
	cfg, err := clientconfig.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	options := metav1.ApplyOptions{FieldManager: "test", Force: true}
	steps := []func() error{
		func() error {
			_, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Apply(ctx, gatewaytest.Namespace, shop, options)
			return err
		},
		func() error {
			_, err := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).
				Apply(ctx, definition.GetName(), definition, options)
			return err
		},
		func() error {
			_, err := client.Resource(gatewaytest.HTTPRoutes).Namespace(gatewaytest.Namespace).List(ctx, metav1.ListOptions{})
			return err
		},
	}
	deadline := time.Now().Add(time.Minute)
	for _, step := range steps {
		for err := step(); err != nil; err = step() {
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

func local4(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// freePort is one below those of outgoing connections.
func freePort() int {
	for {
		port := 20000 + mathrand.IntN(12000)
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = ln.Close()
			return port
		}
	}
}
