package httpapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/biddingtest"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/dataset"
	"github.com/headgate/headgate/examples/bidding/httpapi"
	"github.com/headgate/headgate/examples/bidding/quality"
	"github.com/headgate/headgate/examples/bidding/store"
)

const rulePack = "tender-2026.1"

// parsed uploads the dataset's first bid and waits for it.
func parsed(t *testing.T, c *client.Client, project string) client.Queued {
	t.Helper()
	d, err := dataset.Load()
	if err != nil {
		t.Fatal(err)
	}
	bid := d.Bids()[0]
	q, err := c.Upload(t.Context(), project, bid.Supplier, bid.DocType, bid.File, bid.Data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err != nil {
		t.Fatal(err)
	}
	return q
}

func evaluated(t *testing.T, c *client.Client, e client.Evaluation) client.Report {
	t.Helper()
	q, err := c.Evaluate(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err != nil {
		t.Fatal(err)
	}
	rep, err := c.Report(t.Context(), q.EvaluationID)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestReviewedEvaluation(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	parsed(t, c, "p1")
	waiting := evaluated(t, c, client.Evaluation{Project: "p1", Supplier: "huaxin", RulePack: rulePack, ForceHITL: true})
	if !waiting.NeedsHumanReview || waiting.Interrupt == nil || waiting.Status != "waiting_for_review" {
		t.Fatalf("a forced review does not wait: %+v", waiting)
	}
	status, body := do(t, s, "POST", "/api/v1/evaluations/"+waiting.EvaluationID+"/resume", "acme", "k1",
		`{"resume_token":"`+waiting.Interrupt.ResumeToken+`","decision":"edit_scores","editor":"li","edited_scores":{"total_price":1}}`)
	if status != http.StatusAccepted {
		t.Fatalf("resume: %d %s", status, body)
	}
	var resumed struct{ Data client.Queued }
	if err := json.Unmarshal([]byte(body), &resumed); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), resumed.Data.JobID); err != nil {
		t.Fatal(err)
	}
	done, err := c.Report(t.Context(), waiting.EvaluationID)
	if err != nil {
		t.Fatal(err)
	}
	if done.Status != "completed" || done.NeedsHumanReview || done.Interrupt != nil {
		t.Errorf("after the review: %s, needs review %v", done.Status, done.NeedsHumanReview)
	}
	if want := waiting.Score - waiting.Criteria[0].Score + 1; done.Score < want-.01 || done.Score > want+.01 {
		t.Errorf("score %g after the edit, want %g", done.Score, want)
	}
	_, err = c.Resume(t.Context(), waiting.EvaluationID, waiting.Interrupt.ResumeToken, "approve", "li")
	if code(err) != "RESUME_TOKEN_INVALID" {
		t.Errorf("a used resume token gives %v", err)
	}
	for tenant, want := range map[string]int{"acme": 1, "borealis": 0} {
		status, body := do(t, s, "GET", "/api/v1/reviews/items", tenant, "", "")
		var got struct {
			Data struct{ Items []store.Reviewed }
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || len(got.Data.Items) != want {
			t.Fatalf("%s sees %d %s (%v), want %d reviews", tenant, status, body, err, want)
		}
		for _, r := range got.Data.Items {
			if r.EvaluationID != waiting.EvaluationID || r.Decision != "edit_scores" || r.Editor != "li" {
				t.Errorf("review %+v, want li's edit_scores of %s", r, waiting.EvaluationID)
			}
		}
	}
}

func code(err error) string {
	var e *client.StatusError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// do sends a JSON request and returns status and body.
func do(t *testing.T, s *biddingtest.Service, method, path, tenant, key, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if tenant != "" {
		req.Header.Set("Authorization", "Bearer "+biddingtest.Tokens[tenant])
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.Header.Get("x-request-id") == "" || len(res.Header.Get("x-trace-id")) != 32 {
		t.Errorf("%s %s: x-request-id %q, x-trace-id %q", method, path, res.Header.Get("x-request-id"), res.Header.Get("x-trace-id"))
	}
	return res.StatusCode, biddingtest.Drain(t, res.Body)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", false)
	const evaluation = `{"project_id":"p","supplier_id":"s","rule_pack_version":"tender-2026.1"`
	for _, tc := range []struct {
		name, method, path, tenant, key, body string
		status                                int
		code                                  string
	}{
		{"no token", "GET", "/api/v1/jobs/x", "", "", "", 401, "AUTH_UNAUTHORIZED"},
		{"unknown path", "GET", "/api/v1/nothing", "acme", "", "", 404, "RESOURCE_NOT_FOUND"},
		{"wrong method", "DELETE", "/api/v1/evaluations", "acme", "", "", 405, "REQ_METHOD_NOT_ALLOWED"},
		{"unknown job", "GET", "/api/v1/jobs/job_x", "acme", "", "", 404, "RESOURCE_NOT_FOUND"},
		{"unknown report", "GET", "/api/v1/evaluations/x/report", "acme", "", "", 404, "RESOURCE_NOT_FOUND"},
		{"no idempotency key", "POST", "/api/v1/evaluations", "acme", "", evaluation + "}", 400, "REQ_VALIDATION_FAILED"},
		{"not JSON", "POST", "/api/v1/evaluations", "acme", "k", `{"project_id":"secret-value`, 400, "REQ_VALIDATION_FAILED"},
		{"wrong type", "POST", "/api/v1/evaluations", "acme", "k", `{"project_id":7,"x":"secret-value"}`, 400, "REQ_VALIDATION_FAILED"},
		{"bad id", "POST", "/api/v1/evaluations", "acme", "k", `{"project_id":"../secret-value","supplier_id":"s","rule_pack_version":"tender-2026.1"}`, 400, "REQ_VALIDATION_FAILED"},
		{"unknown rules", "POST", "/api/v1/evaluations", "acme", "k", `{"project_id":"p","supplier_id":"s","rule_pack_version":"secret-value"}`, 400, "REQ_VALIDATION_FAILED"},
		{"top_k", "POST", "/api/v1/evaluations", "acme", "k", evaluation + `,"query_options":{"top_k":21}}`, 400, "REQ_VALIDATION_FAILED"},
		{"mode", "POST", "/api/v1/evaluations", "acme", "k", evaluation + `,"query_options":{"mode_hint":"magic"}}`, 400, "REQ_VALIDATION_FAILED"},
		{"nothing uploaded", "POST", "/api/v1/evaluations", "acme", "k", evaluation + "}", 409, "DOCUMENTS_MISSING"},
		{"upload is JSON", "POST", "/api/v1/documents/upload", "acme", "k", "{}", 400, "REQ_VALIDATION_FAILED"},
		{"page zero", "GET", "/api/v1/documents/d/pages/0", "acme", "", "", 400, "REQ_VALIDATION_FAILED"},
		{"limit", "GET", "/api/v1/dlq/items?limit=-1", "acme", "", "", 400, "REQ_VALIDATION_FAILED"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			status, body := do(t, s, tc.method, tc.path, tc.tenant, tc.key, tc.body)
			var env struct {
				Success bool
				Error   struct{ Code, Message, Class string }
				Meta    map[string]string
			}
			if err := json.Unmarshal([]byte(body), &env); err != nil {
				t.Fatalf("not the envelope: %v: %s", err, body)
			}
			if status != tc.status || env.Error.Code != tc.code || env.Success {
				t.Errorf("%d %s, want %d %s", status, body, tc.status, tc.code)
			}
			if env.Error.Message == "" || env.Error.Class == "" || env.Meta["request_id"] == "" || env.Meta["trace_id"] == "" {
				t.Errorf("the envelope is incomplete: %s", body)
			}
			if strings.Contains(body, "secret-value") {
				t.Errorf("the answer echoes the request: %s", body)
			}
		})
	}
}

func TestHugeUpload(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", false)
	_, err := s.As("acme").Upload(t.Context(), "p", "s", "bid", "big.txt", bytes.Repeat([]byte("a"), httpapi.MaxUpload+1))
	var e *client.StatusError
	if !errors.As(err, &e) || e.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("an upload over the limit gives %v, want 413", err)
	}
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", false)
	upload := func(key, text string) (int, string) {
		var body bytes.Buffer
		form := multipart.NewWriter(&body) // its boundary differs every time
		for k, v := range map[string]string{"project_id": "p", "supplier_id": "s", "doc_type": "bid"} {
			if err := form.WriteField(k, v); err != nil {
				t.Error(err)
			}
		}
		part, err := form.CreateFormFile("file", "a.txt")
		if err == nil {
			_, err = io.WriteString(part, text)
		}
		if err = errors.Join(err, form.Close()); err != nil {
			t.Error(err)
		}
		status, answer := do(t, s, "POST", "/api/v1/documents/upload", "acme", key, body.String(), "Content-Type", form.FormDataContentType())
		var env struct{ Data client.Queued }
		if err := json.Unmarshal([]byte(answer), &env); err != nil {
			t.Error(err)
		}
		return status, env.Data.DocumentID
	}
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() { _, ids[i] = upload("same", "text") })
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("one key made several documents: %q", ids)
		}
	}
	if status, _ := upload("same", "other text"); status != http.StatusConflict {
		t.Errorf("the key with another body gives %d, want 409", status)
	}
	if _, id := upload("other", "text"); id == ids[0] {
		t.Errorf("another key gave the same document")
	}
}

func TestUnreadableDocumentsAreDeadLettered(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	for file, want := range map[string]string{
		"a.docx": bidding.CodeParseUnsupported, "b.pdf": bidding.CodeParseBroken, "c.txt": bidding.CodeParseEncoding,
	} {
		q, err := c.Upload(t.Context(), "p", "s", "bid", file, []byte{0xff, 0x00, 0x01})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Await(t.Context(), q.JobID); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the job ends with %v, want %s", file, err, want)
		}
	}
	items, err := c.DeadLetters(t.Context())
	if err != nil || len(items) != 3 {
		t.Errorf("%d dead letters, %v; want 3", len(items), err)
	}
	for _, d := range items {
		if d.Attempts != 1 {
			t.Errorf("%s was tried %d times; what cannot be read is not retried", d.ErrorCode, d.Attempts)
		}
	}
	if items, err := s.As("borealis").DeadLetters(t.Context()); err != nil || len(items) != 0 {
		t.Errorf("another tenant sees %d dead letters, %v", len(items), err)
	}
	q, err := c.Evaluate(t.Context(), client.Evaluation{Project: "p", Supplier: "s", RulePack: rulePack})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err == nil || !strings.Contains(err.Error(), "DOCUMENTS_UNREADABLE") {
		t.Errorf("evaluating unreadable documents ends with %v", err)
	}
	if _, err := c.Report(t.Context(), q.EvaluationID); code(err) != "EVALUATION_FAILED" {
		t.Errorf("the report of a failed evaluation gives %v", err)
	}
}

func TestTenantIsolation(t *testing.T) {
	t.Parallel()
	for version, leaks := range map[string]bool{"v1.0.0": false, "v1.7.0": true} {
		s := biddingtest.Start(t, version, true)
		got, err := quality.CheckIsolation(t.Context(), s.URL, biddingtest.Tokens, [2]string{"acme", "borealis"})
		if err != nil {
			t.Fatal(err)
		}
		if leaks != (got.TenantScopeViolations > 0) || got.AuthBypassFindings > 0 || len(got.Probes) != 24 {
			t.Errorf("%s: %+v", version, got)
		}
	}
}

func TestFaultsShow(t *testing.T) {
	t.Parallel()
	version := func(f bidding.Fault) bidding.Version {
		v, err := bidding.LoadVersion("v1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		v.Fault = f
		return v
	}
	t.Run("error_rate", func(t *testing.T) {
		t.Parallel()
		s := biddingtest.StartVersion(t, version(bidding.Fault{Kind: bidding.FaultErrorRate, Share: .5}), false)
		bad := 0
		for range 60 {
			status, _ := do(t, s, "GET", "/api/v1/dlq/items", "acme", "", "")
			if status == 500 {
				bad++
			}
		}
		if bad < 10 || bad > 50 {
			t.Errorf("%d of 60 requests failed, want about half", bad)
		}
	})
	t.Run("tenant_errors", func(t *testing.T) {
		t.Parallel()
		s := biddingtest.StartVersion(t, version(bidding.Fault{Kind: bidding.FaultTenantErrors, Tenant: "acme"}), false)
		if status, body := do(t, s, "GET", "/api/v1/dlq/items", "acme", "", ""); status != 500 || !strings.Contains(body, "RULE_PACK_MIGRATION_FAILED") {
			t.Errorf("the hit tenant gets %d %s", status, body)
		}
		if status, _ := do(t, s, "GET", "/api/v1/dlq/items", "borealis", "", ""); status != 200 {
			t.Errorf("the other tenant gets %d", status)
		}
	})
	t.Run("slow_tail", func(t *testing.T) {
		t.Parallel()
		s := biddingtest.StartVersion(t, version(bidding.Fault{Kind: bidding.FaultSlowTail, Share: 1, Delay: bidding.Duration(300 * time.Millisecond)}), false)
		start := time.Now()
		if status, _ := do(t, s, "GET", "/api/v1/dlq/items", "acme", "", ""); status != 200 || time.Since(start) < 300*time.Millisecond {
			t.Errorf("%d after %s", status, time.Since(start))
		}
	})
	t.Run("wrong_citation", func(t *testing.T) {
		t.Parallel()
		healthy, err := quality.Run(t.Context(), biddingtest.Start(t, "v1.1.0", true).As("acme"))
		if err != nil {
			t.Fatal(err)
		}
		m := healthy.Metrics
		if m.Ragas.ContextPrecision < .8 || m.Ragas.ContextRecall < .8 || m.Ragas.Faithfulness < .9 || m.Ragas.ResponseRelevancy < .85 ||
			m.DeepEval.HallucinationRate > .05 || m.Citation.ResolvableRate < .98 {
			t.Errorf("the good version misses the gate's limits: %+v", m)
		}
		faulty, err := quality.Run(t.Context(), biddingtest.Start(t, "v1.2.0", true).As("acme"))
		if err != nil {
			t.Fatal(err)
		}
		if m := faulty.Metrics; m.Citation.ResolvableRate >= .98 || m.Ragas.Faithfulness >= .9 {
			t.Errorf("wrong citations go unnoticed: %+v", m)
		}
	})
	t.Run("cost_jump", func(t *testing.T) {
		t.Parallel()
		cost := map[string]float64{}
		for _, v := range []string{"v1.0.0", "v1.6.0"} {
			c := biddingtest.Start(t, v, true).As("acme")
			job, err := c.Job(t.Context(), parsed(t, c, "p").JobID)
			if err != nil {
				t.Fatal(err)
			}
			cost[v] = job.CostUSD
		}
		if cost["v1.0.0"] <= 0 || cost["v1.6.0"] != 2*cost["v1.0.0"] {
			t.Errorf("costs %v, want twice as much", cost)
		}
	})
}

// TestAnswersFitTheContract checks live answers against the OpenAPI schemas.
func TestAnswersFitTheContract(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	q := parsed(t, c, "p")
	rep := evaluated(t, c, client.Evaluation{Project: "p", Supplier: "huaxin", RulePack: rulePack})
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(httpapi.OpenAPI))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	for path, schema := range map[string]string{
		"/api/v1/jobs/" + q.JobID:                             "Job",
		"/api/v1/evaluations/" + rep.EvaluationID + "/report": "Report",
		"/api/v1/documents/" + q.DocumentID + "/pages/1":      "Page",
		"/readyz": "Health",
	} {
		compiled, err := compiler.Compile("openapi.json#/components/schemas/" + schema)
		if err != nil {
			t.Fatal(err)
		}
		_, body := do(t, s, "GET", path, "acme", "", "")
		answer, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(answer.(map[string]any)["data"]); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestReportCacheHits(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	parsed(t, c, "p")
	rep := evaluated(t, c, client.Evaluation{Project: "p", Supplier: "huaxin", RulePack: rulePack})
	for range 9 {
		if _, err := c.Report(t.Context(), rep.EvaluationID); err != nil {
			t.Fatal(err)
		}
	}
	data := s.Metrics(t)["bea.cache.requests"]
	hit, miss := biddingtest.Sum(data, "outcome=hit", "tenant_id=acme"), biddingtest.Sum(data, "outcome=miss", "tenant_id=acme")
	if hit != 9 || miss != 1 {
		t.Errorf("%d hits and %d misses in ten reads, want 9 and 1", hit, miss)
	}
	if _, err := s.As("borealis").Report(t.Context(), rep.EvaluationID); code(err) != "RESOURCE_NOT_FOUND" {
		t.Errorf("another tenant reads the cached report: %v", err)
	}
}
