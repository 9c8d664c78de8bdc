package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestContract asks a development server everything that the HTTP contract
// promises, as a client would that was written against it.
func TestContract(t *testing.T) {
	t.Parallel()
	w := startWorld(t, true, nil)
	for name, check := range map[string]func(*testing.T){
		"gates judge at their thresholds":       w.gatesJudgeAtTheirThresholds,
		"gates take measurements only":          w.gatesTakeMeasurementsOnly,
		"gates leave evidence":                  w.gatesLeaveEvidence,
		"requests keep their ids":               w.requestsKeepTheirIDs,
		"unknown paths and methods":             w.unknownPathsAndMethods,
		"internal is for operators":             w.internalIsForOperators,
		"the debug header needs loopback":       w.debugHeaderNeedsLoopbackHost,
		"tenants only narrow":                   w.tenantsOnlyNarrow,
		"bodies are not repeated":               w.bodiesAreNotRepeated,
		"huge bodies are refused":               w.hugeBodiesAreRefused,
		"plans are normalised and replaced":     w.plansAreNormalisedAndReplaced,
		"rollbacks trigger at the threshold":    w.rollbacksTriggerAtTheThreshold,
		"replay runs the suite":                 w.replayRunsTheSuite,
		"declared claims count":                 w.declaredClaimsCount,
		"a release in the pipeline rolls back":  w.releaseInThePipelineRollsBack,
		"rollbacks are asked for by releasers":  w.rollbacksAreAskedForByReleasers,
		"pipeline executes":                     w.pipelineExecutes,
		"strategies have versions":              w.strategiesHaveVersions,
		"feedback never adds twice":             w.feedbackNeverAddsTwice,
		"the summary is the tenant's own":       w.summaryIsTheTenantsOwn,
		"the service's own API is forwarded":    w.serviceIsForwarded,
		"pages are readable on loopback only":   w.pagesInDevelopment,
		"an unknown release is nobody's":        w.unknownReleases,
		"another tenant's release is not there": w.releasesAreTheirTenants,
	} {
		t.Run(name, check)
	}
}

// feedbackNeverAddsTwice needs something that went wrong: a file that cannot
// be parsed ends among the dead letters.
func (w *world) feedbackNeverAddsTwice(t *testing.T) {
	const path = "/ops/data-feedback/run"
	acme := w.service.client("acme")
	q, err := acme.Upload(t.Context(), "p", "s", "bid", "broken.pdf", []byte("%PDF-1.7 and nothing after it"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = acme.Await(t.Context(), q.JobID) // it fails, that is the point
	letters, err := acme.DeadLetters(t.Context())
	if err != nil || len(letters) == 0 {
		t.Fatalf("%d dead letters, %v", len(letters), err)
	}
	run := func(req object, who string) object {
		t.Helper()
		got := w.post(t, path, req, tenant(who))
		fields(t, "feedback", got, "release_id", "counterexample_added", "gold_candidates_added", "dataset_version_before", "dataset_version_after")
		if got["dataset_version_before"] == got["dataset_version_after"] {
			t.Errorf("the version did not change: %v", got)
		}
		return got
	}
	expect := func(got object, added float64, before, after string) {
		t.Helper()
		if got["counterexample_added"] != added || got["dataset_version_before"] != before || got["dataset_version_after"] != after {
			t.Errorf("got %v, want %v added, %s → %s", got, added, before, after)
		}
	}
	req := object{"release_id": "rel-fb", "dlq_ids": []string{"dlq_of_nobody"}}
	expect(run(req, "acme"), 0, "v1.0.0", "v1.0.1")
	expect(run(req.with("dlq_ids", []string{letters[0].ID}).with("version_bump", "minor"), "borealis"), 0, "v1.0.0", "v1.1.0")
	expect(run(req.with("dlq_ids", []string{letters[0].ID}).with("version_bump", "minor"), "acme"), 1, "v1.0.1", "v1.1.0")
	expect(run(req.with("dlq_ids", []string{letters[0].ID}).with("version_bump", "major"), "acme"), 0, "v1.1.0", "v2.0.0")
	expect(run(req.with("dlq_ids", []string{}), "acme"), float64(len(letters)-1), "v2.0.0", "v2.0.1")
	expect(run(req.with("dlq_ids", gone).with("include_manual_override_candidates", false), "acme"), 0, "v2.0.1", "v2.0.2")
	for field, bad := range map[string][]any{
		"release_id": {gone, ""}, "dlq_ids": {"x", []int{1}}, "version_bump": {"huge", 1}, "include_manual_override_candidates": {"yes"},
	} {
		for _, v := range bad {
			w.refuse(t, "POST", "/internal"+path, req.with(field, v), 400, "REQ_VALIDATION_FAILED")
		}
	}
}

func (w *world) summaryIsTheTenantsOwn(t *testing.T) {
	const path = "/internal/ops/metrics/summary"
	c := w.service.client("dingxin")
	q, err := c.Upload(t.Context(), "p", "s", "bid", "bid.md", []byte("# Bid\n\nTotal price: 100 EUR. Delivery in 30 days.\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err != nil {
		t.Fatal(err)
	}
	var got object
	eventually(t, "the tenant's job shows in its summary", func() bool {
		got = w.data(t, w.do(t, "GET", path, nil, tenant("dingxin")))
		return got.in("api.total_jobs") == 1.0 && got.in("parse_retrieval.parse_runs_total") == 1.0 // an export may lie between the two
	})
	fields(t, "summary", got, "tenant_id", "api", "worker", "quality", "cost", "parse_retrieval", "slo", "observability")
	fields(t, "api", got["api"], "total_jobs", "succeeded_jobs", "failed_jobs", "error_rate")
	fields(t, "worker", got["worker"], "retrying_jobs", "dlq_open", "outbox_pending", "queue_name", "queue_pending")
	fields(t, "quality", got["quality"], "report_count", "citation_coverage_avg")
	fields(t, "cost", got["cost"], "dataset_version", "strategy_version", "task_cost_p95")
	fields(t, "parse_retrieval", got["parse_retrieval"], "parse_runs_total")
	fields(t, "slo", got["slo"], "success_rate")
	if got["tenant_id"] != "dingxin" || got.in("api.succeeded_jobs") != 1.0 || got.in("api.failed_jobs") != 0.0 || got.in("slo.success_rate") != 1.0 ||
		got.in("worker.queue_name") != "jobs" {
		t.Errorf("summary %v", got)
	}
	for name, want := range map[string]any{
		"metrics_namespace": "bea", "otel_exporter_configured": false, "alert_webhook_configured": false, "p6_readiness_required": true,
		"release_canary_ratio": 0.1, "release_canary_duration_min": 30.0, "rollback_max_minutes": 30.0,
	} {
		if got.in("observability."+name) != want {
			t.Errorf("observability.%s is %v, want %v", name, got.in("observability."+name), want)
		}
	}
	other := w.data(t, w.do(t, "GET", path+"?queue_name=elsewhere", nil, tenant("a-tenant-without-traffic")))
	for _, at := range []string{"api.total_jobs", "api.succeeded_jobs", "api.error_rate", "parse_retrieval.parse_runs_total", "quality.report_count", "cost.task_count"} {
		if other.in(at) != 0.0 {
			t.Errorf("another tenant's %s is %v, want 0", at, other.in(at))
		}
	}
	for _, name := range []string{`x",tenant_id=~".+`, `x"} or vector(7) #`, `.+`, `\`} {
		tricky := w.data(t, w.do(t, "GET", path, nil, tenant(name)))
		if tricky["tenant_id"] != name || tricky.in("api.total_jobs") != 0.0 {
			t.Errorf("tenant %q sees %v jobs", name, tricky.in("api.total_jobs"))
		}
		tricky = w.data(t, w.do(t, "GET", path+"?queue_name="+url.QueryEscape(name), nil, tenant("dingxin")))
		if tricky.in("worker.queue_pending") != 0.0 {
			t.Errorf("queue %q holds %v", name, tricky.in("worker.queue_pending"))
		}
	}
	if other.in("worker.queue_name") != "elsewhere" || other.in("cost.dataset_version") != "v1.0.0" {
		t.Errorf("another tenant's summary: %v", other)
	}
}

// serviceIsForwarded: a development server answers for the service behind it,
// too, with the tenant's own credential.
func (w *world) serviceIsForwarded(t *testing.T) {
	c := w.service.client("acme")
	q, err := c.Upload(t.Context(), "p", "s", "bid", "bid.md", []byte("# Bid\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err != nil {
		t.Fatal(err)
	}
	if got := w.data(t, w.do(t, "GET", "/jobs/"+q.JobID, nil, tenant("acme"))); got["status"] != "succeeded" {
		t.Errorf("job %v", got)
	}
	if a := w.do(t, "GET", "/jobs/"+q.JobID, nil, tenant("borealis")); a.status != 404 {
		t.Errorf("another tenant sees the service's job: %s", a.raw)
	}
	if got := w.data(t, w.do(t, "GET", "/dlq/items", nil, tenant("acme"))); got["items"] == nil {
		t.Errorf("dead letters %v", got)
	}
	for _, header := range []http.Header{nobody, {"Host": {"evil.example"}}} {
		if a := w.do(t, "GET", "/dlq/items", nil, tenant("acme"), header); a.status != 401 {
			t.Errorf("%v reads a tenant's dead letters: %s", header, a.raw)
		}
	}
}

func (w *world) unknownReleases(t *testing.T) {
	for _, path := range []string{"/releases/none", "/releases/none/events", "/releases/none/bundle"} {
		w.refuse(t, "GET", path, nil, 404, "RELEASE_NOT_FOUND")
	}
	for _, path := range []string{"/releases/none/abort", "/releases/none/approve"} {
		w.refuse(t, "POST", path, object{"reason": "a test"}, 404, "RELEASE_NOT_FOUND")
	}
	w.refuse(t, "GET", "/jobs/job_none", nil, 404, "JOB_NOT_FOUND", tenant("a-tenant-without-traffic"))
}

// releasesAreTheirTenants: what one tenant ships, another can neither see nor
// judge nor stop.
func (w *world) releasesAreTheirTenants(t *testing.T) {
	const id = "rel-of-acme"
	acme, other := tenant("acme"), tenant("borealis")
	digest := "sha256:" + strings.Repeat("a", 64)
	req := object{"release_id": id, "version": "v1.1.0", "digest": digest}
	if a := w.do(t, "POST", "/releases", req, acme); a.status != 201 {
		t.Fatalf("create: %d %s", a.status, a.raw)
	}
	w.data(t, w.do(t, "GET", "/releases/"+id, nil, acme))
	for _, path := range []string{"", "/events", "/bundle"} {
		w.refuse(t, "GET", "/releases/"+id+path, nil, 404, "RELEASE_NOT_FOUND", other)
	}
	var list []object
	if err := json.Unmarshal(w.do(t, "GET", "/releases", nil, other).Data, &list); err != nil || len(list) != 0 {
		t.Errorf("another tenant's list: %v, %v", list, err)
	}
	for path, body := range endpoints() {
		if path == "/release/rollback/execute" {
			body = body.with("consecutive_threshold", 1)
		}
		w.refuse(t, "POST", "/internal"+path, body.with("release_id", id), 404, "RELEASE_NOT_FOUND", other)
	}
	for path, body := range map[string]object{
		"/abort": {"reason": "not mine"}, "/approve": {"reason": "not mine"}, "/pause": {"reason": "not mine"}, "/promote": {"reason": "not mine"},
		"/share": {"reason": "not mine", "share": 0.1}, "/gates/cost/evaluate": nil, "/bundle": nil,
		"/stages/build": {"verdict": "pass"}, "/overrides": {"gate": "cost", "reason": "not mine", "expires_s": 60},
		"/evidence?gate=security&format=gitleaks&name=a.json": nil,
	} {
		w.refuse(t, "POST", "/releases/"+id+path, body, 404, "RELEASE_NOT_FOUND", other)
	}
	for _, path := range []string{"/overrides", "/errors"} {
		w.refuse(t, "GET", "/releases/"+id+path, nil, 404, "RELEASE_NOT_FOUND", other)
	}
	if a := w.do(t, "POST", "/releases", req, other); a.status != 409 || a.code() != "IDEMPOTENCY_CONFLICT" {
		t.Errorf("a release of the same id by another tenant: %d %s", a.status, a.raw)
	}
	if a := w.do(t, "POST", "/releases", req, acme); a.status != 201 {
		t.Errorf("repeated: %d %s", a.status, a.raw)
	}
	w.refuse(t, "POST", "/releases", req.with("digest", "sha256:"+strings.Repeat("b", 64)), 409, "IDEMPOTENCY_CONFLICT", acme)
	got := w.data(t, w.do(t, "POST", "/releases/"+id+"/abort", object{"reason": "the test is over"}, acme))
	if got["release_id"] != id {
		t.Errorf("abort: %v", got)
	}
}

// releaseInThePipelineRollsBack: the pipeline stops it, and the answer is the
// same as for any other release.
func (w *world) releaseInThePipelineRollsBack(t *testing.T) {
	const id = "rel-in-pipeline"
	if a := w.do(t, "POST", "/releases", object{"release_id": id, "version": "v1.1.0", "digest": "sha256:" + strings.Repeat("d", 64)}); a.status != 201 {
		t.Fatalf("create: %d %s", a.status, a.raw)
	}
	got := w.post(t, "/release/rollback/execute", object{"release_id": id, "breaches": []object{breach("security", 2)}})
	job, _ := got.in("replay_verification.job_id").(string)
	if got["triggered"] != true || got["trigger_gate"] != "security" || got["service_restored"] != true || !strings.HasPrefix(job, "job_") {
		t.Errorf("rollback %v", got)
	}
	if j := w.data(t, w.do(t, "GET", "/jobs/"+job, nil)); j["status"] != "succeeded" {
		t.Errorf("job %v", j)
	}
	if rel := w.data(t, w.do(t, "GET", "/releases/"+id, nil)); rel["outcome"] != "rolled_back" {
		t.Errorf("release %v", rel)
	}
	for _, kind := range []string{"rollback_executed", "rollback_replay_verified"} {
		if n := w.trail(t, kind, id); n != 1 {
			t.Errorf("%d %s in the audit log", n, kind)
		}
	}
}
