package metrics

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// maxAnswers bounds the series, labels and values of one answer.
const maxAnswers = 10_000

// maxAtOnce bounds the answers that are worked out at once, each of which may
// load all of [Options.QuerySamples]; the others wait, at most so long.
const (
	maxAtOnce = 8
	maxWait   = 10 * time.Second
)

// Enforce narrows a PromQL query to one tenant: every selector in it gains
// tenant_id="tenant". What the query itself says of tenant_id can only narrow
// further.
func Enforce(query, tenant string) (string, error) {
	expr, err := promQL.ParseExpr(query)
	if err != nil {
		return "", headgate.Invalidf("the query cannot be evaluated: %v", err)
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if v, ok := node.(*parser.VectorSelector); ok {
			v.LabelMatchers = append(v.LabelMatchers, tenantMatcher(tenant))
		}
		return nil
	})
	return expr.String(), nil
}

func tenantMatcher(tenant string) *labels.Matcher {
	return &labels.Matcher{Type: labels.MatchEqual, Name: telemetry.AttrTenant, Value: tenant}
}

// Handler serves Prometheus's query API (query, query_range, series, labels,
// label/…/values, metadata, rules, alerts) below /api/v1/, so that Grafana and
// promtool can point at it. authorize returns the tenant that the request may
// see; "" sees all.
func (s *Store) Handler(authorize func(*http.Request) (tenant string, err error)) http.Handler {
	return handler(authorize, map[string]answer{
		"query":               s.apiQuery,
		"query_range":         s.apiQueryRange,
		"series":              s.apiSeries,
		"labels":              s.apiLabels,
		"label/{name}/values": s.apiLabelValues,
		"metadata":            s.apiMetadata,
		"rules":               s.apiRules,
		"alerts":              s.apiAlerts,
	})
}

// answer is the data for a request as far as the tenant may see it.
type answer func(r *http.Request, tenant string) (data any, err error)

func handler(authorize func(*http.Request) (tenant string, err error), paths map[string]answer) http.Handler {
	mux := http.NewServeMux()
	turns := make(chan struct{}, maxAtOnce)
	inTurn := func(r *http.Request, tenant string, answer answer) (any, error) {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
			return answer(r, tenant)
		case <-r.Context().Done():
		case <-time.After(maxWait):
		}
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "too many queries at once; ask again in a moment")
	}
	for path, answer := range paths {
		h := func(w http.ResponseWriter, r *http.Request) {
			tenant, err := authorize(r)
			if err != nil {
				apiError(w, err)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
			if err := r.ParseForm(); err != nil {
				apiError(w, headgate.Invalidf("the form cannot be read"))
				return
			}
			data, err := inTurn(r, tenant, answer)
			if err != nil {
				apiError(w, err)
				return
			}
			apiWrite(w, http.StatusOK, map[string]any{"status": "success", "data": data})
		}
		mux.HandleFunc("GET /api/v1/"+path, h)
		mux.HandleFunc("POST /api/v1/"+path, h)
	}
	return mux
}

func apiWrite(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

func apiError(w http.ResponseWriter, err error) {
	e := headgate.AsError(err)
	status, kind := http.StatusInternalServerError, "internal"
	switch {
	case e.Code == headgate.CodeUnauthorized:
		status, kind = http.StatusUnauthorized, "unauthorized"
	case e.Class == headgate.ClassSecuritySensitive:
		status, kind = http.StatusForbidden, "forbidden"
	case e.Class == headgate.ClassValidation:
		status, kind = http.StatusBadRequest, "bad_data"
	case e.Retryable:
		status, kind = http.StatusServiceUnavailable, "timeout"
	}
	apiWrite(w, status, map[string]any{"status": "error", "errorType": kind, "error": e.Message})
}

// scoped returns the request's query, enforced.
func scoped(r *http.Request, tenant string) (string, error) {
	q := r.FormValue("query")
	if q == "" {
		return "", headgate.Invalidf("query is required")
	}
	if tenant == "" {
		return q, nil
	}
	return Enforce(q, tenant)
}

type result struct {
	Type   parser.ValueType `json:"resultType"`
	Result any              `json:"result"`
}

// stamped is [seconds, "value"].
type stamped [2]any

func stamp(ms int64, v float64) stamped {
	return stamped{float64(ms) / 1000, formatValue(v)}
}

func formatValue(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

type line struct {
	Metric map[string]string `json:"metric"`
	Value  *stamped          `json:"value,omitempty"`
	Values []stamped         `json:"values,omitempty"`
}

func (s *Store) apiQuery(r *http.Request, tenant string) (any, error) {
	query, err := scoped(r, tenant)
	if err != nil {
		return nil, err
	}
	at, err := parseTime(r, "time", s.now())
	if err != nil {
		return nil, err
	}
	ctx, cancel, err := withTimeout(r)
	if err != nil {
		return nil, err
	}
	defer cancel()
	var out result
	err = s.instant(ctx, query, at, func(v parser.Value) error {
		out.Type = v.Type()
		switch v := v.(type) {
		case promql.Scalar:
			out.Result = stamp(v.T, v.V)
		case promql.String:
			out.Result = stamped{float64(v.T) / 1000, v.V}
		case promql.Vector:
			lines := make([]line, 0, len(v))
			for _, x := range v {
				if x.H != nil {
					return errNativeHistogram
				}
				at := stamp(x.T, x.F)
				lines = append(lines, line{Metric: x.Metric.Map(), Value: &at})
			}
			out.Result = lines
		case promql.Matrix:
			lines, err := matrix(v)
			out.Result = lines
			return err
		}
		return nil
	})
	return out, err
}

func matrix(m promql.Matrix) ([]line, error) {
	lines := make([]line, 0, len(m))
	for _, x := range m {
		if len(x.Histograms) > 0 {
			return nil, errNativeHistogram
		}
		l := line{Metric: x.Metric.Map(), Values: make([]stamped, 0, len(x.Floats))}
		for _, p := range x.Floats {
			l.Values = append(l.Values, stamp(p.T, p.F))
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func (s *Store) apiQueryRange(r *http.Request, tenant string) (any, error) {
	query, err := scoped(r, tenant)
	if err != nil {
		return nil, err
	}
	start, err := parseTime(r, "start", time.Time{})
	if err != nil {
		return nil, err
	}
	end, err := parseTime(r, "end", time.Time{})
	if err != nil {
		return nil, err
	}
	step, err := parseDuration(r, "step")
	if err != nil {
		return nil, err
	}
	ctx, cancel, err := withTimeout(r)
	if err != nil {
		return nil, err
	}
	defer cancel()
	out := result{Type: parser.ValueTypeMatrix}
	err = s.ranged(ctx, query, start, end, step, func(m promql.Matrix) (err error) {
		out.Result, err = matrix(m)
		return err
	})
	return out, err
}

// parseTime reads seconds or RFC 3339. A zero fallback makes it required.
func parseTime(r *http.Request, name string, fallback time.Time) (time.Time, error) {
	v := r.FormValue(name)
	if v == "" && !fallback.IsZero() {
		return fallback, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
		return t, nil
	}
	sec, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(sec) || math.Abs(sec) > 1e11 {
		return time.Time{}, headgate.Invalidf("%s must be a time in seconds or RFC 3339", name)
	}
	return time.UnixMilli(int64(sec * 1000)), nil
}

func parseDuration(r *http.Request, name string) (time.Duration, error) {
	v := r.FormValue(name)
	if sec, err := strconv.ParseFloat(v, 64); err == nil && sec > 0 && sec < 1e9 {
		return time.Duration(sec * float64(time.Second)), nil
	}
	d, err := model.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, headgate.Invalidf("%s must be a duration such as 15s", name)
	}
	return time.Duration(d), nil
}

func withTimeout(r *http.Request) (context.Context, context.CancelFunc, error) {
	if r.FormValue("timeout") == "" {
		return r.Context(), func() {}, nil
	}
	d, err := parseDuration(r, "timeout")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), d)
	return ctx, cancel, nil
}

// selection is the series that a request asks about.
type selection struct {
	storage.Querier
	start, end time.Time
	sets       [][]*labels.Matcher
}

func (s *Store) selection(r *http.Request, tenant string) (selection, error) {
	start, err := parseTime(r, "start", time.UnixMilli(0))
	if err != nil {
		return selection{}, err
	}
	end, err := parseTime(r, "end", s.now().Add(maxAhead))
	if err != nil {
		return selection{}, err
	}
	sets, err := matchers(r, tenant)
	if err != nil {
		return selection{}, err
	}
	q, err := s.db.Querier(start.UnixMilli(), end.UnixMilli())
	if err != nil {
		return selection{}, queryError(promql.ErrStorage{Err: err})
	}
	return selection{Querier: q, start: start, end: end, sets: sets}, nil
}

// matchers are the request's selectors, each narrowed to the tenant.
func matchers(r *http.Request, tenant string) (sets [][]*labels.Matcher, err error) {
	for _, m := range r.Form["match[]"] {
		set, err := promQL.ParseMetricSelector(m)
		if err != nil {
			return nil, headgate.Invalidf("match[] does not parse: %v", err)
		}
		sets = append(sets, set)
	}
	if tenant != "" {
		if len(sets) == 0 {
			sets = [][]*labels.Matcher{nil}
		}
		for i := range sets {
			sets[i] = append(sets[i], tenantMatcher(tenant))
		}
	}
	return sets, nil
}

func (s *Store) apiSeries(r *http.Request, tenant string) (any, error) {
	if len(r.Form["match[]"]) == 0 {
		return nil, headgate.Invalidf("match[] is required")
	}
	sel, err := s.selection(r, tenant)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sel.Close() }() // a reader has nothing to lose
	out := []map[string]string{}
	seen := make(map[uint64]bool)
	for _, set := range sel.sets {
		series := sel.Select(r.Context(), true, &storage.SelectHints{
			Start: sel.start.UnixMilli(), End: sel.end.UnixMilli(), Func: "series", Limit: maxAnswers,
		}, set...)
		for series.Next() && len(out) < maxAnswers {
			ls := series.At().Labels()
			if h := ls.Hash(); !seen[h] {
				seen[h] = true
				out = append(out, ls.Map())
			}
		}
		if err := series.Err(); err != nil {
			return nil, queryError(promql.ErrStorage{Err: err})
		}
	}
	return out, nil
}

func (s *Store) apiLabels(r *http.Request, tenant string) (any, error) {
	return s.names(r, tenant, func(q storage.Querier, set []*labels.Matcher) ([]string, error) {
		names, _, err := q.LabelNames(r.Context(), &storage.LabelHints{Limit: maxAnswers}, set...)
		return names, err
	})
}

func (s *Store) apiLabelValues(r *http.Request, tenant string) (any, error) {
	name := r.PathValue("name")
	if name == "" {
		return nil, headgate.Invalidf("the label's name is missing")
	}
	return s.names(r, tenant, func(q storage.Querier, set []*labels.Matcher) ([]string, error) {
		values, _, err := q.LabelValues(r.Context(), name, &storage.LabelHints{Limit: maxAnswers}, set...)
		return values, err
	})
}

// names returns the sorted union of what ask finds in each matcher set.
func (s *Store) names(r *http.Request, tenant string, ask func(storage.Querier, []*labels.Matcher) ([]string, error)) (any, error) {
	sel, err := s.selection(r, tenant)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sel.Close() }() // a reader has nothing to lose
	if len(sel.sets) == 0 {
		sel.sets = [][]*labels.Matcher{nil}
	}
	out := []string{}
	for _, set := range sel.sets {
		names, err := ask(sel.Querier, set)
		if err != nil {
			return nil, queryError(promql.ErrStorage{Err: err})
		}
		out = append(out, names...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

type familyInfo struct {
	Type string `json:"type"`
	Help string `json:"help"`
	Unit string `json:"unit"`
}

func (in *intake) apiMetadata(r *http.Request, tenant string) (any, error) {
	want := r.FormValue("metric")
	out := make(map[string][]familyInfo)
	in.families.seen(tenant, func(name string, m metadata.Metadata) {
		info := familyInfo{Type: string(m.Type), Help: m.Help, Unit: m.Unit}
		if (want == "" || want == name) && !slices.Contains(out[name], info) {
			out[name] = append(out[name], info)
		}
	})
	return out, nil
}

type apiAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
	ActiveAt    time.Time         `json:"activeAt"`
	Value       string            `json:"value"`
}

type apiRule struct {
	Type        string            `json:"type"`
	Name        string            `json:"name"`
	Query       string            `json:"query"`
	Health      rules.RuleHealth  `json:"health"`
	LastError   string            `json:"lastError,omitempty"`
	State       string            `json:"state,omitempty"`
	Duration    float64           `json:"duration,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Alerts      []apiAlert        `json:"alerts,omitempty"`
	EvaluatedAt time.Time         `json:"lastEvaluation"`
	Seconds     float64           `json:"evaluationTime"`
}

type apiGroup struct {
	Name     string    `json:"name"`
	File     string    `json:"file"`
	Interval float64   `json:"interval"`
	Rules    []apiRule `json:"rules"`
}

// apiRules shows a tenant the rules but only its own alerts: neither whether
// the rule fires for others nor an error, which may name their series.
func (e *evaluation) apiRules(_ *http.Request, tenant string) (any, error) {
	groups := []apiGroup{}
	for _, g := range e.ruleGroups() {
		out := apiGroup{Name: g.Name(), File: g.File(), Interval: g.Interval().Seconds(), Rules: []apiRule{}}
		for _, r := range g.Rules() {
			x := apiRule{
				Type: "recording", Name: r.Name(), Query: r.Query().String(), Health: r.Health(), Labels: r.Labels().Map(),
				EvaluatedAt: r.GetEvaluationTimestamp(), Seconds: r.GetEvaluationDuration().Seconds(),
			}
			if err := r.LastError(); err != nil && tenant == "" {
				x.LastError = err.Error()
			}
			if a, ok := r.(*rules.AlertingRule); ok {
				x.Type, x.Duration = "alerting", a.HoldDuration().Seconds()
				x.Annotations = a.Annotations().Map()
				x.Alerts = activeAlerts(a, tenant)
				state := rules.StateInactive
				for _, active := range a.ActiveAlerts() {
					if visible(active, tenant) {
						state = max(state, active.State)
					}
				}
				x.State = state.String()
			}
			out.Rules = append(out.Rules, x)
		}
		groups = append(groups, out)
	}
	return map[string]any{"groups": groups}, nil
}

func (e *evaluation) apiAlerts(_ *http.Request, tenant string) (any, error) {
	out := []apiAlert{}
	for _, g := range e.ruleGroups() {
		for _, a := range g.AlertingRules() {
			out = append(out, activeAlerts(a, tenant)...)
		}
	}
	return map[string]any{"alerts": out}, nil
}

func (e *evaluation) ruleGroups() []*rules.Group {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.manager == nil {
		return nil
	}
	return e.manager.RuleGroups()
}

func activeAlerts(rule *rules.AlertingRule, tenant string) []apiAlert {
	var out []apiAlert
	for _, a := range rule.ActiveAlerts() {
		if visible(a, tenant) {
			out = append(out, apiAlert{
				Labels: a.Labels.Map(), Annotations: a.Annotations.Map(), State: a.State.String(), ActiveAt: a.ActiveAt, Value: formatValue(a.Value),
			})
		}
	}
	return out
}

func visible(a *rules.Alert, tenant string) bool {
	return tenant == "" || a.Labels.Get(telemetry.AttrTenant) == tenant
}
