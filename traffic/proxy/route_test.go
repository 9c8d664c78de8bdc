package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
)

// TestSlowBodyDoesNotOutliveTheShare decides a request for the candidate whose
// body arrives only after the candidate has lost its share: by order, or
// because the lease is over.
func TestSlowBodyDoesNotOutliveTheShare(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*proxy.Proxy, rollout.Split){
		"rolled back": func(p *proxy.Proxy, s rollout.Split) {
			s.Epoch, s.Share = 2, 0
			apply(t, p, s)
		},
		"lease over": func(p *proxy.Proxy, _ rollout.Split) {
			await(t, "the lease to end", func() bool {
				st, err := p.Status(t.Context())
				return err == nil && st.Share == 0
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drain := func(text string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(w, text)
				}
			}
			stable, candidate := serve(t, "v1", drain("v1")), serve(t, "v2", drain("v2"))
			p, url := start(t, proxy.Config{Stable: stable})
			s := allToCandidate(stable, candidate)
			s.TTL = time.Second
			apply(t, p, s)
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			// The proxy says "continue" once it has decided and wants the body.
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
			br := bufio.NewReader(c)
			if line, err := br.ReadString('\n'); !strings.Contains(line, "100") {
				t.Fatalf("%q %v", line, err)
			}
			_, _ = br.ReadString('\n')
			_, _ = io.WriteString(c, "he")
			lose(p, s)
			_, _ = io.WriteString(c, "llo")
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if string(body) != "v1" || resp.Header.Get("X-Release-Route") != "stable" {
				t.Errorf("answered by %s as %s", body, resp.Header.Get("X-Release-Route"))
			}
			eventually(t, p, headgate.Stable, 1, 0)
			eventually(t, p, headgate.Candidate, 0, 0)
		})
	}
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// TestDeadStable takes stable out of service: those who are admitted to a
// healthy candidate are served by it, others are not, and a candidate that was
// rolled back serves nobody.
func TestDeadStable(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", needs.Addrs(t, 1)[0]) // nobody else's while it is dead
	if err != nil {
		t.Fatal(err)
	}
	dead := &httptest.Server{Listener: ln, Config: &http.Server{Handler: says("v1")}}
	dead.Start()
	stable := rollout.Backend{Version: "v1", URL: dead.URL}
	candidate := serve(t, "v2", says("v2"))
	p, url := start(t, proxy.Config{Stable: stable, HealthInterval: 20 * time.Millisecond})
	s := allToCandidate(stable, candidate)
	s.Share, s.AllTenants, s.Tenants, s.TTL = 0.0001, false, []string{"acme"}, time.Second
	apply(t, p, s)
	c := newClient(t)
	ask := func(tenant string) string {
		resp, body := do(t, c, "POST", url, nil, "X-Tenant-Id", tenant)
		if resp.StatusCode != http.StatusOK {
			return resp.Status[:3]
		}
		return body + " as " + resp.Header.Get("X-Release-Route")
	}
	if got := ask("acme"); got != "v1 as stable" {
		t.Fatalf("answered %s while stable is well", got)
	}
	dead.Close()
	await(t, "stable to be seen dead", func() bool {
		st, err := p.Status(t.Context())
		return err == nil && !st.Backends[0].Healthy
	})
	before, err := p.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := ask("acme"); got != "v2 as candidate" {
			t.Errorf("answered %s with only the candidate alive", got)
		}
	}
	if got := ask("globex"); got != "502" {
		t.Errorf("a tenant that is not admitted is answered %s", got)
	}
	after, err := p.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := after.Sub(before).Arm(headgate.Stable); got.Requests != 4 || got.Errors != 4 {
		t.Errorf("stable is counted %d errors of %d requests, want 4 of 4", got.Errors, got.Requests)
	}
	await(t, "the lease to end", func() bool {
		st, err := p.Status(t.Context())
		return err == nil && st.Share == 0
	})
	if got := ask("acme"); got != "v2 as candidate" {
		t.Errorf("answered %s after the lease with only the candidate alive", got)
	}
	s.Epoch, s.Share = 2, 0
	apply(t, p, s)
	if got := ask("acme"); got != "502" {
		t.Errorf("answered %s after the candidate was rolled back", got)
	}
}

func TestRoutesAreCountedApart(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(200)
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nowhere") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(int(status.Load()))
	})})
	c := newClient(t)
	send := func(client *http.Client, method, tenant, path string) {
		do(t, client, method, url+path, nil, "X-Tenant-Id", tenant)
	}
	send(c, "GET", "acme", "/api/v1/jobs/17?q=1")
	send(c, "GET", "acme", "/api/v1/jobs/6f2c-41aa")
	send(h2cClient(t), "GET", "acme", "/api/v1/jobs/18")
	send(c, "POST", "acme", "/api/v1/jobs")
	status.Store(503)
	send(c, "GET", "globex", "/api/v1/jobs/19")
	send(c, "GET", "acme", "/nowhere/a")
	send(c, "GET", "acme", "/"+strings.Repeat("long/", 40))
	status.Store(200)
	for i := range 100 { // more routes than are told apart
		send(c, "GET", "", "/r"+strings.Repeat("x", i))
	}
	eventually(t, p, headgate.Stable, 107, 2)
	counts, err := adminClient(t, p).Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, cell := range counts.Cells {
		sum := uint64(0)
		for _, n := range cell.Latency {
			sum += n
		}
		if sum != cell.Requests {
			t.Errorf("%s %s: %d latencies of %d requests", cell.Tenant, cell.Route, sum, cell.Requests)
		}
		if cell.Tenant != rollout.OtherTenants {
			got[cell.Tenant+" "+cell.Route] = fmt.Sprintf("%d/%d", cell.Errors, cell.Requests)
		}
	}
	if want := "map[acme GET /api/v1/jobs/{id}:0/3 acme POST /api/v1/jobs:0/1 acme other:1/2 globex GET /api/v1/jobs/{id}:1/1]"; fmt.Sprint(got) != want {
		t.Errorf("counted %v, want %s", got, want)
	}
	if n := len(counts.Cells); n > 70 {
		t.Errorf("%d cells: routes are not bounded", n)
	}
	if got := counts.Sub(rollout.Counts{}).Arm(headgate.Stable); got.Requests != 107 || got.Errors != 2 || got.Latency[canary.TimeoutBucket] != 0 {
		t.Errorf("routes add up to %d errors of %d requests", got.Errors, got.Requests)
	}
}

// While a candidate has a share, stable's requests are counted by parts of its
// sessions too: the judge sees from them how much such parts differ by chance.
func TestStableIsCountedInShards(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	stable := serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		if fails.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p, url := start(t, proxy.Config{Stable: stable})
	h1, h2 := newClient(t), h2cClient(t)
	send := func(n int) {
		for i := range n {
			client := h1
			if i%4 == 0 {
				client = h2
			}
			do(t, client, http.MethodGet, url, nil, "X-Tenant-Id", "acme", "X-Session-Id", fmt.Sprint("s", i))
		}
	}
	shards := func(requests, errors uint64) []canary.Shard {
		t.Helper()
		eventually(t, p, headgate.Stable, requests, errors)
		counts, err := p.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range counts.Cells {
			if c.Arm == headgate.Stable && c.Tenant == "acme" {
				return c.Shards
			}
		}
		return nil
	}
	send(10)
	if got := shards(10, 0); got != nil {
		t.Errorf("without a candidate there are shards %v", got)
	}
	s := allToCandidate(stable, serve(t, "v2", says("v2")))
	s.Share = 0.5
	apply(t, p, s)
	const sessions = 200
	send(sessions)
	want := make([]canary.Shard, rollout.NumShards)
	var onStable uint64
	for i := range sessions {
		if place := rollout.PlaceOf(s.Salt, "acme", fmt.Sprint("s", i)); place.Arm(s.Share) == headgate.Stable {
			want[place.Shard()].Requests++
			onStable++
		}
	}
	if got := shards(10+onStable, 0); !slices.Equal(got, want) {
		t.Errorf("shards %v, want %v", got, want)
	}
	for _, part := range want {
		if part.Requests == 0 {
			t.Errorf("a shard of %d sessions is empty: %v", sessions, want)
		}
	}
	fails.Store(true)
	send(sessions)
	for i := range want {
		want[i] = canary.Shard{Requests: 2 * want[i].Requests, Errors: want[i].Requests}
	}
	if got := shards(10+2*onStable, onStable); !slices.Equal(got, want) {
		t.Errorf("shards %v, want %v", got, want)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", says("ok"))})
	do(t, newClient(t), "GET", url+"/jobs/1", nil, "X-Tenant-Id", `a"b\c`)
	eventually(t, p, headgate.Stable, 1, 0)
	admin := httptest.NewServer(p.Admin("right"))
	t.Cleanup(admin.Close)
	_, text := do(t, newClient(t), "GET", admin.URL+"/metrics", nil, "Authorization", "Bearer right")
	for _, want := range []string{
		"# TYPE headgate_proxy_request_duration_seconds histogram\n",
		`headgate_proxy_requests_total{arm="stable",tenant="a\"b\\c",route="GET /jobs/{id}"} 1` + "\n",
		`headgate_proxy_errors_total{arm="stable",tenant="a\"b\\c",route="GET /jobs/{id}"} 0` + "\n",
		`route="GET /jobs/{id}",le="+Inf"} 1` + "\n",
		`headgate_proxy_request_duration_seconds_count{arm="stable",tenant="a\"b\\c",route="GET /jobs/{id}"} 1` + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}
