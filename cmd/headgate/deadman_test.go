//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic"
	"github.com/headgate/headgate/traffic/proxy"
)

// TestDeadMansSwitch spoils what lies between a control plane and its proxies
// in a canary, all of them processes of their own: the network is cut, either
// side is paused, the control plane comes back with an older state. A share is
// never raised by who has lost touch, and no user stays on the candidate past
// the lease. docs/crash-safety.md says what each scenario proves.
func TestDeadMansSwitch(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	w := newWorld(t)
	for _, s := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"one of three proxies cut off", cutOff},
		{"control plane paused", controlPlanePaused},
		{"control plane with an older state", olderState},
		{"proxy paused", func(t *testing.T, _ *world) { proxyPaused(t) }},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t, w)
		})
	}
}

// site is a network of its own, reached over two links: one for the control
// plane, which a test cuts, and one for users and the service.
type site struct {
	name          string // of the namespace
	here, there   string // the ends of the link for users
	admin         string // the far end of the control plane's link
	controlDevice string
}

// newSites makes n sites of this machine's kernel.
func newSites(t *testing.T, n int) []site {
	t.Helper()
	program := needs.Program(t, "ip", "iproute2")
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces; run the test as root")
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v %s", args, err, out)
		}
	}
	var sites []site
	for range n {
		var id int
		var name string
		for {
			id = rand.IntN(1 << 14)
			name = fmt.Sprintf("hg%d", id)
			out, err := exec.Command(program, "netns", "add", name).CombinedOutput()
			if err == nil {
				break
			}
			if !strings.Contains(string(out), "File exists") { // another test's
				t.Skipf("no network namespace can be made here: %v %s; run the test where root may", err, out)
			}
		}
		link := func(prefix string) (near, far, device string) { // 198.18.0.0/15 is for tests of networks
			near = fmt.Sprintf("198.%s.%d.%d", prefix, id>>6, id&63<<2|1)
			far = fmt.Sprintf("198.%s.%d.%d", prefix, id>>6, id&63<<2|2)
			device = name + "-" + prefix
			ip("link", "add", device, "type", "veth", "peer", "name", device, "netns", name)
			ip("addr", "add", near+"/30", "dev", device)
			ip("link", "set", device, "up")
			ip("-n", name, "addr", "add", far+"/30", "dev", device)
			ip("-n", name, "link", "set", device, "up")
			return near, far, device
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // its links go with it
		ip("-n", name, "link", "set", "lo", "up")
		s := site{name: name}
		s.here, s.there, _ = link("18")
		_, s.admin, s.controlDevice = link("19")
		ip("-n", name, "route", "add", "default", "via", s.here)
		sites = append(sites, s)
	}
	return sites
}

// cut takes the control plane's link down at the far end: nobody is told.
func (s site) cut(t *testing.T, down bool) {
	t.Helper()
	state := map[bool]string{true: "down", false: "up"}[down]
	if out, err := exec.Command("ip", "-n", s.name, "link", "set", s.controlDevice, state).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// startAtSites starts a proxy of the plane's service at every site.
func (p *plane) startAtSites(t *testing.T, sites []site) {
	t.Helper()
	self, err := exec.LookPath("headgate")
	if err != nil {
		t.Fatal(err)
	}
	var routers []rollout.Router
	for _, s := range sites {
		user, admin := net.JoinHostPort(s.there, "8080"), net.JoinHostPort(s.admin, "9901")
		launchCommand(t, nil, exec.Command("ip", "netns", "exec", s.name, self, "proxy", "--service", p.description, "--listen", user,
			"--admin", admin, "--token-file", p.tokenFile, "--state", filepath.Join(p.dir, s.name+".json"))).ready(t)
		p.at, p.admins = append(p.at, user), append(p.admins, "http://"+admin)
		routers = append(routers, proxy.NewClient("http://"+admin, "proxy-secret", &http.Client{Timeout: time.Minute}))
	}
	p.user, p.router = p.at[0], traffic.Fleet(routers...)
}

// cutOff cuts one of three proxies off from the control plane. It goes to
// stable by itself; and the others too, because a share that one proxy cannot
// be told to give back is not renewed anywhere.
func cutOff(t *testing.T, w *world) {
	const id = "rel-cut"
	sites := newSites(t, 3)
	p := newPlane(t, w, goodVersion, planeOptions{canary: longCanary, sites: sites, rps: userRPS, lease: true})
	at := []*users{p.users}
	for _, address := range p.at[1:] {
		at = append(at, startUsers(t, "http://"+address, w.tokens, userRPS/3))
	}
	p.toCanary(t, id, goodVersion)
	for _, u := range at {
		await(t, "users of every proxy to meet the candidate", func() bool { return !u.last(headgate.Candidate).IsZero() })
	}
	p.awaitTick(t, id)
	sites[1].cut(t, true)
	cut := time.Now()
	// One renewal of the others may still be under way.
	const others = leaseBound + 6*time.Second
	for i, u := range at {
		within := others
		if i == 1 {
			within = leaseBound
		}
		u.awaitStable(t)
		after := u.last(headgate.Candidate).Sub(cut)
		t.Logf("proxy %d: the last answer of the candidate came %.1f s after the cut", i, after.Seconds())
		if after > within {
			t.Errorf("proxy %d: the candidate still answered users %s after the cut, want %s at most", i, after, within)
		}
	}
	sites[1].cut(t, false)
	healed := time.Now()
	p.checkLapsed(t, id)
	for i, u := range at {
		if last := u.last(headgate.Candidate); last.After(healed) {
			t.Errorf("proxy %d: the candidate answered again %s after the cut was healed", i, last.Sub(healed))
		}
		noErrors(t, u)
	}
}

func noErrors(t *testing.T, u *users) {
	t.Helper()
	for _, route := range []headgate.Arm{headgate.Stable, headgate.Candidate, ""} {
		n, failed := u.between(route, time.Time{}, time.Now())
		if failed > 0 || route == "" && n > 0 {
			t.Errorf("users got %d errors of %d answers from %q:%.3000s", failed, n, route, u.failures(time.Time{}))
		}
	}
}

// controlPlanePaused stops the control plane for longer than a lease. Meanwhile
// another controller takes the proxy over under a higher epoch; the one that
// wakes in the belief that a second ago all was well changes nothing.
func controlPlanePaused(t *testing.T, w *world) {
	const id = "rel-paused"
	p := newPlane(t, w, goodVersion, planeOptions{canary: longCanary, rps: userRPS, lease: true})
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	p.serve.signal(t, syscall.SIGSTOP)
	paused := time.Now()
	p.users.awaitStable(t)
	last := p.users.last(headgate.Candidate)
	t.Logf("the last answer of the candidate came %.1f s after the pause began", last.Sub(paused).Seconds())
	if after := last.Sub(paused); after > leaseBound {
		t.Errorf("the candidate still answered users %s after the control plane was paused, want %s at most", after, leaseBound)
	}
	st, err := p.router.Status(t.Context())
	if err != nil || st.Share != 0 {
		t.Fatalf("status %+v, %v", st, err)
	}
	other := rollout.Split{Service: st.Service, Epoch: st.Epoch + 1, ReleaseID: "rel-other", Stable: st.Backends[0].Backend}
	if _, err := p.router.Apply(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	woken := time.Now()
	p.serve.signal(t, syscall.SIGCONT)
	p.checkLapsed(t, id)
	if again := p.users.last(headgate.Candidate); again.After(woken) {
		t.Errorf("the candidate answered again %s after its lease", again.Sub(last))
	}
	p.noneFailed(t, time.Time{})
}

// olderState kills the control plane in a canary and starts it on a copy of its
// data from before the canary.
func olderState(t *testing.T, w *world) {
	const id = "rel-older"
	p := newPlane(t, w, goodVersion, planeOptions{canary: append([]string{"approval_required: true"}, longCanary...), rps: userRPS, lease: true})
	p.create(t, id, goodVersion)
	p.report(t, id, headgate.StageBuild)
	p.runDataset(t, goodVersion)
	p.report(t, id, headgate.StageTest)
	p.addReports(t, id)
	p.awaitStage(t, id, headgate.StageRollout)
	p.kill()
	backup := filepath.Join(p.dir, "backup")
	copyAll(t, p.data, backup)
	p.start(t)
	if _, err := p.client.Approve(t.Context(), id, "looks good"); err != nil {
		t.Fatal(err)
	}
	await(t, "a user to meet the candidate", func() bool { return !p.users.last(headgate.Candidate).IsZero() })
	for range 4 { // so that the copy's epochs do not catch up with the proxy's
		p.awaitTick(t, id)
	}
	p.kill()
	killed := time.Now()
	before, err := p.router.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p.data); err != nil {
		t.Fatal(err)
	}
	copyAll(t, backup, p.data)
	p.start(t)
	if rel, ok := p.release(t, id); !ok || rel.Stage != headgate.StageRollout {
		t.Fatalf("the restored release is at %s", rel.Stage)
	}
	if _, err := p.client.Approve(t.Context(), id, "looks good"); err != nil {
		t.Fatal(err)
	}
	rel := p.awaitEnd(t, id)
	if rel.Outcome != headgate.Inconclusive || !slices.Equal(rel.Reasons, []string{pipeline.ReasonOutdated}) {
		t.Errorf("%s %v", rel.Outcome, rel.Reasons)
	}
	if after := p.users.last(headgate.Candidate).Sub(killed); after > leaseBound {
		t.Errorf("the candidate still answered users %s after the kill, want %s at most", after, leaseBound)
	}
	after, err := p.router.Status(t.Context())
	if err != nil || after.Share != 0 || after.Epoch < before.Epoch {
		t.Errorf("the proxy went from epoch %d to %+v, %v", before.Epoch, after, err)
	}
	p.noneFailed(t, time.Time{})
}

// copyAll copies a folder with its permissions, which keys insist on.
func copyAll(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// proxyPaused stops a proxy under load until its lease is over and lets it go on:
// no request goes to the candidate that was not being written already.
// HEADGATE_PAUSES says how often.
func proxyPaused(t *testing.T) {
	const ttl = time.Second
	var over atomic.Bool // the lease
	var late, met atomic.Int64
	serve := func(version string, note func()) rollout.Backend {
		srv := startValve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(proxy.RouteHeader) != "" { // no health check
				note()
			}
			fmt.Fprint(w, version)
		}))
		return rollout.Backend{Version: version, URL: srv.URL}
	}
	stable := serve("v1", func() {})
	candidate := serve("v2", func() {
		met.Add(1)
		if over.Load() {
			late.Add(1)
		}
	})
	dir := t.TempDir()
	addrs := needs.Addrs(t, 2)
	description, token := filepath.Join(dir, "headgate.yaml"), filepath.Join(dir, "token")
	for path, text := range map[string]string{token: "proxy-secret\n", description: minimalDescription(stable)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	process := launch(t, nil, "proxy", "--service", description, "--listen", addrs[0], "--admin", addrs[1], "--token-file", token)
	process.ready(t)
	router := proxy.NewClient("http://"+addrs[1], "proxy-secret", &http.Client{Timeout: time.Minute})
	u := startUsers(t, "http://"+addrs[0], map[string]string{}, 10*userRPS)
	split := rollout.Split{Service: "shop", ReleaseID: "rel", Stable: stable, Candidate: candidate, Share: 1, AllTenants: true, TTL: ttl}
	rounds := envCount(t, "HEADGATE_PAUSES", 4)
	for range rounds {
		since := met.Load()
		await(t, "users to meet the candidate", func() bool {
			split.Epoch++ // a lease is over when the machine stalls for as long
			if _, err := router.Apply(t.Context(), split); err != nil {
				t.Fatal(err)
			}
			return met.Load() > since+20
		})
		process.signal(t, syscall.SIGSTOP)
		time.Sleep(ttl + 200*time.Millisecond) // what passes is what is tested
		// What was on its way to the candidate before the pause has arrived.
		for seen := int64(-1); seen != met.Load(); time.Sleep(poll) {
			seen = met.Load()
		}
		over.Store(true)
		process.signal(t, syscall.SIGCONT)
		resumed := time.Now()
		await(t, "users to be served by stable", func() bool {
			n, _ := u.between(headgate.Stable, resumed, time.Now())
			return n > 50
		})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := router.Apply(ctx, split) // a renewal that comes late
		cancel()
		if headgate.AsError(err).Code != rollout.CodeLeaseLapsed {
			t.Errorf("late renewal: %v, want LEASE_LAPSED", err)
		}
		over.Store(false)
	}
	// A thread that was stopped between its last look at the clock and the
	// system call that writes makes that call when it goes on.
	if n := late.Load(); n > int64(rounds) {
		t.Errorf("%d requests went to the candidate after the lease was over, in %d pauses", n, rounds)
	}
	t.Logf("%d pauses, %d requests to the candidate before them, %d after", rounds, met.Load(), late.Load())
	noErrors(t, u)
}

func minimalDescription(stable rollout.Backend) string {
	return strings.ReplaceAll(`name: shop
owner: shop-team
on_call: shop-primary
tenants:
  - {id: acme, size: small}
components:
  model_config: {current: m1}
  retrieval_params: {current: r1}
  workflow_version: {current: w1}
  release_version: {current: v1}
targets:
  stable: {version: v1, url: "URL"}
`, "URL", stable.URL)
}
