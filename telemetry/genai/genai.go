// Package genai turns what services say of model calls by OpenTelemetry's
// conventions for generative AI into metrics: tokens under one name whatever
// name they were sent under, their cost by the price table, and the scores of
// evaluations.
//
// It owns the translation and the counting. It never stores anything; the
// receiver does, with what this package hands it.
package genai

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry"
)

// The conventions' names. What else a service may send them as is in the
// dictionary.
const (
	attrModel         = "gen_ai.request.model"
	attrResponseModel = "gen_ai.response.model"
	attrTokenType     = "gen_ai.token.type"
	attrInput         = "gen_ai.usage.input_tokens"
	attrOutput        = "gen_ai.usage.output_tokens"
	attrEvaluation    = "gen_ai.evaluation.name"
	attrScore         = "gen_ai.evaluation.score.value"
	eventEvaluation   = "gen_ai.evaluation.result"

	metricTokens   = "gen_ai.client.token.usage"
	metricCost     = "headgate.gen_ai.cost"
	metricUnpriced = "headgate.gen_ai.unpriced"
	metricScore    = "headgate.gen_ai.evaluation.score"
)

// settle is how long tokens from spans are held back. A service that also
// sends the tokens as a metric does so within its export interval, and then
// its spans are not counted as well.
const settle = 90 * time.Second

// maxSeries bounds what is counted apart. Beyond it models and evaluations have
// no name any more, and then senders neither; nothing is lost.
const maxSeries = 10_000

// Counter counts tokens, cost and scores since it was made. It is safe for
// concurrent use.
type Counter struct {
	prices   dictionary.Prices
	fields   map[string]string // attribute as sent → the conventions' name
	types    map[string]string // older token types
	instance string

	mu       sync.Mutex
	series   map[series]*histogram
	measured map[service]bool // who sends tokens as a metric
}

type service struct{ name, version, environment string }

func serviceOf(s telemetry.Source) service { return service{s.Service, s.Version, s.Environment} }

// series is one line of one of the two histograms.
type series struct {
	source telemetry.Source
	metric string
	label  string // model or evaluation
	tokens string // input, output or ""
}

type histogram struct {
	first  time.Time
	sum    float64
	counts []uint64
}

// The histograms' bounds; those of tokens are the conventions' advice.
var bounds = map[string][]float64{
	metricTokens: {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864},
	metricScore:  {0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4, 5, 10, 100},
}

// New returns a counter that understands the dictionary's names. boot must
// differ between processes, so that their counts add up.
func New(d *dictionary.Dictionary, prices dictionary.Prices, boot string) *Counter {
	c := &Counter{
		prices: prices, fields: make(map[string]string), instance: "headgate-" + boot,
		series: make(map[series]*histogram), measured: make(map[service]bool),
	}
	for _, key := range []string{attrModel, attrResponseModel, attrTokenType, attrInput, attrOutput, attrEvaluation, attrScore} {
		c.fields[key] = key
		a, _ := d.Attribute(key)
		for _, alias := range a.Aliases {
			c.fields[alias] = key
		}
		if key == attrTokenType {
			c.types = a.Values
		}
	}
	return c
}

// Tally is what one batch adds. It takes effect with [Counter.Add], once the
// batch is stored.
type Tally []observation

type observation struct {
	series
	value float64
}

// facts are the attributes of one span or event that matter here.
type facts struct {
	model, responseModel string
	evaluation           string
	tenant               string
	input, output, score number
}

type number struct {
	value float64
	ok    bool
}

func (c *Counter) read(a pcommon.Map) (f facts, some bool) {
	for k, v := range a.All() {
		if k == telemetry.AttrTenant {
			f.tenant = v.AsString()
			continue
		}
		key, known := c.fields[k]
		if !known {
			continue
		}
		some = true
		switch key {
		case attrModel:
			f.model = v.AsString()
		case attrResponseModel:
			f.responseModel = v.AsString()
		case attrEvaluation:
			f.evaluation = v.AsString()
		case attrInput:
			f.input = numeric(v)
		case attrOutput:
			f.output = numeric(v)
		case attrScore:
			f.score = numeric(v)
		}
	}
	return f, some
}

func numeric(v pcommon.Value) number {
	switch v.Type() {
	case pcommon.ValueTypeInt:
		return number{float64(v.Int()), true}
	case pcommon.ValueTypeDouble:
		x := v.Double()
		return number{x, x-x == 0} // neither NaN nor infinite
	}
	return number{}
}

// tally collects a batch under one sender's tenant.
type tally struct {
	tenant string
	out    Tally
}

// add counts a value unless it claims a tenant that is not the sender's,
// which the store refuses too.
func (t *tally) add(src telemetry.Source, f facts, s series, n number) {
	if !n.ok {
		return
	}
	s.source = src
	s.source.Tenant = cmp.Or(f.tenant, src.Tenant, t.tenant)
	if t.tenant != "" && s.source.Tenant != t.tenant {
		return
	}
	t.out = append(t.out, observation{s, n.value})
}

// Traces reads the token usage of spans and the evaluations among their
// events. tenant is the verified sender's, "" for one who may write for any.
func (c *Counter) Traces(tenant string, td ptrace.Traces) Tally {
	t := tally{tenant: tenant}
	for _, rs := range td.ResourceSpans().All() {
		src := telemetry.SourceOf(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				f, some := c.read(span.Attributes())
				if some {
					t.addTokens(src, f, cmp.Or(f.model, f.responseModel))
				}
				for _, e := range span.Events().All() {
					if e.Name() == eventEvaluation {
						t.addScore(src, c, e.Attributes(), f.tenant)
					}
				}
			}
		}
	}
	return t.out
}

func (t *tally) addTokens(src telemetry.Source, f facts, model string) {
	for tokenType, n := range map[string]number{"input": f.input, "output": f.output} {
		n.ok = n.ok && n.value >= 0
		t.add(src, f, series{metric: metricTokens, label: model, tokens: tokenType}, n)
	}
}

func (t *tally) addScore(src telemetry.Source, c *Counter, a pcommon.Map, tenant string) {
	f, _ := c.read(a)
	f.tenant = cmp.Or(f.tenant, tenant)
	t.add(src, f, series{metric: metricScore, label: f.evaluation}, f.score)
}

// Logs reads the evaluations among log records; see [Counter.Traces].
func (c *Counter) Logs(tenant string, ld plog.Logs) Tally {
	t := tally{tenant: tenant}
	for _, rl := range ld.ResourceLogs().All() {
		src := telemetry.SourceOf(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				if isEvaluation(rec) {
					t.addScore(src, c, rec.Attributes(), "")
				}
			}
		}
	}
	return t.out
}

// isEvaluation knows an event by its name, which older SDKs send as an
// attribute.
func isEvaluation(rec plog.LogRecord) bool {
	if name := rec.EventName(); name != "" {
		return name == eventEvaluation
	}
	name, ok := rec.Attributes().Get("event.name")
	return ok && name.AsString() == eventEvaluation
}

// Add counts a tally.
func (c *Counter) Add(t Tally, now time.Time) {
	if len(t) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range t {
		h, known := c.series[o.series]
		if !known && len(c.series) >= maxSeries {
			o.label = ""
			if h, known = c.series[o.series]; !known {
				o.source = telemetry.Source{}
				h, known = c.series[o.series]
			}
		}
		if !known {
			h = &histogram{first: now, counts: make([]uint64, len(bounds[o.metric])+1)}
			c.series[o.series] = h
		}
		at, _ := slices.BinarySearch(bounds[o.metric], o.value)
		h.counts[at]++
		h.sum += o.value
	}
}

// Export returns everything counted so far, and what it cost, as cumulative
// metrics.
func (c *Counter) Export(now time.Time) pmetric.Metrics {
	md := pmetric.NewMetrics()
	c.mu.Lock()
	defer c.mu.Unlock()
	scopes := make(map[telemetry.Source]pmetric.ScopeMetrics)
	for s, h := range c.series {
		if s.metric == metricTokens && (c.measured[serviceOf(s.source)] || now.Sub(h.first) < settle) {
			continue
		}
		sm, ok := scopes[s.source]
		if !ok {
			sm = c.scope(md, s.source)
			scopes[s.source] = sm
		}
		c.write(sm.Metrics().AppendEmpty(), s, h, now)
	}
	costs := pmetric.NewMetrics()
	for rm, usage := range tokenUsage(md) {
		c.cost(rm.Resource(), usage, costs)
	}
	costs.ResourceMetrics().MoveAndAppendTo(md.ResourceMetrics())
	return md
}

func (c *Counter) scope(md pmetric.Metrics, s telemetry.Source) pmetric.ScopeMetrics {
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr("service.name", s.Service)
	a.PutStr("service.version", s.Version)
	a.PutStr("deployment.environment.name", s.Environment)
	a.PutStr("service.instance.id", c.instance)
	return rm.ScopeMetrics().AppendEmpty()
}

func (c *Counter) write(m pmetric.Metric, s series, h *histogram, now time.Time) {
	m.SetName(s.metric)
	m.SetUnit("{token}")
	if s.metric == metricScore {
		m.SetUnit("1")
	}
	out := m.SetEmptyHistogram()
	out.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	dp := out.DataPoints().AppendEmpty()
	// Just before the first value, so that the counter starts at zero.
	dp.SetStartTimestamp(pcommon.NewTimestampFromTime(h.first.Add(-time.Second)))
	dp.SetTimestamp(pcommon.NewTimestampFromTime(now))
	dp.ExplicitBounds().FromRaw(bounds[s.metric])
	dp.BucketCounts().FromRaw(h.counts)
	dp.SetSum(h.sum)
	var n uint64
	for _, k := range h.counts {
		n += k
	}
	dp.SetCount(n)
	a := dp.Attributes()
	if s.source.Tenant != "" {
		a.PutStr(telemetry.AttrTenant, s.source.Tenant)
	}
	if s.metric == metricScore {
		a.PutStr(attrEvaluation, s.label)
		return
	}
	a.PutStr(attrModel, s.label)
	a.PutStr(attrTokenType, s.tokens)
}

// Metrics brings the names in md's token usage up to date and returns what the
// tokens cost, as metrics of the same senders. What has no price is counted as
// such, when there is a price table at all.
func (c *Counter) Metrics(md pmetric.Metrics) pmetric.Metrics {
	costs := pmetric.NewMetrics()
	for rm, usage := range tokenUsage(md) {
		c.seen(telemetry.SourceOf(rm.Resource()))
		for _, dp := range usage.DataPoints().All() {
			c.rename(dp.Attributes())
		}
		c.cost(rm.Resource(), usage, costs)
	}
	return costs
}

// tokenUsage yields the histograms of tokens with where they stand.
func tokenUsage(md pmetric.Metrics) iter.Seq2[pmetric.ResourceMetrics, pmetric.Histogram] {
	return func(yield func(pmetric.ResourceMetrics, pmetric.Histogram) bool) {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() == metricTokens && m.Type() == pmetric.MetricTypeHistogram && !yield(rm, m.Histogram()) {
						return
					}
				}
			}
		}
	}
}

// seen remembers who sends tokens as a metric of its own.
func (c *Counter) seen(s telemetry.Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.measured) < maxSeries {
		c.measured[serviceOf(s)] = true
	}
}

// cost appends what the histogram's tokens cost.
func (c *Counter) cost(res pcommon.Resource, h pmetric.Histogram, costs pmetric.Metrics) {
	if c.prices.Empty() || h.AggregationTemporality() != pmetric.AggregationTemporalityCumulative {
		return
	}
	rm := costs.ResourceMetrics().AppendEmpty()
	res.CopyTo(rm.Resource())
	out := rm.ScopeMetrics().AppendEmpty().Metrics()
	for _, dp := range h.DataPoints().All() {
		model, _ := dp.Attributes().Get(attrModel)
		tokenType, _ := dp.Attributes().Get(attrTokenType)
		m, value := out.AppendEmpty(), dp.Sum()
		m.SetName(metricUnpriced)
		m.SetUnit("{token}")
		if usd, priced := c.prices.Token(text(model), text(tokenType)); priced {
			m.SetName(metricCost)
			m.SetUnit("{USD}")
			value *= usd
		}
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		p := sum.DataPoints().AppendEmpty()
		p.SetDoubleValue(value)
		p.SetStartTimestamp(dp.StartTimestamp())
		p.SetTimestamp(dp.Timestamp())
		dp.Attributes().CopyTo(p.Attributes())
	}
}

// text is "" for the value of an attribute that is not there.
func text(v pcommon.Value) string {
	if v == (pcommon.Value{}) {
		return ""
	}
	return v.AsString()
}

// rename gives a point's attributes today's names.
func (c *Counter) rename(a pcommon.Map) {
	for old, key := range c.fields {
		v, ok := a.Get(old)
		if !ok || old == key {
			continue
		}
		if _, there := a.Get(key); !there {
			v.CopyTo(a.PutEmpty(key))
		}
		a.Remove(old)
	}
	if _, ok := a.Get(attrModel); !ok {
		if v, ok := a.Get(attrResponseModel); ok {
			a.PutStr(attrModel, v.AsString())
		}
	}
	if v, ok := a.Get(attrTokenType); ok {
		if today, old := c.types[strings.ToLower(v.AsString())]; old {
			v.SetStr(today)
		}
	}
}
