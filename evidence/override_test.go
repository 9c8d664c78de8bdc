package evidence_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/internal/needs"
)

// TestOverridesBearAPromotionOut has one gate fail and promotes all the same:
// both verifiers accept it for an override that holds, and say so, and for no
// other.
func TestOverridesBearAPromotionOut(t *testing.T) {
	t.Parallel()
	admitted := start.Add(30 * time.Minute)
	good := evidence.Override{
		ReleaseID: "rel_a", Time: start.Add(20 * time.Minute), OverrideID: "ov_1", Gate: headgate.GateCost, Reason: "the tender closes tonight",
		RequestedBy: "ada", RequestedAt: start.Add(10 * time.Minute), ApprovedBy: "bob", ApprovalReason: "agreed", ExpiresAt: start.Add(2 * time.Hour),
	}
	tests := []struct {
		name   string
		fails  headgate.Gate
		change func(*evidence.Override)
		holds  bool
	}{
		{"two people in time", headgate.GateCost, func(*evidence.Override) {}, true},
		{"one person", headgate.GateCost, func(o *evidence.Override) { o.ApprovedBy = "ada" }, false},
		{"nobody agreed", headgate.GateCost, func(o *evidence.Override) { o.ApprovedBy = "" }, false},
		{"without a reason", headgate.GateCost, func(o *evidence.Override) { o.Reason = "" }, false},
		{"expired when users came", headgate.GateCost, func(o *evidence.Override) { o.ExpiresAt = admitted.Add(-2 * time.Minute) }, false},
		{"granted after users came", headgate.GateCost, func(o *evidence.Override) { o.Time = admitted.Add(time.Second) }, false},
		{"longer than a day", headgate.GateCost, func(o *evidence.Override) { o.ExpiresAt = o.RequestedAt.Add(24*time.Hour + time.Second) }, false},
		{"of another gate", headgate.GateQuality, func(*evidence.Override) {}, false},
		{"of the security gate", headgate.GateSecurity, func(o *evidence.Override) { o.Gate = headgate.GateSecurity }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, r := newServer(t), release("rel_a")
			decisions := s.decisions(r.ID)
			for i := range decisions {
				if d := &decisions[i]; d.Gate == tt.fails {
					d.Checks[0].Verdict, d.Checks[0].Value, d.Verdict, d.FailedChecks = headgate.Broken, nil, headgate.Broken, []string{"TELEMETRY_BROKEN"}
					delete(d.Values, d.Checks[0].Name)
				}
			}
			o := good
			tt.change(&o)
			s.append(r, o)
			s.append(r, evidence.StageResult{
				StageRun: headgate.StageRun{ReleaseID: r.ID, Stage: headgate.StageRollout, Attempt: 1, Verdict: headgate.Pass, StartedAt: start, EndedAt: admitted},
				Time:     admitted, MadeBy: evidence.Tool{Name: "headgate"},
			})
			s.record(r, decisions)
			b := s.bundle(r, nil)
			v := verify(t, b, evidence.VerifyOptions{TrustedKeys: s.keys.Public()})
			noted := strings.Contains(strings.Join(v.Notes, "\n"), "gate cost did not pass: ada and bob let the release pass it")
			if v.OK() != tt.holds || noted != tt.holds {
				t.Errorf("findings %v, notes %v", v.Findings, v.Notes)
			}
			if !tt.holds && strings.Join(codes(v), " ") != evidence.FindingOutcome {
				t.Errorf("findings %v", v.Findings)
			}
			if tt.holds || tt.name == "one person" || tt.name == "of the security gate" { // the slow one need not see all
				checkInPython(t, b, s.keys, tt.holds)
			}
		})
	}
}

func checkInPython(t *testing.T, bundle []byte, keys *evidence.Keyring, holds bool) {
	t.Helper()
	out, status := verifyInPython(t, bundle, keys.Current())
	if said := strings.Contains(out, "OUTCOME_UNSUPPORTED"); (status == 0) != holds || said == holds {
		t.Errorf("the Python verifier ends with %d and says\n%s", status, out)
	}
}

// verifyInPython returns what the independent verifier says and its exit status.
func verifyInPython(t *testing.T, bundle []byte, keys ...evidence.PublicKey) (string, int) {
	t.Helper()
	python := needs.Program(t, "python3", "python3")
	path := filepath.Join(t.TempDir(), "bundle.zip")
	if err := os.WriteFile(path, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{filepath.Join("..", "examples", "verifier", "verify.py"), path}
	for _, k := range keys {
		args = append(args, "--key", k.String())
	}
	out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput() //nolint:gosec // our own script
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}
