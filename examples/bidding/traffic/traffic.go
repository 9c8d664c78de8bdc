// Package traffic drives realistic multi-tenant sessions against the bidding
// service, usually through a release proxy, and counts what users saw.
//
// It owns the sessions and the counts. It never judges: a failed request is
// counted, not retried and not explained.
package traffic

import (
	"context"
	"net/http"
	"time"
)

// Options say whom to call and how hard.
type Options struct {
	// BaseURL is the service or the proxy before it, without a path.
	BaseURL string
	// Tokens are the bearer tokens by tenant. Load is spread evenly.
	Tokens map[string]string
	// RPS is the target rate of requests per second over all tenants;
	// default 50. When the service is slower, the driver falls behind
	// instead of piling up.
	RPS float64
	// Concurrency bounds the requests in flight; default 16.
	Concurrency int
	// Seed makes the choice of requests repeatable.
	Seed uint64
	// HTTP is the client to use; nil takes one with a 10 s timeout.
	HTTP *http.Client
}

// RouteStats are the requests that one arm answered, by x-release-route.
type RouteStats struct {
	Requests int64 `json:"requests"`
	// Failed counts what a user would call broken: a 5xx or no answer.
	Failed int64 `json:"failed"`
	// First and Last are when the arm first and last answered.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// FirstBad is when the first failed answer arrived.
	FirstBad time.Time `json:"first_bad,omitzero"`
}

// Stats are the counts since the driver began or since the last Take.
type Stats struct {
	Requests int64 `json:"requests"`
	Failed   int64 `json:"failed"`
	// ByStatus counts answers by HTTP status; 0 is no answer at all.
	ByStatus map[int]int64 `json:"by_status"`
	// ByRoute is keyed by the x-release-route response header: "stable",
	// "candidate", or "" when no proxy set it.
	ByRoute map[string]RouteStats `json:"by_route"`
	// FirstBad is when the first failed answer arrived, from any arm.
	FirstBad time.Time `json:"first_bad,omitzero"`
	// LastCandidate is when a candidate last answered.
	LastCandidate time.Time `json:"last_candidate,omitzero"`
}

// Run drives traffic until ctx ends and returns the counts. It fails only on
// options that cannot work.
func Run(ctx context.Context, opts Options) (Stats, error) {
	d, err := New(opts)
	if err != nil {
		return Stats{}, err
	}
	err = d.Run(ctx)
	return d.Take(), err
}
