package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/headgate/headgate"
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
	// TenantHeader is the header in which a caller names a tenant; empty
	// means x-tenant-id. [Isolation] claims the owner's in it.
	TenantHeader string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Vars are the values a suite's templates may name.
type Vars struct {
	// Tenant is as whom the sessions run.
	Tenant     string `json:"tenant"`
	ProjectID  string `json:"project_id"`
	SupplierID string `json:"supplier_id"`
	DocType    string `json:"doc_type"`
	ForceHITL  bool   `json:"force_hitl"`
	Decision   string `json:"decision"`
	// IdempotencyKey is the prefix of this run's idempotency keys. Empty
	// means the run's own id.
	IdempotencyKey string `json:"idempotency_key"`
}

// variables are the names that a template may use without a capture.
var variables = []string{
	"tenant", "project_id", "supplier_id", "doc_type", "force_hitl", "decision", "idempotency_key",
}

func (v Vars) scope() map[string]any {
	return map[string]any{
		"tenant": v.Tenant, "project_id": v.ProjectID, "supplier_id": v.SupplierID, "doc_type": v.DocType,
		"force_hitl": v.ForceHITL, "decision": v.Decision, "idempotency_key": v.IdempotencyKey,
	}
}

// Run is what a service answered to a suite.
type Run struct {
	ID          string          `json:"replay_run_id"`
	Suite       string          `json:"suite"`
	SuiteDigest string          `json:"suite_digest"`
	Vars        Vars            `json:"vars"`
	StartedAt   time.Time       `json:"started_at"`
	DurationS   float64         `json:"duration_s"`
	Passed      bool            `json:"passed"`
	Compare     Rules           `json:"compare,omitzero"`
	Sessions    []SessionResult `json:"sessions"`
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
// is for a run that could not be made (no tenant, no credential, ctx ended).
func Execute(ctx context.Context, s Suite, t Target, v Vars) (Run, error) {
	c, err := newCaller(s, t)
	if err != nil {
		return Run{}, err
	}
	if v.Tenant == "" {
		return Run{}, headgate.Invalidf("a replay needs a tenant; name one of the service's tenants")
	}
	token := c.credential(v.Tenant)
	if token == "" {
		return Run{}, headgate.Invalidf("no credential for tenant %q; add one to the service's description", v.Tenant)
	}
	run := Run{
		ID: headgate.NewID("rpy"), Suite: s.Name, SuiteDigest: s.Digest, Compare: s.Compare,
		StartedAt: c.now().UTC(), Passed: true,
	}
	if v.IdempotencyKey == "" {
		v.IdempotencyKey = run.ID
	}
	run.Vars = v
	for _, session := range s.Sessions {
		result := c.session(ctx, session, token, v)
		if ctx.Err() != nil {
			return run, fmt.Errorf("replay %s: %w", run.ID, ctx.Err())
		}
		run.Passed = run.Passed && result.Passed
		run.Sessions = append(run.Sessions, result)
	}
	run.DurationS = c.now().Sub(run.StartedAt).Seconds()
	return run, nil
}

func (c *caller) session(ctx context.Context, session Session, token string, v Vars) SessionResult {
	result := SessionResult{Name: session.Name, Passed: true, Captures: map[string]any{}}
	scope := v.scope()
	for _, step := range session.Steps {
		if !result.Passed {
			result.Steps = append(result.Steps, StepResult{Name: step.Name, Outcome: StepNotRun})
			continue
		}
		sr := c.step(ctx, step, token, scope, result.Captures)
		result.Passed = sr.Outcome != StepFailed
		result.Steps = append(result.Steps, sr)
	}
	return result
}

// step makes the request and adds what it captures to scope and captures.
func (c *caller) step(ctx context.Context, step Step, token string, scope, captures map[string]any) StepResult {
	sr := StepResult{Name: step.Name, Outcome: StepSkipped, Compare: step.Compare}
	if step.When != nil && text(scope[step.When.Value]) != step.When.Is {
		return sr
	}
	began := c.now()
	a, err := c.ask(ctx, step, token, scope, &sr.Requests)
	sr.DurationS = c.now().Sub(began).Seconds()
	sr.Status, sr.ContentType = a.status, a.contentType
	if err == nil {
		err = capture(step, a, scope, captures)
	}
	body, normErr := c.normalise(a, step, scope)
	sr.Body = body
	if err = errors.Join(err, normErr); err != nil {
		sr.Outcome, sr.Failure = StepFailed, err.Error()
		return sr
	}
	sr.Outcome = StepPassed
	return sr
}

// ask makes the step's request, again and again when it is polled, and counts
// the requests. The answer is the last one, also beside an error.
func (c *caller) ask(ctx context.Context, step Step, token string, scope map[string]any, requests *int) (answer, error) {
	poll := step.Poll
	if poll == nil {
		*requests = 1
		return c.once(ctx, step, token, scope)
	}
	limited, cancel := context.WithTimeout(ctx, poll.Timeout)
	defer cancel()
	var last answer
	seen := "not known"
	for {
		*requests++
		a, err := c.once(limited, step, token, scope)
		if limited.Err() != nil {
			return last, fmt.Errorf("%s is %s after %s", poll.Path, seen, poll.Timeout)
		}
		if err != nil {
			return a, err
		}
		v, ok := lookup(a.doc, poll.Path)
		if !ok {
			return a, fmt.Errorf("the answer has no %s", poll.Path)
		}
		last, seen = a, strconv.Quote(text(v))
		switch {
		case slices.Contains(poll.Until, text(v)):
			return a, nil
		case slices.Contains(poll.Fail, text(v)):
			return a, fmt.Errorf("%s is %s", poll.Path, seen)
		}
		if pause(limited, poll.Interval) != nil {
			return a, fmt.Errorf("%s is %s after %s", poll.Path, seen, poll.Timeout)
		}
	}
}

func (c *caller) once(ctx context.Context, step Step, token string, scope map[string]any) (answer, error) {
	a, err := c.send(ctx, step, token, scope, nil)
	if err == nil && !slices.Contains(step.Status, a.status) {
		err = fmt.Errorf("status %d, expected %v", a.status, step.Status)
	}
	return a, err
}

func capture(step Step, a answer, scope, captures map[string]any) error {
	for _, want := range step.Captures {
		v, ok := lookup(a.doc, want.Path)
		if !ok || v == nil {
			if want.Optional {
				continue
			}
			return fmt.Errorf("the answer has no %s to capture as %s", want.Path, want.Name)
		}
		switch v.(type) {
		case string, bool, json.Number:
			scope[want.Name], captures[want.Name] = v, v
		default:
			return fmt.Errorf("%s is not a single value and cannot be captured as %s", want.Path, want.Name)
		}
	}
	return nil
}
