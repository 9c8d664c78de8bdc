package replay

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Target is where a suite is sent.
type Target struct {
	// BaseURL is the service's root, without a trailing slash.
	BaseURL string
	// Credential returns the bearer token of a tenant, "" when there is none.
	Credential func(tenant string) string
	// Client sends the requests; nil means a client of its own. Redirects are
	// never followed: they would carry a credential elsewhere.
	Client *http.Client
	// Headers are added to every request.
	Headers map[string]string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Vars are the values a suite's templates may name.
type Vars struct {
	// Tenant is as whom the sessions run.
	Tenant     string // {{tenant}}
	ProjectID  string // {{project_id}}
	SupplierID string // {{supplier_id}}
	DocType    string // {{doc_type}}
	ForceHITL  bool   // {{force_hitl}}
	Decision   string // {{decision}}
	// IdempotencyKey is the prefix of this run's idempotency keys
	// ({{idempotency_key}}). Empty means the run's own id.
	IdempotencyKey string
}

// Run is what a service answered to a suite.
type Run struct {
	ID          string          `json:"replay_run_id"`
	Suite       string          `json:"suite"`
	SuiteDigest string          `json:"suite_digest"`
	TenantID    string          `json:"tenant_id"`
	StartedAt   time.Time       `json:"started_at"`
	DurationS   float64         `json:"duration_s"`
	Passed      bool            `json:"passed"`
	Compare     Rules           `json:"compare,omitzero"`
	Sessions    []SessionResult `json:"sessions"`

	vars Vars
}

// SessionResult is one session of a run.
type SessionResult struct {
	Name     string         `json:"name"`
	Passed   bool           `json:"passed"`
	Steps    []StepResult   `json:"steps"`
	Captures map[string]any `json:"captures"`
}

// StepResult is one step of a run.
type StepResult struct {
	Name string `json:"name"`
	// Outcome is passed, failed, skipped (its condition did not hold) or
	// not_run (an earlier step of the session failed).
	Outcome   string  `json:"outcome"`
	Failure   string  `json:"failure,omitempty"`
	Status    int     `json:"status,omitempty"`
	DurationS float64 `json:"duration_s"`
	// Requests counts the requests made, above 1 only when polling.
	Requests    int    `json:"requests,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	// Body is the normalised answer: identifiers by name, ignored paths left
	// out. An answer that is not JSON is kept as a digest.
	Body    json.RawMessage `json:"body,omitempty"`
	Compare Rules           `json:"compare,omitzero"`
}

// The outcomes of a step.
const (
	StepPassed  = "passed"
	StepFailed  = "failed"
	StepSkipped = "skipped"
	StepNotRun  = "not_run"
)

// Value returns what the first session that captured name captured.
func (r Run) Value(name string) (any, bool) {
	for _, s := range r.Sessions {
		if v, ok := s.Captures[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// Execute sends every session of the suite to the target as v.Tenant. A step
// that does not answer as expected makes the run fail, not an error: the error
// is for a run that could not be made (bad variables, no credential, ctx
// ended).
func Execute(ctx context.Context, s Suite, t Target, v Vars) (Run, error) {
	return Run{}, errors.ErrUnsupported
}
