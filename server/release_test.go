package server_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
)

func (w *world) plansAreNormalisedAndReplaced(t *testing.T) {
	const path = "/release/rollout/plan"
	plan := object{
		"release_id": "rel-plan", "tenant_whitelist": []string{"dingxin", "acme", "dingxin"},
		"enabled_project_sizes": []string{"large", "small", "large"}, "unknown": 1,
	}
	got := w.post(t, path, plan)
	same(t, "whitelist", got["tenant_whitelist"], "acme", "dingxin")
	same(t, "sizes", got["enabled_project_sizes"], "small", "large")
	if got["release_id"] != "rel-plan" || got["high_risk_hitl_enforced"] != true || len(got) != 4 {
		t.Errorf("plan %v", got)
	}
	decide := func(tenant, size string, risk bool) object {
		return w.post(t, "/release/rollout/decision", object{"release_id": "rel-plan", "tenant_id": tenant, "project_size": size, "high_risk": risk})
	}
	for _, tt := range []struct {
		tenant, size      string
		risk, whitelisted bool
		reasons           []string
	}{
		{"acme", "small", false, true, nil},
		{"acme", "large", true, true, nil},
		{"acme", "medium", false, true, []string{"PROJECT_SIZE_NOT_ENABLED"}},
		{"borealis", "small", false, false, []string{"TENANT_NOT_IN_WHITELIST"}},
		{"ACME", "medium", true, false, []string{"TENANT_NOT_IN_WHITELIST", "PROJECT_SIZE_NOT_ENABLED"}},
	} {
		d := decide(tt.tenant, tt.size, tt.risk)
		same(t, tt.tenant+"/"+tt.size, d["reasons"], tt.reasons...)
		if d["admitted"] != (len(tt.reasons) == 0) || d["matched_whitelist"] != tt.whitelisted || d["force_hitl"] != tt.risk ||
			d["stage"] != "tenant_whitelist+project_size" || d["release_id"] != "rel-plan" {
			t.Errorf("%s %s risk=%v: %v", tt.tenant, tt.size, tt.risk, d)
		}
	}
	if d := w.post(t, "/release/rollout/decision", object{"release_id": "rel-plan", "tenant_id": "acme", "project_size": "small"}); d["force_hitl"] != false {
		t.Errorf("high_risk is not false by default: %v", d)
	}
	got = w.post(t, path, plan.with("tenant_whitelist", []string{"borealis"}).with("enabled_project_sizes", []string{"medium"}).with("high_risk_hitl_enforced", false))
	if got["high_risk_hitl_enforced"] != false {
		t.Errorf("plan %v", got)
	}
	if d := decide("acme", "small", true); d["admitted"] != false || d["force_hitl"] != true {
		t.Errorf("after the plan was replaced: %v", d)
	}
	if d := decide("borealis", "medium", false); d["admitted"] != true {
		t.Errorf("after the plan was replaced: %v", d)
	}
	a := w.refuse(t, "POST", "/internal/release/rollout/decision", object{"release_id": "rel-none", "tenant_id": "a", "project_size": "small"}, 404, "RELEASE_POLICY_NOT_FOUND")
	if a.Error.Class != "business_rule" {
		t.Errorf("class %s", a.Error.Class)
	}
	for field, bad := range map[string][]any{
		"release_id": {gone, "", 1}, "tenant_whitelist": {gone, []string{}, []string{""}, "acme", []int{1}, nil},
		"enabled_project_sizes": {gone, []string{}, []string{"huge"}, "small", nil}, "high_risk_hitl_enforced": {"yes", 1},
	} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal"+path, plan.with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
	for field, bad := range map[string][]any{"release_id": {gone, ""}, "tenant_id": {gone, "", 1}, "project_size": {gone, "huge", 1}, "high_risk": {"yes"}} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal/release/rollout/decision",
				object{"release_id": "rel-plan", "tenant_id": "acme", "project_size": "small"}.with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
}

func (w *world) rollbacksTriggerAtTheThreshold(t *testing.T) {
	const path = "/release/rollback/execute"
	req := object{"release_id": "rel-calm", "breaches": []object{breach("quality", 1)}}
	got := w.post(t, path, req)
	if got["triggered"] != false || got["trigger_gate"] != nil || got["replay_verification"] != nil || got["service_restored"] != false {
		t.Errorf("one failure, default threshold: %v", got)
	}
	same(t, "order", got["rollback_order"], "model_config", "retrieval_params", "workflow_version", "release_version")
	if n := w.trail(t, "rollback_executed", "rel-calm"); n != 0 {
		t.Errorf("%d rollbacks in the audit log", n)
	}
	for field, bad := range map[string][]any{
		"release_id": {gone, ""}, "consecutive_threshold": {0, -1, "2", 1.5},
		"breaches": {
			gone, []object{}, nil, []object{breach("ops", 2)}, []object{breach("quality", 0)}, []object{breach("quality", 2), {}},
			[]object{breach("quality", 2).with("metric_code", gone)}, []object{breach("cost", 2).with("consecutive_failures", 1.5)},
		},
	} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal"+path, req.with("breaches", []object{breach("quality", 2)}).with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
	acme := tenant("acme")
	before := time.Now()
	got = w.post(t, path, object{
		"release_id": "rel-bad", "consecutive_threshold": 3,
		"breaches": []object{breach("quality", 2), breach("performance", 3), breach("cost", 9)},
	}, acme)
	took := time.Since(before).Minutes()
	fields(t, "rollback", got, "release_id", "triggered", "trigger_gate", "rollback_order", "replay_verification", "elapsed_minutes",
		"rollback_completed_within_30m", "service_restored")
	elapsed, _ := got["elapsed_minutes"].(float64)
	if got["triggered"] != true || got["trigger_gate"] != "performance" || got["service_restored"] != true || got["rollback_completed_within_30m"] != true ||
		elapsed <= 0 || elapsed > took {
		t.Errorf("rollback: %v, took %v minutes", got, took)
	}
	job, _ := got.in("replay_verification.job_id").(string)
	if !strings.HasPrefix(job, "job_") || got.in("replay_verification.status") != "succeeded" {
		t.Fatalf("replay_verification %v", got["replay_verification"])
	}
	for kind, want := range map[string]int{"rollback_executed": 1, "rollback_replay_verified": 1} {
		if n := w.trail(t, kind, "rel-bad", acme); n != want {
			t.Errorf("%d %s in the audit log, want %d", n, kind, want)
		}
	}
	j := w.data(t, w.do(t, "GET", "/jobs/"+job, nil, acme))
	if j["job_id"] != job || j["status"] != "succeeded" || j["tenant_id"] != "acme" {
		t.Errorf("job %v", j)
	}
	viewer := bearer(w.token(t, access.Viewer, "acme"))
	w.data(t, w.do(t, "GET", "/jobs/"+job, nil, nobody, viewer))
	if a := w.do(t, "GET", "/jobs/"+job, nil, tenant("borealis")); a.status != 404 {
		t.Errorf("another tenant sees the job: %d %s", a.status, a.raw)
	}
	if a := w.do(t, "GET", "/jobs/"+job, nil, nobody, bearer(w.token(t, access.Viewer, "borealis"))); a.status != 404 && a.status != 401 {
		t.Errorf("another tenant's credential sees the job: %d %s", a.status, a.raw)
	}
	if n := w.trail(t, "rollback_executed", "rel-bad", tenant("borealis")); n != 0 {
		t.Error("another tenant sees the release's audit trail")
	}
	w.refuse(t, "GET", "/jobs/"+job, nil, 401, "AUTH_UNAUTHORIZED", nobody)
}

func (w *world) replayRunsTheSuite(t *testing.T) {
	const path = "/release/replay/e2e"
	req := object{"release_id": "rel-replay", "project_id": "p1", "supplier_id": "s1"}
	got := w.post(t, path, req, tenant("acme"))
	fields(t, "replay", got, "replay_run_id", "release_id", "tenant_id", "parse", "evaluation", "passed")
	fields(t, "parse", got["parse"], "job_id", "status")
	fields(t, "evaluation", got["evaluation"], "evaluation_id", "job_id", "resume_job_id", "needs_human_review")
	id, _ := got["replay_run_id"].(string)
	if got["passed"] != true || !strings.HasPrefix(id, "rpy_") || got["tenant_id"] != "acme" || got["release_id"] != "rel-replay" {
		t.Errorf("replay %v", got)
	}
	if got.in("parse.status") != "succeeded" || got.in("evaluation.needs_human_review") != true || got.in("evaluation.resume_job_id") == "" {
		t.Errorf("a person has to look by default: %v", got)
	}
	// The jobs are the service's own, run for the caller's tenant.
	for _, at := range []string{"parse.job_id", "evaluation.job_id", "evaluation.resume_job_id"} {
		job, _ := got.in(at).(string)
		if j, err := w.service.client("acme").Job(t.Context(), job); err != nil || j.Status != "succeeded" {
			t.Errorf("%s %q: %+v, %v", at, job, j, err)
		}
	}
	got = w.post(t, path, req.with("doc_type", "bid").with("force_hitl", false).with("decision", "edit_scores"), tenant("acme"))
	if got["passed"] != true || got.in("evaluation.evaluation_id") == "" {
		t.Errorf("without a person: %v", got)
	}
	for _, v := range []string{"approve", "reject"} {
		if got = w.post(t, path, req.with("decision", v)); got["passed"] != true {
			t.Errorf("decision %s: %v", v, got)
		}
	}
	for field, bad := range map[string][]any{
		"release_id": {gone, ""}, "project_id": {gone, "", 1}, "supplier_id": {gone, ""}, "doc_type": {"", 1}, "force_hitl": {"yes"}, "decision": {"maybe", 1},
	} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal"+path, req.with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
}

// Claims count on a development server, and the answer says that they are no
// more than that.
func (w *world) declaredClaimsCount(t *testing.T) {
	const path = "/release/readiness/evaluate"
	req := object{"release_id": "rel-claimed", "dataset_version": "v1.0.0", "replay_passed": true, "gate_results": allGates(true)}
	got := w.post(t, path, req, tenant("acme"))
	fields(t, "assessment", got, "assessment_id", "release_id", "tenant_id", "dataset_version", "admitted", "failed_checks", "replay_passed", "gate_results")
	id, _ := got["assessment_id"].(string)
	if got["admitted"] != true || !strings.HasPrefix(id, "ra_") || got["tenant_id"] != "acme" || got["replay_passed"] != true || got["evidence_mode"] != "declared" {
		t.Errorf("assessment %v", got)
	}
	fields(t, "gate_results", got["gate_results"], "quality", "performance", "security", "cost", "rollout", "rollback", "ops")
	basis, _ := got["basis"].([]any)
	declared := 0
	for _, b := range basis {
		if b.(map[string]any)["support"] == "declared" {
			declared++
		}
	}
	if declared != 8 {
		t.Errorf("%d of 8 claims are said to be only declared: %v", declared, got["basis"])
	}
	for gate := range allGates(true) {
		for _, v := range []any{false, gone} {
			got := w.post(t, path, req.with("gate_results", object(allGates(true)).with(gate, v)))
			same(t, gate, got["failed_checks"], strings.ToUpper(gate)+"_GATE_FAILED")
			if got["admitted"] != false || got.in("gate_results."+gate) != false {
				t.Errorf("%s=%v: %v", gate, v, got)
			}
		}
	}
	got = w.post(t, path, req.with("replay_passed", false))
	same(t, "replay", got["failed_checks"], "REPLAY_E2E_FAILED")
	for _, v := range []any{"", gone} {
		got = w.post(t, path, req.with("dataset_version", v))
		same(t, "dataset", got["failed_checks"], "DATASET_VERSION_REQUIRED")
	}
	got = w.post(t, path, object{"release_id": "r", "replay_passed": false})
	same(t, "nothing claimed", got["failed_checks"], "DATASET_VERSION_REQUIRED", "QUALITY_GATE_FAILED", "PERFORMANCE_GATE_FAILED", "SECURITY_GATE_FAILED",
		"COST_GATE_FAILED", "ROLLOUT_GATE_FAILED", "ROLLBACK_GATE_FAILED", "OPS_GATE_FAILED", "REPLAY_E2E_FAILED")
	for field, bad := range map[string][]any{
		"release_id": {gone, "", 1}, "dataset_version": {1}, "replay_passed": {gone, nil, "true", 1}, "gate_results": {"all", []string{"quality"}, object{"quality": "yes"}},
	} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal"+path, req.with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
}

func (w *world) pipelineExecutes(t *testing.T) {
	const path = "/release/pipeline/execute"
	req := object{"release_id": "rel-pl", "dataset_version": "v1.0.0", "replay_passed": true, "gate_results": allGates(true)}
	got := w.post(t, path, req, tenant("acme"))
	fields(t, "execution", got, "pipeline_id", "release_id", "tenant_id", "dataset_version", "stage", "admitted", "failed_checks",
		"readiness_assessment_id", "canary", "rollback", "readiness_required", "readiness")
	id, _ := got["pipeline_id"].(string)
	if !strings.HasPrefix(id, "pl_") || got["stage"] != "release_ready" || got["admitted"] != true || got["readiness_required"] != true || got["tenant_id"] != "acme" ||
		got.in("canary.ratio") != 0.1 || got.in("canary.duration_min") != 30.0 || got.in("rollback.max_minutes") != 30.0 ||
		got["readiness_assessment_id"] != got.in("readiness.assessment_id") {
		t.Errorf("execution %v", got)
	}
	got = w.post(t, path, req.with("replay_passed", gone))
	same(t, "replay_passed is false by default", got["failed_checks"], "REPLAY_E2E_FAILED")
	if got["stage"] != "release_blocked" || got["admitted"] != false {
		t.Errorf("blocked execution %v", got)
	}
	w.refuse(t, "POST", "/internal"+path, req.with("release_id", gone), 400, "REQ_VALIDATION_FAILED")
	w.refuse(t, "POST", "/internal"+path, req.with("replay_passed", "yes"), 400, "REQ_VALIDATION_FAILED")
}

func strategy(release string) object {
	return object{
		"release_id": release, "selector": object{"risk_mix_threshold": 0.4, "relation_mode": "hybrid"},
		"score_calibration": object{"confidence_scale": 1.1, "score_bias": -0.2},
		"tool_policy":       object{"require_double_approval_actions": []string{"edit_scores"}, "allowed_tools": []string{"search", "cite"}},
	}
}

func (w *world) strategiesHaveVersions(t *testing.T) {
	const path = "/ops/strategy-tuning/apply"
	for i, want := range []string{"stg_v1", "stg_v2"} {
		got := w.post(t, path, strategy("rel-stg"), tenant("borealis"))
		applied, err := json.Marshal(got.with("strategy_version", gone))
		if err != nil {
			t.Fatal(err)
		}
		sent, err := json.Marshal(strategy("rel-stg"))
		if err != nil {
			t.Fatal(err)
		}
		if got["strategy_version"] != want || !slices.Equal(applied, sent) {
			t.Errorf("strategy %d: %v", i, got)
		}
	}
	if got := w.post(t, path, strategy("rel-stg"), tenant("chengyuan")); got["strategy_version"] != "stg_v1" {
		t.Errorf("another tenant's first strategy: %v", got)
	}
	for _, edge := range []any{0, 1} {
		w.post(t, path, strategy("r").with("selector.risk_mix_threshold", edge))
	}
	for field, bad := range map[string][]any{
		"release_id": {gone, ""}, "selector": {gone, "x", nil}, "score_calibration": {gone}, "tool_policy": {gone},
		"selector.risk_mix_threshold": {gone, -0.01, 1.01, "0.4", nil}, "selector.relation_mode": {gone, "nearest", 1},
		"score_calibration.confidence_scale": {gone, 0, -1, "1"}, "score_calibration.score_bias": {gone, "0"},
		"tool_policy.require_double_approval_actions": {"x", []int{1}}, "tool_policy.allowed_tools": {"x"},
	} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal"+path, strategy("r").with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
}

// rollbacksAreAskedForByReleasers walks the endpoints by which people take
// releases back and rehearse that: who may, about what, and what is answered.
func (w *world) rollbacksAreAskedForByReleasers(t *testing.T) {
	const id, drills = "rel-taken-back", "/services/bidding/rollback-drills"
	acme := tenant("acme")
	if a := w.do(t, "POST", "/releases", object{"release_id": id, "version": "v1.1.0", "digest": "sha256:" + strings.Repeat("9", 64)}, acme); a.status != 201 {
		t.Fatalf("create: %d %s", a.status, a.raw)
	}
	why := object{"reason": "wrong totals"}
	releaser := bearer(w.token(t, access.Releaser))
	for path, code := range map[string]string{"/releases/%s/rollback": "RELEASE_NOT_FOUND", "/services/%s/rollback-drills": "SERVICE_NOT_FOUND"} {
		known := strings.Replace(path, "%s", map[bool]string{true: id, false: "bidding"}[code == "RELEASE_NOT_FOUND"], 1)
		w.refuse(t, "POST", known, why, 401, "AUTH_UNAUTHORIZED", nobody)
		w.refuse(t, "POST", known, why, 403, "AUTH_FORBIDDEN", nobody, bearer(w.token(t, access.Viewer)))
		for _, reason := range []any{gone, "", "  ", 1, strings.Repeat("x", 1001)} {
			w.refuse(t, "POST", known, object{}.with("reason", reason), 400, "REQ_VALIDATION_FAILED", nobody, releaser)
		}
		w.refuse(t, "POST", strings.Replace(path, "%s", "none", 1), why, 404, code, nobody, releaser)
	}
	w.refuse(t, "POST", "/releases/"+id+"/rollback", why, 404, "RELEASE_NOT_FOUND", tenant("borealis"))
	w.refuse(t, "POST", "/releases/"+id+"/rollback", why, 404, "RELEASE_NOT_FOUND", nobody, bearer(w.token(t, access.Releaser, "borealis")))

	got := w.data(t, w.do(t, "POST", "/releases/"+id+"/rollback", why, nobody, releaser))
	if got["outcome"] != "rolled_back" || got["rollback"] != nil { // no user has met it
		t.Errorf("rollback: %v", got)
	}
	w.refuse(t, "POST", "/releases/"+id+"/rollback", why, 409, "RELEASE_NOT_IN_FORCE", acme)

	drill := w.data(t, w.do(t, "POST", drills, why, nobody, releaser))
	if drill["passed"] != true || drill["triggered_at"] == nil || drill["completed_at"] == nil || drill["restored_at"] == nil {
		t.Errorf("drill: %v", drill)
	}
	shown := w.data(t, w.do(t, "GET", drills, nil, nobody, bearer(w.token(t, access.Viewer))))
	if shown.in("last_passed.drill_id") != drill["drill_id"] {
		t.Errorf("shown: %v", shown)
	}
	w.refuse(t, "GET", drills, nil, 401, "AUTH_UNAUTHORIZED", nobody)
}
