package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Story returns the timeline of one request as JSON: spans, logs, job attempts
// and database events in order of time, with which kind of identifier led to
// it as matched_by. The id is a trace id, a request id, a job id or an error
// code. A tenant narrows what is looked at; empty does not. What is not known
// has no entries.
func (c *Client) Story(ctx context.Context, id, tenant string) (json.RawMessage, error) {
	q := url.Values{"id": {id}}
	if tenant != "" {
		q.Set("tenant_id", tenant)
	}
	return do[json.RawMessage](ctx, c, call{method: http.MethodGet, path: "/api/v1/timeline", query: q, again: true})
}

// ErrorReport is what fails more on a release than on stable.
type ErrorReport struct {
	ReleaseID string        `json:"release_id"`
	From      time.Time     `json:"from"`
	To        time.Time     `json:"to"`
	Changes   []ErrorChange `json:"changes"`
	// Reason is the same in one paragraph; empty when nothing fails more.
	Reason string `json:"reason"`
}

// ErrorChange is an error that is new or more frequent on the candidate.
type ErrorChange struct {
	Code     string `json:"error_code"`
	TenantID string `json:"tenant_id,omitempty"`
	// Name is the endpoint, the operation or the log's text that failed.
	Name  string    `json:"name"`
	Count int64     `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// TraceID is one example.
	TraceID string `json:"trace_id,omitempty"`
	// StableCount is stable's number, scaled to the candidate's requests.
	StableCount float64 `json:"stable_count_scaled"`
	New         bool    `json:"new"`
}

// Errors compares what fails on a release with what fails on stable over the
// time since; 0 is since its canary began. Since is cut to whole seconds.
func (c *Client) Errors(ctx context.Context, release string, since time.Duration) (ErrorReport, error) {
	q := url.Values{}
	if since > 0 {
		q.Set("since_s", strconv.Itoa(int(since.Seconds())))
	}
	return do[ErrorReport](ctx, c, call{method: http.MethodGet, path: releasePath(release, "/errors"), query: q, again: true})
}
