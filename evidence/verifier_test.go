package evidence_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/internal/needs"
)

// TestIndependentVerifier runs the verifier in Python, which knows the format
// from its documentation only, against the same bundles.
func TestIndependentVerifier(t *testing.T) {
	t.Parallel()
	python := needs.Program(t, "python3", "python3")
	keys, err := evidence.OpenKeyring(t.TempDir(), "ci.example.com")
	if err != nil {
		t.Fatal(err)
	}
	r := release("rel_a")
	honest, liar := serverWith(t, keys), serverWith(t, keys)
	kept := honest.checkpointAfterEvent(r)
	honest.record(r, honest.decisions(r.ID))
	good := honest.bundle(r, kept)
	members := unzip(t, good)
	later := honest.checkpoint()
	withTools := honest.decisions(r.ID)
	for i := range withTools {
		withTools[i].Request = []byte(`{"dataset_id":"d","metrics":{},"tools":[{"file":"junit.xml","tool":"junit","verdict":"pass"}]}`)
		withTools[i].Checks = append(withTools[i].Checks, evidence.Check{
			Name: "tool/junit.xml", Code: "TOOL_REPORT_FAILED", Op: "tool", Value: true, Threshold: true, Verdict: headgate.Pass,
		})
	}
	honest.record(r, withTools)
	grown := honest.bundle(r, later)

	ownRules := serverWith(t, keys)
	withCEL := ownRules.decisions(r.ID)
	withCEL[1].Checks = append(withCEL[1].Checks, evidence.Check{
		Name: "search_p95", Code: "SEARCH_P95_EXCEEDED", Threshold: "metrics.search_p95_s <= 2.0", Op: "cel", Verdict: headgate.Pass,
	})
	ownRules.record(r, withCEL)

	liar.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "nothing_happened", ReleaseID: r.ID}})
	fork := liar.checkpoint()
	lies := liar.decisions(r.ID)
	lies[1].Checks[0].Value, lies[1].Values["api_p95_s"] = 2.0, 2.0
	lies[0].Checks[0].Threshold, lies[0].Thresholds["faithfulness_min"] = 0.5, 0.5
	lies[2].Verdict = headgate.Fail
	withTool(&lies[3], s1)
	liar.record(r, lies)

	change := func(edit func(m map[string][]byte)) []byte {
		m := map[string][]byte{}
		for name, content := range members {
			m[name] = bytes.Clone(content)
		}
		edit(m)
		return rezip(t, m)
	}
	const fourth = "statements/0000000004.dsse.json"
	const fifth, sixth = "statements/0000000005.dsse.json", "statements/0000000006.dsse.json"
	tests := []struct {
		name   string
		bundle []byte
		kept   []byte // nil for the first checkpoint
		status int
		want   []string
	}{
		{"good", good, nil, 0, []string{"ok: 9 statements, 4 files"}},
		{"log grown from a later checkpoint", grown, later, 0, []string{"ok: 17 statements, 4 files"}},
		{"byte changed", change(func(m map[string][]byte) { m[fifth][40] ^= 1 }), nil, 1, []string{"MEMBER_CHANGED " + fifth, "INCLUSION_UNPROVEN " + fifth}},
		{"file removed", change(func(m map[string][]byte) { delete(m, fifth) }), nil, 1, []string{"MEMBER_MISSING " + fifth}},
		{"entries exchanged", change(func(m map[string][]byte) { m[fifth], m[sixth] = m[sixth], m[fifth] }), nil, 1, []string{"ENTRY_REORDERED " + fifth + ": it is given as entry 5, but it is entry 6", "ENTRY_REORDERED " + sixth}},
		{"threshold swapped", change(func(m map[string][]byte) {
			m[fifth] = editPayload(t, m[fifth], `"api_p95_s_max":1.5`, `"api_p95_s_max":9.5`)
		}), nil, 1, []string{"SIGNATURE_INVALID " + fifth, "THRESHOLD_SWAPPED " + fifth}},
		{"forged by the server", liar.bundle(r, fork), nil, 1, []string{"CHECKPOINT_FORKED", "VERDICT_FORGED", "THRESHOLD_SWAPPED", "gate security is recorded as fail", "gate cost shows tool runs as []", "OUTCOME_UNSUPPORTED"}},
		{"a rule in CEL", ownRules.bundle(r, nil), ownRules.checkpoint(), 3, []string{"NOT_JUDGED_AGAIN " + fourth + ": rule search_p95", "ok: 8 statements"}},
		{"not a bundle", []byte("hello"), nil, 2, []string{"BUNDLE_UNREADABLE"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, checkpoint := filepath.Join(dir, "bundle.zip"), filepath.Join(dir, "checkpoint")
			if tt.kept == nil {
				tt.kept = kept
			}
			for name, content := range map[string][]byte{path: tt.bundle, checkpoint: tt.kept} {
				if err := os.WriteFile(name, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.CommandContext(t.Context(), python, filepath.Join("..", "examples", "verifier", "verify.py"), //nolint:gosec // our own script
				path, "--key", keys.Current().String(), "--checkpoint", checkpoint).CombinedOutput()
			var exit *exec.ExitError
			status := 0
			if errors.As(err, &exit) {
				status = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}
