package metrics_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/metrics"
)

// writer is a server that takes remote writes as its status function says.
type writer struct {
	mu     sync.Mutex
	status func(series []prompb.TimeSeries) (int, string)
	taken  map[string][]prompb.Sample // by value of the label k
	posts  int
}

func (w *writer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	text, err := snappy.Decode(nil, body)
	var req prompb.WriteRequest
	if err != nil || req.Unmarshal(text) != nil || r.URL.Path != "/base/api/v1/write" {
		rw.WriteHeader(http.StatusNotFound)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.posts++
	if status, said := w.status(req.Timeseries); status != http.StatusNoContent {
		http.Error(rw, said, status)
		return
	}
	for _, s := range req.Timeseries {
		k := labelOf(s, "k")
		w.taken[k] = append(w.taken[k], s.Samples...)
	}
}

func labelOf(s prompb.TimeSeries, name string) string {
	for _, l := range s.Labels {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

func remoteWriter(t *testing.T, status func([]prompb.TimeSeries) (int, string)) (*writer, *metrics.Remote) {
	t.Helper()
	w := &writer{status: status, taken: map[string][]prompb.Sample{}}
	h := httptest.NewServer(w)
	t.Cleanup(h.Close)
	r, err := metrics.NewRemote(h.URL+"/base", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return w, r
}

func takeAll([]prompb.TimeSeries) (int, string) { return http.StatusNoContent, "" }

// One sample that the server refuses does not take the others with it, and its
// sender hears the server's reason.
func TestServerRefusesOneSeries(t *testing.T) {
	t.Parallel()
	w, r := remoteWriter(t, func(series []prompb.TimeSeries) (int, string) {
		for _, s := range series {
			if labelOf(s, "k") == "bad" {
				return http.StatusBadRequest, "out of order sample"
			}
		}
		return http.StatusNoContent, ""
	})
	b := export("v1", time.Now())
	for _, k := range []string{"a", "b", "bad", "c", "d"} {
		b = b.counter("x", 1, map[string]any{"k": k})
	}
	rejected, err := r.AppendMetrics(t.Context(), "", b.Metrics)
	if err != nil || rejected.Count != 1 || !strings.Contains(rejected.Reason, "out of order sample") {
		t.Errorf("%+v, %v", rejected, err)
	}
	if len(w.taken) != 4 {
		t.Errorf("taken: %v", w.taken)
	}
}

// A batch is acknowledged when the server has it and not before.
func TestServerThatCannotTakeAWrite(t *testing.T) {
	t.Parallel()
	for status, advice := range map[int]string{
		http.StatusServiceUnavailable: "send the batch again", http.StatusTooManyRequests: "send the batch again",
		http.StatusUnauthorized: "credential", http.StatusNotFound: "--web.enable-remote-write-receiver",
	} {
		_, r := remoteWriter(t, func([]prompb.TimeSeries) (int, string) { return status, "" })
		_, err := r.AppendMetrics(t.Context(), "", export("v1", time.Now()).counter("x", 1, nil).Metrics)
		if e := headgate.AsError(err); err == nil || !e.Retryable || !strings.Contains(e.Message, advice) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// The server may know a series from before this process; only a series that
// began since begins at zero, and a repeated batch begins there too.
func TestWhatBeginsAtZeroElsewhere(t *testing.T) {
	t.Parallel()
	down := true
	w, r := remoteWriter(t, func([]prompb.TimeSeries) (int, string) {
		if down {
			return http.StatusServiceUnavailable, ""
		}
		return http.StatusNoContent, ""
	})
	now := time.Now()
	at := func(s int, k ...string) batch {
		b := export("v1", now.Add(time.Duration(s)*time.Second))
		for _, k := range k {
			b = b.counter("x", 5, map[string]any{"k": k})
		}
		return b
	}
	if _, err := r.AppendMetrics(t.Context(), "", at(0, "old").Metrics); err == nil {
		t.Fatal("acknowledged by a server that is down")
	}
	down = false
	for _, b := range []batch{at(0, "old"), at(1, "old"), at(2, "old", "new")} {
		if rejected, err := r.AppendMetrics(t.Context(), "", b.Metrics); err != nil || rejected.Count != 0 {
			t.Fatal(rejected, err)
		}
	}
	if n := len(w.taken["old"]); n != 3 {
		t.Errorf("a series that may be an old one has %d samples, want 3: %v", n, w.taken["old"])
	}
	if s := w.taken["new"]; len(s) != 2 || s[0].Value != 0 || s[1].Value != 5 {
		t.Errorf("a new series: %v", s)
	}
}

func TestTenantsSeriesAreBoundedElsewhere(t *testing.T) {
	t.Parallel()
	_, r := remoteWriter(t, takeAll)
	b := export("v1", time.Now())
	for i := range 100_010 {
		b.counter("x", 1, map[string]any{"k": i})
	}
	rejected, err := r.AppendMetrics(t.Context(), "acme", b.Metrics)
	if err != nil || rejected.Count != 10 || !strings.Contains(rejected.Reason, "too many series") {
		t.Errorf("%+v, %v", rejected, err)
	}
	if _, err := r.AppendMetrics(t.Context(), "globex", export("v1", time.Now()).counter("x", 1, nil).Metrics); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}
