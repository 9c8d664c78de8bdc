package server_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate/server"
)

// eventually polls until ok, for at most a minute.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestProduction is the server as it runs by default: no debug header, pages
// behind a login, and no claim without evidence.
func TestProduction(t *testing.T) {
	t.Parallel()
	w := startWorld(t, false, nil)
	t.Run("the debug header means nothing", w.debugHeaderMeansNothing)
	t.Run("internal is for operators", w.internalIsForOperators)
	t.Run("tenants only narrow", w.tenantsOnlyNarrow)
	t.Run("roles do what they are for", w.rolesDoWhatTheyAreFor)
	t.Run("pages need a login", w.pagesNeedALogin)
	t.Run("stale cookies lead to the login", w.staleCookiesLeadToTheLogin)
	t.Run("no evidence, no release", w.noEvidenceNoRelease)
	t.Run("strategy is frozen until the replay passes", w.frozenUntilReplayed)
}

func ready(release string) object {
	return object{"release_id": release, "dataset_version": "v1.0.0", "replay_passed": true, "gate_results": allGates(true)}
}

func (w *world) noEvidenceNoRelease(t *testing.T) {
	const path, id = "/release/readiness/evaluate", "rel-verified"
	got := w.post(t, path, ready(id))
	// Rollback and ops are about this server and the description, which are in
	// order; everything else has to be shown.
	same(t, "nothing shown", got["failed_checks"], "QUALITY_EVIDENCE_MISSING", "PERFORMANCE_EVIDENCE_MISSING", "SECURITY_EVIDENCE_MISSING",
		"COST_EVIDENCE_MISSING", "ROLLOUT_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING")
	if got["admitted"] != false || got["evidence_mode"] != "verified" || got["replay_passed"] != false || got.in("gate_results.quality") != false {
		t.Errorf("assessment %v", got)
	}
	same(t, "claims of false", w.post(t, path, ready(id).with("replay_passed", false).with("gate_results", allGates(false)))["failed_checks"],
		"QUALITY_GATE_FAILED", "PERFORMANCE_GATE_FAILED", "SECURITY_GATE_FAILED", "COST_GATE_FAILED", "ROLLOUT_GATE_FAILED",
		"ROLLBACK_GATE_FAILED", "OPS_GATE_FAILED", "REPLAY_E2E_FAILED")

	show := func(gate string, release string) {
		t.Helper()
		if got := w.post(t, gatePath(gate), passing(gate).with("release_id", release)); got["passed"] != true {
			t.Fatalf("%s: %v", gate, got)
		}
	}
	for gate := range gates {
		show(gate, id)
	}
	if got := w.post(t, "/release/replay/e2e", object{"release_id": id, "project_id": "p", "supplier_id": "s"}); got["passed"] != true {
		t.Fatalf("replay: %v", got)
	}
	same(t, "no plan yet", w.post(t, path, ready(id))["failed_checks"], "ROLLOUT_EVIDENCE_MISSING")
	w.post(t, "/release/rollout/plan", object{"release_id": id, "tenant_whitelist": []string{"acme"}, "enabled_project_sizes": []string{"small"}})
	got = w.post(t, path, ready(id))
	same(t, "everything shown", got["failed_checks"])
	if got["admitted"] != true || got["replay_passed"] != true {
		t.Errorf("assessment %v", got)
	}
	if got := w.post(t, "/release/pipeline/execute", ready(id)); got["stage"] != "release_ready" || got["admitted"] != true {
		t.Errorf("execution %v", got)
	}
	// Evidence is one release's, and a claim of false blocks in spite of it.
	if got := w.post(t, path, ready("rel-other")); got["admitted"] != false {
		t.Errorf("another release is admitted on it: %v", got)
	}
	same(t, "not claimed", w.post(t, path, ready(id).with("gate_results.cost", false).with("gate_results", object(allGates(true)).with("cost", false)))["failed_checks"], "COST_GATE_FAILED")

	// An earlier pass does not outlive a later failure.
	w.post(t, gatePath("quality"), passing("quality").with("release_id", id).with("metrics.ragas.faithfulness", 0.5))
	same(t, "re-check failed", w.post(t, path, ready(id))["failed_checks"], "QUALITY_EVIDENCE_MISSING")
	show("quality", id)
	same(t, "re-check passed", w.post(t, path, ready(id))["failed_checks"])
	w.post(t, "/release/rollback/execute", object{"release_id": id, "breaches": []object{breach("cost", 2)}})
}

// TestReadinessNotRequired: the operator said so, and the answer says it too.
func TestReadinessNotRequired(t *testing.T) {
	t.Parallel()
	w := startWorld(t, false, func(o *server.Options) {
		o.Settings.ReadinessRequired, o.Settings.CanaryRatio, o.Settings.CanaryDurationMin, o.Settings.RollbackMaxMinutes = false, 0.25, 7, 11
		o.Settings.OTLPEndpoint, o.Settings.AlertWebhook = "http://127.0.0.1:1", "http://127.0.0.1:1/hook"
	})
	got := w.post(t, "/release/pipeline/execute", object{"release_id": "r"})
	if got["stage"] != "release_ready" || got["admitted"] != true || got["readiness_required"] != false || got["readiness"] != nil || got["readiness_assessment_id"] != nil ||
		got.in("canary.ratio") != 0.25 || got.in("canary.duration_min") != 7.0 || got.in("rollback.max_minutes") != 11.0 {
		t.Errorf("execution %v", got)
	}
	same(t, "failed checks", got["failed_checks"])
	obs := w.data(t, w.do(t, "GET", "/internal/ops/metrics/summary", nil)).in("observability").(map[string]any)
	if obs["otel_exporter_configured"] != true || obs["alert_webhook_configured"] != true || obs["p6_readiness_required"] != false || obs["release_canary_ratio"] != 0.25 {
		t.Errorf("observability %v", obs)
	}
}

// frozenUntilReplayed takes the service away under a rollback: its replay
// fails, and strategy stays frozen until one passes.
func (w *world) frozenUntilReplayed(t *testing.T) {
	const id = "rel-frozen"
	w.post(t, "/ops/strategy-tuning/apply", strategy(id))
	w.service.stop()
	got := w.post(t, "/release/rollback/execute", object{"release_id": id, "breaches": []object{breach("security", 2)}})
	if got["triggered"] != true || got["service_restored"] != false || got["rollback_completed_within_30m"] != true ||
		got.in("replay_verification.status") != "failed" {
		t.Errorf("rollback of a dead service: %v", got)
	}
	job, _ := got.in("replay_verification.job_id").(string)
	if j := w.data(t, w.do(t, "GET", "/jobs/"+job, nil)); j["status"] != "failed" {
		t.Errorf("job %v", j)
	}
	a := w.refuse(t, "POST", "/internal/ops/strategy-tuning/apply", strategy(id), 409, "STRATEGY_FROZEN")
	if a.Error.Class != "business_rule" {
		t.Errorf("class %s", a.Error.Class)
	}
	if got := w.post(t, "/release/replay/e2e", object{"release_id": id, "project_id": "p", "supplier_id": "s"}); got["passed"] != false {
		t.Errorf("replay against a dead service: %v", got)
	}
	w.refuse(t, "POST", "/internal/ops/strategy-tuning/apply", strategy(id), 409, "STRATEGY_FROZEN")
	w.service.start(t)
	if got := w.post(t, "/release/replay/e2e", object{"release_id": id, "project_id": "p", "supplier_id": "s"}); got["passed"] != true {
		t.Errorf("replay against the healed service: %v", got)
	}
	if got := w.post(t, "/ops/strategy-tuning/apply", strategy(id)); got["strategy_version"] != "stg_v2" {
		t.Errorf("after the replay: %v", got)
	}
	if n := w.trail(t, "rollback_replay_verified", id); n != 2 {
		t.Errorf("%d replays in the audit log, want the failed and the passed one", n)
	}
}

// TestRulesChange: what passed under other rules has to be shown again.
func TestRulesChange(t *testing.T) {
	t.Parallel()
	const id = "rel-rules"
	w := startWorld(t, false, nil)
	for gate := range gates {
		w.post(t, gatePath(gate), passing(gate).with("release_id", id))
	}
	w.post(t, "/release/rollout/plan", object{"release_id": id, "tenant_whitelist": []string{"acme"}, "enabled_project_sizes": []string{"small"}})
	w.post(t, "/release/replay/e2e", object{"release_id": id, "project_id": "p", "supplier_id": "s"})
	same(t, "under the rules of the time", w.post(t, "/release/readiness/evaluate", ready(id))["failed_checks"])

	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte(stricterRules), 0o600); err != nil {
		t.Fatal(err)
	}
	w.stop(t)
	w.options.Services[0].Gates.Rules = rules
	w.serve(t)
	same(t, "under other rules", w.post(t, "/release/readiness/evaluate", ready(id))["failed_checks"],
		"QUALITY_EVIDENCE_MISSING", "PERFORMANCE_EVIDENCE_MISSING", "SECURITY_EVIDENCE_MISSING", "COST_EVIDENCE_MISSING")
}

const stricterRules = `format: headgate-rules/v1
version: 2
owner: platform-team
reason: Users notice a second.
thresholds:
  performance: {api_p95_s_max: 1.2}
`
