// Package client speaks the bidding service's HTTP API: the dataset run, the
// self test and the traffic driver use it.
//
// It owns requests and their decoding. It never retries a write under a new
// key and never logs a token.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 32 << 20

// Client calls the API as one tenant.
type Client struct {
	BaseURL string
	Token   string
	// Header is added to every request, for example x-session-id.
	Header http.Header
	// HTTP defaults to a client with a 30 s timeout.
	HTTP *http.Client
	// Observe sees every answer before it is decoded, or the transport error;
	// nil sees nothing.
	Observe func(res *http.Response, err error)
}

var defaultHTTP = &http.Client{Timeout: 30 * time.Second}

// StatusError is an answer that is not a success.
type StatusError struct {
	Status    int
	Code      string
	Message   string
	Retryable bool
	RequestID string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%d %s: %s (request %s)", e.Status, e.Code, e.Message, e.RequestID)
}

// Queued is the answer to a write.
type Queued struct {
	DocumentID   string `json:"document_id"`
	EvaluationID string `json:"evaluation_id"`
	JobID        string `json:"job_id"`
}

// Job is how a job stands.
type Job struct {
	JobID     string  `json:"job_id"`
	Status    string  `json:"status"`
	Attempts  int     `json:"attempts"`
	ErrorCode string  `json:"error_code"`
	CostUSD   float64 `json:"cost_usd"`
}

// Report is the evaluation of a bid.
type Report struct {
	bidding.Report
	EvaluationID     string `json:"evaluation_id"`
	Status           string `json:"status"`
	NeedsHumanReview bool   `json:"needs_human_review"`
	Interrupt        *struct {
		ResumeToken string `json:"resume_token"`
	} `json:"interrupt"`
}

// DeadLetter is a job that was given up.
type DeadLetter struct {
	ID        string `json:"dlq_id"`
	JobID     string `json:"job_id"`
	ErrorCode string `json:"error_code"`
	Attempts  int    `json:"attempts"`
}

// Upload hands a document in.
func (c *Client) Upload(ctx context.Context, project, supplier, docType, filename string, data []byte) (q Queued, err error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for k, v := range map[string]string{"project_id": project, "supplier_id": supplier, "doc_type": docType} {
		err = errors.Join(err, form.WriteField(k, v))
	}
	part, ferr := form.CreateFormFile("file", filename)
	if err = errors.Join(err, ferr); err != nil {
		return q, err
	}
	if _, err := part.Write(data); err != nil {
		return q, err
	}
	if err := form.Close(); err != nil {
		return q, err
	}
	return q, c.call(ctx, http.MethodPost, "/api/v1/documents/upload", form.FormDataContentType(), body.Bytes(), &q)
}

// Evaluation says what to evaluate.
type Evaluation struct {
	Project, Supplier, RulePack string
	ForceHITL                   bool
	ModeHint                    string
	TopK                        int
}

// Evaluate asks for an evaluation of the supplier's bids.
func (c *Client) Evaluate(ctx context.Context, e Evaluation) (q Queued, err error) {
	return q, c.post(ctx, "/api/v1/evaluations", map[string]any{
		"project_id": e.Project, "supplier_id": e.Supplier, "rule_pack_version": e.RulePack,
		"evaluation_scope": map[string]any{"include_doc_types": []string{"bid"}, "force_hitl": e.ForceHITL},
		"query_options":    map[string]any{"mode_hint": e.ModeHint, "top_k": e.TopK},
	}, &q)
}

// Resume approves or rejects an evaluation that waits.
func (c *Client) Resume(ctx context.Context, evaluation, token, decision, editor string) (q Queued, err error) {
	return q, c.post(ctx, "/api/v1/evaluations/"+evaluation+"/resume",
		map[string]any{"resume_token": token, "decision": decision, "editor": editor, "comment": "reviewed"}, &q)
}

// Report reads an evaluation's report.
func (c *Client) Report(ctx context.Context, evaluation string) (r Report, err error) {
	return r, c.call(ctx, http.MethodGet, "/api/v1/evaluations/"+evaluation+"/report", "", nil, &r)
}

// Job reads how a job stands.
func (c *Client) Job(ctx context.Context, id string) (j Job, err error) {
	return j, c.call(ctx, http.MethodGet, "/api/v1/jobs/"+id, "", nil, &j)
}

// Page reads the text of a document's page.
func (c *Client) Page(ctx context.Context, document string, page int) (p bidding.Page, err error) {
	return p, c.call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/documents/%s/pages/%d", document, page), "", nil, &p)
}

// DeadLetters lists the tenant's jobs that were given up.
func (c *Client) DeadLetters(ctx context.Context) ([]DeadLetter, error) {
	var out struct{ Items []DeadLetter }
	err := c.call(ctx, http.MethodGet, "/api/v1/dlq/items", "", nil, &out)
	return out.Items, err
}

// Await polls a job until it has ended, and fails when it failed.
func (c *Client) Await(ctx context.Context, job string) (Job, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		j, err := c.Job(ctx, job)
		switch {
		case err != nil:
			return j, err
		case j.Status == "succeeded":
			return j, nil
		case j.Status == "failed":
			return j, fmt.Errorf("job %s failed with %s", job, j.ErrorCode)
		}
		select {
		case <-ctx.Done():
			return j, fmt.Errorf("job %s is still %s: %w", job, j.Status, ctx.Err())
		case <-tick.C:
		}
	}
}

func (c *Client) post(ctx context.Context, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, "application/json", data, into)
}

func (c *Client) call(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.BaseURL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	maps.Copy(req.Header, c.Header)
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if method != http.MethodGet {
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Idempotency-Key", headgate.NewID("key"))
	}
	hc := c.HTTP
	if hc == nil {
		hc = defaultHTTP
	}
	res, err := hc.Do(req)
	if c.Observe != nil {
		c.Observe(res, err)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	var envelope struct {
		Data  json.RawMessage
		Error struct {
			Code, Message string
			Retryable     bool
		}
	}
	jsonErr := json.Unmarshal(data, &envelope)
	if res.StatusCode >= 300 {
		return &StatusError{Status: res.StatusCode, Code: envelope.Error.Code, Message: envelope.Error.Message,
			Retryable: envelope.Error.Retryable, RequestID: res.Header.Get("x-request-id")}
	}
	if jsonErr != nil {
		return fmt.Errorf("%s %s: the answer is not JSON: %w", method, path, jsonErr)
	}
	return json.Unmarshal(envelope.Data, into)
}

// tokenFile is the format of a token file.
type tokenFile struct {
	Tenants []tenantToken `json:"tenants"`
}

type tenantToken struct {
	TenantID string `json:"tenant_id"`
	Token    string `json:"token"`
}

// WriteTokens writes a token file that only its owner can read. It refuses to
// replace an existing file.
func WriteTokens(path string, tokens map[string]string) error {
	var f tokenFile
	for _, tenant := range slices.Sorted(maps.Keys(tokens)) {
		f.Tenants = append(f.Tenants, tenantToken{tenant, tokens[tenant]})
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists; remove it to make new tokens", path)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(append(data, '\n'))
	return errors.Join(err, file.Close())
}

// ReadTokens reads a token file and returns the tokens by tenant.
func ReadTokens(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	var f tokenFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("token file %s is not what \"bidding tokens\" writes: %w", path, err)
	}
	tokens := map[string]string{}
	for _, t := range f.Tenants {
		if t.TenantID == "" || len(t.Token) < 16 {
			return nil, fmt.Errorf("token file %s has a tenant without a name or with a token under 16 characters", path)
		}
		tokens[t.TenantID] = t.Token
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("token file %s has no tenants", path)
	}
	return tokens, nil
}
