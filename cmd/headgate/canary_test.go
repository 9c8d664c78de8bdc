package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate"
)

// What a bundle holds is enough to come to its canary's verdict again.
func TestTicksOfABundleGiveItsVerdict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	said := canaryCommand(t, "ticks", promoted, "--out", dir)
	logs, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(logs) == 0 || len(logs) != strings.Count(said, "\n") {
		t.Fatalf("%v, %v, said %q", logs, err, said)
	}
	last := logs[len(logs)-1]
	decisions := strings.Split(strings.TrimSpace(canaryCommand(t, "replay", last, "--config", strings.TrimSuffix(last, ".jsonl")+".yaml", "-o", "json")), "\n")
	var d struct {
		Verdict headgate.Verdict `json:"verdict"`
	}
	if err := json.Unmarshal([]byte(decisions[len(decisions)-1]), &d); err != nil || d.Verdict != headgate.Pass {
		t.Errorf("%s, %v", decisions[len(decisions)-1], err)
	}
}

func canaryCommand(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	if code := a.run(t.Context(), append([]string{"canary"}, args...)); code != 0 {
		t.Fatalf("%v: exit %d, %s", args, code, &stderr)
	}
	return stdout.String()
}
