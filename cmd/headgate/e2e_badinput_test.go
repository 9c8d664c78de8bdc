package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/pipeline"
)

// nowhere is a version that does not come up.
const nowhere = "v9.9.9"

func candidateNeverHealthy(t *testing.T, w *world) {
	const id = "rel-unhealthy"
	p := newPlane(t, w, nowhere, planeOptions{})
	p.create(t, id, goodVersion)
	p.report(t, id, headgate.StageBuild)
	p.report(t, id, headgate.StageTest)
	rel := p.awaitEnd(t, id)
	if rel.Outcome != headgate.Blocked || rel.StoppedAt != headgate.StageContract || !slices.Equal(rel.Reasons, []string{"CANDIDATE_UNHEALTHY"}) {
		t.Errorf("%s at %s %v, want blocked at contract for CANDIDATE_UNHEALTHY", rel.Outcome, rel.StoppedAt, rel.Reasons)
	}
	if code := p.watch(t, id); code != exitBlocked {
		t.Errorf("release watch ended with %d, want %d", code, exitBlocked)
	}
}

// watch returns with what `headgate release watch` ends.
func (p *plane) watch(t *testing.T, id string) int {
	t.Helper()
	return launch(t, p.clientEnv(), "release", "watch", id).wait(t)
}

func noTraffic(t *testing.T, w *world) {
	const id = "rel-quiet"
	p := newPlane(t, w, goodVersion, planeOptions{canary: []string{"ratio: 0.25", "duration: 10s", "max_duration: 20s"}})
	p.toCanary(t, id, goodVersion)
	rel := p.awaitVerdict(t, id, headgate.Insufficient)
	if !strings.Contains(rel.Canary.Reason, "No request has reached the candidate") {
		t.Errorf("without traffic the canary says %q", rel.Canary.Reason)
	}
	// With a little traffic it says how long that takes.
	p.users = startUsers(t, "http://"+p.user, w.tokens, 8)
	await(t, "the canary to say how long it takes", func() bool {
		rel, ok := p.release(t, id)
		return ok && rel.Canary != nil && strings.Contains(rel.Canary.Reason, "at this traffic it takes about")
	})
	rel = p.awaitEnd(t, id)
	if rel.Outcome != headgate.Inconclusive || !slices.Contains(rel.Reasons, pipeline.ReasonCanaryUndecided) {
		t.Errorf("%s %v, want inconclusive for too little data", rel.Outcome, rel.Reasons)
	}
	if code := p.watch(t, id); code != exitInconclusive {
		t.Errorf("release watch ended with %d, want %d", code, exitInconclusive)
	}
	p.check(t, id, headgate.Inconclusive)
}

// pager is where alerts go.
type pager struct {
	mu     sync.Mutex
	alerts []string // name and status
}

func (p *pager) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var body struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range body.Alerts {
		p.alerts = append(p.alerts, a.Labels["alertname"]+" "+a.Status)
	}
}

func (p *pager) got(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.alerts, what)
}

func telemetryStops(t *testing.T, w *world) {
	const id = "rel-silent"
	alerts := &pager{}
	webhook := httptest.NewServer(alerts)
	t.Cleanup(webhook.Close)
	p := newPlane(t, w, goodVersion, planeOptions{
		canary: []string{"ratio: 0.25", "duration: 8s", "max_duration: 10m"}, env: []string{"OBS_ALERT_WEBHOOK=" + webhook.URL}, rps: userRPS,
	})
	p.toCanary(t, id, goodVersion)
	p.pause(t, id) // until telemetry has been missed
	p.muted.Store("candidate")
	rel := p.awaitVerdict(t, id, headgate.Broken)
	if !strings.Contains(rel.Canary.Reason, "telemetry") {
		t.Errorf("the canary says %q, not that telemetry has stopped", rel.Canary.Reason)
	}
	await(t, "somebody to be told", func() bool { return alerts.got("telemetry_broken firing") })
	// It is held: users go on meeting the candidate, and nothing is decided.
	p.resume(t, id)
	resumed := time.Now()
	for range 2 {
		p.awaitTick(t, id)
	}
	await(t, "users to go on meeting the candidate", func() bool { return p.users.last(headgate.Candidate).After(resumed) })
	if rel, _ := p.release(t, id); rel.Phase != "running" || rel.Share == 0 {
		t.Errorf("with broken telemetry the release is %s with share %v", rel.Phase, rel.Share)
	}
	p.muted.Store("")
	rel = p.awaitEnd(t, id)
	if rel.Outcome != headgate.Promoted {
		t.Errorf("%s %v", rel.Outcome, rel.Reasons)
	}
	await(t, "the alert to end", func() bool { return alerts.got("telemetry_broken resolved") })
	p.check(t, id, headgate.Promoted)
}

func stoppedInCanary(t *testing.T, w *world) {
	const id = "rel-stopped"
	p := newPlane(t, w, goodVersion, planeOptions{canary: []string{"ratio: 0.25", "duration: 12s", "max_duration: 10m"}, rps: userRPS})
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	p.serve.stop(t)
	p.start(t)
	if rel := p.awaitEnd(t, id); rel.Outcome != headgate.Promoted {
		t.Errorf("%s %v", rel.Outcome, rel.Reasons)
	}
	p.noneFailed(t, time.Time{})
	p.check(t, id, headgate.Promoted)
}

func cannotStart(t *testing.T, w *world) {
	p := newPlane(t, w, goodVersion, planeOptions{})
	with := func(flag, value string) []string {
		args := p.serveArgs()
		args[slices.Index(args, flag)+1] = value
		return args
	}
	src, err := os.ReadFile(p.description)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(name, from, to string) string {
		file := filepath.Join(p.dir, name)
		if err := os.WriteFile(file, []byte(strings.Replace(string(src), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	other := func() string { return filepath.Join(p.dir, headgate.NewID("other")) }
	line := 1 + strings.Count(string(src[:strings.Index(string(src), "\nowner:")]), "\n") + 1
	for _, c := range []struct {
		what string
		args []string
		says []string
	}{
		{"a data folder in use", p.serveArgs(), []string{"another headgate process uses " + p.data, "--data"}},
		{"a port in use", with("--data", other()), []string{"127.0.0.1:", "in use"}},
		{"an unknown field", append(with("--data", other()), "--service", spoil("unknown.yaml", "\nowner:", "\nownr:")),
			[]string{fmt.Sprintf("unknown.yaml:%d", line), "ownr"}},
		{"a wrong type", append(with("--data", other()), "--service", spoil("type.yaml", "consecutive_threshold: 2", "consecutive_threshold: many")),
			[]string{"type.yaml:", "consecutive_threshold"}},
		{"no YAML", append(with("--data", other()), "--service", spoil("broken.yaml", "\nowner:", "\nowner: [")),
			[]string{"broken.yaml:"}},
		{"a proxy whose port is in use", []string{"proxy", "--service", p.description, "--listen", p.user, "--admin", "127.0.0.1:0", "--token-file", p.tokenFile},
			[]string{p.user, "in use"}},
	} {
		run := launch(t, nil, c.args...)
		if code := run.wait(t); code != exitError {
			t.Errorf("%s: ended with %d, want %d", c.what, code, exitError)
		}
		said := run.stderr.String()
		for _, want := range c.says {
			if !strings.Contains(said, want) {
				t.Errorf("%s: does not say %q: %s", c.what, want, said)
			}
		}
		if strings.Contains(said, "goroutine ") {
			t.Errorf("%s: panicked: %s", c.what, said)
		}
	}
	if _, err := p.client.Releases(t.Context(), "", 1); err != nil {
		t.Errorf("the control plane that was there first does not answer any more: %v", err)
	}
}

func diskFull(t *testing.T, w *world) {
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "headgate-test", disk).CombinedOutput(); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v: %s", err, out)
	}
	// A process being started may hold a file there for a moment.
	t.Cleanup(func() {
		await(t, "the disk to be given up", func() bool { return exec.Command("umount", disk).Run() == nil })
	})
	const id = "rel-full-disk"
	p := newPlane(t, w, goodVersion, planeOptions{
		canary: longCanary, rps: userRPS, lease: true, data: filepath.Join(disk, "data"),
	})
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	filled := time.Now()
	// What cannot be kept is refused with a reason, and not acknowledged.
	var refused error
	await(t, "a write to be refused", func() bool {
		_, refused = p.client.CreateRelease(t.Context(), client.CreateRequest{ID: headgate.NewID("rel"), Version: goodVersion, Digest: "sha256:" + strings.Repeat("0", 64)})
		return refused != nil
	})
	if e := headgate.AsError(refused); e.Code != headgate.CodeStorageFull {
		t.Errorf("on a full disk a write is answered %s: %s", e.Code, e.Message)
	}
	p.users.awaitStable(t)
	if after := p.users.last(headgate.Candidate).Sub(filled); after > leaseBound+5*time.Second {
		t.Errorf("users met the candidate for %s although nothing about it could be kept", after)
	}
	if p.serve.ended() {
		t.Fatalf("the control plane ended: %s", p.serve.stderr.String())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.checkLapsed(t, id)
	p.noneFailed(t, time.Time{})
}

// fill leaves no room on a file's disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, chunk := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, chunk))
		}
	}
}
