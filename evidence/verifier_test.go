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

// compared are decisions of which the performance gate's compares two versions.
func (s *server) compared(id string) []evidence.GateDecision {
	all := s.decisions(id)
	rules := `{"format":"headgate-rules/v1","thresholds":{"performance":{"api_p95_s_max":1.5,"cache_hit_rate_min":0.7}},"min_samples":{"performance":{"api_p95_s":200}},` +
		`"comparisons":{"performance":{"api_p95_ratio":{"max":1.2,"min_samples":100,"floor_s":0.5}}}}`
	p := &all[1]
	p.Rules.Digest = s.put(rules)
	p.Thresholds["api_p95_ratio_max"] = 1.2
	p.Values["candidate_api_p95_s"], p.Values["baseline_api_p95_s"], p.Values["api_p95_ratio"] = 0.6, 0.4, 1.2
	p.Checks = append(p.Checks, evidence.Check{
		Name: "api_p95_ratio", Code: "API_P95_RATIO_HIGH", Value: 1.2, Threshold: 1.2, Op: "<=", Unit: "1",
		Samples: ptr(int64(300)), MinSamples: 100, Window: "10m", Distance: ptr(0.0), Verdict: headgate.Pass,
	})
	return all
}

func TestComparisonsAreVerified(t *testing.T) {
	t.Parallel()
	r := release("rel_a")
	for _, tt := range []struct {
		name  string
		forge func(p *evidence.GateDecision)
		want  []string
	}{
		{"honest", func(*evidence.GateDecision) {}, nil},
		{"threshold", func(p *evidence.GateDecision) { p.Checks[2].Threshold, p.Thresholds["api_p95_ratio_max"] = 1.5, 1.5 },
			[]string{"THRESHOLD_SWAPPED: api_p95_ratio_max = 1.5"}},
		{"samples", func(p *evidence.GateDecision) { p.Checks[2].MinSamples = 10 }, []string{"THRESHOLD_SWAPPED: demands 10 samples"}},
		{"too few", func(p *evidence.GateDecision) { p.Checks[2].Samples = ptr(int64(99)) }, []string{"VERDICT_FORGED: fewer than the 100 samples"}},
		{"left out", func(p *evidence.GateDecision) { p.Checks = p.Checks[:2] }, []string{"VERDICT_FORGED: lacks the check api_p95_ratio"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			all := s.compared(r.ID)
			tt.forge(&all[1])
			s.record(r, all)
			wantFindings(t, verify(t, s.bundle(r, nil), evidence.VerifyOptions{}), tt.want)
		})
	}
}

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

	comparing, slower := serverWith(t, keys), serverWith(t, keys)
	comparing.record(r, comparing.compared(r.ID))
	hidden := slower.compared(r.ID)
	hidden[1].Checks[2].Value, hidden[1].Values["api_p95_ratio"] = 1.1, 1.1 // it is 1.2
	slower.record(r, hidden)
	unasked := serverWith(t, keys)
	left := unasked.compared(r.ID)
	left[1].Checks = left[1].Checks[:2]
	delete(left[1].Thresholds, "api_p95_ratio_max")
	unasked.record(r, left)

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
		{"a comparison", comparing.bundle(r, nil), comparing.checkpoint(), 0, []string{"ok: 8 statements"}},
		{"a comparison's number forged", slower.bundle(r, nil), slower.checkpoint(), 1, []string{"VERDICT_FORGED " + fourth + ": check api_p95_ratio has the value 1.1, which does not follow from 0.6 and 0.4"}},
		{"a comparison left out", unasked.bundle(r, nil), unasked.checkpoint(), 1, []string{"gate performance lacks the check api_p95_ratio", "THRESHOLD_SWAPPED " + fourth}},
		{"not a bundle", []byte("hello"), nil, 2, []string{"BUNDLE_UNREADABLE"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, checkpoint, keyFile := filepath.Join(dir, "bundle.zip"), filepath.Join(dir, "checkpoint"), filepath.Join(dir, "keys")
			if tt.kept == nil {
				tt.kept = kept
			}
			for name, content := range map[string][]byte{path: tt.bundle, checkpoint: tt.kept, keyFile: []byte(keys.Current().String() + "\n")} {
				if err := os.WriteFile(name, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.CommandContext(t.Context(), python, filepath.Join("..", "examples", "verifier", "verify.py"), //nolint:gosec // our own script
				path, "--key", keyFile, "--checkpoint", checkpoint).CombinedOutput()
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
