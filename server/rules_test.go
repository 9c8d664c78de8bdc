package server_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
)

// looserRules are the contract's with one threshold raised.
const looserRules = `format: headgate-rules/v1
version: 2
owner: platform-team
reason: The new reports are longer.
thresholds:
  performance: {api_p95_s_max: 1.8}
`

// TestRulesAndOverridesOverHTTP walks the two changes that take two people.
func TestRulesAndOverridesOverHTTP(t *testing.T) {
	t.Parallel()
	w := startWorld(t, false, nil)
	ada, bob, ci := bearer(w.token(t, access.Approver)), bearer(w.token(t, access.Operator)), bearer(w.token(t, access.Releaser))
	file := http.Header{"Content-Type": {"application/octet-stream"}}

	w.refuse(t, "POST", "/rules", looserRules, 401, "AUTH_UNAUTHORIZED", nobody, file)
	w.refuse(t, "POST", "/rules", looserRules, 403, "AUTH_FORBIDDEN", ci, file)
	proposed := w.data(t, w.do(t, "POST", "/rules", looserRules, ada, file))
	digest, _ := proposed["digest"].(string)
	if proposed["in_force"] != false || proposed["proposed_by"] != "test approver" || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("proposed: %v", proposed)
	}
	path := "/rules/" + digest + "/approve"
	w.refuse(t, "POST", path, object{"reason": "mine"}, 403, "APPROVAL_REQUIRED", ada)
	w.refuse(t, "POST", "/rules/sha256:0/approve", object{"reason": "what?"}, 404, "RULES_NOT_FOUND", bob)
	w.refuse(t, "POST", path, object{}, 400, "REQ_VALIDATION_FAILED", bob)
	if got := w.data(t, w.do(t, "POST", path, object{"reason": "agreed"}, bob)); got["in_force"] != true || got["approved_by"] != "test operator" {
		t.Errorf("approved: %v", got)
	}
	if got := w.post(t, gatePath("performance"), passing("performance").with("metrics.api_p95_s", 1.8)); got["passed"] != true || got["rules_digest"] != digest {
		t.Errorf("under the new rules: %v", got)
	}
	w.stop(t)
	w.serve(t)
	if got := w.post(t, gatePath("performance"), passing("performance").with("metrics.api_p95_s", 1.8)); got["passed"] != true {
		t.Errorf("after a restart: %v", got)
	}
	if table := w.data(t, w.do(t, "POST", "/rules/backtest?since_s=86400", looserRules, file)); table["rules_digest"] != digest {
		t.Errorf("backtest: %v", table)
	}

	alerts := "{file_format: definition/2, metrics: [{name: bea.task.cost, annotations: {headgate: {alerts: " +
		"[{name: Dear, figure: task_cost_p95, above: 1, severity: P2, runbook: r.md}]}}}]}"
	if table := w.data(t, w.do(t, "POST", "/alerts/backtest?since_s=86400", alerts, file)); table["alerted_bad"] != 0.0 || table["releases"] == nil {
		t.Errorf("backtest of alerts: %v", table)
	}
	w.refuse(t, "POST", "/alerts/backtest?since_s=86400", "file_format: definition/2", 400, "CONFIG_INVALID", file)

	w.startRelease(t, "rel-ov", "v1.1.0")
	ask := object{"gate": "cost", "reason": "the tender closes tonight", "expires_s": 3600}
	w.refuse(t, "POST", "/releases/rel-ov/overrides", ask, 403, "AUTH_FORBIDDEN", ci)
	w.refuse(t, "POST", "/releases/rel-ov/overrides", ask.with("gate", "security"), 403, "OVERRIDE_FORBIDDEN", ada)
	w.refuse(t, "POST", "/releases/rel-ov/overrides", ask.with("expires_s", 86401), 400, "REQ_VALIDATION_FAILED", ada)
	if got := w.data(t, w.do(t, "POST", "/releases/rel-ov/overrides", ask, ada)); got["approved_by"] != nil {
		t.Errorf("asked: %v", got)
	}
	if got := w.data(t, w.do(t, "POST", "/releases/rel-ov/overrides", ask.with("expires_s", 60), bob)); got["approved_by"] != "test operator" {
		t.Errorf("granted: %v", got)
	}
	if n := w.trail(t, "override_granted", "rel-ov"); n != 1 {
		t.Errorf("%d override_granted in the audit log", n)
	}
	w.bundleContinues(t)
}

// bundleContinues asks for a bundle that continues a checkpoint.
func (w *world) bundleContinues(t *testing.T) {
	t.Helper()
	_, kept := w.send(t, "GET", "/api/v1/evidence/checkpoint", nil)
	if got := w.data(t, w.do(t, "POST", "/releases/rel-ov/gates/quality/evaluate", nil)); got["verdict"] != "insufficient" || got["evidence_digest"] == "" {
		t.Errorf("without a report: %v", got)
	}
	res, raw := w.send(t, "POST", "/api/v1/releases/rel-ov/bundle", strings.NewReader(kept), http.Header{"Content-Type": {"text/plain"}})
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/zip" {
		t.Fatalf("bundle: %d %.200s", res.StatusCode, raw)
	}
	v, err := evidence.Verify(bytes.NewReader([]byte(raw)), int64(len(raw)), evidence.VerifyOptions{
		EarlierCheckpoint: []byte(kept), Now: time.Now(), Reevaluate: control.Reevaluate, Reread: control.Reread,
	})
	if err != nil || !v.OK() {
		t.Errorf("findings %v, %v", v.Findings, err)
	}
	if res, raw := w.send(t, "POST", "/api/v1/releases/rel-ov/bundle", strings.NewReader("no checkpoint"), http.Header{"Content-Type": {"text/plain"}}); res.StatusCode != 400 {
		t.Errorf("a checkpoint that is none: %d %.200s", res.StatusCode, raw)
	}
}
