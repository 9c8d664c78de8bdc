package rollout_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

func mustPlan(t *testing.T, whitelist []string, sizes ...headgate.ProjectSize) rollout.Plan {
	t.Helper()
	p, err := rollout.NewPlan("rel_1", whitelist, sizes, true)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanIsNormalised(t *testing.T) {
	t.Parallel()
	got := mustPlan(t, []string{"b", "a", "b"}, headgate.SizeLarge, headgate.SizeSmall, headgate.SizeLarge)
	want := rollout.Plan{
		ReleaseID: "rel_1", TenantWhitelist: []string{"a", "b"},
		EnabledProjectSizes: []headgate.ProjectSize{"small", "large"}, HighRiskHITLEnforced: true,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPlanFromJSON(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in string
		hitl     bool
		code     string
	}{
		{name: "enforced by default", in: `{"release_id":"r","tenant_whitelist":["a"],"enabled_project_sizes":["small"],"unknown":1}`, hitl: true},
		{name: "enforcement off", in: `{"release_id":"r","tenant_whitelist":["a"],"enabled_project_sizes":["small"],"high_risk_hitl_enforced":false}`},
		{name: "no release", in: `{"tenant_whitelist":["a"],"enabled_project_sizes":["small"]}`, code: headgate.CodeValidation},
		{name: "no tenant", in: `{"release_id":"r","tenant_whitelist":[],"enabled_project_sizes":["small"]}`, code: headgate.CodeValidation},
		{name: "blank tenant", in: `{"release_id":"r","tenant_whitelist":[" "],"enabled_project_sizes":["small"]}`, code: headgate.CodeValidation},
		{name: "no size", in: `{"release_id":"r","tenant_whitelist":["a"]}`, code: headgate.CodeValidation},
		{name: "unknown size", in: `{"release_id":"r","tenant_whitelist":["a"],"enabled_project_sizes":["huge"]}`, code: headgate.CodeValidation},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var p rollout.Plan
			err := json.Unmarshal([]byte(tc.in), &p)
			switch {
			case tc.code != "" && headgate.AsError(err).Code != tc.code:
				t.Errorf("error %v, want %s", err, tc.code)
			case tc.code == "" && (err != nil || p.HighRiskHITLEnforced != tc.hitl):
				t.Errorf("plan %+v, error %v", p, err)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	plan := mustPlan(t, []string{"acme"}, headgate.SizeSmall)
	for _, tc := range []struct {
		name    string
		subject rollout.Subject
		want    rollout.Decision
	}{
		{"admitted", rollout.Subject{TenantID: "acme", ProjectSize: "small"}, rollout.Decision{Admitted: true, MatchedWhitelist: true, Reasons: []string{}}},
		{"high risk", rollout.Subject{TenantID: "acme", ProjectSize: "small", HighRisk: true}, rollout.Decision{Admitted: true, MatchedWhitelist: true, ForceHITL: true, Reasons: []string{}}},
		{"size", rollout.Subject{TenantID: "acme", ProjectSize: "large"}, rollout.Decision{MatchedWhitelist: true, Reasons: []string{"PROJECT_SIZE_NOT_ENABLED"}}},
		{"tenant", rollout.Subject{TenantID: "globex", ProjectSize: "small"}, rollout.Decision{Reasons: []string{"TENANT_NOT_IN_WHITELIST"}}},
		{"both", rollout.Subject{TenantID: "globex", ProjectSize: "medium", HighRisk: true}, rollout.Decision{ForceHITL: true, Reasons: []string{"TENANT_NOT_IN_WHITELIST", "PROJECT_SIZE_NOT_ENABLED"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.want.ReleaseID, tc.want.Stage = "rel_1", "tenant_whitelist+project_size"
			if d := cmp.Diff(tc.want, plan.Decide(tc.subject)); d != "" {
				t.Error(d)
			}
		})
	}
	lax, err := rollout.NewPlan("rel_1", []string{"acme"}, headgate.ProjectSizes(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !lax.Decide(rollout.Subject{TenantID: "acme", ProjectSize: "small", HighRisk: true}).ForceHITL {
		t.Error("a plan without enforcement waived human review of high risk")
	}
}

func TestTiersWiden(t *testing.T) {
	t.Parallel()
	sizes := map[string]headgate.ProjectSize{"pilot": "medium", "s1": "small", "s2": "small", "m1": "medium", "l1": "large"}
	plan := mustPlan(t, []string{"pilot", "unsized"}, headgate.SizeSmall, headgate.SizeMedium)
	want := map[rollout.Tier][]string{
		rollout.TierWhitelist: {"pilot"},
		rollout.TierSmall:     {"pilot", "s1", "s2"},
		rollout.TierMedium:    {"m1", "pilot", "s1", "s2"},
		rollout.TierLarge:     {"m1", "pilot", "s1", "s2"},
	}
	for _, tier := range rollout.Tiers() {
		if d := cmp.Diff(want[tier], plan.Widen(tier, sizes).Admitted(sizes)); d != "" {
			t.Errorf("tier %s: %s", tier, d)
		}
	}
}

func TestAssign(t *testing.T) {
	t.Parallel()
	const sessions = 20000
	for _, share := range []float64{0, 0.01, 0.1, 0.5, 1} {
		met := 0
		for i := range sessions {
			session := fmt.Sprint(i)
			if rollout.Assign("rel_1", "acme", session, share) != headgate.Candidate {
				continue
			}
			met++
			if rollout.Assign("rel_1", "acme", session, min(1, share*1.5)) != headgate.Candidate {
				t.Fatalf("session %d left the candidate as the share grew from %v", i, share)
			}
		}
		if got := float64(met) / sessions; math.Abs(got-share) > 5*math.Sqrt(share*(1-share)/sessions) {
			t.Errorf("share %v assigned %v", share, got)
		}
	}
	if rollout.Assign("a", "b", "c", math.NaN()) != headgate.Stable {
		t.Error("a share that is not a number reached the candidate")
	}
	// The assignment must survive an upgrade of Headgate.
	golden := ""
	for i := range 16 {
		golden += string(rollout.Assign("rel_1", "acme", fmt.Sprint(i), 0.5)[0])
	}
	if golden != goldenAssignment {
		t.Errorf("assignment changed from %s to %s", goldenAssignment, golden)
	}
}

func BenchmarkAssign(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		rollout.Assign("rel_7h3k2m4n5p6q7r8s", "acme-industries", "session-0123456789abcdef", 0.1)
	}
}

func TestSplitJSON(t *testing.T) {
	t.Parallel()
	in := rollout.Split{
		Service: "bidding", Epoch: 3, ReleaseID: "rel_1", Stable: rollout.Backend{Version: "v1", URL: "http://a"},
		Candidate: rollout.Backend{Version: "v2", URL: "http://b"}, Share: 0.1, Tenants: []string{"acme"}, Salt: "x", TTL: 2500 * time.Millisecond,
	}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := json.Unmarshal(data, &raw); err != nil || raw["ttl_s"] != 2.5 {
		t.Errorf("ttl_s is %v in %s", raw["ttl_s"], data)
	}
	var out rollout.Split
	if err := json.Unmarshal(data, &out); err != nil || !in.Same(out) || out.TTL != in.TTL {
		t.Errorf("got %+v, error %v", out, err)
	}
}

func cell(boot string, arm headgate.Arm, tenant string, requests, errors uint64) rollout.Cell {
	latency := make([]uint64, canary.NumBuckets)
	latency[7] = requests
	return rollout.Cell{BootID: boot, Arm: arm, Tenant: tenant, Requests: requests, Errors: errors, Latency: latency}
}

func TestCountsSub(t *testing.T) {
	t.Parallel()
	prev := rollout.Counts{Cells: []rollout.Cell{
		cell("a1", headgate.Stable, "acme", 100, 10),
		cell("b1", headgate.Stable, "acme", 50, 5),
		cell("gone", headgate.Stable, "acme", 1000, 1000),
	}}
	now := rollout.Counts{Cells: []rollout.Cell{
		cell("a1", headgate.Stable, "acme", 130, 11),    // went on
		cell("b2", headgate.Stable, "acme", 7, 1),       // restarted
		cell("a1", headgate.Candidate, "globex", 4, 4),  // new
		cell("b2", headgate.Candidate, "globex", 5, 0),  // new
		cell("b2", headgate.Candidate, "initech", 0, 0), // nothing
	}}
	want := []rollout.Cell{
		cell("", headgate.Candidate, "globex", 9, 4),
		cell("", headgate.Candidate, "initech", 0, 0),
		cell("", headgate.Stable, "acme", 37, 2),
	}
	delta := now.Sub(prev)
	if d := cmp.Diff(want, delta.Cells); d != "" {
		t.Error(d)
	}
	if got := delta.Arm(headgate.Candidate); got.Requests != 9 || got.Errors != 4 {
		t.Errorf("candidate %+v", got)
	}
	if d := cmp.Diff(uint64(107), now.Sub(rollout.Counts{Cells: []rollout.Cell{cell("a1", headgate.Stable, "acme", 131, 11)}}).Arm(headgate.Stable).Requests-30); d != "" {
		t.Error("a count that went down was not taken as new:", d)
	}
}

const goldenAssignment = "cccssscsccsccscc"
