package metrics_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
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

// TestPrometheusAnswersAsTheStoreDoes runs where a Prometheus of any version
// is installed. It gets the store's samples as blocks made by its promtool.
func TestPrometheusAnswersAsTheStoreDoes(t *testing.T) {
	t.Parallel()
	prometheus, promtool := needs.Program(t, "prometheus", "prometheus"), needs.Program(t, "promtool", "prometheus")
	now := time.UnixMilli(time.Now().UnixMilli()).UTC()
	s := open(t, t.TempDir(), metrics.Options{})
	mustAppend(t, s, "", remoteBatch(now))

	dir := t.TempDir()
	data, config, samples := filepath.Join(dir, "data"), filepath.Join(dir, "prometheus.yml"), filepath.Join(dir, "samples")
	for path, text := range map[string]string{config: "global: {}\n", samples: openMetrics(t, s, now)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "tsdb", "create-blocks-from", "openmetrics", samples, data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 30000+rand.IntN(2500))) // below the ports of outgoing connections
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.CommandContext(t.Context(), prometheus, "--config.file="+config, "--storage.tsdb.path="+data,
		"--web.listen-address="+addr, "--log.level=error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the kill is the expected end
	})
	r, err := metrics.NewRemote("http://"+addr, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, ok, err := r.Number(t.Context(), "sum(x_total)", now); err == nil && ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Prometheus does not answer")
		}
	}
	sameAnswers(t, s, r, now)
}

// openMetrics writes every sample of a store as text.
func openMetrics(t *testing.T, s *metrics.Store, now time.Time) string {
	t.Helper()
	_, body := get(t, apiServer(t, s), "operator", "query",
		url.Values{"query": {`{__name__=~".+"}[5m]`}, "time": {now.Format(time.RFC3339Nano)}})
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, series := range answer.Data.Result {
		var labels []string
		for k, v := range series.Metric {
			if k != "__name__" {
				labels = append(labels, fmt.Sprintf("%s=%q", k, v))
			}
		}
		for _, v := range series.Values {
			fmt.Fprintf(&b, "%s{%s} %s %.3f\n", series.Metric["__name__"], strings.Join(labels, ","), v[1], v[0])
		}
	}
	return b.String() + "# EOF\n"
}
