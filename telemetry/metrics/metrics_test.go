package metrics_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/metrics"
)

// childEnv makes the test binary a process that appends until it is killed.
const childEnv = "HEADGATE_METRICS_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		appendForever(dir)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string, o metrics.Options) *metrics.Store {
	t.Helper()
	s, err := metrics.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// batch is the metrics of one export of one service version.
type batch struct {
	pmetric.Metrics
	scope pmetric.ScopeMetrics
	at    time.Time
	start time.Time
}

func export(version string, at time.Time) batch {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr("service.name", "bidding")
	a.PutStr("service.version", version)
	a.PutStr("deployment.environment.name", "production")
	a.PutStr("service.instance.id", "i-1")
	return batch{Metrics: md, scope: rm.ScopeMetrics().AppendEmpty(), at: at, start: at.Add(-10 * time.Second)}
}

func (b batch) counter(name string, v float64, attrs map[string]any) batch {
	m := b.scope.Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit("{job}")
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	dp := sum.DataPoints().AppendEmpty()
	dp.SetDoubleValue(v)
	dp.SetTimestamp(pcommon.NewTimestampFromTime(b.at))
	dp.SetStartTimestamp(pcommon.NewTimestampFromTime(b.start))
	_ = dp.Attributes().FromRaw(attrs)
	return b
}

func (b batch) histogram(name string, counts []uint64, bounds []float64, attrs map[string]any) batch {
	m := b.scope.Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit("s")
	h := m.SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	dp := h.DataPoints().AppendEmpty()
	dp.BucketCounts().FromRaw(counts)
	dp.ExplicitBounds().FromRaw(bounds)
	var n uint64
	for _, c := range counts {
		n += c
	}
	dp.SetCount(n)
	dp.SetSum(float64(n))
	dp.SetTimestamp(pcommon.NewTimestampFromTime(b.at))
	dp.SetStartTimestamp(pcommon.NewTimestampFromTime(b.start))
	_ = dp.Attributes().FromRaw(attrs)
	return b
}

func mustAppend(t testing.TB, s *metrics.Store, tenant string, b batch) {
	t.Helper()
	r, err := s.AppendMetrics(t.Context(), tenant, b.Metrics)
	if err != nil || r.Count != 0 {
		t.Fatalf("append: rejected %+v, error %v", r, err)
	}
}

func TestPointsComeBackByPromQL(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{})
	now := time.Now()
	for i := range 3 {
		at := now.Add(time.Duration(i-2) * 10 * time.Second)
		b := export("v2", at).
			counter("bea.jobs.completed", float64(10*(i+1)), map[string]any{"tenant_id": "acme", "outcome": "succeeded"}).
			histogram("bea.api.request.duration", []uint64{uint64(i+1) * 8, uint64(i+1) * 2, 0}, []float64{1, 2}, map[string]any{"tenant_id": "acme"})
		b.start = now.Add(-30 * time.Second)
		mustAppend(t, s, "", b)
	}

	tests := []struct {
		query string
		want  float64
	}{
		{`bea_jobs_completed_total{service_name="bidding",service_version="v2",deployment_environment_name="production",instance="i-1",tenant_id="acme",outcome="succeeded"}`, 30},
		{`sum(bea_api_request_duration_seconds_bucket{le="1"})`, 24},
		{`histogram_quantile(0.9, sum by (le) (bea_api_request_duration_seconds_bucket))`, 1.5},
		{`2 + 3`, 5},
	}
	for _, tt := range tests {
		v, ok, err := s.Number(t.Context(), tt.query, now)
		if err != nil || !ok || math.Abs(v-tt.want) > 1e-9 {
			t.Errorf("%s = %v, %v, %v; want %v", tt.query, v, ok, err, tt.want)
		}
	}
	if _, ok, err := s.Number(t.Context(), `nothing`, now); ok || err != nil {
		t.Errorf("unknown series: ok %v, error %v; want no data", ok, err)
	}
	lines, err := s.Range(t.Context(), `bea_jobs_completed_total`, now.Add(-20*time.Second), now, 10*time.Second)
	if err != nil || len(lines) != 1 || len(lines[0].Points) != 3 {
		t.Fatalf("range = %+v, %v; want one line of three points", lines, err)
	}
	held, err := s.Times(t.Context(), `count({service_name="bidding",service_version="v2"})`, now.Add(-20*time.Second), now, 10*time.Second)
	if err != nil || len(held) != 3 || held[2].Sub(held[0]) != 20*time.Second {
		t.Errorf("times = %v, %v; want three, in order", held, err)
	}
}

// A counter's first export already counts: without it, the only error of a
// short-lived candidate would be invisible to rate and increase.
func TestFirstExportOfCounterCounts(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{})
	now := time.Now()
	mustAppend(t, s, "", export("v2", now.Add(-10*time.Second)).counter("bea.jobs.completed", 5, map[string]any{"outcome": "succeeded"}))

	b := export("v2", now).
		counter("bea.jobs.completed", 9, map[string]any{"outcome": "succeeded"}).
		counter("bea.jobs.completed", 3, map[string]any{"outcome": "failed"})
	b.start = now.Add(-20 * time.Second)
	mustAppend(t, s, "", b)

	for outcome, want := range map[string]float64{"succeeded": 9, "failed": 3} {
		q := fmt.Sprintf(`increase(bea_jobs_completed_total{outcome=%q}[20001ms])`, outcome)
		v, ok, err := s.Number(t.Context(), q, now)
		if err != nil || !ok || math.Abs(v-want) > 0.5 {
			t.Errorf("%s = %v, %v, %v; want about %v", q, v, ok, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tests := []struct {
		name   string
		tenant string
		batch  func() batch
		reason string
	}{
		{"delta", "", func() batch {
			b := export("v1", now).counter("x", 1, nil)
			b.scope.Metrics().At(0).Sum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
			return b
		}, "delta temporality"},
		{"too old", "", func() batch { return export("v1", now.Add(-time.Hour)).counter("x", 1, nil) }, "older than the store accepts"},
		{"without time stamp", "", func() batch { return export("v1", time.Unix(0, 0)).counter("x", 1, nil) }, "older than the store accepts"},
		{"too far ahead", "", func() batch { return export("v1", now.Add(time.Hour)).counter("x", 1, nil) }, "ahead of the server's clock"},
		{"another tenant", "acme", func() batch {
			return export("v1", now).counter("x", 1, map[string]any{"tenant_id": "globex"})
		}, "another tenant"},
		{"another tenant's histogram", "acme", func() batch {
			return export("v1", now).histogram("x", []uint64{1, 1, 1}, []float64{1, 2}, map[string]any{"tenant_id": "globex"})
		}, "another tenant"},
		{"long value", "", func() batch {
			return export("v1", now).counter("x", 1, map[string]any{"k": strings.Repeat("x", 2000)})
		}, "longer than"},
		{"not UTF-8", "", func() batch { return export("v1", now).counter("x", 1, map[string]any{"k": "\xff"}) }, "not UTF-8"},
		{"no name", "", func() batch { return export("v1", now).counter("", 1, nil) }, "name must have"},
		{"too many series", "", func() batch {
			b := export("v1", now)
			for i := range 6 {
				b.counter("x", 1, map[string]any{"k": i, "tenant_id": "many"})
			}
			return b
		}, "too many series"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir(), metrics.Options{TenantSeries: 5})
			mustAppend(t, s, "", export("v1", now).counter("good", 7, nil))
			b := tt.batch().counter("good", 8, map[string]any{"tenant_id": tt.tenant})
			r, err := s.AppendMetrics(t.Context(), tt.tenant, b.Metrics)
			if err != nil || r.Count == 0 || !strings.Contains(r.Reason, tt.reason) {
				t.Fatalf("rejected %+v, error %v; want a reason with %q", r, err, tt.reason)
			}
			if r.Count > 2 {
				t.Errorf("rejected %d points, want a histogram to count once", r.Count)
			}
		})
	}
}

func TestVerifiedTenantIsWritten(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{})
	now := time.Now()
	mustAppend(t, s, "acme", export("v1", now).counter("x", 4, nil))
	if v, ok, err := s.Number(t.Context(), `x_total{tenant_id="acme"}`, now); err != nil || !ok || v != 4 {
		t.Fatalf("got %v, %v, %v; want the point under the sender's tenant", v, ok, err)
	}
}

func TestOneTenantCannotTakeTheOthersSeries(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{TenantSeries: 3})
	now := time.Now()
	b := export("v1", now)
	for i := range 10 {
		b.counter("x", 1, map[string]any{"k": i, "tenant_id": "noisy"})
	}
	b.counter("x", 1, map[string]any{"tenant_id": "quiet"})
	r, err := s.AppendMetrics(t.Context(), "", b.Metrics)
	if err != nil || r.Count != 7 {
		t.Fatalf("rejected %+v, %v; want 7", r, err)
	}
	if v, _, err := s.Number(t.Context(), `count(x_total{tenant_id="quiet"})`, now); err != nil || v != 1 {
		t.Fatalf("quiet tenant has %v series, %v", v, err)
	}
}

func TestRetryOfABatchIsHarmless(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{})
	now := time.Now()
	for range 3 {
		mustAppend(t, s, "", export("v1", now).counter("x", 4, nil))
	}
	if v, _, err := s.Number(t.Context(), `sum(count_over_time(x_total[5s]))`, now); err != nil || v != 1 {
		t.Fatalf("%v samples, %v; want one", v, err)
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{QueryTimeout: time.Minute})
	now := time.Now()
	invalid := headgate.Invalidf("")
	if _, err := s.Instant(t.Context(), `sum(`, now); !errors.Is(err, invalid) {
		t.Errorf("syntax: %v", err)
	}
	if _, err := s.Range(t.Context(), `x`, now, now.Add(-time.Second), time.Second); !errors.Is(err, invalid) {
		t.Errorf("end before start: %v", err)
	}
	if _, err := s.Range(t.Context(), `x`, now, now.Add(time.Hour), time.Millisecond); !errors.Is(err, invalid) {
		t.Errorf("too many steps: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var he *headgate.Error
	if _, err := s.Instant(ctx, `1`, now); !errors.As(err, &he) || !he.Retryable {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, metrics.Options{})
	if _, err := metrics.Open(dir, metrics.Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("second open: %v", err)
	}
}

// appendForever prints the value of each acknowledged batch.
func appendForever(dir string) {
	s, err := metrics.Open(dir, metrics.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	first, _ := strconv.Atoi(os.Getenv(childEnv + "_FROM"))
	start, _ := strconv.ParseInt(os.Getenv(childEnv+"_START"), 10, 64)
	for i := first; ; i++ {
		at := time.UnixMilli(start).Add(time.Duration(i) * time.Millisecond)
		b := export("v1", at)
		for k := range 50 {
			b.counter("x", float64(i), map[string]any{"k": k})
		}
		if r, err := s.AppendMetrics(context.Background(), "", b.Metrics); err != nil || r.Count != 0 {
			fmt.Fprintln(os.Stderr, r, err)
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

// The sender repeats the batch that was not acknowledged; it may be on the disk
// already, and must not be counted twice.
func TestKill9LosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	const kills = 20
	dir := t.TempDir()
	start := strconv.FormatInt(time.Now().UnixMilli(), 10)
	last := 0
	for kill := range kills {
		cmd := exec.Command(os.Args[0])
		from := last + 1
		cmd.Env = append(os.Environ(), childEnv+"="+dir, childEnv+"_START="+start, childEnv+"_FROM="+strconv.Itoa(from))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if last, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if last == from+20+3*kill {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait() // the kill is the expected end
		if last < from+20 {
			t.Fatalf("the child ended by itself after %d batches", last-from)
		}
	}

	s := open(t, dir, metrics.Options{})
	// The last kill may leave a batch that was not acknowledged, and the counters
	// begin at a zero.
	for query, ok := range map[string]func(samples float64) bool{
		`min(count_over_time(x_total[1h]))`: func(n float64) bool { return n >= float64(last) },
		`max(count_over_time(x_total[1h]))`: func(n float64) bool { return n <= float64(last+2) },
		`count(x_total)`:                    func(n float64) bool { return n == 50 },
	} {
		if n, found, err := s.Number(t.Context(), query, time.Now().Add(time.Minute)); err != nil || !found || !ok(n) {
			t.Errorf("%s = %v, %v after %d acknowledged batches", query, n, err, last)
		}
	}
	t.Logf("%d kills, %d batches acknowledged", kills, last)
}
