package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/pipeline"
)

// userRPS decides a good canary of 25 % in about ten seconds.
const userRPS = 150

// TestEndToEnd runs everything as processes of their own, the reference service
// among them, kills some of them and spoils what they need. docs/crash-safety.md
// says what each scenario proves.
func TestEndToEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	t.Parallel()
	w := newWorld(t)
	for _, s := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"killed at every stage of a good release", killedInGoodRelease},
		{"killed at every stage of a rollback", killedInRollback},
		{"control plane killed and not restarted", controlPlaneStaysDead},
		{"proxy killed in a canary", proxyKilled},
		{"behind a Kubernetes Gateway", behindAGateway},
		{"behind HAProxy, control plane killed", behindHAProxy},
		{"telemetry stops and comes back", telemetryStops},
		{"disk full in a canary", diskFull},
		{"candidate never healthy", candidateNeverHealthy},
		{"no traffic", noTraffic},
		{"stopped in a canary", stoppedInCanary},
		{"cannot start", cannotStart},
		{"killed at random moments", killedAtRandom},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t, w)
		})
	}
}

// path matches the requests of a path that users do not make.
func path(method, prefix string) func(*http.Request, []byte) bool {
	return func(r *http.Request, _ []byte) bool {
		return r.Method == method && strings.HasPrefix(r.URL.Path, prefix) && r.Header.Get("x-release-route") == ""
	}
}

// killHeld kills the control plane when the request to hold is there.
func (p *plane) killHeld(t *testing.T, reached func(*testing.T), pass func()) {
	t.Helper()
	reached(t)
	p.kill()
	pass()
}

// pause lets the canary go on until it is resumed, whatever it has proved.
func (p *plane) pause(t *testing.T, id string) {
	t.Helper()
	if _, err := p.client.Pause(t.Context(), id, "not yet"); err != nil {
		t.Fatal(err)
	}
}

func (p *plane) resume(t *testing.T, id string) {
	t.Helper()
	if _, err := p.client.Resume(t.Context(), id, "now"); err != nil {
		t.Fatal(err)
	}
}

// killIn kills the control plane in a stage that waits, and starts it again.
func (p *plane) killIn(t *testing.T, id string, stage headgate.Stage) {
	t.Helper()
	p.awaitStage(t, id, stage)
	p.kill()
	p.start(t)
	if rel, ok := p.release(t, id); !ok || rel.Stage != stage {
		t.Fatalf("after the restart the release is at %s, was at %s", rel.Stage, stage)
	}
}

// awaitTick waits for a tick of the canary that is not known yet.
func (p *plane) awaitTick(t *testing.T, id string) {
	t.Helper()
	var known time.Time
	await(t, "a tick", func() bool {
		rel, ok := p.release(t, id)
		if !ok || rel.Canary == nil {
			return false
		}
		if known.IsZero() {
			known = rel.Canary.Time
		}
		return rel.Canary.Time.After(known)
	})
}

func killedInGoodRelease(t *testing.T, w *world) {
	const id = "rel-good"
	p := newPlane(t, w, goodVersion, planeOptions{
		canary: []string{"ratio: 0.25", "duration: 8s", "max_duration: 10m", "approval_required: true"}, rps: userRPS,
	})
	p.create(t, id, goodVersion)
	p.killIn(t, id, headgate.StageBuild)
	p.report(t, id, headgate.StageBuild)
	p.runDataset(t, goodVersion)
	p.killIn(t, id, headgate.StageTest)

	reached, pass := p.staging.hold(false, path(http.MethodGet, "/openapi.json"))
	p.report(t, id, headgate.StageTest)
	p.killHeld(t, reached, pass) // in contract
	reached, pass = p.staging.hold(true, path(http.MethodPost, "/api/v1/"))
	p.start(t)
	p.killHeld(t, reached, pass) // in replay
	p.start(t)
	p.killIn(t, id, headgate.StageGateD)
	p.addReports(t, id)
	p.kill() // in gate_d, while it judges or waits for telemetry
	p.start(t)
	p.killIn(t, id, headgate.StageRollout)

	p.pause(t, id) // it may pass before all kills in the canary are done
	reached, pass = p.adminValve.hold(false, setsShare(true))
	if _, err := p.client.Approve(t.Context(), id, "looks good"); err != nil {
		t.Fatal(err)
	}
	p.killHeld(t, reached, pass) // before the share is granted
	reached, pass = p.adminValve.hold(true, setsShare(true))
	p.start(t)
	p.killHeld(t, reached, pass) // the share is granted, and not known to be
	p.start(t)
	p.awaitTick(t, id)
	reached, pass = p.adminValve.hold(false, setsShare(true))
	p.killHeld(t, reached, pass) // the tick is kept, the lease not renewed
	p.start(t)
	p.awaitTick(t, id)
	reached, pass = p.adminValve.hold(true, path(http.MethodGet, "/counts"))
	p.killHeld(t, reached, pass) // in a tick
	p.start(t)

	reached, pass = p.hook.hold(true, path(http.MethodPut, "/retrieval_params"))
	p.resume(t, id)
	p.killHeld(t, reached, pass) // in full, a component is switched
	reached, pass = p.adminValve.hold(true, setsShare(false))
	p.start(t)
	p.killHeld(t, reached, pass) // in full, all traffic is on the candidate
	reached, pass = p.stable.hold(true, func(r *http.Request, _ []byte) bool {
		return path(http.MethodGet, "/api/v1/dlq")(r, nil) && r.Header.Get("Authorization") == "Bearer "+w.tokens["chengyuan"]
	})
	p.start(t)
	p.killHeld(t, reached, pass) // in feedback, two tenants are done
	p.start(t)

	if rel := p.awaitEnd(t, id); rel.Outcome != headgate.Promoted {
		t.Fatalf("%s %v", rel.Outcome, rel.Reasons)
	}
	p.noneFailed(t, time.Time{})
	p.check(t, id, headgate.Promoted)
	if n := p.switches.count(headgate.RetrievalParams, "rp-2"); n != 1 {
		t.Errorf("retrieval_params was switched %d times", n)
	}
}

func killedInRollback(t *testing.T, w *world) {
	const id = "rel-bad"
	p := newPlane(t, w, badVersion, planeOptions{
		canary: []string{"ratio: 0.25", "duration: 20s", "max_duration: 10m"}, rps: userRPS,
	})
	// Nothing is decided by the first look after a user has met the candidate.
	reached, pass := p.adminValve.hold(false, func(r *http.Request, body []byte) bool {
		return path(http.MethodGet, "/counts")(r, body) && !p.users.last(headgate.Candidate).IsZero()
	})
	p.toCanary(t, id, badVersion)
	p.killHeld(t, reached, pass) // in the canary
	reached, pass = p.adminValve.hold(false, setsShare(false))
	p.start(t)
	p.killHeld(t, reached, pass) // the rollback is decided, users still meet the candidate
	reached, pass = p.adminValve.hold(true, setsShare(false))
	p.start(t)
	p.killHeld(t, reached, pass) // users have left the candidate, and it is not known
	stopped := time.Now()
	reached, pass = p.hook.hold(false, path(http.MethodPut, "/model_config"))
	p.start(t)
	p.killHeld(t, reached, pass) // before the first step
	reached, pass = p.hook.hold(true, path(http.MethodPut, "/retrieval_params"))
	p.start(t)
	p.killHeld(t, reached, pass) // the second step has taken effect
	reached, pass = p.adminValve.hold(true, setsShare(false))
	p.start(t)
	p.killHeld(t, reached, pass) // the last step has taken effect
	reached, pass = p.stable.hold(true, path(http.MethodPost, "/api/v1/"))
	p.start(t)
	p.killHeld(t, reached, pass) // in the replay against stable
	p.start(t)

	rel := p.awaitEnd(t, id)
	if rel.Outcome != headgate.RolledBack || !slices.Equal(rel.Reasons, []string{"CANARY_ERRORS_WORSE"}) {
		t.Errorf("%s %v", rel.Outcome, rel.Reasons)
	}
	p.noneFailed(t, stopped)
	if last := p.users.last(headgate.Candidate); last.After(stopped.Add(time.Second)) {
		t.Errorf("a user met the candidate %s after traffic was stopped", last.Sub(stopped))
	}
	p.check(t, id, headgate.RolledBack)
	for component, version := range map[headgate.Component]string{headgate.ModelConfig: "mc-1", headgate.RetrievalParams: "rp-1"} {
		if n := p.switches.count(component, version); n > 1 {
			t.Errorf("%s was switched back %d times", component, n)
		}
	}
}

// noneFailed sees to it that no user noticed anything since a time.
func (p *plane) noneFailed(t *testing.T, since time.Time) {
	t.Helper()
	now := time.Now()
	_, stable := p.users.between(headgate.Stable, since, now)
	_, candidate := p.users.between(headgate.Candidate, since, now)
	lost, _ := p.users.between("", since, now)
	if stable+candidate+lost > 0 {
		t.Errorf("users got %d errors from stable, %d from the candidate, and %d times no answer:%.3000s",
			stable, candidate, lost, p.users.failures(since))
	}
}

// leaseBound is the lease and a margin for a machine on which its last renewal
// arrives late: it bounds how long a dead control plane leaves users on the
// candidate.
const leaseBound = 15 * time.Second

func controlPlaneStaysDead(t *testing.T, w *world) {
	const id = "rel-orphan"
	p := newPlane(t, w, goodVersion, planeOptions{canary: longCanary, rps: userRPS, lease: true})
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	last := p.dies(t)
	restarted := time.Now()
	p.start(t)
	p.checkLapsed(t, id)
	if again := p.users.last(headgate.Candidate); again.After(restarted) {
		t.Errorf("the canary was resumed: the candidate answered again %s after its lease", again.Sub(last))
	}
	p.noneFailed(t, time.Time{})
}

// dies kills the control plane in a canary, sees to it that users are back on
// stable when the lease is over, and returns the candidate's last answer.
func (p *plane) dies(t *testing.T) time.Time {
	t.Helper()
	p.kill()
	killed := time.Now()
	p.users.awaitStable(t)
	last := p.users.last(headgate.Candidate)
	t.Logf("the last answer of the candidate came %.1f s after the kill", last.Sub(killed).Seconds())
	if after := last.Sub(killed); after > leaseBound {
		t.Errorf("the candidate still answered users %s after the control plane died, want %s at most", after, leaseBound)
	}
	if n, _ := p.users.between(headgate.Stable, last, time.Now()); n == 0 {
		t.Error("nobody was served afterwards")
	}
	return last
}

// checkLapsed sees to it that a canary whose lease ran out is rolled back for
// that.
func (p *plane) checkLapsed(t *testing.T, id string) {
	t.Helper()
	rel := p.awaitEnd(t, id)
	if !slices.Equal(rel.Reasons, []string{pipeline.ReasonLeaseLapsed}) || rel.StoppedAt != headgate.StageCanary {
		t.Errorf("stopped at %s because of %v, want the canary's lapsed lease", rel.StoppedAt, rel.Reasons)
	}
	p.check(t, id, headgate.Inconclusive)
}

func proxyKilled(t *testing.T, w *world) {
	const id = "rel-proxy"
	p := newPlane(t, w, goodVersion, planeOptions{canary: longCanary, rps: userRPS, lease: true})
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	p.proxy.kill()
	killed := time.Now()
	p.startProxy(t)
	await(t, "users to be served again", func() bool {
		n, failed := p.users.between(headgate.Stable, killed, time.Now())
		return n > userRPS && failed == 0
	})
	p.checkLapsed(t, id)
	if n, _ := p.users.between(headgate.Candidate, killed.Add(time.Second), time.Now()); n > 0 {
		t.Errorf("the candidate answered %d users after the proxy was killed", n)
	}
}

// killedAtRandom kills the control plane at moments that nobody chose, while
// `headgate release run` takes a release through the pipeline as a CI job does.
// HEADGATE_CRASH_ROUNDS says how often, HEADGATE_CRASH_SEED repeats a round.
func killedAtRandom(t *testing.T, w *world) {
	rounds := envCount(t, "HEADGATE_CRASH_ROUNDS", 1)
	seed := rand.Uint64()
	if s := os.Getenv("HEADGATE_CRASH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("HEADGATE_CRASH_SEED: %v", err)
		}
	}
	for i := range rounds {
		roundSeed := seed + uint64(i)
		ok := t.Run(fmt.Sprintf("seed=%d", roundSeed), func(t *testing.T) {
			randomRound(t, w, rand.New(rand.NewPCG(roundSeed, 0)))
		})
		if !ok {
			t.Fatalf("round %d of %d failed; repeat it with HEADGATE_CRASH_SEED=%d", i+1, rounds, roundSeed)
		}
	}
	t.Logf("%d rounds", rounds)
}

// envCount is a number of rounds that the environment may raise.
func envCount(t *testing.T, name string, usual int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func randomRound(t *testing.T, w *world, rnd *rand.Rand) {
	const id = "rel-random"
	version, outcome, code := goodVersion, headgate.Promoted, exitPassed
	if rnd.IntN(2) == 0 {
		version, outcome, code = badVersion, headgate.RolledBack, exitRolledBack
	}
	p := newPlane(t, w, version, planeOptions{canary: []string{"ratio: 0.25", "duration: 8s", "max_duration: 10m"}, rps: userRPS})
	diff, err := changes("v1.0.0", version)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"release", "run", "-f", p.description, "--version", version, "--release-id", id}
	for _, c := range diff {
		args = append(args, "--component", fmt.Sprintf("%s=%s:%s", c.Component, c.From, c.To))
	}
	job := launch(t, p.clientEnv(), args...)
	await(t, "the release to be created", func() bool {
		_, err := p.client.Release(t.Context(), id)
		return err == nil
	})
	var at []string
	for range 1 + rnd.IntN(6) {
		pause := time.NewTimer(time.Duration(rnd.IntN(7000)) * time.Millisecond)
		select {
		case <-pause.C:
		case <-job.done:
		}
		pause.Stop()
		rel, _ := p.release(t, id)
		if rel.Done() {
			break
		}
		p.kill()
		at = append(at, fmt.Sprintf("%s/%s", rel.Stage, rel.Phase))
		p.start(t)
	}
	t.Logf("%s, killed at %v", version, at)
	got := job.wait(t)
	p.awaitEnd(t, id)
	if got != code {
		t.Errorf("release run ended with %d, want %d: %s%s", got, code, job.stdout.String(), job.stderr.String())
	}
	p.check(t, id, outcome)
}

// clientEnv lets the command line find the control plane.
func (p *plane) clientEnv() []string {
	return []string{"HEADGATE_URL=http://" + p.api, "HEADGATE_TOKEN_FILE=" + filepath.Join(p.data, "dev-token")}
}
