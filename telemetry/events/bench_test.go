package events_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
)

// spansEnv sets how many spans the look-ups are measured among, for example
// 5000000.
const spansEnv = "HEADGATE_BENCH_SPANS"

func benchSize(b *testing.B) int {
	b.Helper()
	if text := os.Getenv(spansEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 10_000 {
			b.Fatalf("%s must be a number of at least 10000, not %q", spansEnv, text)
		}
		return n
	}
	if testing.Short() {
		return 100_000
	}
	return 1_000_000
}

// wideSpans makes spans of 20 attributes such as a service would send. One in
// a hundred has an error code.
func wideSpans(r *rand.Rand, n int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	resource(rs.Resource(), "v1")
	out := rs.ScopeSpans().AppendEmpty().Spans()
	out.EnsureCapacity(n)
	var id pcommon.TraceID
	at := time.Now()
	for i := range n {
		if i%5 == 0 {
			binary.BigEndian.PutUint64(id[:], r.Uint64())
			binary.BigEndian.PutUint64(id[8:], r.Uint64())
		}
		s := out.AppendEmpty()
		s.SetTraceID(id)
		var sid pcommon.SpanID
		binary.BigEndian.PutUint64(sid[:], r.Uint64())
		s.SetSpanID(sid)
		s.SetName([]string{"POST /api/v1/evaluations", "db.query", "parse", "retrieve", "score"}[i%5])
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(at.Add(time.Duration(r.IntN(1e9)))))
		s.SetEndTimestamp(s.StartTimestamp() + pcommon.Timestamp(r.IntN(1e8)))
		a := s.Attributes()
		a.EnsureCapacity(20)
		a.PutStr("tenant_id", "tenant-"+strconv.Itoa(r.IntN(20)))
		a.PutStr("request_id", "req_"+id.String()[:20])
		a.PutStr("job_id", "job_"+id.String()[12:])
		if r.IntN(100) == 0 {
			a.PutStr("error_code", "E"+strconv.Itoa(r.IntN(10)))
		}
		a.PutStr("customer", "customer-"+strconv.Itoa(r.IntN(100_000)))
		for k := range 4 {
			a.PutInt("number."+strconv.Itoa(k), r.Int64N(100_000))
		}
		for k := range 11 {
			a.PutStr("attribute.number."+strconv.Itoa(k), "value-"+strconv.Itoa(r.IntN(8)))
		}
	}
	return td
}

// BenchmarkFind measures warm look-ups among a million packed spans of 20
// attributes, or as many as HEADGATE_BENCH_SPANS says, and what they take on
// the disk and in memory.
func BenchmarkFind(b *testing.B) {
	const batch = 512
	dir := b.TempDir()
	s := open(b, dir, events.Options{})
	r := rand.New(rand.NewPCG(3, 4))
	var traces []pcommon.TraceID
	size := benchSize(b) / batch * batch
	for n := 0; n < size; n += batch {
		td := wideSpans(r, batch)
		traces = append(traces, td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(r.IntN(batch)).TraceID())
		mustTraces(b, s, "", td)
	}
	if err := s.Compact(); err != nil {
		b.Fatal(err)
	}
	disk := storeBytes(b, dir)
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)

	r.Shuffle(len(traces), func(i, j int) { traces[i], traces[j] = traces[j], traces[i] })
	hex := func(i int) string { return traces[i%len(traces)].String() }
	for _, look := range []struct {
		name string
		q    func(i int) telemetry.Query
	}{
		{"trace", func(i int) telemetry.Query { return telemetry.Query{TraceID: hex(i)} }},
		{"request", func(i int) telemetry.Query { return telemetry.Query{RequestID: "req_" + hex(i)[:20]} }},
		{"job", func(i int) telemetry.Query { return telemetry.Query{JobID: "job_" + hex(i)[12:]} }},
		{"last100ofcode", func(i int) telemetry.Query {
			return telemetry.Query{ErrorCode: fmt.Sprint("E", i%10), Limit: 100}
		}},
	} {
		b.Run(look.name, func(b *testing.B) {
			for i := range 100 { // warm
				find(b, s, look.q(i))
			}
			var took []time.Duration
			for b.Loop() {
				q, from := look.q(len(took)), time.Now()
				if got := find(b, s, q); len(got) < 2 { // a batch ends within a trace
					b.Fatalf("%d spans", len(got))
				}
				took = append(took, time.Since(from))
			}
			slices.Sort(took)
			ms := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
			b.ReportMetric(ms(0.5), "p50-ms")
			b.ReportMetric(ms(0.99), "p99-ms")
			b.ReportMetric(float64(size), "spans")
			b.ReportMetric(float64(disk)/float64(size), "disk-B/span")
			b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "heap-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func storeBytes(b *testing.B, dir string) (total int64) {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
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
