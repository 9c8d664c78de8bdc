package metrics_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/metrics"
)

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// sameAnswers compares a store with a server that holds the same points.
func sameAnswers(t *testing.T, s *metrics.Store, r *metrics.Remote, now time.Time) {
	t.Helper()
	byLabels := func(a, b metrics.Sample) int {
		return strings.Compare(a.Labels["tenant_id"], b.Labels["tenant_id"])
	}
	for _, q := range []string{
		`x_total{service_name="bidding"}`, `sum(x_total)`, `sum by (tenant_id) (x_total) / 2`, `1/0`, `nothing`,
		`histogram_quantile(0.9, sum by (le) (h_seconds_bucket))`, `count({service_version="v1",__name__=~"x.*|h.*"})`,
	} {
		want, err := s.Instant(t.Context(), q, now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Instant(t.Context(), q, now)
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		slices.SortFunc(want, byLabels)
		slices.SortFunc(got, byLabels)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-store +server):\n%s", q, diff)
		}
		lines, err := s.Range(t.Context(), q, now.Add(-30*time.Second), now, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		remote, err := r.Range(t.Context(), q, now.Add(-30*time.Second), now, 10*time.Second)
		if err != nil || len(remote) != len(lines) {
			t.Errorf("range %s: %d lines, want %d, %v", q, len(remote), len(lines), err)
		}
	}
	if _, err := r.Instant(t.Context(), `sum(`, now); !errors.Is(err, headgate.Invalidf("")) {
		t.Errorf("syntax error: %v", err)
	}
}

func remoteBatch(now time.Time) batch {
	return export("v1", now).
		counter("x", 1, map[string]any{"tenant_id": "acme"}).
		counter("x", 2, map[string]any{"tenant_id": "globex"}).
		histogram("h", []uint64{5, 4, 1}, []float64{1, 2}, map[string]any{"tenant_id": "acme"})
}

func TestRemoteAnswersAsTheStoreDoes(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(time.Now().UnixMilli()).UTC()
	s := open(t, t.TempDir(), metrics.Options{})
	mustAppend(t, s, "", remoteBatch(now))
	srv := apiServer(t, s)
	r, err := metrics.NewRemote(srv.URL, bearer("operator"), 0)
	if err != nil {
		t.Fatal(err)
	}
	sameAnswers(t, s, r, now)
}

func TestRemoteWithoutServer(t *testing.T) {
	t.Parallel()
	r, err := metrics.NewRemote("http://127.0.0.1:1", nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var e *headgate.Error
	if _, _, err := r.Number(t.Context(), "1", time.Now()); !errors.As(err, &e) || !e.Retryable {
		t.Errorf("got %v", err)
	}
	if _, err := metrics.NewRemote("http://a b", nil, 0); err == nil {
		t.Error("a bad address was accepted")
	}
}
