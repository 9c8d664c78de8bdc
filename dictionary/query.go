package dictionary

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/headgate/headgate"
)

// Scope narrows a query. Empty fields do not narrow.
type Scope struct {
	Tenant      string
	Tenants     []string // any of these
	Service     string
	Version     string
	Environment string
	Queue       string
	// Window is how far rates, quantiles and counts look back; 0 means the
	// figure's own default. It is rounded up to whole seconds.
	Window time.Duration
	// ended is how long ago the window ended.
	ended time.Duration
}

var promql = parser.NewParser(parser.Options{})

// Query returns the PromQL of a figure within a scope, for instant and range
// evaluation alike. Its answer is one number, and nothing at all when there
// is no data. It returns REQ_VALIDATION_FAILED for a name that the dictionary
// does not know.
func (d *Dictionary) Query(figure string, s Scope) (string, error) {
	return d.QueryBy(figure, s)
}

// QueryBy is [Dictionary.Query] with one number per combination of the
// labels, which are the store's names: tenant_id, service_version,
// http_route. A label that a metric does not have is empty in the answer.
func (d *Dictionary) QueryBy(figure string, s Scope, by ...string) (string, error) {
	f, err := d.known(figure)
	if err != nil {
		return "", err
	}
	for _, l := range by {
		if !validLabel(l) {
			return "", headgate.Invalidf("%q is not a label name", l)
		}
	}
	return d.narrow(f.query, f.Window, s, by)
}

// Samples returns the PromQL of how many observations a figure rests on within
// a scope, "" when the dictionary does not say. The answer is zero when nothing
// was observed, nothing at all when there is no such series, and not always
// whole, since rates extrapolate. It is split by labels as in
// [Dictionary.QueryBy].
func (d *Dictionary) Samples(figure string, s Scope, by ...string) (string, error) {
	f, err := d.known(figure)
	if err != nil || f.samples == "" {
		return "", err
	}
	return d.narrow(f.samples, f.Window, s, by)
}

func (d *Dictionary) known(figure string) (Figure, error) {
	f, ok := d.figures[figure]
	if !ok {
		return f, headgate.Invalidf("the metric dictionary knows no figure %q; it knows %s", figure, strings.Join(sortedKeys(d.figures), ", "))
	}
	return f, nil
}

// narrow puts a query within a scope.
func (d *Dictionary) narrow(query string, window time.Duration, s Scope, by []string) (string, error) {
	expr, err := promql.ParseExpr(query)
	if err != nil { // Load has parsed it before
		return "", headgate.AsError(err)
	}
	if s.Window > 0 && window > 0 {
		window = (s.Window + time.Second - 1).Truncate(time.Second)
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			n.LabelMatchers = append(n.LabelMatchers, d.matchers(n.Name, s)...)
			n.OriginalOffset = s.ended
		case *parser.MatrixSelector:
			n.Range = window
		case *parser.AggregateExpr:
			for _, l := range by {
				if !slices.Contains(n.Grouping, l) {
					n.Grouping = append(n.Grouping, l)
				}
			}
		}
		return nil
	})
	return expr.String(), nil
}

// Histogram returns the PromQL of the raw series of a histogram, named without
// its namespace, within a scope: cumulative buckets, told apart by le, and the
// sums, which have none.
func (d *Dictionary) Histogram(metric string, s Scope) (string, error) {
	for name, m := range d.families {
		if m.Instrument == "histogram" && strings.HasSuffix(m.Name, "."+metric) {
			sel := &parser.VectorSelector{LabelMatchers: []*labels.Matcher{
				labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, name+"_bucket|"+name+"_sum"),
			}}
			sel.LabelMatchers = append(sel.LabelMatchers, d.matchers(name+"_sum", s)...)
			return sel.String(), nil
		}
	}
	return "", headgate.Invalidf("the metric dictionary knows no histogram %q", metric)
}

func validLabel(s string) bool {
	for i, c := range s {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// matchers are the scope's conditions on one selector. The queue narrows only
// what has one.
func (d *Dictionary) matchers(selector string, s Scope) []*labels.Matcher {
	var out []*labels.Matcher
	equal := func(label, value string) {
		if value != "" {
			out = append(out, &labels.Matcher{Type: labels.MatchEqual, Name: label, Value: value})
		}
	}
	equal("deployment_environment_name", s.Environment)
	if m, ok := d.family(selector); ok && slices.Contains(m.Attributes, "queue_name") {
		equal("queue_name", s.Queue)
	}
	equal("service_name", s.Service)
	equal("service_version", s.Version)
	equal("tenant_id", s.Tenant)
	if len(s.Tenants) > 0 {
		quoted := make([]string, len(s.Tenants))
		for i, t := range s.Tenants {
			quoted[i] = regexp.QuoteMeta(t)
		}
		out = append(out, labels.MustNewMatcher(labels.MatchRegexp, "tenant_id", strings.Join(quoted, "|")))
	}
	return out
}

// seriesSuffixes are what a family name gains in the names of its series.
var seriesSuffixes = []string{"", "_bucket", "_count", "_sum"}

// family returns the metric that a series name belongs to.
func (d *Dictionary) family(series string) (Metric, bool) {
	for _, suffix := range seriesSuffixes {
		if name, ok := strings.CutSuffix(series, suffix); ok {
			if m, ok := d.families[name]; ok && (suffix == "") != (m.Instrument == "histogram") {
				return m, true
			}
		}
	}
	return Metric{}, false
}

// compile checks a written query and puts its metrics into the namespace.
func (b *builder) compile(query string, window time.Duration) (string, error) {
	if query == "" {
		return "", fmt.Errorf("is required")
	}
	expr, err := promql.ParseExpr(query)
	if err != nil {
		return "", fmt.Errorf("does not parse: %w", err)
	}
	if t := expr.Type(); t != parser.ValueTypeVector {
		return "", fmt.Errorf("must return an instant vector, not a %s", t)
	}
	aggregated := false
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if err != nil {
			return nil
		}
		switch n := node.(type) {
		case *parser.VectorSelector:
			err = b.renameSelector(n)
		case *parser.MatrixSelector:
			if n.Range != window {
				err = fmt.Errorf("looks back %s where the figure's window is %s", n.Range, window)
			}
		case *parser.SubqueryExpr:
			err = fmt.Errorf("a subquery cannot take a scope's window")
		case *parser.AggregateExpr:
			aggregated = true
			if n.Without {
				err = fmt.Errorf("without() cannot be split by label; use by()")
			}
		}
		return nil
	})
	if err == nil && !aggregated {
		err = fmt.Errorf("must aggregate, so that it returns one number")
	}
	return expr.String(), err
}

func (b *builder) renameSelector(n *parser.VectorSelector) error {
	for _, suffix := range seriesSuffixes {
		written, ok := strings.CutSuffix(n.Name, suffix)
		if !ok {
			continue
		}
		name, ok := b.rename[written]
		if !ok || (suffix == "") == (b.families[name].Instrument == "histogram") {
			continue
		}
		n.Name = name + suffix
		for _, m := range n.LabelMatchers {
			if m.Name == model.MetricNameLabel {
				m.Value = n.Name
			}
		}
		return nil
	}
	return fmt.Errorf("uses %q, which is not a series of any metric in the dictionary", n.Name)
}
