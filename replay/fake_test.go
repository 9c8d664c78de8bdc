package replay_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/replay"
)

// service is a small bid-evaluation service with faults to choose.
type service struct {
	mu      sync.Mutex
	records map[string]record // by id
	n       int
	seen    []string // authorization of each request
	forms   []string

	leak      bool // answers another tenant
	open      bool // answers without a credential
	trusting  bool // believes x-tenant-id without a credential
	listAll   bool // lists every tenant's items
	failJobs  bool
	slowJobs  bool
	locked    map[string]bool // tenants whose credential is not accepted
	failFor   string          // a tenant that gets 503
	score     float64
	extra     bool
	token     string
	resumable bool
}

type record struct{ tenant, kind string }

func newService(t *testing.T) (*service, string) {
	t.Helper()
	s := &service{records: map[string]record{}, score: 71.5, locked: map[string]bool{}, resumable: true}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv.URL
}

func (s *service) id(tenant, kind string) string {
	s.n++
	id := fmt.Sprintf("%s_%06d", kind, s.n*7919)
	s.records[id] = record{tenant, kind}
	return id
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Header.Get("Authorization"))
	tenant, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer tok-")
	if claim := r.Header.Get("X-Tenant-Id"); claim != "" && claim != tenant {
		if !s.trusting {
			answer(w, http.StatusForbidden, nil)
			return
		}
		tenant, ok = claim, true
	}
	if s.failFor != "" && tenant == s.failFor {
		answer(w, http.StatusServiceUnavailable, nil)
		return
	}
	if s.locked[tenant] || (!ok && !s.open) {
		answer(w, http.StatusUnauthorized, nil)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	switch {
	case r.Method == http.MethodPost && r.Header.Get("Idempotency-Key") == "":
		answer(w, http.StatusBadRequest, nil)
	case r.URL.Path == "/api/v1/documents/upload":
		s.upload(w, r, tenant)
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/evaluations":
		answer(w, http.StatusAccepted, map[string]any{"evaluation_id": s.id(tenant, "eval"), "job_id": s.id(tenant, "job")})
	case parts[0] == "dlq":
		items := []any{}
		if s.listAll {
			for id := range s.records {
				items = append(items, map[string]any{"dlq_id": "dlq_1", "subject_id": id})
			}
		}
		answer(w, http.StatusOK, map[string]any{"items": items})
	default:
		s.existing(w, r, tenant, parts)
	}
}

func (s *service) upload(w http.ResponseWriter, r *http.Request, tenant string) {
	file, header, err := r.FormFile("file")
	if err != nil {
		answer(w, http.StatusBadRequest, nil)
		return
	}
	data, _ := io.ReadAll(file)
	s.forms = append(s.forms, fmt.Sprintf("%s %s %d %s %s", header.Filename, header.Header.Get("Content-Type"), len(data),
		r.FormValue("project_id"), r.FormValue("doc_type")))
	answer(w, http.StatusAccepted, map[string]any{"document_id": s.id(tenant, "doc"), "job_id": s.id(tenant, "job")})
}

func (s *service) existing(w http.ResponseWriter, r *http.Request, tenant string, parts []string) {
	rec, ok := s.records[parts[1]]
	if !ok || (rec.tenant != tenant && !s.leak && !s.open) {
		answer(w, http.StatusNotFound, nil)
		return
	}
	switch {
	case parts[0] == "jobs":
		status := "succeeded"
		if s.failJobs {
			status = "failed"
		}
		if s.slowJobs {
			status = "running"
		}
		answer(w, http.StatusOK, map[string]any{"job_id": parts[1], "status": status, "updated_at": time.Now()})
	case parts[0] == "documents":
		answer(w, http.StatusOK, map[string]any{"document_id": parts[1], "text": "招标"})
	case r.Method == http.MethodPost:
		var body struct {
			Token string `json:"resume_token"`
		}
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Token != "tok_"+parts[1] {
			answer(w, http.StatusConflict, nil)
			return
		}
		s.token = body.Token
		answer(w, http.StatusAccepted, map[string]any{"evaluation_id": parts[1], "job_id": s.id(tenant, "job")})
	default:
		waits := s.resumable && s.token != "tok_"+parts[1]
		data := map[string]any{
			"evaluation_id": parts[1], "score": s.score, "needs_human_review": waits, "interrupt": nil,
			"criteria": []any{map[string]any{"id": "price", "cites": "doc of " + parts[1]}},
		}
		if waits {
			data["interrupt"] = map[string]any{"resume_token": "tok_" + parts[1]}
		}
		if s.extra {
			data["debug"] = true
		}
		answer(w, http.StatusOK, data)
	}
}

func answer(w http.ResponseWriter, status int, data any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"success": status < 300, "data": data, "meta": map[string]any{"request_id": time.Now().UnixNano()},
	})
}

func target(url string) replay.Target {
	return replay.Target{BaseURL: url, Credential: func(tenant string) string { return "tok-" + tenant }}
}

func vars() replay.Vars {
	return replay.Vars{
		Tenant: "acme", ProjectID: "prj-1", SupplierID: "sup-1", DocType: "bid", ForceHITL: true, Decision: "approve",
	}
}
