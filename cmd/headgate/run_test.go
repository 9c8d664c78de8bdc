//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
)

// fakeServer answers as a control plane does; a release's version says how it
// will end.
type fakeServer struct {
	mu       sync.Mutex
	releases map[string]*fakeRelease
	order    []string
}

type fakeRelease struct {
	client.Release
	events []client.Event
}

// newFakeServer starts one, which knows one release that was rolled back.
func newFakeServer(t *testing.T) string {
	t.Helper()
	f := &fakeServer{releases: map[string]*fakeRelease{}}
	bad := f.add(client.CreateRequest{ID: "rel_bad", Service: "shop", Version: "v0"})
	bad.end(headgate.RolledBack, headgate.StageCanary, "CANARY_ERRORS_WORSE")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/releases", f.create)
	mux.HandleFunc("GET /api/v1/releases", f.list)
	mux.HandleFunc("GET /api/v1/releases/{id}", f.of(func(r *fakeRelease, _ *http.Request) any { return r.Release }))
	mux.HandleFunc("GET /api/v1/releases/{id}/events", f.of(func(r *fakeRelease, req *http.Request) any {
		var after int
		_, _ = fmt.Sscan(req.URL.Query().Get("after"), &after)
		return r.events[after:]
	}))
	mux.HandleFunc("GET /api/v1/releases/{id}/errors", f.of(fakeErrors))
	mux.HandleFunc("GET /api/v1/timeline", fakeTimeline)
	mux.HandleFunc("POST /api/v1/releases/{id}/stages/{stage}", f.of(stage))
	mux.HandleFunc("POST /api/v1/releases/{id}/evidence", f.of(addFake))
	mux.HandleFunc("POST /api/v1/releases/{id}/gates/{gate}/evaluate", f.of(evaluateFake))
	mux.HandleFunc("POST /api/v1/releases/{id}/abort", f.of(func(r *fakeRelease, req *http.Request) any {
		var in struct{ Reason string }
		_ = json.NewDecoder(req.Body).Decode(&in)
		r.event("release_aborted", "", "", in.Reason)
		r.end(headgate.Aborted, r.Stage, "ABORTED")
		return r.Release
	}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func (f *fakeServer) add(in client.CreateRequest) *fakeRelease {
	r := &fakeRelease{}
	r.ID, r.Service, r.Version, r.Digest, r.Phase, r.Reasons = in.ID, in.Service, in.Version, in.Digest, "running", []string{}
	r.Stage = headgate.StageBuild
	r.event("release_created", "", "", "version "+in.Version)
	f.releases[r.ID] = r
	f.order = append([]string{r.ID}, f.order...)
	return r
}

func (f *fakeServer) create(w http.ResponseWriter, req *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in client.CreateRequest
	_ = json.NewDecoder(req.Body).Decode(&in)
	reply(w, http.StatusCreated, f.add(in).Release)
}

func (f *fakeServer) list(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := []headgate.Release{}
	for _, id := range f.order {
		all = append(all, f.releases[id].Release.Release)
	}
	reply(w, http.StatusOK, all)
}

func (f *fakeServer) of(do func(*fakeRelease, *http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		r := f.releases[req.PathValue("id")]
		if r == nil {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":{"code":"RELEASE_NOT_FOUND","message":"there is no such release"},"meta":{"request_id":"req_1"}}`)
			return
		}
		reply(w, http.StatusOK, do(r, req))
	}
}

func reply(w http.ResponseWriter, status int, data any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "data": data})
}

func (r *fakeRelease) event(kind string, s headgate.Stage, v headgate.Verdict, message string) {
	r.events = append(r.events, client.Event{Seq: int64(len(r.events) + 1), Event: headgate.Event{
		Time: time.Now(), Kind: kind, Actor: "headgate", Stage: s, Verdict: v, Message: message,
	}})
}

func (r *fakeRelease) end(o headgate.Outcome, at headgate.Stage, reasons ...string) {
	r.Outcome, r.StoppedAt, r.Phase, r.Reasons = o, at, "done", reasons
}

func stage(r *fakeRelease, req *http.Request) any {
	var in struct {
		Verdict headgate.Verdict
		Summary string
	}
	_ = json.NewDecoder(req.Body).Decode(&in)
	s := headgate.Stage(req.PathValue("stage"))
	r.event("stage_reported", s, in.Verdict, in.Summary)
	r.StageRuns = append(r.StageRuns, headgate.StageRun{Stage: s, Attempt: 1, Verdict: in.Verdict, Summary: in.Summary, EndedAt: time.Now(), StartedAt: time.Now()})
	r.Stage, _ = s.Next()
	if in.Verdict == headgate.Fail {
		r.end(headgate.Blocked, s, "STAGE_FAILED")
	}
	return r.Release
}

func addFake(r *fakeRelease, req *http.Request) any {
	b, _ := io.ReadAll(req.Body)
	q := req.URL.Query()
	r.event("evidence_added", "", "", fmt.Sprintf("%s for %s as %s", q.Get("name"), q.Get("gate"), bytes.TrimSpace(b)))
	switch r.Version {
	case "good":
		r.end(headgate.Promoted, "")
	case "bad":
		r.end(headgate.RolledBack, headgate.StageCanary, "CANARY_ERRORS_WORSE")
	case "thin":
		r.end(headgate.Inconclusive, headgate.StageCanary, "CANARY_INSUFFICIENT_DATA")
	}
	return map[string]any{"gate": q.Get("gate"), "input": map[string]any{"name": q.Get("name"), "digest": "sha256:00", "format": "gitleaks"}}
}

// evaluateFake fails every gate but quality, of which it knows too little.
func evaluateFake(_ *fakeRelease, req *http.Request) any {
	out := map[string]any{
		"gate": req.PathValue("gate"), "verdict": "fail", "failed_checks": []string{"X_HIGH"}, "evidence_index": 41, "evidence_digest": "sha256:41",
		"checks": []map[string]any{{"name": "x", "verdict": "fail", "value": 2, "threshold": 1, "op": "<=", "samples": 7, "source": "x.json"}},
	}
	if req.PathValue("gate") == "quality" {
		out["verdict"] = "insufficient"
	}
	return out
}

// A command that takes too long is killed with all that it started.
func TestCommandIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	pidFile := filepath.Join(t.TempDir(), "pid")
	var log bytes.Buffer
	c := command{
		name: "test", argv: []string{"sh", "-c", "sleep 300 & echo $! > " + pidFile + "; echo started; wait"},
		environ: os.Environ(), timeout: 2 * time.Second, log: &log,
	}
	for ; log.Len() == 0 && c.timeout < time.Minute; c.timeout *= 4 { // a busy machine is slow to start a shell
		res, err := c.run(context.Background())
		if err != nil || res.ok || !strings.Contains(res.why, "longer than "+c.timeout.String()) {
			t.Errorf("result %+v, error %v", res, err)
		}
	}
	if log.String() != "test | started\n" {
		t.Errorf("log %q", log.String())
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if gone(pid) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

// gone reports that a process has ended, whether or not anybody waits for it.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

func TestCommandSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ script, why, stdout string }{
		"last line":        {"echo out; echo 'bad thing' >&2; exit 3", "bad thing", "out"},
		"nothing":          {"exit 3", "exit status 3 and printed nothing", ""},
		"without new line": {"printf 'no end'; exit 1", "no end", "no end"},
		"escape sequences": {`printf '\033]0;title\007\033[1mbold\033[0m\n'; exit 1`, "bold", "bold"},
		"a very long line": {"head -c 100000 /dev/zero | tr '\\0' x; exit 1", "xxx…", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := command{name: "c", argv: []string{"sh", "-c", tt.script}, environ: os.Environ(), timeout: time.Minute}
			res, err := c.run(context.Background())
			if err != nil || res.ok || !strings.HasSuffix(res.why, tt.why) || len(res.why) > 2*maxSummary {
				t.Errorf("result %+v, error %v, want %q", res, err, tt.why)
			}
			if tt.stdout != "" && res.stdout != tt.stdout {
				t.Errorf("stdout %q, want %q", res.stdout, tt.stdout)
			}
		})
	}
	res, err := command{name: "c", argv: []string{"no-such-program"}, timeout: time.Minute}.run(context.Background())
	if err != nil || res.ok || !strings.Contains(res.why, "no-such-program cannot be run") {
		t.Errorf("result %+v, error %v", res, err)
	}
}

// Whoever stops watching does not stop the release.
func TestInterruptLeavesTheRelease(t *testing.T) {
	t.Parallel()
	url := newFakeServer(t)
	c := client.New(url, "", nil)
	ctx := context.Background()
	if _, err := c.CreateRelease(ctx, client.CreateRequest{ID: "rel_2", Service: "shop", Version: "slow"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var out, log bytes.Buffer
	a := &app{stdout: &out, stderr: &log, environ: []string{"HEADGATE_URL=" + url}}
	p := &cancelOnEvent{progress: a.newProgress(&out, false), cancel: cancel}
	rel, err := a.watch(ctx, c, "rel_2", p)
	err = a.finish(ctx, c, rel, err, outputText)
	if !errors.Is(err, exitCode(exitError)) || !strings.Contains(log.String(), "release rel_2 goes on without you") {
		t.Errorf("error %v, stderr %q", err, log.String())
	}
	if rel, err := c.Release(context.Background(), "rel_2"); err != nil || rel.Done() {
		t.Errorf("release %+v, error %v", rel, err)
	}
}

type cancelOnEvent struct {
	progress
	cancel context.CancelFunc
}

func (c *cancelOnEvent) event(e client.Event) { c.progress.event(e); c.cancel() }

func TestLiveDisplay(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	r := client.Release{Phase: "running", Share: 0.1, Evidence: 12, Deadline: start.Add(10 * time.Minute)}
	r.ID, r.Service, r.Version, r.Stage = "rel_1", "shop", "v2", headgate.StageCanary
	r.StageRuns = []headgate.StageRun{
		{Stage: headgate.StageBuild, Verdict: headgate.Pass, Summary: "\x1b[1mok\x1b[2J\a", StartedAt: start, EndedAt: start.Add(65 * time.Second)},
		{Stage: headgate.StageTest, Verdict: headgate.Fail, Reasons: []string{"X"}, StartedAt: start, EndedAt: start.Add(time.Second)},
		{Stage: headgate.StageCanary, StartedAt: start.Add(2 * time.Minute)},
	}
	r.Canary = &client.Canary{Verdict: headgate.Insufficient, Reason: "too few requests", Remaining: 42, Evict: "acme", Stable: client.Totals{Requests: 12345, Errors: 1}}
	var got []string
	for _, l := range liveLines(r, "something happened", start.Add(3*time.Minute)) {
		got = append(got, l.text)
	}
	want := []string{
		"shop v2  release rel_1",
		"  ✓  build      1m05s  ok",
		"  ✗  test          1s  X",
		"  ·  contract", "  ·  replay", "  ·  gate_d", "  ·  rollout",
		"  ▸  canary     1m00s  insufficient: too few requests",
		"  ·  full", "  ·  feedback",
		"  candidate 0 requests, 0 failed   stable 12,345, 1 failed",
		"  nearly all of the candidate's errors are those of tenant acme",
		"  10 % of traffic on the candidate   12 signed statements   about 42s left",
		"  something happened",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("display\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	r.ShareUnconfirmed = "the proxy 10.0.0.2:9901 does not answer"
	lines := liveLines(r, "", start.Add(3*time.Minute))
	if status, why := lines[len(lines)-2].text, lines[len(lines)-1].text; !strings.HasPrefix(status, "  10 % of traffic asked for the candidate ") ||
		why != "  NOT CONFIRMED: the proxy 10.0.0.2:9901 does not answer" {
		t.Errorf("unconfirmed, it shows\n%s\n%s", status, why)
	}
}

func TestShownCanaryNamesWhatCanBeDone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		stage   headgate.Stage
		outcome headgate.Outcome
		want    bool
	}{
		"in its canary": {headgate.StageCanary, "", true},
		"before it":     {headgate.StageRollout, "", false},
		"ended there":   {headgate.StageCanary, headgate.Inconclusive, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r client.Release
			r.ID, r.Stage, r.Outcome = "rel_1", tc.stage, tc.outcome
			var out bytes.Buffer
			if err := showRelease(&out, r, time.Now()); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(out.String(), "headgate release pause|promote|abort rel_1 --reason"); got != tc.want {
				t.Errorf("names the commands: %t, want %t:\n%s", got, tc.want, out.String())
			}
		})
	}
}
