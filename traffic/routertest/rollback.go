package routertest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/rollout"
)

// BenchmarkRollback measures, under 32 busy connections, how long after the
// decision to roll back the candidate gets its last request. Each iteration is
// one rollback of all traffic; a request that fails, fails the benchmark.
// Run it with -benchtime 200x.
func BenchmarkRollback(b *testing.B, start func(stable rollout.Backend, ttl time.Duration) Setup) {
	b.Helper()
	var last atomic.Int64
	serve := func(version string, note func()) rollout.Backend {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Release-Route") != "" { // no health check
				note()
			}
			_, _ = io.WriteString(w, version)
		}))
		b.Cleanup(srv.Close)
		return rollout.Backend{Version: version, URL: srv.URL}
	}
	s := rollout.Split{
		Service: Service, Epoch: 1, ReleaseID: "rel_1", AllTenants: true, Salt: "s", TTL: time.Minute,
		Stable:    serve("v1", func() {}),
		Candidate: serve("v2", func() { last.Store(time.Now().UnixNano()) }),
	}
	setup := start(s.Stable, s.TTL)
	apply := func(share float64) {
		s.Share = share
		if _, err := setup.Router.Apply(b.Context(), s); err != nil {
			b.Fatal(err)
		}
		s.Epoch++
	}
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	for range 32 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				req, err := http.NewRequest([]string{"GET", "POST"}[i%2], setup.URL, strings.NewReader([]string{"", "body"}[i%2]))
				if err != nil {
					b.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					b.Errorf("a user was answered %d", resp.StatusCode)
					return
				}
			}
		})
	}
	var took []time.Duration
	for b.Loop() {
		apply(1)
		for before := last.Load(); last.Load() == before && !b.Failed(); {
			time.Sleep(time.Millisecond)
		}
		decided := time.Now()
		apply(0)
		time.Sleep(30 * time.Millisecond) // the stragglers, if any
		took = append(took, max(0, time.Duration(last.Load()-decided.UnixNano())))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}
