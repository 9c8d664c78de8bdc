package metrics

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

// Remote is a metric store in any server that speaks Prometheus's query API and
// takes its remote write. It answers as [Store] does, and keeps no sample
// itself.
type Remote struct {
	intake
	evaluation
	api     promv1.API
	ask     *backend.Client
	base    *url.URL
	http    http.Client
	series  written
	timeout time.Duration
}

// NewRemote returns a store in the server at the base URL, which has
// /api/v1/query and /api/v1/write below it. A nil transport is Go's default;
// authentication is the transport's business. A query or write takes at most
// the timeout, 0 meaning 30 s.
func NewRemote(base string, transport http.RoundTripper, timeout time.Duration) (*Remote, error) {
	timeout = cmp.Or(timeout, 30*time.Second)
	if transport == nil {
		transport = http.DefaultTransport
	}
	ask, err := backend.New("metric server", base, transport, timeout)
	if err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.Config{Address: base, RoundTripper: transport})
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the metric server's address is not a URL: %w", err)
	}
	return &Remote{
		intake: intake{now: time.Now, from: time.Now().UnixMilli()},
		api:    promv1.NewAPI(client), ask: ask, base: client.URL("", nil), timeout: timeout,
		http: http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // credentials go to the configured host only
		}},
		series: written{tenants: newCardinality(defaultTenantSeries, defaultSeries), by: make(map[uint64]active)},
	}, nil
}

// Close ends the evaluation of rules.
func (r *Remote) Close() error {
	r.stopRules()
	r.http.CloseIdleConnections()
	return nil
}

// RunRules is [Store.RunRules]: the rules are evaluated here, by queries to the
// server, and what they record is written there. An alert goes on where it was
// after a restart that took less than the server looks back, which is 5 minutes
// unless it was told otherwise.
func (r *Remote) RunRules(text []byte, every time.Duration, logger *slog.Logger, notify func(Alert)) error {
	before := clocks{storage.NoopQuerier(), r, time.Now()}
	return r.run(text, every, notify, rules.ManagerOptions{
		QueryFunc: r.vector, AppendableV2: remoteAppendable{r}, Logger: logger,
		Queryable: storage.QueryableFunc(func(int64, int64) (storage.Querier, error) { return before, nil }),
	})
}

// clocks reads since when alerts were active before the rules began to run.
// An instant query is what tells an alert that had ended from one that had not.
type clocks struct {
	storage.Querier
	remote *Remote
	began  time.Time
}

// Select implements [storage.Querier].
func (c clocks) Select(ctx context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	selector := (&parser.VectorSelector{LabelMatchers: matchers}).String()
	since, err := c.remote.vector(ctx, selector, c.began)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	written, err := c.remote.vector(ctx, "timestamp("+selector+")", c.began)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	at := make(map[uint64]int64, len(written))
	for _, w := range written {
		at[unnamed(w.Metric)] = int64(w.F * 1000)
	}
	out := &seriesSet{SeriesSet: storage.EmptySeriesSet()}
	for _, s := range since {
		if t, ok := at[unnamed(s.Metric)]; ok {
			out.rest = append(out.rest, promql.NewStorageSeries(promql.Series{Metric: s.Metric, Floats: []promql.FPoint{{T: t, F: s.F}}}))
		}
	}
	return out
}

func unnamed(ls labels.Labels) uint64 {
	return ls.DropReserved(func(name string) bool { return name == model.MetricNameLabel }).Hash()
}

// seriesSet iterates over series in memory.
type seriesSet struct {
	storage.SeriesSet
	at   storage.Series
	rest []storage.Series
}

// Next implements [storage.SeriesSet].
func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.at, s.rest = s.rest[0], s.rest[1:]
	return true
}

// At implements [storage.SeriesSet].
func (s *seriesSet) At() storage.Series { return s.at }

func (r *Remote) vector(ctx context.Context, query string, at time.Time) (promql.Vector, error) {
	samples, err := r.Instant(ctx, query, at)
	out := make(promql.Vector, 0, len(samples))
	for _, s := range samples {
		out = append(out, promql.Sample{Metric: labels.FromMap(s.Labels), T: s.Time.UnixMilli(), F: s.Value})
	}
	return out, err
}

// Handler is [Store.Handler]. Questions go on to the server, narrowed to the
// tenant; rules and alerts are those that are evaluated here.
func (r *Remote) Handler(authorize func(*http.Request) (tenant string, err error)) http.Handler {
	return handler(authorize, map[string]answer{
		"query":               r.passQuery,
		"query_range":         r.passQuery,
		"series":              r.passSelectors,
		"labels":              r.passSelectors,
		"label/{name}/values": r.passSelectors,
		"metadata":            r.apiMetadata,
		"rules":               r.apiRules,
		"alerts":              r.apiAlerts,
	})
}

func (r *Remote) passQuery(q *http.Request, tenant string) (any, error) {
	query, err := scoped(q, tenant)
	if err != nil {
		return nil, err
	}
	return r.pass(q, url.Values{"query": {query}})
}

func (r *Remote) passSelectors(q *http.Request, tenant string) (any, error) {
	sets, err := matchers(q, tenant)
	if err != nil {
		return nil, err
	}
	form := url.Values{"limit": {strconv.Itoa(maxAnswers)}}
	for _, set := range sets {
		form.Add("match[]", (&parser.VectorSelector{LabelMatchers: set}).String())
	}
	return r.pass(q, form)
}

// pass asks the server what was asked here, with the form's values.
func (r *Remote) pass(q *http.Request, form url.Values) (any, error) {
	for _, name := range []string{"time", "start", "end", "step", "timeout"} {
		if v := q.FormValue(name); v != "" {
			form.Set(name, v)
		}
	}
	body, err := r.ask.Ask(q.Context(), q.URL.EscapedPath(), "application/json", form)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Data) == 0 {
		return nil, r.ask.Unreadable(err)
	}
	return answer.Data, nil
}

// Instant is [Store.Instant].
func (r *Remote) Instant(ctx context.Context, query string, at time.Time) ([]Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	value, _, _, err := r.api.Query(ctx, query, at)
	if err != nil {
		return nil, remoteError(err)
	}
	switch v := value.(type) {
	case *model.Scalar:
		return []Sample{{Labels: map[string]string{}, Time: v.Timestamp.Time().UTC(), Value: float64(v.Value)}}, nil
	case model.Vector:
		out := make([]Sample, 0, len(v))
		for _, x := range v {
			if x.Histogram != nil {
				return nil, errNativeHistogram
			}
			out = append(out, Sample{Labels: metricLabels(x.Metric), Time: x.Timestamp.Time().UTC(), Value: float64(x.Value)})
		}
		return out, nil
	}
	return nil, headgate.Invalidf("the query returns a %s; an instant query must return numbers", value.Type())
}

// Each is [Store.Each].
func (r *Remote) Each(ctx context.Context, query string, at time.Time, use func(labels map[string]string, v float64)) error {
	samples, err := r.Instant(ctx, query, at)
	each(samples, use)
	return err
}

// Number is [Store.Number].
func (r *Remote) Number(ctx context.Context, query string, at time.Time) (v float64, ok bool, err error) {
	return number(r.Instant(ctx, query, at))
}

// Range is [Store.Range].
func (r *Remote) Range(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]Series, error) {
	if err := checkRange(start, end, step); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	value, _, _, err := r.api.QueryRange(ctx, query, promv1.Range{Start: start, End: end, Step: step})
	if err != nil {
		return nil, remoteError(err)
	}
	m, ok := value.(model.Matrix)
	if !ok {
		return nil, headgate.Invalidf("the query returns a %s; a range query must return series", value.Type())
	}
	out := make([]Series, 0, len(m))
	for _, line := range m {
		if len(line.Histograms) > 0 {
			return nil, errNativeHistogram
		}
		points := make([]Point, 0, len(line.Values))
		for _, p := range line.Values {
			points = append(points, Point{Time: p.Timestamp.Time().UTC(), Value: float64(p.Value)})
		}
		out = append(out, Series{Labels: metricLabels(line.Metric), Points: points})
	}
	return out, nil
}

// Times is [Store.Times].
func (r *Remote) Times(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]time.Time, error) {
	return times(r.Range(ctx, query, start, end, step))
}

func metricLabels(m model.Metric) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[string(k)] = string(v)
	}
	return out
}

func remoteError(err error) error {
	var e *promv1.Error
	if errors.As(err, &e) && (e.Type == promv1.ErrBadData || e.Type == promv1.ErrExec) {
		return headgate.Invalidf("the query cannot be evaluated: %s", e.Msg)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the metric server does not answer; check its address and that it runs").Wrap(err)
}
