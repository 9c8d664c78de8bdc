package genai_test

import (
	"maps"
	"strconv"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry/genai"
	"github.com/headgate/headgate/telemetry/metrics"
)

const table = `currency: USD
per_tokens: 1000
models:
  - {model: small-1, input: 0.5, output: 1.5}
`

type attrs = map[string]any

// world is a counter before a metric store, with the dictionary's questions.
type world struct {
	*genai.Counter
	t     *testing.T
	d     *dictionary.Dictionary
	store *metrics.Store
	now   time.Time
}

func setup(t *testing.T, prices string) *world {
	t.Helper()
	d, err := dictionary.Load("")
	if err != nil {
		t.Fatal(err)
	}
	var p dictionary.Prices
	if prices != "" {
		if p, err = dictionary.LoadPrices([]byte(prices)); err != nil {
			t.Fatal(err)
		}
	}
	store, err := metrics.Open(t.TempDir(), metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	now := time.Now().Add(-5 * time.Minute)
	return &world{Counter: genai.New(d, p, "boot"), t: t, d: d, store: store, now: now}
}

func resource(res pcommon.Resource) {
	res.Attributes().PutStr("service.name", "bidding")
	res.Attributes().PutStr("service.version", "v2")
}

func (w *world) spans(tenant string, all ...attrs) {
	w.t.Helper()
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	resource(rs.Resource())
	for _, a := range all {
		if err := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty().Attributes().FromRaw(a); err != nil {
			w.t.Fatal(err)
		}
	}
	w.Add(w.Traces(tenant, td), w.now)
}

// export stores what is counted and asks for the figures.
func (w *world) export(after time.Duration) map[string]float64 {
	w.t.Helper()
	at := w.now.Add(after)
	return w.keep(w.Export(at), at)
}

func (w *world) keep(md pmetric.Metrics, at time.Time) map[string]float64 {
	w.t.Helper()
	if r, err := w.store.AppendMetrics(w.t.Context(), "", md); err != nil || r.Count != 0 {
		w.t.Fatal(r, err)
	}
	out := make(map[string]float64)
	for _, figure := range []string{"input_tokens", "output_tokens", "model_cost_total", "unpriced_tokens", "evaluation_score_avg"} {
		q, err := w.d.Query(figure, dictionary.Scope{Tenant: "acme", Service: "bidding", Version: "v2"})
		if err != nil {
			w.t.Fatal(err)
		}
		v, ok, err := w.store.Number(w.t.Context(), q, at)
		if err != nil {
			w.t.Fatal(err)
		}
		if ok {
			out[figure] = v
		}
	}
	return out
}

func expect(t *testing.T, got, want map[string]float64) {
	t.Helper()
	if !maps.EqualFunc(got, want, func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

const later = 2 * time.Minute

func TestTokensOfSpansUnderEveryName(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]attrs{
		"today":          {"gen_ai.request.model": "small-1", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20},
		"before":         {"gen_ai.request.model": "small-1", "gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 20},
		"forerunner":     {"llm.request.model": "small-1", "llm.usage.prompt_tokens": 100.0, "llm.usage.completion_tokens": 20.0},
		"response model": {"gen_ai.response.model": "small-1", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, table)
			call["tenant_id"] = "acme"
			w.spans("", call, call, attrs{"http.route": "/", "tenant_id": "acme"})
			expect(t, w.export(later), map[string]float64{"input_tokens": 200, "output_tokens": 40, "model_cost_total": 0.16})
		})
	}
}

func TestWhatIsNotCounted(t *testing.T) {
	t.Parallel()
	w := setup(t, table)
	w.spans("acme",
		attrs{"gen_ai.request.model": "small-1", "gen_ai.usage.input_tokens": 7},
		attrs{"gen_ai.request.model": "small-1", "gen_ai.usage.input_tokens": 1000, "tenant_id": "globex"},
		attrs{"gen_ai.request.model": "small-1", "gen_ai.usage.input_tokens": -5},
		attrs{"gen_ai.request.model": "small-1", "gen_ai.usage.input_tokens": "many"})
	expect(t, w.export(later), map[string]float64{"input_tokens": 7, "model_cost_total": 0.0035})
}

func TestTokensWithoutPriceAreSaidToBe(t *testing.T) {
	t.Parallel()
	call := attrs{"gen_ai.request.model": "other", "gen_ai.usage.input_tokens": 100, "tenant_id": "acme"}
	w := setup(t, table)
	w.spans("", call)
	expect(t, w.export(later), map[string]float64{"input_tokens": 100, "unpriced_tokens": 100})
	w = setup(t, "")
	w.spans("", call)
	expect(t, w.export(later), map[string]float64{"input_tokens": 100})
}

// usage is the conventions' own metric, with an older token type.
func usage(at time.Time) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	resource(rm.Resource())
	for operation, n := range map[string]float64{"chat": 300, "embeddings": 50} {
		for tokenType, share := range map[string]float64{"input": 1, "completion": 0.1} {
			m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("gen_ai.client.token.usage")
			m.SetUnit("{token}")
			h := m.SetEmptyHistogram()
			h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			dp := h.DataPoints().AppendEmpty()
			dp.SetCount(1)
			dp.SetSum(n * share)
			dp.BucketCounts().FromRaw([]uint64{1})
			dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
			_ = dp.Attributes().FromRaw(attrs{"tenant_id": "acme", "gen_ai.operation.name": operation, "gen_ai.request.model": "small-1", "gen_ai.token.type": tokenType})
		}
	}
	return md
}

func TestOwnMetricGoesBeforeSpans(t *testing.T) {
	t.Parallel()
	w := setup(t, table)
	w.spans("", attrs{"gen_ai.request.model": "small-1", "gen_ai.usage.input_tokens": 350, "tenant_id": "acme"})
	expect(t, w.export(time.Second), map[string]float64{}) // held back

	at := w.now.Add(time.Minute)
	md := usage(at)
	costs := w.Metrics(md)
	w.keep(md, at)
	want := map[string]float64{"input_tokens": 350, "output_tokens": 35, "model_cost_total": 0.175 + 0.0525}
	expect(t, w.keep(costs, at), want)
	expect(t, w.export(later), want)
}

func TestEvaluations(t *testing.T) {
	t.Parallel()
	w := setup(t, "")
	score := attrs{"tenant_id": "acme", "gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 0.4}

	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	resource(rl.Resource())
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	named := records.AppendEmpty()
	named.SetEventName("gen_ai.evaluation.result")
	_ = named.Attributes().FromRaw(score)
	older := records.AppendEmpty()
	_ = older.Attributes().FromRaw(score)
	older.Attributes().PutStr("event.name", "gen_ai.evaluation.result")
	other := records.AppendEmpty()
	_ = other.Attributes().FromRaw(score)
	w.Add(w.Logs("", ld), w.now)

	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	resource(rs.Resource())
	span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.Attributes().PutStr("tenant_id", "acme")
	e := span.Events().AppendEmpty()
	e.SetName("gen_ai.evaluation.result")
	e.Attributes().PutStr("gen_ai.evaluation.name", "Relevance")
	e.Attributes().PutInt("gen_ai.evaluation.score.value", 1)
	w.Add(w.Traces("", td), w.now)

	expect(t, w.export(time.Second), map[string]float64{"evaluation_score_avg": 0.6})
}

func TestManySendersStayBounded(t *testing.T) {
	t.Parallel()
	w := setup(t, "")
	const all = 10_500
	for i := range all {
		w.spans("", attrs{"gen_ai.request.model": strconv.Itoa(i), "gen_ai.usage.input_tokens": 1, "tenant_id": "tenant-" + strconv.Itoa(i)})
	}
	md := w.Export(w.now.Add(later))
	if n := md.MetricCount(); n > 10_001 {
		t.Errorf("%d series", n)
	}
	var tokens float64
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				tokens += m.Histogram().DataPoints().At(0).Sum()
			}
		}
	}
	if tokens != all {
		t.Errorf("%v tokens are counted, want %d", tokens, all)
	}
}
