package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
)

// The states of a document and of an evaluation.
const (
	StatusQueued     = "queued"
	StatusParsed     = "parsed"
	StatusUnreadable = "unreadable"

	StatusWaiting   = "waiting_for_review"
	StatusResuming  = "resuming"
	StatusCompleted = "completed"
	StatusRejected  = "rejected"
	StatusFailed    = "failed"
)

// Upload is a document as it came in.
type Upload struct {
	TenantID, ProjectID, SupplierID, DocType, Filename string
	Content                                            []byte
}

// AddDocument stores an upload and returns its id.
func (tx *Tx) AddDocument(ctx context.Context, u Upload) (string, error) {
	id := headgate.NewID("doc")
	_, err := tx.ExecContext(ctx, `INSERT INTO documents (id, tenant_id, project_id, supplier_id, doc_type, filename, content, status, created_ns)
		VALUES (?,?,?,?,?,?,?,?,?)`, id, u.TenantID, u.ProjectID, u.SupplierID, u.DocType, u.Filename, u.Content, StatusQueued, tx.s.now().UnixNano())
	if err != nil {
		return "", fmt.Errorf("insert document: %w", err)
	}
	return id, tx.s.tel.RecordEvent(ctx, tx, "document_uploaded", map[string]string{"document_id": id})
}

// Document returns an upload with its content.
func (s *Store) Document(ctx context.Context, tenant, id string) (Upload, error) {
	var u Upload
	err := s.read.QueryRowContext(ctx, `SELECT tenant_id, project_id, supplier_id, doc_type, filename, content FROM documents WHERE id=? AND tenant_id=?`,
		id, tenant).Scan(&u.TenantID, &u.ProjectID, &u.SupplierID, &u.DocType, &u.Filename, &u.Content)
	return u, orNotFound(err, "document")
}

// Page returns one page of a parsed document.
func (s *Store) Page(ctx context.Context, tenant, document string, number int) (bidding.Page, error) {
	p := bidding.Page{Number: number}
	err := s.read.QueryRowContext(ctx, `SELECT p.text FROM pages p JOIN documents d ON d.id = p.document_id
		WHERE d.id=? AND d.tenant_id=? AND p.page=?`, document, tenant, number).Scan(&p.Text)
	return p, orNotFound(err, "page")
}

// SavePages stores what parsing found.
func (tx *Tx) SavePages(ctx context.Context, document string, pages []bidding.Page) error {
	for _, p := range pages {
		if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO pages (document_id, page, text) VALUES (?,?,?)`, document, p.Number, p.Text); err != nil {
			return fmt.Errorf("insert page: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, `UPDATE documents SET status=? WHERE id=?`, StatusParsed, document)
	return err
}

// Scope says which documents an evaluation reads.
type Scope struct {
	TenantID, ProjectID, SupplierID string
	// DocTypes limits the documents; the tender counts for every supplier.
	DocTypes []string
}

const inScope = ` FROM documents WHERE tenant_id=? AND project_id=? AND (supplier_id=? OR doc_type='tender')
	AND doc_type IN (SELECT value FROM json_each(?)) `

func (sc Scope) args() []any {
	types, _ := json.Marshal(sc.DocTypes) // strings always marshal
	return []any{sc.TenantID, sc.ProjectID, sc.SupplierID, string(types)}
}

// CountDocuments returns how many documents are in scope, in any state.
func (tx *Tx) CountDocuments(ctx context.Context, sc Scope) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*)`+inScope, sc.args()...).Scan(&n)
	return n, err
}

// Documents returns the newest parsed revision of every file in scope, and
// how many files have none yet but wait to be parsed.
func (s *Store) Documents(ctx context.Context, sc Scope) (docs []bidding.Document, waiting int, err error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, supplier_id || '/' || filename, doc_type, status`+inScope+`ORDER BY created_ns DESC, id`, sc.args()...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	parsed, queued := map[string]bool{}, map[string]bool{}
	for rows.Next() {
		var d bidding.Document
		var file, status string
		if err := rows.Scan(&d.ID, &file, &d.DocType, &status); err != nil {
			return nil, 0, err
		}
		switch {
		case status == StatusParsed && !parsed[file]:
			parsed[file] = true
			docs = append(docs, d)
		case status == StatusQueued:
			queued[file] = true
		}
	}
	for file := range queued {
		if !parsed[file] {
			waiting++
		}
	}
	if err := rows.Err(); err != nil {
		return nil, 0, err
	}
	for i := range docs {
		if docs[i].Pages, err = s.pages(ctx, docs[i].ID); err != nil {
			return nil, 0, err
		}
	}
	return docs, waiting, nil
}

func (s *Store) pages(ctx context.Context, document string) ([]bidding.Page, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT page, text FROM pages WHERE document_id=? ORDER BY page`, document)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []bidding.Page
	for rows.Next() {
		var p bidding.Page
		if err := rows.Scan(&p.Number, &p.Text); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// Request is what a client asked to evaluate.
type Request struct {
	RulePackVersion string   `json:"rule_pack_version"`
	DocTypes        []string `json:"include_doc_types"`
	ForceHITL       bool     `json:"force_hitl"`
	ModeHint        string   `json:"mode_hint"`
	TopK            int      `json:"top_k"`
}

// Review is a reviewer's decision on a waiting evaluation.
type Review struct {
	Decision     string             `json:"decision"`
	Comment      string             `json:"comment,omitempty"`
	Editor       string             `json:"editor"`
	EditedScores map[string]float64 `json:"edited_scores,omitempty"`
}

// Evaluation is one evaluation in any state.
type Evaluation struct {
	ID, TenantID, ProjectID, SupplierID string
	Request                             Request
	Status                              string
	// Report is nil until the worker has written it.
	Report      *bidding.Report
	HighRisk    bool
	ResumeToken string
	Review      *Review
	UpdatedAt   time.Time
}

// AddEvaluation stores a queued evaluation and returns its id.
func (tx *Tx) AddEvaluation(ctx context.Context, e Evaluation) (string, error) {
	e.ID = headgate.NewID("eval")
	req, err := json.Marshal(e.Request)
	if err != nil {
		return "", err
	}
	now := tx.s.now().UnixNano()
	_, err = tx.ExecContext(ctx, `INSERT INTO evaluations (id, tenant_id, project_id, supplier_id, request, status, created_ns, updated_ns)
		VALUES (?,?,?,?,?,?,?,?)`, e.ID, e.TenantID, e.ProjectID, e.SupplierID, string(req), StatusQueued, now, now)
	if err != nil {
		return "", fmt.Errorf("insert evaluation: %w", err)
	}
	return e.ID, tx.s.tel.RecordEvent(ctx, tx, "evaluation_queued", map[string]string{"evaluation_id": e.ID})
}

// Evaluation returns an evaluation of the tenant.
func (s *Store) Evaluation(ctx context.Context, tenant, id string) (Evaluation, error) {
	e := Evaluation{ID: id, TenantID: tenant}
	var req, report, review string
	var updated int64
	err := s.read.QueryRowContext(ctx, `SELECT project_id, supplier_id, request, status, report, high_risk, resume_token, review, updated_ns
		FROM evaluations WHERE id=? AND tenant_id=?`, id, tenant).
		Scan(&e.ProjectID, &e.SupplierID, &req, &e.Status, &report, &e.HighRisk, &e.ResumeToken, &review, &updated)
	if err != nil {
		return Evaluation{}, orNotFound(err, "evaluation")
	}
	e.UpdatedAt = time.Unix(0, updated).UTC()
	if err := json.Unmarshal([]byte(req), &e.Request); err != nil {
		return Evaluation{}, fmt.Errorf("evaluation %s: %w", id, err)
	}
	if report != "" {
		if err := json.Unmarshal([]byte(report), &e.Report); err != nil {
			return Evaluation{}, fmt.Errorf("report of %s: %w", id, err)
		}
	}
	if review != "" {
		if err := json.Unmarshal([]byte(review), &e.Review); err != nil {
			return Evaluation{}, fmt.Errorf("review of %s: %w", id, err)
		}
	}
	return e, nil
}

// SaveReport writes an evaluation's report and state. A waiting evaluation
// gets a resume token, any other loses it.
func (tx *Tx) SaveReport(ctx context.Context, id, status string, report bidding.Report, highRisk bool) error {
	text, err := json.Marshal(report)
	if err != nil {
		return err
	}
	token := ""
	if status == StatusWaiting {
		token = headgate.NewID("rsm")
	}
	_, err = tx.ExecContext(ctx, `UPDATE evaluations SET status=?, report=?, high_risk=?, resume_token=?, updated_ns=? WHERE id=?`,
		status, string(text), highRisk, token, tx.s.now().UnixNano(), id)
	if err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	if err := tx.s.tel.RecordEvent(ctx, tx, "evaluation_"+status, map[string]string{"evaluation_id": id}); err != nil || !highRisk {
		return err
	}
	switch status {
	case StatusWaiting:
		return tx.audit(ctx, "audit.evaluated", id, map[string]string{"risk_level": "high"})
	case StatusCompleted:
		return tx.audit(ctx, "audit.effective", id, nil)
	default:
		return nil
	}
}

// audit writes a record of the audit log, from which Headgate sees that no
// high-risk evaluation takes effect without a person.
func (tx *Tx) audit(ctx context.Context, event, evaluation string, more map[string]string) error {
	attrs := map[string]string{"evaluation_id": evaluation}
	maps.Copy(attrs, more)
	return tx.s.tel.RecordEvent(ctx, tx, event, attrs)
}

// Resume uses up the resume token of a waiting evaluation and keeps the
// review. A token that does not fit, or was used, is a RESUME_TOKEN_INVALID.
func (tx *Tx) Resume(ctx context.Context, tenant, id, token string, r Review) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, `UPDATE evaluations SET status=?, resume_token='', review=?, updated_ns=?
		WHERE id=? AND tenant_id=? AND status=? AND resume_token=? AND resume_token<>''`,
		StatusResuming, string(text), tx.s.now().UnixNano(), id, tenant, StatusWaiting, token)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return headgate.Errorf("RESUME_TOKEN_INVALID", headgate.ClassBusinessRule,
			"the evaluation does not wait with this resume_token; read the report again").Wrap(err)
	}
	if err := tx.s.tel.RecordEvent(ctx, tx, "evaluation_reviewed", map[string]string{"evaluation_id": id, "decision": r.Decision}); err != nil {
		return err
	}
	return tx.audit(ctx, "audit.reviewed", id, map[string]string{
		"reviewer": r.Editor, "reviewer_type": "person", "approved": strconv.FormatBool(r.Decision != "reject"), "decision": r.Decision,
	})
}

// Reviewed is a review with the evaluation that it decided.
type Reviewed struct {
	ID           string `json:"review_id"`
	EvaluationID string `json:"evaluation_id"`
	Review
	ReviewedAt time.Time `json:"reviewed_at"`
}

// Reviews returns the tenant's newest reviews, at most limit.
func (s *Store) Reviews(ctx context.Context, tenant string, limit int) ([]Reviewed, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, review, updated_ns FROM evaluations
		WHERE tenant_id=? AND review<>'' ORDER BY updated_ns DESC LIMIT ?`, tenant, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Reviewed{}
	for rows.Next() {
		var r Reviewed
		var review string
		var at int64
		if err := rows.Scan(&r.EvaluationID, &review, &at); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(review), &r.Review); err != nil {
			return nil, fmt.Errorf("review of %s: %w", r.EvaluationID, err)
		}
		// An evaluation is reviewed once.
		r.ID, r.ReviewedAt = "rev_"+strings.TrimPrefix(r.EvaluationID, "eval_"), time.Unix(0, at).UTC()
		out = append(out, r)
	}
	return out, rows.Err()
}
