package cmd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/cmd"
	"github.com/headgate/headgate/examples/bidding/dataset"
)

// TestMain lets the test binary be the service, so that tests can start, stop
// and kill real processes.
func TestMain(m *testing.M) {
	if os.Getenv("BIDDING_MAIN") == "" {
		os.Exit(m.Run())
	}
	if err := cmd.Command().Execute(); err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		os.Exit(1)
	}
}

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := cmd.Command()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// start runs a subcommand as a process of its own. An API's address is
// returned.
func start(t *testing.T, args ...string) (*exec.Cmd, string) {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "BIDDING_MAIN=1")
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	if args[0] == "worker" {
		return c, ""
	}
	line := make([]byte, 64)
	n, err := stdout.Read(line)
	if err != nil {
		t.Fatalf("%v did not say that it is ready: %v", args, err)
	}
	return c, strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "ready "))
}

func tokenFile(t *testing.T) (string, map[string]string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens.json")
	if _, err := run(t, "tokens", "--out", file); err != nil {
		t.Fatal(err)
	}
	tokens, err := client.ReadTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, tokens
}

func TestSelftest(t *testing.T) {
	t.Parallel()
	out, err := run(t, "selftest")
	if err != nil || strings.Count(out, "ok ") != 5 {
		t.Errorf("selftest: %v\n%s", err, out)
	}
}

func TestPackageIsReproducible(t *testing.T) {
	t.Parallel()
	digest := map[string]string{}
	for _, dir := range []string{"a", "b"} {
		for _, v := range []string{"v1.0.0", "v1.1.0"} {
			out, err := run(t, "package", "--version-config", v, "--out", filepath.Join(t.TempDir(), dir))
			if err != nil || !strings.HasPrefix(out, "sha256:") || len(strings.TrimSpace(out)) != 71 {
				t.Fatalf("package: %q, %v", out, err)
			}
			if was := digest[v]; was != "" && was != out {
				t.Errorf("%s has two digests", v)
			}
			digest[v] = out
		}
	}
	if digest["v1.0.0"] == digest["v1.1.0"] {
		t.Error("two versions have one digest")
	}
}

func TestTokenFileIsPrivate(t *testing.T) {
	t.Parallel()
	file, tokens := tokenFile(t)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 || len(tokens) != len(cmd.Tenants) {
		t.Errorf("mode %v, %d tokens, %v", info.Mode(), len(tokens), err)
	}
	if _, err := run(t, "tokens", "--out", file); err == nil {
		t.Error("an existing token file was replaced")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	file, _ := tokenFile(t)
	db := filepath.Join(t.TempDir(), "b.db")
	for want, args := range map[string][]string{
		"--tokens":        {"api", "--db", db},
		"--env":           {"worker", "--db", db, "--tokens", file, "--env", "prod"},
		"v9.9.9":          {"serve", "--db", db, "--tokens", file, "--version-config", "v9.9.9"},
		"--listen":        {"serve", "--db", db, "--tokens", file, "--listen", "256.0.0.1:1"},
		"target":          {"quality", "--tokens", file},
		"nobody":          {"quality", "--tokens", file, "--target", "http://127.0.0.1:1", "--tenant", "nobody"},
		"two tenants":     {"isolation", "--tokens", file, "--target", "http://127.0.0.1:1", "--tenants", "acme"},
		"unknown command": {"nonsense"},
	} {
		if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error about %s", args, err, want)
		}
	}
}

// TestProcessesOnOneFile runs two API versions and their workers as processes
// of their own, and kills a worker in the middle.
func TestProcessesOnOneFile(t *testing.T) {
	t.Parallel()
	file, tokens := tokenFile(t)
	db := filepath.Join(t.TempDir(), "b.db")
	_, stable := start(t, "api", "--listen", "127.0.0.1:0", "--db", db, "--tokens", file)
	_, candidate := start(t, "api", "--listen", "127.0.0.1:0", "--db", db, "--tokens", file, "--version-config", "v1.1.0")
	worker, _ := start(t, "worker", "--db", db, "--tokens", file)
	start(t, "worker", "--db", db, "--tokens", file, "--version-config", "v1.1.0")
	d, err := dataset.Load()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bid := d.Bids()[0]
	for _, base := range []string{stable, candidate} {
		c := &client.Client{BaseURL: base, Token: tokens["acme"]}
		q, err := c.Upload(ctx, "p", bid.Supplier, bid.DocType, bid.File, bid.Data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Await(ctx, q.JobID); err != nil {
			t.Fatal(err)
		}
		other := &client.Client{BaseURL: stable, Token: tokens["acme"]}
		if _, err := other.Page(ctx, q.DocumentID, 1); err != nil {
			t.Errorf("the stable version does not see what %s took: %v", base, err)
		}
	}
	// Without a worker of its own, the other version's takes the job in time.
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c := &client.Client{BaseURL: stable, Token: tokens["acme"]}
	q, err := c.Evaluate(ctx, client.Evaluation{Project: "p", Supplier: bid.Supplier, RulePack: d.RulePackVersion})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(ctx, q.JobID); err != nil {
		t.Errorf("the job of a dead worker's version: %v", err)
	}
}

func TestSIGTERMEndsCleanly(t *testing.T) {
	t.Parallel()
	file, _ := tokenFile(t)
	p, _ := start(t, "serve", "--listen", "127.0.0.1:0", "--db", filepath.Join(t.TempDir(), "b.db"), "--tokens", file)
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestCrashLoopCrashes(t *testing.T) {
	t.Parallel()
	file, _ := tokenFile(t)
	version := filepath.Join(t.TempDir(), "crash.yaml")
	err := os.WriteFile(version, []byte("version: v1.8.1\nmodel_config: {name: m}\nretrieval_params: {name: r, top_k: 3}\nworkflow_version: w\nfault: {kind: crash_loop, after: 200ms}\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := start(t, "serve", "--listen", "127.0.0.1:0", "--db", filepath.Join(t.TempDir(), "b.db"), "--tokens", file, "--version-config", version)
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the crashing version ends with %v", err)
	}
}

func TestQualityWritesTheGatesRequest(t *testing.T) {
	t.Parallel()
	file, _ := tokenFile(t)
	_, base := start(t, "serve", "--listen", "127.0.0.1:0", "--db", filepath.Join(t.TempDir(), "b.db"), "--tokens", file, "--env", "staging")
	out := filepath.Join(t.TempDir(), "quality.json")
	if _, err := run(t, "quality", "--target", base, "--tokens", file, "--out", out); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		DatasetID string `json:"dataset_id"`
		Samples   int
		Metrics   map[string]map[string]float64
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.DatasetID != "bidding-gold-v1.0.0" || got.Samples != 40 || len(got.Metrics["ragas"]) != 4 || len(got.Metrics["deepeval"]) != 1 || len(got.Metrics["citation"]) != 1 {
		t.Errorf("%s", data)
	}
	if text, err := run(t, "isolation", "--target", base, "--tokens", file); err != nil || !strings.Contains(text, `"tenant_scope_violations": 0`) {
		t.Errorf("isolation: %v\n%s", err, text)
	}
}
