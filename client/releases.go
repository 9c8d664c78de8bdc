package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/headgate/headgate"
)

// CreateRequest asks for a release to begin. Version and Digest are required.
type CreateRequest struct {
	// ID makes the request repeatable; empty means a new one.
	ID string `json:"release_id,omitempty"`
	// Service may be empty when the server knows only one.
	Service string            `json:"service,omitempty"`
	Version string            `json:"version"`
	Digest  string            `json:"digest"` // "sha256:<64 hex>" of what runs
	Changes []headgate.Change `json:"changes,omitempty"`
	Source  headgate.Source   `json:"source,omitzero"`
	// StagingURL and CandidateURL default to the service description's.
	StagingURL   string `json:"staging_url,omitempty"`
	CandidateURL string `json:"candidate_url,omitempty"`
	HighRisk     bool   `json:"high_risk,omitempty"`
}

// Release is a release and how it stands.
type Release struct {
	headgate.Release
	// Phase is "running", "rolling_back" or "done".
	Phase string `json:"phase"`
	// Note says what the present stage is waiting for.
	Note string `json:"note,omitempty"`
	// Share is the candidate's share of admitted traffic, 0 to 1.
	Share float64 `json:"share"`
	// ShareUnconfirmed says why it is not known that the routers give the
	// candidate that share, empty when they confirmed it at the last look.
	ShareUnconfirmed string `json:"share_unconfirmed,omitempty"`
	// Tiers are the steps by which the canary widens, in order.
	Tiers []Tier `json:"tiers"`
	// Evicted are the tenants that were taken off the candidate because each
	// alone spoke against it.
	Evicted   []Evicted           `json:"evicted,omitempty"`
	Canary    *Canary             `json:"canary,omitempty"`
	StageRuns []headgate.StageRun `json:"stage_runs"`
	// Deadline ends the present stage; zero for none.
	Deadline time.Time `json:"deadline,omitzero"`
	// Rollback is the last one of the release. That of a release which ended as
	// promoted took it back afterwards.
	Rollback *Rollback `json:"rollback,omitempty"`
	// Evidence is the number of signed statements about the release.
	Evidence int `json:"evidence"`
}

// Rollback is how far a release has been taken back. A zero time has not come.
type Rollback struct {
	ID          string    `json:"rollback_id"`
	Actor       string    `json:"actor"`
	Reason      string    `json:"reason,omitempty"`
	TriggeredAt time.Time `json:"triggered_at"`
	CompletedAt time.Time `json:"completed_at,omitzero"`
	// RestoredAt is when the replay against stable had passed and the freeze
	// was lifted.
	RestoredAt time.Time      `json:"restored_at,omitzero"`
	Steps      []RollbackStep `json:"steps"`
}

// RollbackStep is one component's way back.
type RollbackStep struct {
	Component headgate.Component `json:"component"`
	To        string             `json:"to,omitempty"`
	// Status is pending, running, done, unchanged or escalated.
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
}

// Run returns the last attempt at a stage, false when there was none.
func (r Release) Run(stage headgate.Stage) (headgate.StageRun, bool) {
	for i := len(r.StageRuns) - 1; i >= 0; i-- {
		if r.StageRuns[i].Stage == stage {
			return r.StageRuns[i], true
		}
	}
	return headgate.StageRun{}, false
}

// Tier is one step by which a canary widens.
type Tier struct {
	Tier             string   `json:"tier"`
	Tenants          []string `json:"tenants"`
	Share            float64  `json:"share"`
	SoakSeconds      float64  `json:"soak_s"`
	ApprovalRequired bool     `json:"approval_required,omitempty"`
	// State is "pending", "running", "passed" or "stopped".
	State string `json:"state"`
}

// Evicted is a tenant that was taken off a candidate: what failed for it there,
// and what has failed for it on stable since.
type Evicted struct {
	Tenant    string    `json:"tenant"`
	At        time.Time `json:"at"`
	Candidate Totals    `json:"candidate"`
	Stable    Totals    `json:"stable"`
}

// Canary is the judge's latest decision.
type Canary struct {
	Time    time.Time        `json:"time"`
	Verdict headgate.Verdict `json:"verdict"`
	Action  string           `json:"action"`
	// Share is the most that the judge allows the candidate.
	Share   float64  `json:"share"`
	Reason  string   `json:"reason"`
	Reasons []string `json:"reasons"`
	// Evidence holds levels: 1 is none, a level reaches x by chance with
	// probability 1/x at most.
	Evidence  map[string]float64 `json:"evidence"`
	Stable    Totals             `json:"stable"`
	Candidate Totals             `json:"candidate"`
	Elapsed   float64            `json:"elapsed_s"`
	// Remaining is the expected time in seconds to a pass; negative when there
	// is no telling.
	Remaining float64           `json:"remaining_s"`
	Breaches  []headgate.Breach `json:"breaches,omitempty"`
	// Evict is the tenant from which nearly all that speaks against the
	// candidate comes, empty when it is not one alone.
	Evict string `json:"evict,omitempty"`
}

// Totals are one arm's requests and errors so far.
type Totals struct {
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors"`
}

// Event is one line of a release's decision trail. Seq rises.
type Event struct {
	Seq int64 `json:"seq"`
	headgate.Event
}

// Job is work that goes on after a request, such as the replay after a
// rollback. Status is "queued", "running", "succeeded" or "failed".
type Job struct {
	ID        string   `json:"job_id"`
	Kind      string   `json:"kind"`
	Status    string   `json:"status"`
	ReleaseID string   `json:"release_id"`
	TenantID  string   `json:"tenant_id"`
	Failures  []string `json:"failures,omitempty"`
}

func releasePath(id, rest string) string { return "/api/v1/releases/" + url.PathEscape(id) + rest }

// CreateRelease begins a release. With an ID it may be called again: the same
// request finds the same release.
func (c *Client) CreateRelease(ctx context.Context, r CreateRequest) (Release, error) {
	return do[Release](ctx, c, call{method: http.MethodPost, path: "/api/v1/releases", body: r, again: r.ID != ""})
}

// Release returns a release, RELEASE_NOT_FOUND when there is none that the
// caller may see.
func (c *Client) Release(ctx context.Context, id string) (Release, error) {
	return do[Release](ctx, c, call{method: http.MethodGet, path: releasePath(id, ""), again: true})
}

// Releases returns the newest releases, newest first, of one service or, when
// that is empty, of all. A limit of 0 is the server's default, 100.
func (c *Client) Releases(ctx context.Context, service string, limit int) ([]headgate.Release, error) {
	q := url.Values{}
	if service != "" {
		q.Set("service", service)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return do[[]headgate.Release](ctx, c, call{method: http.MethodGet, path: "/api/v1/releases", query: q, again: true})
}

// Events returns a release's trail after a sequence number, oldest first. When
// there is nothing new it waits up to wait, at most 30 s, for something.
func (c *Client) Events(ctx context.Context, id string, after int64, wait time.Duration) ([]Event, error) {
	wait = min(wait, 30*time.Second)
	q := url.Values{"after": {strconv.FormatInt(after, 10)}, "wait_s": {strconv.Itoa(int(wait.Seconds()))}}
	return do[[]Event](ctx, c, call{method: http.MethodGet, path: releasePath(id, "/events"), query: q, again: true, timeout: wait + callTimeout})
}

// ReportStage reports how build or test went where the caller ran it. The
// verdict is pass or fail.
func (c *Client) ReportStage(ctx context.Context, id string, stage headgate.Stage, v headgate.Verdict, summary string) (Release, error) {
	body := map[string]any{"verdict": v, "summary": summary}
	return do[Release](ctx, c, call{method: http.MethodPost, path: releasePath(id, "/stages/"+url.PathEscape(string(stage))), body: body})
}

// Approve lets a release that waits for a person go on. The reason is kept in
// the audit log.
func (c *Client) Approve(ctx context.Context, id, reason string) (Release, error) {
	return do[Release](ctx, c, call{method: http.MethodPost, path: releasePath(id, "/approve"), body: map[string]any{"reason": reason}})
}

// Abort stops a release; under user traffic that is a rollback. The reason is
// kept in the audit log.
func (c *Client) Abort(ctx context.Context, id, reason string) (Release, error) {
	return do[Release](ctx, c, call{method: http.MethodPost, path: releasePath(id, "/abort"), body: map[string]any{"reason": reason}})
}

// Job returns a job, JOB_NOT_FOUND when there is none.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	return do[Job](ctx, c, call{method: http.MethodGet, path: "/api/v1/jobs/" + url.PathEscape(id), again: true})
}

// Report writes a release's page to w, in the format "html", "md" or "json"
// and the language "en" or "zh-CN".
func (c *Client) Report(ctx context.Context, id, format, lang string, w io.Writer) error {
	q := url.Values{"format": {format}, "lang": {lang}}
	return c.try(ctx, call{method: http.MethodGet, path: "/releases/" + url.PathEscape(id), query: q, again: true}, copyTo(w))
}

// copyTo writes an answer to w. A failure half way is permanent: part of the
// answer has been written.
func copyTo(w io.Writer) func(io.Reader) error {
	return func(r io.Reader) error {
		if _, err := io.Copy(w, r); err != nil {
			return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent, "the answer was cut off or could not be written; try again").Wrap(err)
		}
		return nil
	}
}

// RouteReport is what each route did on both versions, for the tenants that
// may meet the candidate, the worst for the candidate first.
type RouteReport struct {
	ReleaseID string    `json:"release_id"`
	At        time.Time `json:"at"`
	// From is when the candidate first got a share; zero when that is not known:
	// the counts then begin with the routers, earlier canaries included.
	From   time.Time      `json:"from,omitzero"`
	Routes []RouteFigures `json:"routes"`
}

// RouteFigures are one route's on both versions.
type RouteFigures struct {
	Route     string   `json:"route"`
	Candidate RouteArm `json:"candidate"`
	Stable    RouteArm `json:"stable"`
}

// RouteArm is what one version did on a route. P95 is in seconds; 0 without
// requests, and 549 for whatever took longer or was never answered.
type RouteArm struct {
	Requests int64   `json:"requests"`
	Errors   int64   `json:"errors"`
	P95      float64 `json:"p95_s"`
}

// Routes returns what each route does on a release's candidate and on stable,
// read from the routers now. Returns UNAVAILABLE when they do not answer.
func (c *Client) Routes(ctx context.Context, release string) (RouteReport, error) {
	return do[RouteReport](ctx, c, call{method: http.MethodGet, path: releasePath(release, "/routes"), again: true})
}
