package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server"
)

// people run commands against a server that runs, each with a credential of
// their own.
type people struct {
	t   *testing.T
	url string
	by  map[string]string
	dir string
}

func newPeople(t *testing.T) *people {
	t.Helper()
	dir := t.TempDir()
	s := config.DefaultSettings()
	s.DataDir, s.Listen, s.OTLPGRPC, s.OTLPHTTP, s.ProxyListen = filepath.Join(dir, "data"), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	srv, err := server.New(t.Context(), server.Options{Settings: s, Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := &people{t: t, url: srv.URL(), by: map[string]string{}, dir: dir}
	for name, role := range map[string]access.Role{"ada": access.Approver, "bob": access.Operator, "ci": access.Releaser} {
		if p.by[name], err = srv.IssueToken(t.Context(), name, role, nil); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// run runs a command as somebody, and expects an exit code and some words.
func (p *people) run(who string, code int, words string, args ...string) string {
	p.t.Helper()
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, environ: []string{"HEADGATE_URL=" + p.url, "HEADGATE_TOKEN=" + p.by[who]}}
	if got := a.run(p.t.Context(), args); got != code || !strings.Contains(out.String(), words) {
		p.t.Errorf("%s: headgate %s: exit code %d, want %d and %q in\n%s", who, strings.Join(args, " "), got, code, words, out.String())
	}
	return out.String()
}

func (p *people) file(name, content string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func TestRulesAreChangedByTwo(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	head := "format: headgate-rules/v1\nowner: platform\nreason: a try\n"
	strict := p.file("strict.yaml", head+"version: 2\nthresholds: {performance: {api_p95_s_max: 1.2}}\n")
	loose := p.file("loose.yaml", head+"version: 3\nthresholds: {performance: {api_p95_s_max: 1.4}}\n")

	p.run("ci", 0, "version 1 of headgate", "rules", "show")
	p.run("ci", 0, "stricter", "rules", "diff", strict)
	p.run("ci", 1, "AUTH_FORBIDDEN", "rules", "propose", strict)
	p.run("ada", 0, "is in force", "rules", "propose", strict)
	p.run("ada", 0, "1 loosened: somebody else has to approve", "rules", "diff", loose)
	out := p.run("ada", 0, "it waits for somebody other than ada", "rules", "propose", loose)
	_, rest, _ := strings.Cut(out, "headgate rules approve ")
	digest, _, _ := strings.Cut(rest, " ")
	p.run("ada", 1, "APPROVAL_REQUIRED", "rules", "approve", digest, "--reason", "mine")
	p.run("bob", 2, "--reason is required", "rules", "approve", digest)
	p.run("bob", 0, "is in force", "rules", "approve", digest[:15], "--reason", "measured twice")
	p.run("bob", 1, "RULES_NOT_FOUND", "rules", "approve", "sha256:00", "--reason", "what?")
	if list := p.run("ci", 0, "in force", "rules", "list"); strings.Count(list, "\n") != 4 || !strings.Contains(list, "ada") || !strings.Contains(list, "bob") {
		t.Errorf("list\n%s", list)
	}
	// What show writes as JSON is a rule file.
	again := p.file("again.json", p.run("ci", 0, `"api_p95_s_max":1.4`, "rules", "show", "-o", "json"))
	p.run("ci", 0, "no verdict would differ", "rules", "diff", again)

	p.run("ci", 0, "0 releases of the last 90d", "rules", "backtest", "--rules", strict)
	p.run("ci", 0, `"blocked_bad":0`, "rules", "backtest", "--rules", strict, "--since", "12h", "-o", "json")
	alerts := p.file("alerts.yaml", "file_format: definition/2\nmetrics:\n  - name: bea.task.cost\n    annotations:\n      headgate:\n        alerts:\n"+
		"          - {name: Dear, figure: task_cost_p95, above: 1, severity: P2, runbook: r.md}\n")
	p.run("ci", 0, "would have alerted", "rules", "backtest", "--alerts", alerts)
	p.run("ci", 0, `"no_metrics":0`, "rules", "backtest", "--alerts", alerts, "-o", "json")
	p.run("ci", 2, "one of --rules and --alerts", "rules", "backtest", "--alerts", alerts, "--rules", strict)
	p.run("ci", 1, "does not know it", "rules", "backtest", "--alerts", p.file("alerts.bad", "file_format: definition/2\nmetrics: [{name: nobody.knows}]\n"))
	p.run("ci", 2, "--since", "rules", "backtest", "--rules", strict, "--since", "soon")
	p.run("ci", 1, "strict.yaml.bad:1", "rules", "propose", p.file("strict.yaml.bad", "format: x\n"))
}

func TestOverridesAreAskedForFromTheCommandLine(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	args := []string{"release", "override", "rel_1", "--gate", "cost", "--reason", "tonight", "--expires", "2h"}
	p.run("ada", 1, "RELEASE_NOT_FOUND", args...)
	p.run("ci", 1, "AUTH_FORBIDDEN", args...)
	p.run("ada", 2, "--gate, --reason and --expires are required", args[:5]...)
	p.run("ada", 2, "--checkpoint goes with --format bundle only", "release", "report", "rel_1", "--checkpoint", "x")
}

// Two people may ask before the release has begun.
func TestAnOverrideWaitsForItsRelease(t *testing.T) {
	t.Parallel()
	missing := headgate.Errorf(headgate.CodeReleaseNotFound, headgate.ClassBusinessRule, "not yet")
	tries := 0
	request := func() (int, error) {
		if tries++; tries < 3 {
			return 0, missing
		}
		return 7, nil
	}
	if got, err := whenThere(t.Context(), time.Minute, request); got != 7 || err != nil || tries != 3 {
		t.Errorf("%d, %v after %d tries", got, err, tries)
	}
	tries = 0
	if _, err := whenThere(t.Context(), 0, request); !errors.Is(err, missing) || tries != 1 {
		t.Errorf("%v after %d tries without waiting", err, tries)
	}
}

func TestShownRulesHideNothingLoose(t *testing.T) {
	t.Parallel()
	set, err := gate.ParseRules("rules.yaml", []byte("format: headgate-rules/v1\nversion: 2\nowner: a\nreason: b\n"+
		"comparisons: {performance: {api_p95_ratio: {max: 1.2, min_samples: 200, floor_s: 0.01}}}\naccept_tool_codes: {security: [TOOL_FINDINGS]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&app{stdout: &out}).showRules(client.RuleChange{Rules: set.Canonical()}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"TOOL_FINDINGS", "ACCEPTED", "1.2, all below 0.01 s alike"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}
