package traffic_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/examples/bidding/biddingtest"
	"github.com/headgate/headgate/examples/bidding/traffic"
)

// splitter sends every fourth request to a candidate that always fails.
func splitter(t *testing.T, stable string) string {
	t.Helper()
	target, err := url.Parse(stable)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-tenant-id") == "" || r.Header.Get("x-session-id") == "" {
			t.Error("a request without tenant or session header")
		}
		if n.Add(1)%4 == 0 {
			w.Header().Set("x-release-route", "candidate")
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("x-release-route", "stable")
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// runUntil drives traffic until it has counted some requests.
func runUntil(t *testing.T, d *traffic.Driver, requests int64) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	for d.Snapshot().Requests < requests && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := d.Snapshot().Requests; n < requests {
		t.Fatalf("%d requests in a minute, want %d", n, requests)
	}
}

func TestTrafficCountsWhatUsersSaw(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	begin := time.Now()
	d, err := traffic.New(traffic.Options{BaseURL: splitter(t, s.URL), Tokens: biddingtest.Tokens, RPS: 150, Concurrency: 8, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	runUntil(t, d, 200)
	got := d.Take()
	candidate, stable := got.ByRoute["candidate"], got.ByRoute["stable"]
	if got.Requests != candidate.Requests+stable.Requests {
		t.Errorf("%d requests: %+v", got.Requests, got.ByRoute)
	}
	if candidate.Failed != candidate.Requests || stable.Failed != 0 || got.Failed != candidate.Failed || got.ByStatus[500] != candidate.Failed {
		t.Errorf("failures: %+v", got)
	}
	if got.FirstBad.Before(begin) || got.LastCandidate.Before(got.FirstBad) || candidate.FirstBad != got.FirstBad {
		t.Errorf("first bad %s, last candidate %s", got.FirstBad, got.LastCandidate)
	}
	if got.ByStatus[202] == 0 || got.ByStatus[200] == 0 {
		t.Errorf("no uploads or no reads: %v", got.ByStatus)
	}
}

func TestTakeStartsAnew(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	d, err := traffic.New(traffic.Options{BaseURL: srv.URL, Tokens: biddingtest.Tokens, RPS: 200})
	if err != nil {
		t.Fatal(err)
	}
	runUntil(t, d, 20)
	srv.Close()
	seen := d.Snapshot().Requests
	if taken := d.Take().Requests; taken != seen {
		t.Errorf("saw %d, took %d", seen, taken)
	}
	if again := d.Take().Requests; again != 0 {
		t.Errorf("took %d twice", again)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, o := range []traffic.Options{{}, {BaseURL: "http://x"}, {BaseURL: "http://x", Tokens: biddingtest.Tokens, RPS: -1}} {
		if _, err := traffic.Run(t.Context(), o); err == nil {
			t.Errorf("Run(%+v) succeeded", o)
		}
	}
}
