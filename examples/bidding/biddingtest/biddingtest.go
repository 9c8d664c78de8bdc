// Package biddingtest runs the bidding service inside a test: API and worker
// on a temporary database, reached over real HTTP.
package biddingtest

import (
	"context"
	"io"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/httpapi"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/examples/bidding/worker"
	"github.com/headgate/headgate/instrument"
)

// Tokens are the tenants of a test.
var Tokens = map[string]string{"acme": "token-of-acme-in-tests", "borealis": "token-of-borealis-in-tests"}

// Service is a running service.
type Service struct {
	URL     string
	Path    string // of the database
	Store   *store.Store
	Version bidding.Version
	reader  *sdkmetric.ManualReader
}

// Start runs a shipped version of the service until the test ends. Without a
// worker, jobs stay queued.
func Start(t testing.TB, version string, withWorker bool) *Service {
	t.Helper()
	v, err := bidding.LoadVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	return StartVersion(t, v, withWorker)
}

// StartVersion is Start with a version that is not shipped.
func StartVersion(t testing.TB, v bidding.Version, withWorker bool) *Service {
	t.Helper()
	s := &Service{Version: v, Path: filepath.Join(t.TempDir(), "bidding.db"), reader: sdkmetric.NewManualReader()}
	tel, err := instrument.Setup(t.Context(), instrument.Options{Service: "bidding", Version: v.Version, Environment: "staging", Reader: s.reader})
	if err != nil {
		t.Fatal(err)
	}
	if s.Store, err = store.Open(t.Context(), s.Path, tel); err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(worker.Options{Store: s.Store, Telemetry: tel, Version: v, Tenants: []string{"acme", "borealis"},
		Backoff: 10 * time.Millisecond, Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	api, err := httpapi.New(httpapi.Options{Store: s.Store, Telemetry: tel, Version: v, Tokens: Tokens, Queued: w.Wake})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(api)
	s.URL = srv.URL
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if withWorker {
		go func() { done <- w.Run(ctx) }()
	} else {
		done <- nil
	}
	t.Cleanup(func() {
		srv.Close()
		stop()
		if err := <-done; err != nil {
			t.Errorf("worker: %v", err)
		}
		if err := s.Store.Close(); err != nil {
			t.Errorf("store: %v", err)
		}
	})
	return s
}

// As returns a client of the tenant.
func (s *Service) As(tenant string) *client.Client {
	return &client.Client{BaseURL: s.URL, Token: Tokens[tenant]}
}

// Metrics collects the service's metrics by name.
func (s *Service) Metrics(t testing.TB) map[string]metricdata.Aggregation {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := s.reader.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	out := map[string]metricdata.Aggregation{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			out[m.Name] = m.Data
		}
	}
	return out
}

// Sum adds the points of a counter that have the attributes "key=value".
func Sum(data metricdata.Aggregation, want ...string) (n int64) {
	sum, ok := data.(metricdata.Sum[int64])
	if !ok {
		return 0
	}
	for _, p := range sum.DataPoints {
		var have []string
		for _, kv := range p.Attributes.ToSlice() {
			have = append(have, string(kv.Key)+"="+kv.Value.String())
		}
		if !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(have, w) }) {
			n += p.Value
		}
	}
	return n
}

// Drain reads a body to its end and closes it.
func Drain(t testing.TB, body io.ReadCloser) string {
	t.Helper()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	return string(data)
}
