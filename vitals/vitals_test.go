package vitals_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/vitals"
)

// sink remembers the names and the latest values of what it was sent.
type sink struct {
	mu    sync.Mutex
	seen  map[string]pmetric.Metric
	fails *atomic.Int64 // when set, every append fails and is counted
}

func (s *sink) AppendMetrics(_ context.Context, _ string, md pmetric.Metrics) (telemetry.Rejected, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		s.fails.Add(1)
		return telemetry.Rejected{}, errors.New("the disk is gone")
	}
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				kept := pmetric.NewMetric()
				m.CopyTo(kept)
				s.seen[m.Name()] = kept
			}
		}
	}
	return telemetry.Rejected{}, nil
}

func count(v *vitals.Vitals) {
	v.Event(headgate.Event{Kind: "gate_evaluated", Verdict: headgate.Pass, Stage: headgate.StageGateD})
	v.Event(headgate.Event{Kind: "release_promoted", Verdict: headgate.Pass})
	v.Tick(20 * time.Millisecond)
	v.Rollback(40*time.Second, true)
	v.Request(context.Background(), "GET", "/api/v1/releases", 200, time.Millisecond)
	v.Request(context.Background(), "BREW", "", 405, time.Millisecond)
}

// Everything that is counted is in the dictionary under the same name and unit,
// and cumulative whatever the environment prefers, for the store takes nothing
// else.
func TestEveryInstrumentIsInTheDictionary(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	s := &sink{seen: map[string]pmetric.Metric{}}
	v, err := vitals.New(t.Context(), vitals.Options{Version: "test", Sink: s, Queues: map[string]func(context.Context) (int64, error){
		"evidence": func(context.Context) (int64, error) { return 3, nil },
		"broken":   func(context.Context) (int64, error) { return 0, errors.New("cannot tell") },
	}})
	if err != nil {
		t.Fatal(err)
	}
	count(v)
	if err := v.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	dict, err := dictionary.Load("")
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range s.seen {
		if def, ok := dict.Metric(name); !ok || def.Unit != m.Unit() {
			t.Errorf("%s in %s: the dictionary has %+v", name, m.Unit(), def)
		}
	}
	if len(s.seen) != 6 {
		t.Errorf("%d metrics were exported, want 6", len(s.seen))
	}
	decisions := s.seen["headgate.decisions"].Sum()
	if decisions.AggregationTemporality() != pmetric.AggregationTemporalityCumulative || decisions.DataPoints().Len() != 2 {
		t.Errorf("decisions are %s with %d points", decisions.AggregationTemporality(), decisions.DataPoints().Len())
	}
	depth := s.seen["headgate.queue.depth"].Gauge().DataPoints()
	if depth.Len() != 1 || depth.At(0).IntValue() != 3 {
		t.Errorf("%d queue depths", depth.Len())
	}
}

// What cannot be sent is logged once and never tells an address.
func TestWhatCannotBeSentIsSaidOnce(t *testing.T) {
	t.Parallel()
	var stored, sent atomic.Int64
	s := &sink{fails: &stored}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sent.Add(1)
		http.Error(w, "not here", http.StatusNotFound)
	}))
	defer receiver.Close()
	var log bytes.Buffer
	v, err := vitals.New(t.Context(), vitals.Options{
		Sink: s, Endpoint: strings.Replace(receiver.URL, "//", "//user:s3cret@", 1) + "/s3cret", Every: 20 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	count(v)
	for deadline := time.Now().Add(time.Minute); stored.Load() < 3 || sent.Load() < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d exports were stored and %d sent, want several", stored.Load(), sent.Load())
		}
	}
	if err := v.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	if n := strings.Count(log.String(), "does not arrive"); n != 2 || strings.Contains(log.String(), "s3cret") {
		t.Errorf("%d complaints of two receivers:\n%s", n, log.String())
	}
}
