package evidence_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

func TestTampering(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	early := s.checkpointAfterEvent(r)
	s.record(r, s.decisions(r.ID))
	members := unzip(t, s.bundle(r, early))
	var first, second string // two decisions
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if p := payload(t, members[name]); strings.Contains(p, `"gate":"performance"`) && strings.HasPrefix(name, "statements/") {
			first = name
		} else if strings.Contains(p, `"gate":"security"`) && strings.HasPrefix(name, "statements/") {
			second = name
		}
	}
	tests := []struct {
		name   string
		change func(m map[string][]byte)
		want   []string // "code member: part of the message"
	}{
		{"threshold swapped", func(m map[string][]byte) {
			m[first] = editPayload(t, m[first], `"api_p95_s_max":1.5`, `"api_p95_s_max":9.5`)
		}, []string{
			"SIGNATURE_INVALID " + first + ": the statement was changed after it was signed",
			"THRESHOLD_SWAPPED " + first + ": gate performance shows api_p95_s_max = 9.5, but its rule set sha256:",
			"INCLUSION_UNPROVEN " + first + ": it is not entry 5 of the log",
		}},
		{"verdict forged", func(m map[string][]byte) {
			m[first] = editPayload(t, m[first], `"value":0.83`, `"value":7.83`)
		}, []string{"VERDICT_FORGED " + first + ": check api_p95_s of gate performance is recorded as passed, but 7.83 <= 1.5 does not hold"}},
		{"entries exchanged", func(m map[string][]byte) {
			m[first], m[second] = m[second], m[first]
		}, []string{
			"ENTRY_REORDERED " + first + ": it is given as entry 5, but it is entry 6 of the log",
			"ENTRY_REORDERED " + second + ": it is given as entry 6, but it is entry 5 of the log",
		}},
		{"proofs exchanged", func(m map[string][]byte) {
			a, b := strings.Replace(first, "statements/", "proofs/", 1), strings.Replace(second, "statements/", "proofs/", 1)
			a, b = strings.Replace(a, ".dsse", "", 1), strings.Replace(b, ".dsse", "", 1)
			m[a], m[b] = m[b], m[a]
		}, []string{"INCLUSION_UNPROVEN " + first + ": there is no proof that it is entry 5", "MEMBER_INVALID proofs/0000000005.json"}},
		{"file added", func(m map[string][]byte) { m["blobs/notes.txt"] = []byte("x") },
			[]string{"MEMBER_UNEXPECTED blobs/notes.txt: the manifest does not list it"}},
		{"blob renamed", func(m map[string][]byte) {
			for name, content := range m {
				if strings.HasPrefix(name, "blobs/") {
					delete(m, name)
					m["blobs/sha256/"+strings.Repeat("0", 64)] = content
					return
				}
			}
		}, []string{"MEMBER_MISSING blobs/sha256/", "MEMBER_UNEXPECTED blobs/sha256/0000", "MEMBER_CHANGED blobs/sha256/0000"}},
		{"checkpoint's size edited", func(m map[string][]byte) {
			m["checkpoint"] = bytes.Replace(m["checkpoint"], []byte("\n11\n"), []byte("\n12\n"), 1)
		}, []string{"CHECKPOINT_INVALID checkpoint: the signature of key ci.example.com+"}},
		{"signature removed", func(m map[string][]byte) {
			m[first] = []byte(strings.Replace(string(m[first]), `"signatures":[{`, `"signatures":[],"x":[{`, 1))
		}, []string{"SIGNATURE_INVALID " + first + ": it carries no signature"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := maps.Clone(members)
			tt.change(m)
			wantFindings(t, verify(t, rezip(t, m), evidence.VerifyOptions{TrustedKeys: s.keys.Public()}), tt.want)
		})
	}
}

// wantFindings wants, for each "start: part", a finding that starts with the
// one and holds the other, in one printable line.
func wantFindings(t *testing.T, v evidence.Verification, want []string) {
	t.Helper()
	for _, w := range want {
		start, part, _ := strings.Cut(w, ": ")
		if !slices.ContainsFunc(v.Findings, func(f evidence.Finding) bool {
			line := f.String()
			return strings.HasPrefix(line, start) && strings.Contains(line, part) && !strings.ContainsAny(line, "\n\r\x1b")
		}) {
			t.Errorf("no finding %q among:", w)
			for _, f := range v.Findings {
				t.Log(f)
			}
		}
	}
}

func payload(t *testing.T, envelope []byte) string {
	t.Helper()
	var e struct{ Payload string }
	if json.Unmarshal(envelope, &e) != nil {
		return ""
	}
	raw, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func editPayload(t *testing.T, envelope []byte, from, to string) []byte {
	t.Helper()
	p := payload(t, envelope)
	if !strings.Contains(p, from) {
		t.Fatalf("no %s in %s", from, p)
	}
	enc := base64.StdEncoding.EncodeToString
	return bytes.Replace(envelope, []byte(enc([]byte(p))), []byte(enc([]byte(strings.Replace(p, from, to, 1)))), 1)
}

// TestLyingServer covers what a server that holds the key can sign: the
// verdicts are computed again and give it away.
func TestLyingServer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		lie  func(d []evidence.GateDecision)
		want string
	}{
		{"verdict", func(d []evidence.GateDecision) {
			d[1].Checks[0].Verdict, d[1].FailedChecks = headgate.Fail, []string{"API_P95_EXCEEDED"}
			d[1].Checks[0].Value, d[1].Values["api_p95_s"] = 2.0, 2.0
		}, `VERDICT_FORGED: gate performance is recorded as "pass", but its checks give "fail"`},
		{"check", func(d []evidence.GateDecision) {
			d[1].Checks[0].Value, d[1].Values["api_p95_s"] = 2.0, 2.0
		}, "VERDICT_FORGED: 2 <= 1.5 does not hold"},
		{"value", func(d []evidence.GateDecision) { d[1].Values["api_p95_s"] = 0.2 },
			"VERDICT_FORGED: has the value 0.83, but the decision shows 0.2"},
		{"samples", func(d []evidence.GateDecision) { d[1].Checks[0].Samples = ptr(int64(3)) },
			"VERDICT_FORGED: fewer than the 200 samples"},
		{"samples demanded", func(d []evidence.GateDecision) { d[1].Checks[0].MinSamples = 1 },
			"THRESHOLD_SWAPPED: demands 1 samples, but its rule set"},
		{"threshold", func(d []evidence.GateDecision) {
			d[0].Checks[0].Threshold, d[0].Thresholds["faithfulness_min"] = 0.5, 0.5
			d[0].Checks[0].Value, d[0].Values["faithfulness"] = 0.6, 0.6
		}, "THRESHOLD_SWAPPED: gate quality shows faithfulness_min = 0.5, but its rule set"},
		{"threshold of a check", func(d []evidence.GateDecision) { d[0].Checks[0].Threshold = 0.5 },
			"THRESHOLD_SWAPPED: was made against 0.5, but the decision shows the threshold 0.9"},
		{"no value", func(d []evidence.GateDecision) { d[0].Checks[0].Value, d[0].Values = nil, map[string]any{} },
			"VERDICT_FORGED: passed without a value"},
		{"failed checks", func(d []evidence.GateDecision) { d[0].FailedChecks = []string{"X"} },
			"VERDICT_FORGED: lists 1 failed checks, but 0"},
		{"boolean", func(d []evidence.GateDecision) {
			d[3].Checks[1].Value, d[3].Values["routing_degrade_passed"] = false, false
		}, "VERDICT_FORGED: false == true does not hold"},
		{"declared", func(d []evidence.GateDecision) { d[2].Declared = true },
			"OUTCOME_UNSUPPORTED: gate security was only declared"},
		{"control characters", func(d []evidence.GateDecision) { d[2].Verdict = "pass\n\x1b[2Jall holds" },
			"VERDICT_FORGED: gate security is recorded as"},
		{"tool's failure left out", func(d []evidence.GateDecision) { withTool(&d[1], s1) },
			"VERDICT_FORGED: gate performance shows tool runs as []"},
		{"tool's failure waved through", func(d []evidence.GateDecision) {
			withTool(&d[1], s1)
			d[1].Checks = append(d[1].Checks, evidence.Check{Name: "tool/k6.json", Code: "TOOL_THRESHOLD_CROSSED", Op: "tool", Value: false, Threshold: false, Verdict: headgate.Pass})
		}, "VERDICT_FORGED: its request and its rule set give [{tool/k6.json TOOL_THRESHOLD_CROSSED fail}]"},
		{"tool's report that is nobody's", func(d []evidence.GateDecision) {
			withTool(&d[1], "sha256:"+strings.Repeat("0", 64))
			d[1].Verdict, d[1].FailedChecks = headgate.Fail, []string{"TOOL_THRESHOLD_CROSSED"}
			d[1].Checks = append(d[1].Checks, evidence.Check{Name: "tool/k6.json", Code: "TOOL_THRESHOLD_CROSSED", Op: "tool", Value: false, Threshold: true, Verdict: headgate.Fail})
		}, "VERDICT_FORGED: judged the run behind k6.json, which is none of its files"},
		{"object where a number belongs", func(d []evidence.GateDecision) {
			d[2].Checks[0].Value, d[2].Values["secret_scan_findings"] = map[string]any{"a": 1}, map[string]any{"a": 1}
		}, "VERDICT_FORGED: passed without a value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, r := newServer(t), release("rel_a")
			d := s.decisions(r.ID)
			tt.lie(d)
			s.record(r, d)
			wantFindings(t, verify(t, s.bundle(r, nil), evidence.VerifyOptions{TrustedKeys: s.keys.Public()}), []string{tt.want})
		})
	}
}

func TestPromotionNeedsEveryGate(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	d := s.decisions(r.ID)
	s.record(r, d[:3])
	wantFindings(t, verify(t, s.bundle(r, nil), evidence.VerifyOptions{}),
		[]string{"OUTCOME_UNSUPPORTED manifest.dsse.json: without a decision of gate cost"})
	fails := d[3]
	fails.Checks[1].Value, fails.Values["routing_degrade_passed"] = false, false
	fails.Checks[1].Verdict, fails.Verdict, fails.FailedChecks = headgate.Fail, headgate.Fail, []string{"ROUTING_DEGRADE_FAILED"}
	s.append(r, fails)
	wantFindings(t, verify(t, s.bundle(r, nil), evidence.VerifyOptions{}),
		[]string{`OUTCOME_UNSUPPORTED manifest.dsse.json: although the last decision of gate cost was "fail"`})
}

func TestWhatAGateSaysAfterwardsIsNotHeldAgainstTheRelease(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	d := s.decisions(r.ID)
	s.record(r, d)
	s.append(r, evidence.StageResult{StageRun: headgate.StageRun{ReleaseID: r.ID, Stage: headgate.StageFull, Verdict: headgate.Pass}, Time: start})
	later := d[1]
	later.Checks[0].Value, later.Values["api_p95_s"] = 2.0, 2.0
	later.Checks[0].Verdict, later.Verdict, later.FailedChecks = headgate.Fail, headgate.Fail, []string{"API_P95_EXCEEDED"}
	s.append(r, later)
	if v := verify(t, s.bundle(r, nil), evidence.VerifyOptions{}); !v.OK() {
		t.Error(v.Findings)
	}
}

// s1 stands for the decision's own first file.
const s1 = ""

// withTool records a k6 run that crossed a threshold, from the decision's first
// file unless a digest says another.
func withTool(d *evidence.GateDecision, digest string) {
	if digest == s1 && len(d.Inputs) > 0 {
		digest = d.Inputs[0].Digest
	}
	d.Request = fmt.Appendf(nil, `{"dataset_id":"d","metrics":{},"tools":[{"file":"k6.json","digest":%q,"tool":"k6","verdict":"fail","problems":[{"code":"TOOL_THRESHOLD_CROSSED","verdict":"fail"}]}]}`, digest)
}

func TestReevaluationDisagrees(t *testing.T) {
	t.Parallel()
	s, r := newServer(t), release("rel_a")
	s.record(r, s.decisions(r.ID))
	b := s.bundle(r, nil)
	same := func(d evidence.GateDecision) evidence.Reevaluation {
		return evidence.Reevaluation{Verdict: d.Verdict, FailedChecks: d.FailedChecks, Thresholds: d.Thresholds, Values: d.Values}
	}
	tests := []struct {
		name string
		fn   func(d evidence.GateDecision, rules []byte) (evidence.Reevaluation, error)
		want string
	}{
		{"verdict", func(d evidence.GateDecision, _ []byte) (evidence.Reevaluation, error) {
			return evidence.Reevaluation{Verdict: headgate.Fail, FailedChecks: []string{"API_P95_EXCEEDED"}}, nil
		}, `VERDICT_FORGED: its rules give "fail" with [API_P95_EXCEEDED]`},
		{"threshold", func(d evidence.GateDecision, _ []byte) (evidence.Reevaluation, error) {
			e := same(d)
			e.Thresholds = map[string]any{"api_p95_s_max": 1.4, "cache_hit_rate_min": 0.7}
			return e, nil
		}, "THRESHOLD_SWAPPED: not those of its rule set"},
		{"values", func(d evidence.GateDecision, _ []byte) (evidence.Reevaluation, error) {
			e := same(d)
			e.Values = map[string]any{"api_p95_s": 0.9, "cache_hit_rate": 0.91}
			return e, nil
		}, "VERDICT_FORGED: values that do not follow"},
		{"error", func(evidence.GateDecision, []byte) (evidence.Reevaluation, error) {
			return evidence.Reevaluation{}, errors.New("unknown\nrule")
		}, "VERDICT_FORGED: cannot be judged again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantFindings(t, verify(t, b, evidence.VerifyOptions{Reevaluate: tt.fn}), []string{tt.want})
		})
	}
	v := verify(t, b, evidence.VerifyOptions{ReplayCanary: func(evidence.CanaryVerdict, []byte) (headgate.Verdict, error) { return headgate.Fail, nil }})
	wantFindings(t, v, []string{`VERDICT_FORGED: the canary is recorded as "pass", but its ticks give "fail"`})
}
