// Package replay_test holds the reference service's suite against the service
// itself.
package replay_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/cmd"
	"github.com/headgate/headgate/replay"
)

const (
	owner    = "staging"
	stranger = "acme"
)

// serve runs a version of the service until the test ends.
func serve(t *testing.T, version string) replay.Target {
	t.Helper()
	dir := t.TempDir()
	tokens := map[string]string{owner: "token-of-the-owner-0001", stranger: "token-of-a-stranger-0002"}
	file := filepath.Join(dir, "tokens.json")
	if err := client.WriteTokens(file, tokens); err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	c := cmd.Command()
	c.SetOut(in)
	c.SetArgs([]string{
		"serve", "--listen", "127.0.0.1:0", "--db", filepath.Join(dir, "bidding.db"), "--env", "staging",
		"--version-config", version, "--tokens", file,
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		err := c.ExecuteContext(ctx)
		_ = in.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		t.Fatalf("not ready: %q, %v", line, err)
	}
	if err := replay.WaitHealthy(t.Context(), url+"/healthz", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return replay.Target{BaseURL: url, Credential: func(tenant string) string { return tokens[tenant] }}
}

func suite(t *testing.T) replay.Suite {
	t.Helper()
	s, err := replay.Load(os.DirFS("."), "suite.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func execute(t *testing.T, target replay.Target, decision string, force bool) replay.Run {
	t.Helper()
	run, err := replay.Execute(t.Context(), suite(t), target, replay.Vars{
		Tenant: owner, ProjectID: "prj-replay", SupplierID: "sup-replay", DocType: "bid", ForceHITL: force, Decision: decision,
	})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func mustPass(t *testing.T, run replay.Run) replay.Run {
	t.Helper()
	for _, s := range run.Sessions {
		for _, step := range s.Steps {
			if step.Outcome == replay.StepFailed {
				t.Errorf("%s/%s: %s; answer %s", s.Name, step.Name, step.Failure, step.Body)
			}
		}
	}
	if !run.Passed {
		t.FailNow()
	}
	return run
}

func TestSuiteAgainstTheService(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1.0.0")
	first := mustPass(t, execute(t, stable, "approve", true))
	for _, name := range []string{"parse_job_id", "parse_status", "evaluation_id", "evaluation_job_id", "resume_job_id", "needs_human_review"} {
		if _, ok := first.Value(name); !ok {
			t.Errorf("%s was not captured", name)
		}
	}
	if d := replay.Compare(first, mustPass(t, execute(t, stable, "approve", true))); !d.Equal {
		t.Errorf("the same service twice differs: %+v", d.Differences)
	}
	for _, decision := range []string{"reject", "edit_scores"} {
		mustPass(t, execute(t, stable, decision, true))
	}
	if _, ok := mustPass(t, execute(t, stable, "approve", false)).Value("parse_job_id"); !ok {
		t.Error("no parse job without a forced review")
	}
	got, err := replay.Isolation(t.Context(), suite(t), stable, first, []string{stranger})
	if err != nil || got.TenantScopeViolations+got.AuthBypassFindings+got.Inconclusive > 0 {
		t.Errorf("%+v, %v", got, err)
	}

	good := mustPass(t, execute(t, serve(t, "v1.1.0"), "approve", true))
	if d := replay.Compare(first, good); !d.Equal {
		t.Errorf("the good version differs: %+v", d.Differences)
	}
}

func TestSuiteFindsTheTenantLeak(t *testing.T) {
	t.Parallel()
	leaky := serve(t, "v1.7.0")
	run := mustPass(t, execute(t, leaky, "approve", true))
	got, err := replay.Isolation(t.Context(), suite(t), leaky, run, []string{stranger})
	if err != nil {
		t.Fatal(err)
	}
	if got.TenantScopeViolations == 0 || got.AuthBypassFindings > 0 {
		t.Errorf("%d violations, %d bypasses", got.TenantScopeViolations, got.AuthBypassFindings)
	}
}

// Citations are the quality gate's: its labels know which one is right.
func TestSuiteLeavesCitationsToTheQualityGate(t *testing.T) {
	t.Parallel()
	first := mustPass(t, execute(t, serve(t, "v1.0.0"), "approve", true))
	wrong := mustPass(t, execute(t, serve(t, "v1.2.0"), "approve", true))
	if d := replay.Compare(first, wrong); !d.Equal {
		t.Errorf("differs: %+v", d.Differences)
	}
}

func TestSuiteFailsWhenRequestsFail(t *testing.T) {
	t.Parallel()
	failing := serve(t, "v1.4.0")
	for range 20 { // a fifth of the requests fail
		if run := execute(t, failing, "approve", true); !run.Passed {
			return
		}
	}
	t.Error("20 runs passed")
}
