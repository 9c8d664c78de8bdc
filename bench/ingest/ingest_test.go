//go:build unix

// Package ingest_test measures what it costs to receive telemetry and keep it:
// in Headgate's stores, in plain indexed SQLite rows and in Badger, beside
// receiving and dropping it in the same run.
package ingest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/telemetry/otlp"
)

const (
	benchBatch   = 512 // spans
	benchSenders = 4
	benchAhead   = 64 // batches made before the clock runs
)

// benchSpans makes a batch of spans of 20 attributes such as a service sends:
// four identify the request, four are numbers that hardly repeat, one names one
// of many customers and the rest have few values. No batch repeats another. All
// of them or none have failed, with one of twenty error codes.
func benchSpans(r *rand.Rand, failing bool) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	res := rs.Resource().Attributes()
	res.PutStr("service.name", "bidding")
	res.PutStr("service.version", "v1.4.0")
	res.PutStr("deployment.environment.name", "production")
	res.PutStr("service.instance.id", "bidding-1")
	out := rs.ScopeSpans().AppendEmpty().Spans()
	var trace pcommon.TraceID
	var parent pcommon.SpanID
	at := time.Now()
	for i := range benchBatch {
		if i%5 == 0 {
			binary.BigEndian.PutUint64(trace[:], r.Uint64())
			binary.BigEndian.PutUint64(trace[8:], r.Uint64())
			parent = pcommon.SpanID{}
		}
		s := out.AppendEmpty()
		s.SetTraceID(trace)
		s.SetParentSpanID(parent)
		var id pcommon.SpanID
		binary.BigEndian.PutUint64(id[:], r.Uint64())
		s.SetSpanID(id)
		parent = id
		s.SetName([]string{"POST /api/v1/evaluations", "db.query", "parse", "retrieve", "score"}[i%5])
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(at.Add(time.Duration(r.IntN(1e9)))))
		s.SetEndTimestamp(s.StartTimestamp() + pcommon.Timestamp(r.IntN(1e8)))
		a := s.Attributes()
		a.EnsureCapacity(20)
		a.PutStr("tenant_id", "tenant-"+strconv.Itoa(r.IntN(20)))
		a.PutStr("request_id", "req_"+trace.String()[:20])
		a.PutStr("job_id", "job_"+trace.String()[12:])
		a.PutStr("error_code", "")
		if failing {
			s.Status().SetCode(ptrace.StatusCodeError)
			a.PutStr("error_code", "CODE_"+strconv.Itoa(r.IntN(20)))
		}
		a.PutStr("customer", "customer-"+strconv.Itoa(r.IntN(100_000)))
		for _, k := range []string{"http.request.body.size", "http.response.body.size", "db.rows", "queue.wait_us"} {
			a.PutInt(k, r.Int64N(100_000))
		}
		for k := range 11 {
			a.PutStr("attribute.number."+strconv.Itoa(k), "value-"+strconv.Itoa(r.IntN(8)))
		}
	}
	return td
}

// noTelemetry receives and drops.
type noTelemetry struct{}

func (noTelemetry) AppendTraces(context.Context, string, ptrace.Traces) (telemetry.Rejected, error) {
	return telemetry.Rejected{}, nil
}

func (noTelemetry) AppendLogs(context.Context, string, plog.Logs) (telemetry.Rejected, error) {
	return telemetry.Rejected{}, nil
}

func (noTelemetry) AppendMetrics(context.Context, string, pmetric.Metrics) (telemetry.Rejected, error) {
	return telemetry.Rejected{}, nil
}

// cpu is the process's user and system time.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run sends b.N bodies through the receiver's handler, without a network whose
// cost would count on both sides of a comparison, and returns the CPU time of
// sending and of finish. The bodies are made while the clock stands.
func run(b *testing.B, r *otlp.Receiver, path string, body func() []byte, finish func() error) time.Duration {
	b.Helper()
	if err := r.Start(nil, nil); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Stop(context.Background()) }()
	h := r.Handler()
	var used time.Duration
	b.StopTimer()
	b.ResetTimer()
	for left := b.N; left > 0; {
		bodies := make(chan []byte, benchAhead)
		for range min(left, benchAhead) {
			bodies <- body()
		}
		left -= len(bodies)
		close(bodies)
		runtime.GC()
		before := cpu(b)
		b.StartTimer()
		var senders sync.WaitGroup
		for range benchSenders {
			senders.Go(func() {
				for text := range bodies {
					req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(text))
					req.Header.Set("Content-Type", "application/x-protobuf")
					w := httptest.NewRecorder()
					if h.ServeHTTP(w, req); w.Code != http.StatusOK {
						b.Error(w.Code, w.Body)
					}
				}
			})
		}
		senders.Wait()
		if left == 0 && finish != nil {
			if err := finish(); err != nil {
				b.Error(err)
			}
		}
		b.StopTimer()
		used += cpu(b) - before
	}
	return used
}

func spanBodies(b *testing.B, failing bool) func() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	return func() []byte {
		body, err := ptraceotlp.NewExportRequestFromTraces(benchSpans(r, failing)).MarshalProto()
		if err != nil {
			b.Fatal(err)
		}
		return body
	}
}

func diskBytes(b *testing.B, dir string) (total int64) {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

// BenchmarkSpans receives batches of 512 spans of 20 attributes and drops them,
// stores them in blocks, and stores them as plain rows with an index on every
// identifier, in SQLite and in Badger. A batch is on the disk before it is
// acknowledged. cpu-×drop is the CPU time per span against receiving and
// dropping in the same run.
func BenchmarkSpans(b *testing.B) {
	var drop float64 // CPU per span
	report := func(b *testing.B, used time.Duration) {
		spans := float64(b.N * benchBatch)
		each := float64(used.Nanoseconds()) / spans
		b.ReportMetric(spans/b.Elapsed().Seconds(), "spans/s")
		b.ReportMetric(each/1000, "cpu-µs/span")
		if drop > 0 {
			b.ReportMetric(each/drop, "cpu-×drop")
		}
		b.ReportMetric(0, "ns/op")
	}
	b.Run("drop", func(b *testing.B) {
		drop = 0
		used := run(b, &otlp.Receiver{Traces: noTelemetry{}}, "/v1/traces", spanBodies(b, false), nil)
		report(b, used)
		drop = float64(used.Nanoseconds()) / float64(b.N*benchBatch)
	})
	for _, spans := range []struct {
		name    string
		failing bool
	}{{"blocks", false}, {"blocks-all-failing", true}} {
		b.Run(spans.name, func(b *testing.B) {
			dir := b.TempDir()
			store, err := events.Open(dir, events.Options{})
			if err != nil {
				b.Fatal(err)
			}
			report(b, run(b, &otlp.Receiver{Traces: store}, "/v1/traces", spanBodies(b, spans.failing), store.Compact))
			if err := store.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(diskBytes(b, dir))/float64(b.N*benchBatch), "disk-B/span")
		})
	}
	for _, rival := range []struct {
		name string
		open func(b *testing.B, dir string) rival
	}{{"sqlite-rows", openRows}, {"badger", openBadger}} {
		b.Run(rival.name, func(b *testing.B) {
			dir := b.TempDir()
			store := rival.open(b, dir)
			report(b, run(b, &otlp.Receiver{Traces: store}, "/v1/traces", spanBodies(b, false), store.Close))
			b.ReportMetric(float64(diskBytes(b, dir))/float64(b.N*benchBatch), "disk-B/span")
		})
	}
}

// BenchmarkPoints receives exports of 1000 series in 20 metrics and stores
// them. points/core-s is per second of CPU time.
func BenchmarkPoints(b *testing.B) {
	const instruments, series = 20, 50
	at := time.Now().Add(-5 * time.Minute)
	body := func() []byte {
		at = at.Add(time.Millisecond)
		md := pmetric.NewMetrics()
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("service.name", "bidding")
		rm.Resource().Attributes().PutStr("service.version", "v1.4.0")
		rm.Resource().Attributes().PutStr("service.instance.id", "bidding-1")
		metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
		for i := range instruments {
			m := metrics.AppendEmpty()
			m.SetName(fmt.Sprintf("bea.counter.number%d", i))
			m.SetUnit("{job}")
			sum := m.SetEmptySum()
			sum.SetIsMonotonic(true)
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			for k := range series {
				dp := sum.DataPoints().AppendEmpty()
				dp.SetDoubleValue(float64(at.UnixMilli() % 1_000_000))
				dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
				dp.Attributes().PutStr("tenant_id", "tenant-"+strconv.Itoa(k))
				dp.Attributes().PutStr("outcome", strings.Repeat("succeeded", 1+k%2))
			}
		}
		text, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		if err != nil {
			b.Fatal(err)
		}
		return text
	}
	var drop float64
	report := func(b *testing.B, used time.Duration) {
		points := float64(b.N * instruments * series)
		b.ReportMetric(points/b.Elapsed().Seconds(), "points/s")
		b.ReportMetric(points/used.Seconds(), "points/core-s")
		if drop > 0 {
			b.ReportMetric(used.Seconds()/points/drop, "cpu-×drop")
		}
		b.ReportMetric(0, "ns/op")
	}
	b.Run("drop", func(b *testing.B) {
		drop = 0
		used := run(b, &otlp.Receiver{Metrics: noTelemetry{}, ReportEvery: time.Hour}, "/v1/metrics", body, nil)
		report(b, used)
		drop = used.Seconds() / float64(b.N*instruments*series)
	})
	b.Run("store", func(b *testing.B) {
		store, err := metrics.Open(b.TempDir(), metrics.Options{OutOfOrder: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		report(b, run(b, &otlp.Receiver{Metrics: store, ReportEvery: time.Hour}, "/v1/metrics", body, nil))
	})
}
