package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/instrument"
)

var (
	identifier = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	docTypes   = []string{"tender", "bid", "attachment"}
	decisions  = []string{"approve", "reject", "edit_scores"}
)

func (a *API) healthz(context.Context, string, *http.Request) (int, any, error) {
	return http.StatusOK, map[string]string{"status": "ok", "version": a.opts.Version.Version}, nil
}

func (a *API) readyz(ctx context.Context, _ string, _ *http.Request) (int, any, error) {
	if a.draining.Load() {
		return 0, nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the process is stopping; ask another one")
	}
	if err := a.opts.Store.Ping(ctx); err != nil {
		return 0, nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the database does not answer").Wrap(err)
	}
	return http.StatusOK, map[string]string{"status": "ready", "version": a.opts.Version.Version}, nil
}

// once answers a write under its Idempotency-Key. hash stands for the body.
func (a *API) once(ctx context.Context, tenant string, r *http.Request, hash string, fn func(*store.Tx) (any, error)) (int, any, error) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" || len(key) > maxField {
		return 0, nil, headgate.Invalidf("send an Idempotency-Key header of 1 to %d characters", maxField)
	}
	answer, err := a.opts.Store.Once(ctx, tenant, r.Method+" "+r.URL.Path, key, hash, func(tx *store.Tx) ([]byte, error) {
		data, err := fn(tx)
		if err != nil {
			return nil, err
		}
		return json.Marshal(data)
	})
	if err != nil {
		return 0, nil, err
	}
	a.opts.Queued()
	return http.StatusAccepted, json.RawMessage(answer), nil
}

func (a *API) upload(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	u, hash, err := readUpload(r)
	if err != nil {
		return 0, nil, err
	}
	u.TenantID = tenant
	return a.once(ctx, tenant, r, hash, func(tx *store.Tx) (any, error) {
		doc, err := tx.AddDocument(ctx, u)
		if err != nil {
			return nil, err
		}
		job, err := tx.Enqueue(ctx, tenant, store.JobParse, doc, a.opts.Version.Version)
		return map[string]string{"document_id": doc, "job_id": job, "status": store.JobQueued}, err
	})
}

// readUpload takes the parts in any order. The hash covers fields and file
// but not the multipart boundary, which differs between two tries.
func readUpload(r *http.Request) (store.Upload, string, error) {
	none := store.Upload{}
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" || params["boundary"] == "" {
		return none, "", headgate.Invalidf("send multipart/form-data with file, project_id, supplier_id and doc_type")
	}
	// Some room for the fields and the boundaries around the file.
	parts := multipart.NewReader(http.MaxBytesReader(nil, r.Body, MaxUpload+maxJSON), params["boundary"])
	fields := map[string]string{}
	u := store.Upload{}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return none, "", bodyErr(err, "the multipart body is cut off or malformed")
		}
		limit := int64(maxField)
		if part.FormName() == "file" {
			limit = MaxUpload
		}
		data, err := io.ReadAll(io.LimitReader(part, limit+1))
		switch {
		case err != nil:
			return none, "", bodyErr(err, "the multipart body is cut off or malformed")
		case int64(len(data)) > limit && part.FormName() == "file":
			return none, "", tooLarge()
		case int64(len(data)) > limit:
			return none, "", headgate.Invalidf("a form field is longer than %d bytes", maxField)
		case part.FormName() == "file":
			u.Content, u.Filename = data, path.Base(part.FileName())
		default:
			fields[part.FormName()] = string(data)
		}
	}
	u.ProjectID, u.SupplierID, u.DocType = fields["project_id"], fields["supplier_id"], fields["doc_type"]
	switch {
	case len(u.Content) == 0 || u.Filename == "" || len(u.Filename) > 2*maxField:
		return none, "", headgate.Invalidf("file is missing, empty or has no usable name").With("field", "file")
	case !slices.Contains(docTypes, u.DocType):
		return none, "", headgate.Invalidf("doc_type must be tender, bid or attachment").With("field", "doc_type")
	}
	if err := checkIDs(map[string]string{"project_id": u.ProjectID, "supplier_id": u.SupplierID}); err != nil {
		return none, "", err
	}
	h := sha256.New()
	for _, part := range []string{u.ProjectID, u.SupplierID, u.DocType, u.Filename} {
		fmt.Fprintf(h, "%d:%s\n", len(part), part)
	}
	h.Write(u.Content)
	return u, hex.EncodeToString(h.Sum(nil)), nil
}

func bodyErr(err error, message string) error {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return tooLarge()
	}
	return headgate.Invalidf("%s", message).Wrap(err)
}

func tooLarge() error {
	return headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassValidation, "the body is too large; a file may have %d MiB", MaxUpload>>20)
}

func checkIDs(ids map[string]string) error {
	for field, v := range ids {
		if !identifier.MatchString(v) {
			return headgate.Invalidf("%s must be 1 to 128 letters, digits, dots, dashes or underscores", field).With("field", field)
		}
	}
	return nil
}

// readJSON decodes a bounded body and returns its hash.
func readJSON(r *http.Request, into any) (string, error) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxJSON))
	if err != nil {
		return "", bodyErr(err, "the body is cut off")
	}
	if err := json.Unmarshal(data, into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return "", headgate.Invalidf("%s has the wrong type", wrong.Field).With("field", wrong.Field)
		}
		return "", headgate.Invalidf("the body is not valid JSON")
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

func (a *API) evaluate(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	var body struct {
		ProjectID       string `json:"project_id"`
		SupplierID      string `json:"supplier_id"`
		RulePackVersion string `json:"rule_pack_version"`
		Scope           struct {
			DocTypes  []string `json:"include_doc_types"`
			ForceHITL bool     `json:"force_hitl"`
		} `json:"evaluation_scope"`
		Query struct {
			ModeHint string `json:"mode_hint"`
			TopK     int    `json:"top_k"`
		} `json:"query_options"`
	}
	hash, err := readJSON(r, &body)
	if err != nil {
		return 0, nil, err
	}
	if err := checkIDs(map[string]string{"project_id": body.ProjectID, "supplier_id": body.SupplierID}); err != nil {
		return 0, nil, err
	}
	if _, err := bidding.LoadRulePack(body.RulePackVersion); err != nil {
		return 0, nil, err
	}
	if len(body.Scope.DocTypes) == 0 {
		body.Scope.DocTypes = []string{"bid"}
	}
	for _, t := range body.Scope.DocTypes {
		if !slices.Contains(docTypes, t) {
			return 0, nil, headgate.Invalidf("include_doc_types may hold tender, bid and attachment").With("field", "evaluation_scope.include_doc_types")
		}
	}
	if !bidding.ValidMode(body.Query.ModeHint) {
		return 0, nil, headgate.Invalidf("mode_hint must be local, global, hybrid, mix or fallback").With("field", "query_options.mode_hint")
	}
	if k := body.Query.TopK; k < 0 || k > 20 {
		return 0, nil, headgate.Invalidf("top_k must be 1 to 20, or left out").With("field", "query_options.top_k")
	}
	req := store.Request{RulePackVersion: body.RulePackVersion, DocTypes: body.Scope.DocTypes, ForceHITL: body.Scope.ForceHITL,
		ModeHint: body.Query.ModeHint, TopK: body.Query.TopK}
	return a.once(ctx, tenant, r, hash, func(tx *store.Tx) (any, error) {
		n, err := tx.CountDocuments(ctx, store.Scope{TenantID: tenant, ProjectID: body.ProjectID, SupplierID: body.SupplierID, DocTypes: req.DocTypes})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, headgate.Errorf("DOCUMENTS_MISSING", headgate.ClassBusinessRule, "the supplier has no document of these types in the project; upload one first")
		}
		id, err := tx.AddEvaluation(ctx, store.Evaluation{TenantID: tenant, ProjectID: body.ProjectID, SupplierID: body.SupplierID, Request: req})
		if err != nil {
			return nil, err
		}
		job, err := tx.Enqueue(ctx, tenant, store.JobEvaluate, id, a.opts.Version.Version)
		return map[string]string{"evaluation_id": id, "job_id": job, "status": store.JobQueued}, err
	})
}

type interrupt struct {
	Reason      string `json:"reason"`
	ResumeToken string `json:"resume_token"`
}

type reportView struct {
	EvaluationID string `json:"evaluation_id"`
	ProjectID    string `json:"project_id"`
	SupplierID   string `json:"supplier_id"`
	Status       string `json:"status"`
	bidding.Report
	NeedsHumanReview bool          `json:"needs_human_review"`
	Interrupt        *interrupt    `json:"interrupt"`
	Review           *store.Review `json:"review"`
	UpdatedAt        time.Time     `json:"updated_at"`
}

func (a *API) report(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	id := r.PathValue("evaluation_id")
	if body, ok := a.reports.get(cacheKey{tenant, id}); ok {
		a.countCache(ctx, tenant, "hit", 1)
		return http.StatusOK, body, nil
	}
	e, err := find(a, tenant, func(t string) (store.Evaluation, error) { return a.opts.Store.Evaluation(ctx, t, id) })
	if err != nil {
		return 0, nil, err
	}
	switch e.Status {
	case store.StatusQueued, store.StatusResuming:
		return 0, nil, headgate.Errorf("REPORT_NOT_READY", headgate.ClassTransient, "the evaluation is still %s; poll its job and ask again", e.Status)
	case store.StatusFailed:
		// So that the story of this answer leads to what failed.
		if job, err := a.opts.Store.JobOf(ctx, tenant, id); err == nil {
			instrument.Annotate(ctx, instrument.Fields{JobID: job})
		}
		return 0, nil, headgate.Errorf("EVALUATION_FAILED", headgate.ClassPermanent, "the evaluation failed; /api/v1/dlq/items says why")
	}
	view := reportView{EvaluationID: id, ProjectID: e.ProjectID, SupplierID: e.SupplierID, Status: e.Status, Report: *e.Report, Review: e.Review, UpdatedAt: e.UpdatedAt}
	if e.Status == store.StatusWaiting {
		view.NeedsHumanReview = true
		view.Interrupt = &interrupt{Reason: "HUMAN_REVIEW_REQUIRED", ResumeToken: e.ResumeToken}
		return http.StatusOK, view, nil
	}
	// Only what can no longer change is cached: other processes write, too.
	a.countCache(ctx, tenant, "miss", 1)
	body, err := json.Marshal(view)
	if err != nil {
		return 0, nil, err
	}
	a.reports.put(cacheKey{tenant, id}, body)
	return http.StatusOK, json.RawMessage(body), nil
}

func (a *API) resume(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	var body struct {
		ResumeToken string `json:"resume_token"`
		store.Review
	}
	hash, err := readJSON(r, &body)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case !slices.Contains(decisions, body.Decision):
		return 0, nil, headgate.Invalidf("decision must be approve, reject or edit_scores").With("field", "decision")
	case body.Decision == "edit_scores" && len(body.EditedScores) == 0:
		return 0, nil, headgate.Invalidf("edit_scores needs edited_scores: criterion to score").With("field", "edited_scores")
	case body.Editor == "" || len(body.Editor) > maxField:
		return 0, nil, headgate.Invalidf("editor must name the reviewer").With("field", "editor")
	case len(body.Comment) > 4096:
		return 0, nil, headgate.Invalidf("comment is longer than 4096 bytes").With("field", "comment")
	}
	id := r.PathValue("evaluation_id")
	e, err := a.opts.Store.Evaluation(ctx, tenant, id)
	if err != nil {
		return 0, nil, err
	}
	if body.Decision == "edit_scores" && e.Report != nil {
		if _, err := e.Report.Edit(body.EditedScores); err != nil {
			return 0, nil, err
		}
	}
	return a.once(ctx, tenant, r, hash, func(tx *store.Tx) (any, error) {
		if err := tx.Resume(ctx, tenant, id, body.ResumeToken, body.Review); err != nil {
			return nil, err
		}
		job, err := tx.Enqueue(ctx, tenant, store.JobResume, id, a.opts.Version.Version)
		return map[string]string{"evaluation_id": id, "job_id": job, "status": store.JobQueued}, err
	})
}

func (a *API) job(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	j, err := find(a, tenant, func(t string) (store.Job, error) { return a.opts.Store.Job(ctx, t, r.PathValue("job_id")) })
	if err != nil {
		return 0, nil, err
	}
	instrument.Annotate(ctx, instrument.Fields{JobID: j.ID})
	data := map[string]any{
		"job_id": j.ID, "job_type": j.Type, "subject_id": j.SubjectID, "status": j.Status, "version": j.Version, "attempts": j.Attempts,
		"error_code": nil, "cost_usd": j.CostUSD, "created_at": j.CreatedAt, "updated_at": j.UpdatedAt,
	}
	if j.ErrorCode != "" {
		data["error_code"] = j.ErrorCode
	}
	return http.StatusOK, data, nil
}

func (a *API) page(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	n, err := strconv.Atoi(r.PathValue("page"))
	if err != nil || n < 1 {
		return 0, nil, headgate.Invalidf("page must be a number from 1").With("field", "page")
	}
	p, err := find(a, tenant, func(t string) (bidding.Page, error) {
		return a.opts.Store.Page(ctx, t, r.PathValue("document_id"), n)
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"document_id": r.PathValue("document_id"), "page": p.Number, "text": p.Text}, nil
}

func (a *API) deadLetters(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	return list(ctx, a, tenant, r, a.opts.Store.DeadLetters)
}

func (a *API) reviews(ctx context.Context, tenant string, r *http.Request) (int, any, error) {
	return list(ctx, a, tenant, r, a.opts.Store.Reviews)
}

// list answers the newest items of what the tenant may read.
func list[T any](ctx context.Context, a *API, tenant string, r *http.Request, newest func(context.Context, string, int) ([]T, error)) (int, any, error) {
	limit := 100
	if q := r.URL.Query().Get("limit"); q != "" {
		n, err := strconv.Atoi(q)
		if err != nil || n < 1 || n > 500 {
			return 0, nil, headgate.Invalidf("limit must be 1 to 500").With("field", "limit")
		}
		limit = n
	}
	items := []T{}
	for _, t := range a.readable(tenant) {
		some, err := newest(ctx, t, limit-len(items))
		if err != nil {
			return 0, nil, err
		}
		items = append(items, some...)
	}
	return http.StatusOK, map[string]any{"items": items}, nil
}
