package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/store/sqlite"
	"github.com/headgate/headgate/traffic/gatewayapi/gatewaytest"
	"github.com/headgate/headgate/traffic/proxy"
)

func decode(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }

// stableDelay makes stable a little slower than any candidate, so that a busy
// machine's noise is no verdict on latency.
const stableDelay = 15 * time.Millisecond

// longCanary is one that a test ends.
var longCanary = []string{"ratio: 0.25", "duration: 10m", "max_duration: 20m"}

// planeOptions say what is particular about a scenario.
type planeOptions struct {
	canary []string // lines of the description's canary section
	env    []string // of the control plane
	rps    float64  // of the users; 0 for none
	data   string   // the data folder; empty for one of the scenario's own
	sites  []site   // where a proxy each runs; empty for one beside the control plane
	// lease says that the lease of a share is of interest. Otherwise it lasts
	// for minutes, so that no restart on a slow machine outlasts it.
	lease bool
	// gateway is what users reach the proxy through, if anything.
	gateway *gatewaytest.Gateway
	// haproxy is the directory of a HAProxy that stands there instead of the
	// proxy; empty for none.
	haproxy string
}

// plane is one scenario's control plane and proxy, in front of the world's
// service.
type plane struct {
	w           *world
	dir         string
	data        string
	description string
	tokenFile   string
	env         []string
	api, grpc   string
	otlp        string
	user, admin string
	candidate   string       // where the candidate answers
	admins      []string     // of the proxies at sites, as URLs
	at          []string     // where users find these
	muted       atomic.Value // which part's telemetry does not arrive

	// What leads to stable, to staging, to the proxy's admin listener and to
	// the switches of components.
	stable, staging, adminValve, hook *valve
	switches                          *switches

	serve, proxy *program
	kills        int
	router       rollout.Router
	client       *client.Client
	users        *users
}

func newPlane(t *testing.T, w *world, version string, o planeOptions) *plane {
	t.Helper()
	addrs := needs.Addrs(t, 5)
	p := &plane{
		w: w, dir: t.TempDir(), env: o.env, api: addrs[0], grpc: addrs[1], otlp: addrs[2], user: addrs[3], admin: addrs[4],
		switches: &switches{values: map[string]string{"model_config": "mc-1", "retrieval_params": "rp-1"}, sets: map[string]int{}},
	}
	p.data, p.tokenFile = cmp.Or(o.data, filepath.Join(p.dir, "data")), filepath.Join(p.dir, "proxy-token")
	p.muted.Store("")
	p.candidate = w.cand[version]
	if len(o.sites) > 0 {
		p.stable = newValveAt(t, o.sites[0].here, w.stable, stableDelay)
		p.candidate = newValveAt(t, o.sites[0].here, w.cand[version], 0).URL
	} else {
		p.stable = newValve(t, w.stable, stableDelay)
	}
	p.staging = newValve(t, w.staging[version], 0)
	p.adminValve = newValve(t, "http://"+p.admin, 0)
	if !o.lease {
		p.adminValve.next = lengthenLease(p.adminValve.next)
	}
	p.hook = startValve(t, p.switches)
	p.describe(t, version, o)
	if err := os.WriteFile(p.tokenFile, []byte("proxy-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.router = proxy.NewClient("http://"+p.admin, "proxy-secret", &http.Client{Timeout: time.Minute})
	w.planes.Store(p, "http://"+p.otlp)
	t.Cleanup(func() { w.planes.Delete(p) })
	t.Cleanup(func() { p.tell(t) })
	switch {
	case o.haproxy != "":
		p.startHAProxy(t)
	case len(o.sites) > 0:
		p.startAtSites(t, o.sites)
	default:
		p.startProxy(t)
	}
	p.start(t)
	if o.rps > 0 {
		p.users = startUsers(t, "http://"+p.user, w.tokens, o.rps)
	}
	return p
}

// lengthenLease changes the splits on their way to a proxy.
func lengthenLease(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var s rollout.Split
		if r.Method == http.MethodPut && decode(r.Body, &s) == nil {
			s.TTL = 5 * time.Minute
			body, err := json.Marshal(s)
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		next.ServeHTTP(w, r)
	})
}

// tell shows what happened when a test has failed.
func (p *plane) tell(t *testing.T) {
	if !t.Failed() || p.serve == nil {
		return
	}
	p.serve.kill()
	t.Logf("the control plane's log:\n%s", p.serve.stderr.String())
	ctx := context.Background() // the test's own has ended
	db, err := sqlite.Open(ctx, p.data)
	if err != nil {
		t.Log(err)
		return
	}
	defer db.Close()
	rows, err := db.Events(ctx, control.EventQuery{Limit: 1000})
	if err != nil {
		t.Log(err)
	}
	var b strings.Builder
	for _, e := range rows {
		fmt.Fprintf(&b, "\n%d %s %s %s %s %s", e.Seq, e.Time.Format("15:04:05.000"), e.Stage, e.Kind, e.Verdict, e.Message)
	}
	t.Logf("the audit trail:%s", b.String())
}

// describe writes the scenario's own description beside the world's files.
func (p *plane) describe(t *testing.T, version string, o planeOptions) {
	t.Helper()
	name := filepath.Base(filepath.Dir(p.dir)) + filepath.Base(p.dir)
	ex := &example{exampleOptions: exampleOptions{
		stable: strings.TrimPrefix(p.stable.URL, "http://"), staging: strings.TrimPrefix(p.staging.URL, "http://"),
		candidate: strings.TrimPrefix(p.candidate, "http://"), canary: o.canary,
	}}
	src, err := bidding.Description.ReadFile("headgate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	yaml := string(ex.localise(src))
	yaml = strings.ReplaceAll(yaml, "out/quality.json", "out-"+name+"/quality.json")
	yaml = strings.ReplaceAll(yaml, "--out, out]", "--out, out-"+name+"]")
	for _, current := range []string{"mc-1", "rp-1"} {
		yaml = strings.Replace(yaml, "current: "+current+"\n    actuator: {kind: flag}",
			"current: "+current+"\n    actuator: {kind: hook, url: \""+p.hook.URL+"/{component}\"}", 1)
	}
	if host, _, _ := strings.Cut(strings.TrimPrefix(p.candidate, "http://"), ":"); host != "127.0.0.1" {
		yaml = strings.Replace(yaml, "\n  health_path:", "\n  candidate_hosts: [127.0.0.1, "+host+"]\n  health_path:", 1)
	}
	if o.gateway != nil {
		_, port, _ := strings.Cut(p.user, ":")
		yaml += fmt.Sprintf("\nrouter:\n  gateway_api: {kubeconfig: %q, namespace: %s, route: %s, proxy: \"http://headgate-proxy.%s.svc:%s\"}\n",
			o.gateway.Kubeconfig, gatewaytest.Namespace, o.gateway.Name, gatewaytest.Namespace, port)
	}
	if o.haproxy != "" {
		yaml += fmt.Sprintf("\nrouter: {haproxy: {dir: %q, listen: %q}}\n", o.haproxy, p.user)
	}
	p.description = filepath.Join(p.w.dir, "headgate-"+name+".yaml")
	if err := os.WriteFile(p.description, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *plane) startProxy(t *testing.T) {
	t.Helper()
	p.proxy = launch(t, nil, "proxy", "--service", p.description, "--listen", p.user, "--admin", p.admin,
		"--token-file", p.tokenFile, "--state", filepath.Join(p.dir, "proxy.json"))
	p.proxy.ready(t)
}

// serveArgs are the control plane's command line.
func (p *plane) serveArgs() []string {
	args := []string{
		"serve", "--dev", "--evidence-mode", "verified", "--data", p.data, "--listen", p.api, "--otlp-grpc", p.grpc,
		"--otlp-http", p.otlp, "--service", p.description, "--proxy-token-file", p.tokenFile,
	}
	if p.proxy != nil {
		args = append(args, "--proxy", p.adminValve.URL)
	}
	for _, url := range p.admins {
		args = append(args, "--proxy", url)
	}
	return args
}

// start starts the control plane, the first time or again.
func (p *plane) start(t *testing.T) {
	t.Helper()
	p.serve = launch(t, p.env, p.serveArgs()...)
	address := p.serve.ready(t)
	if p.client == nil {
		token, err := (config.SecretRef{File: filepath.Join(p.data, "dev-token")}).Read()
		if err != nil {
			t.Fatal(err)
		}
		p.client = client.New(address, token, nil)
	}
}

// kill is kill -9 of the control plane.
func (p *plane) kill() {
	p.serve.kill()
	p.kills++
}

// release returns how a release stands, or false while the server is away.
func (p *plane) release(t *testing.T, id string) (client.Release, bool) {
	t.Helper()
	rel, err := p.client.Release(t.Context(), id)
	if err != nil && !headgate.AsError(err).Retryable {
		t.Fatal(err)
	}
	return rel, err == nil
}

// awaitStage waits until a release has reached a stage.
func (p *plane) awaitStage(t *testing.T, id string, stage headgate.Stage) {
	t.Helper()
	var rel client.Release
	await(t, fmt.Sprintf("stage %s", stage), func() bool {
		var ok bool
		if rel, ok = p.release(t, id); ok && rel.Done() && stage != rel.Stage {
			t.Fatalf("waited for %s, but the release has ended: %s %v", stage, rel.Outcome, rel.Reasons)
		}
		return ok && rel.Stage == stage
	})
}

// awaitVerdict waits until the judge of the canary says v.
func (p *plane) awaitVerdict(t *testing.T, id string, v headgate.Verdict) client.Release {
	t.Helper()
	var rel client.Release
	await(t, fmt.Sprintf("the canary's verdict %s", v), func() bool {
		var ok bool
		if rel, ok = p.release(t, id); ok && rel.Done() {
			t.Fatalf("waited for verdict %s, but the release has ended: %s %v", v, rel.Outcome, rel.Reasons)
		}
		return ok && rel.Stage == headgate.StageCanary && rel.Canary != nil && rel.Canary.Verdict == v
	})
	return rel
}

// awaitEnd waits until a release has ended.
func (p *plane) awaitEnd(t *testing.T, id string) client.Release {
	t.Helper()
	var rel client.Release
	await(t, "the release to end", func() bool {
		var ok bool
		rel, ok = p.release(t, id)
		return ok && rel.Done()
	})
	return rel
}

// create begins a release of a version; each has a digest of its own.
func (p *plane) create(t *testing.T, id, version string) {
	t.Helper()
	diff, err := changes("v1.0.0", version)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(p.dir + id))
	_, err = p.client.CreateRelease(t.Context(), client.CreateRequest{
		ID: id, Version: version, Digest: "sha256:" + hex.EncodeToString(sum[:]), Changes: diff,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// report tells the server that a stage passed here.
func (p *plane) report(t *testing.T, id string, stage headgate.Stage) {
	t.Helper()
	if _, err := p.client.ReportStage(t.Context(), id, stage, headgate.Pass, "ok"); err != nil {
		t.Fatal(err)
	}
}

// runDataset runs the labelled dataset against staging.
func (p *plane) runDataset(t *testing.T, version string) {
	t.Helper()
	run := launch(t, nil, "example", "bidding", "quality", "--tenant", "dingxin", "--target", p.w.staging[version],
		"--tokens", filepath.Join(p.w.dir, "tokens.json"), "--out", filepath.Join(p.dir, "quality.json"))
	if code := run.wait(t); code != 0 {
		t.Fatalf("the dataset run ended with %d: %s", code, run.stderr.String())
	}
}

// addReports adds the tools' reports to a release.
func (p *plane) addReports(t *testing.T, id string) {
	t.Helper()
	for _, r := range []struct {
		path string
		as   client.ReportFile
	}{
		{filepath.Join(p.dir, "quality.json"), client.ReportFile{Gate: headgate.GateQuality, Name: "quality.json", Format: "gate-metrics"}},
		{filepath.Join(p.w.dir, "reports", "gitleaks.json"), client.ReportFile{Gate: headgate.GateSecurity, Name: "gitleaks.json", Format: "gitleaks"}},
	} {
		b, err := os.ReadFile(r.path)
		if err == nil {
			_, err = p.client.AddEvidence(t.Context(), id, r.as, bytes.NewReader(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// toCanary takes a release to its first request by a user.
func (p *plane) toCanary(t *testing.T, id, version string) {
	t.Helper()
	p.create(t, id, version)
	p.report(t, id, headgate.StageBuild)
	p.runDataset(t, version)
	p.report(t, id, headgate.StageTest)
	p.addReports(t, id)
	p.awaitStage(t, id, headgate.StageCanary)
	if p.users != nil {
		await(t, "a user to meet the candidate", func() bool { return !p.users.last(headgate.Candidate).IsZero() })
	}
}

// verify takes the release's bundle and has another process verify it.
func (p *plane) verify(t *testing.T, id string) {
	t.Helper()
	bundle := filepath.Join(p.dir, id+".zip")
	var b bytes.Buffer
	if err := p.client.Bundle(t.Context(), id, &b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := launch(t, nil, "evidence", "verify", bundle)
	if code := run.wait(t); code != exitPassed {
		t.Errorf("evidence verify ended with %d: %s%s", code, run.stdout.String(), run.stderr.String())
	}
}

// inspect stops the control plane and reads its database, as the next process
// would find it.
func (p *plane) inspect(t *testing.T, look func(ctx context.Context, db *sqlite.DB)) {
	t.Helper()
	p.serve.stop(t)
	db, err := sqlite.Open(t.Context(), p.data)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	look(t.Context(), db)
}

// setsShare matches the control plane's order to the proxy to give the
// candidate traffic, or to take it away.
func setsShare(some bool) func(*http.Request, []byte) bool {
	return func(r *http.Request, body []byte) bool {
		var s rollout.Split
		return r.Method == http.MethodPut && json.Unmarshal(body, &s) == nil && (s.Share > 0) == some
	}
}
