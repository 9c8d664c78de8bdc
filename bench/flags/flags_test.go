//go:build unix

// Package flags_test measures the evaluation of one flag over OFREP beside
// go-feature-flag's relay proxy, both as they are run: programs of their own
// that check a credential and answer 64 kept connections.
package flags_test

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/bench/internal/rivals"
)

// relayEnv names the relay proxy when it is not on PATH.
const relayEnv = "RELAYPROXY"

const service = `name: things
owner: team
on_call: somebody
tenants: [{id: acme, size: small}]
components:
  model_config: {current: mc-1, actuator: {kind: flag}}
  retrieval_params: {current: rp-1, actuator: {kind: flag}}
  workflow_version: {current: wf-1, actuator: {kind: flag}}
  release_version: {current: v1, actuator: {kind: router}}
targets:
  stable: {version: v1, url: "http://127.0.0.1:1"}
  staging: {url: "http://127.0.0.1:1"}
  candidate: {url: "http://127.0.0.1:1"}
rollout:
  tenant_whitelist: [acme]
  enabled_project_sizes: [small, medium, large]
`

const relayFlags = `model_config:
  variations: {stable: mc-1, candidate: mc-2}
  defaultRule: {variation: stable}
`

const (
	path = "/ofrep/v1/evaluate/flags/model_config"
	body = `{"context": {"targetingKey": "5b0c7e9d41f24d0a", "tenant_id": "acme"}}`
)

// evaluate asks as an OpenFeature provider does.
const evaluate = `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = '%s'
`

// BenchmarkOFREP reports evaluations a second, and Headgate's rate and p99 as
// multiples of the relay proxy's. No release is under way, so both answer with
// a flag's only value. Run it with -benchtime 1x; it takes half a minute.
func BenchmarkOFREP(b *testing.B) {
	relay := cmp.Or(os.Getenv(relayEnv), "relayproxy")
	rivals.Need(b, relay, "go install github.com/thomaspoignant/go-feature-flag/cmd/relayproxy@v1.45.5, on PATH or named by "+relayEnv)
	rivals.Need(b, "wrk", "apt-get install -y wrk")
	dir := b.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		return at
	}
	headgate := filepath.Join(dir, "headgate")
	rivals.Output(b, "go", "build", "-C", "../..", "-o", headgate, "./cmd/headgate")
	data := filepath.Join(dir, "data")
	token := tokenOf(b, headgate, "token", "create", "--data", data, "--name", "app", "--role", "viewer", "--tenant", "acme")

	at := rivals.Addresses(b, 5)
	rivals.Run(b, nil, headgate, "serve", "--data", data, "--service", file("headgate.yaml", service),
		"--listen", at[0], "--otlp-grpc", at[1], "--otlp-http", at[2], "--proxy-listen", at[3])
	_, port, err := net.SplitHostPort(at[4])
	if err != nil {
		b.Fatal(err)
	}
	rivals.Run(b, nil, relay, "--config", file("relay.yaml", fmt.Sprintf(
		"listen: %s\nhideBanner: true\nlogLevel: error\nretrievers: [{kind: file, path: %q}]\nauthorizedKeys: {evaluation: [%q]}\n",
		port, file("flags.yaml", relayFlags), token)))
	rivals.Await(b, at[0], at[4])

	script := file("evaluate.lua", fmt.Sprintf(evaluate, token, body))
	for _, addr := range []string{at[0], at[4]} {
		ask(b, addr, token)
	}
	for b.Loop() {
		rivals.Compare(b, map[string]string{"headgate": at[0], "relayproxy": at[4]}, func(addr string) rivals.Result {
			return rivals.Wrk(b, "-s", script, "http://"+addr+path)
		})
	}
	b.ReportMetric(0, "ns/op") // says nothing here
}

// tokenOf is the credential that a command prints.
func tokenOf(b *testing.B, name string, args ...string) string {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), name, args...).Output()
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// ask checks that what is measured is an evaluation.
func ask(b *testing.B, addr, token string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(answer), `"mc-1"`) {
		b.Fatalf("%s answers %d %s %v", addr, resp.StatusCode, answer, err)
	}
}
