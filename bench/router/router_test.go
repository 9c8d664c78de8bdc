//go:build unix

// Package router_test measures the embedded proxy beside nginx and Caddy, all
// with the same two backends behind them, in one run: who is measured changes
// every two seconds, so that a busy machine is busy for all.
package router_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate/bench/internal/rivals"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
)

const (
	bodyBytes  = 512
	roleEnv    = "HEADGATE_BENCH_ROLE"
	adminToken = "bench"
)

// TestMain runs the parts that need a process of their own: this binary again.
func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "backend":
		err = backend(os.Args[1])
	case "proxy":
		err = serveProxy(os.Args[1], os.Args[2], os.Args[3])
	default:
		err = errors.New("no such role: " + role)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// backend answers bodyBytes, below /stream without telling their number first.
func backend(addr string) error {
	body := bytes.Repeat([]byte("x"), bodyBytes)
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		if bytes.HasPrefix(ctx.Path(), []byte("/stream")) {
			ctx.SetBodyStream(bytes.NewReader(body), -1)
			return
		}
		ctx.SetBody(body)
	}}
	return s.ListenAndServe(addr)
}

func serveProxy(addr, admin, stable string) error {
	p, err := proxy.New(proxy.Config{Service: "bidding", Stable: rollout.Backend{Version: "v1", URL: "http://" + stable}})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- p.Serve(ln) }()
	go func() {
		failed <- (&http.Server{Addr: admin, Handler: p.Admin(adminToken), ReadHeaderTimeout: time.Second}).ListenAndServe()
	}()
	return <-failed
}

// The rivals split as the proxy does: one tenant is admitted, a tenth of its
// sessions, by a hash, goes to the candidate. Caddy cannot hash into shares; it
// sends all to stable.
const (
	nginxFile = `daemon off;
worker_processes {cores};
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/temp;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000;
  upstream stable { server {stable}; keepalive 64; keepalive_requests 1000000; }
  upstream candidate { server {candidate}; keepalive 64; keepalive_requests 1000000; }
  split_clients "salt$http_x_tenant_id$http_authorization" $hashed { 10% candidate; * stable; }
  map $http_x_tenant_id $arm { default stable; acme $hashed; }
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Host $host;
  proxy_set_header x-release-route $arm;
  add_header x-release-route $arm;
  server {
    listen {http1} reuseport;
    location / { proxy_pass http://$arm; }
    location /stream { proxy_pass http://$arm; proxy_buffering off; }
  }
  server {
    listen {http2} http2 reuseport;
    location / { proxy_pass http://$arm; }
  }
}
`
	caddyFile = `{
	admin off
	auto_https off
}
http://{http1} {
	reverse_proxy {stable} {
		transport http {
			keepalive_idle_conns_per_host 64
		}
	}
}
`
)

// self is the environment in which this binary is one of its roles.
func self(role string) []string { return []string{roleEnv + "=" + role} }

// rig holds the addresses of what was started.
type rig struct {
	proxy, nginx, nginxHTTP2, caddy string
}

func start(b *testing.B) rig {
	b.Helper()
	for tool, pkg := range map[string]string{"nginx": "nginx-light", "caddy": "caddy", "wrk": "wrk", "h2load": "nghttp2-client"} {
		rivals.Need(b, tool, "apt-get install -y "+pkg)
	}
	dir := b.TempDir()
	addrs := rivals.Addresses(b, 7)
	stable, candidate, admin := addrs[0], addrs[1], addrs[2]
	r := rig{proxy: addrs[3], nginx: addrs[4], nginxHTTP2: addrs[5], caddy: addrs[6]}
	fill := func(name, text string) string {
		text = strings.NewReplacer("{dir}", dir, "{cores}", "2", "{stable}", stable, "{candidate}", candidate,
			"{http1}", map[string]string{"nginx.conf": r.nginx, "Caddyfile": r.caddy}[name], "{http2}", r.nginxHTTP2).Replace(text)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	rivals.Run(b, self("backend"), os.Args[0], stable)
	rivals.Run(b, self("backend"), os.Args[0], candidate)
	rivals.Await(b, stable, candidate)
	rivals.Run(b, self("proxy"), os.Args[0], r.proxy, admin, stable)
	rivals.Run(b, nil, "nginx", "-c", fill("nginx.conf", nginxFile))
	rivals.Run(b, nil, "caddy", "run", "--adapter", "caddyfile", "--config", fill("Caddyfile", caddyFile))
	rivals.Await(b, admin, r.proxy, r.nginx, r.nginxHTTP2, r.caddy)
	_, err := proxy.NewClient("http://"+admin, adminToken, nil).Apply(b.Context(), rollout.Split{
		Service: "bidding", Epoch: 1, Stable: rollout.Backend{Version: "v1", URL: "http://" + stable},
		Candidate: rollout.Backend{Version: "v2", URL: "http://" + candidate}, Share: 0.1, Tenants: []string{"acme"}, Salt: "salt", TTL: rollout.MaxTTL,
	})
	if err != nil {
		b.Fatal(err)
	}
	return r
}

var header = []string{"X-Tenant-Id: acme", "Authorization: Bearer 0123456789abcdef0123456789abcdef", "Accept: application/json"}

var (
	h2Rate   = regexp.MustCompile(`finished in [^,]+, ([0-9.]+) req/s`)
	h2Failed = regexp.MustCompile(`status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
)

// http1 loads an address with wrk.
func http1(b *testing.B, addr, path string) rivals.Result {
	b.Helper()
	var args []string
	for _, h := range header {
		args = append(args, "-H", h)
	}
	return rivals.Wrk(b, append(args, "http://"+addr+path)...)
}

// http2 loads an address with h2load, each connection with one request at a
// time.
func http2(b *testing.B, addr, path string) rivals.Result {
	b.Helper()
	args := []string{"-c" + rivals.Connections, "-m1", "-D" + rivals.Seconds}
	for _, h := range header {
		args = append(args, "-H", h)
	}
	out := rivals.Output(b, "h2load", append(args, "http://"+addr+path)...)
	if codes := h2Failed.FindStringSubmatch(out); codes == nil || codes[1] == "0" || codes[3] != "0" || codes[4] != "0" {
		b.Fatalf("h2load says %s", out)
	}
	return rivals.Result{Rate: rivals.Number(b, h2Rate, out)}
}

// BenchmarkRouters reports requests a second, and the proxy's rate and p99 as
// multiples of a rival's, over all rounds. Run it
// with -benchtime 1x; it takes a minute.
func BenchmarkRouters(b *testing.B) {
	r := start(b)
	for _, tc := range []struct {
		name  string
		load  func(b *testing.B, addr, path string) rivals.Result
		path  string
		addrs map[string]string
	}{
		{"buffered", http1, "/api/v1/jobs/1", map[string]string{"headgate": r.proxy, "nginx": r.nginx, "caddy": r.caddy}},
		{"streaming", http1, "/stream", map[string]string{"headgate": r.proxy, "nginx": r.nginx}},
		{"reverseproxy", http2, "/api/v1/jobs/1", map[string]string{"headgate": r.proxy, "nginx": r.nginxHTTP2}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			for b.Loop() {
				rivals.Compare(b, tc.addrs, func(addr string) rivals.Result { return tc.load(b, addr, tc.path) })
			}
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
}
