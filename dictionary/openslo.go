package dictionary

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/prometheus/promql/parser"
)

// openSLOVersion is the only version of OpenSLO that is read.
const openSLOVersion = "openslo/v1"

// sloWindow takes the place of a window that an OpenSLO query leaves open.
const sloWindow = 5 * time.Minute

// isOpenSLO reports whether a file says that it is OpenSLO, of any version.
func isOpenSLO(text []byte) bool { return openSLOHeader.Match(text) }

var openSLOHeader = regexp.MustCompile(`(?m)^apiVersion:\s*["']?openslo/`)

// slo is an OpenSLO SLO object with its indicator, which may stand in another
// object of the same file. Fields that have no meaning here are ignored.
type slo struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Metadata   sloMetadata `yaml:"metadata"`
	Spec       struct {
		Description  string         `yaml:"description"`
		Indicator    *sloIndicator  `yaml:"indicator"`
		IndicatorRef string         `yaml:"indicatorRef"`
		TimeWindow   []sloWindowDef `yaml:"timeWindow"`
		Budgeting    string         `yaml:"budgetingMethod"`
		Objectives   []sloTarget    `yaml:"objectives"`
		RatioMetric  *sloRatio      `yaml:"ratioMetric"` // of an SLI object
	} `yaml:"spec"`
}

type sloMetadata struct {
	Name        string            `yaml:"name"`
	Annotations map[string]string `yaml:"annotations"`
}

type sloIndicator struct {
	Spec struct {
		RatioMetric *sloRatio `yaml:"ratioMetric"`
	} `yaml:"spec"`
}

type sloRatio struct {
	Good  *sloSource `yaml:"good"`
	Bad   *sloSource `yaml:"bad"`
	Total *sloSource `yaml:"total"`
}

type sloSource struct {
	MetricSource struct {
		Type string `yaml:"type"`
		Spec struct {
			Query string `yaml:"query"`
		} `yaml:"spec"`
	} `yaml:"metricSource"`
}

func (s *sloSource) query() string {
	if s == nil {
		return ""
	}
	// The placeholder is what generators of burn-rate rules use.
	return openWindow.ReplaceAllString(strings.TrimSpace(s.MetricSource.Spec.Query), "["+duration(sloWindow)+"]")
}

var openWindow = regexp.MustCompile(`\[\s*(?:\{\{\s*\.window\s*\}\}|\$__rate_interval|\$window)\s*\]`)

type sloWindowDef struct {
	Duration  string `yaml:"duration"`
	IsRolling bool   `yaml:"isRolling"`
}

type sloTarget struct {
	Target        float64 `yaml:"target"`
	TargetPercent float64 `yaml:"targetPercent"`
}

// readOpenSLO returns the SLO objects of a file of one or more documents, each
// with its indicator in place.
func readOpenSLO(text []byte) ([]slo, error) {
	var out []slo
	indicators := make(map[string]*sloRatio)
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o slo
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch {
		case o.APIVersion != openSLOVersion:
			return nil, fmt.Errorf("apiVersion must be %s, not %q", openSLOVersion, o.APIVersion)
		case o.Kind == "SLO":
			out = append(out, o)
		case o.Kind == "SLI":
			indicators[o.Metadata.Name] = o.Spec.RatioMetric
		}
	}
	for i := range out {
		spec := &out[i].Spec
		switch {
		case spec.Indicator != nil:
			spec.RatioMetric = spec.Indicator.Spec.RatioMetric
		case spec.IndicatorRef != "":
			spec.RatioMetric = indicators[spec.IndicatorRef]
		}
	}
	return out, nil
}

// The annotations that say what OpenSLO has no field for.
const (
	annotationOwner    = "headgate/owner"
	annotationRunbook  = "headgate/runbook"
	annotationSeverity = "headgate/severity"
)

// openSLO turns an SLO into the figure of its bad share and an objective on
// it, so that it is recorded, shown and alerted on as any other.
func (b *builder) openSLO(path string, o slo) {
	name := o.Metadata.Name
	entry := "SLO " + name
	target, problem := o.target()
	if problem == "" {
		problem = o.unsupported()
	}
	if problem != "" {
		b.find(path, entry, "%s", problem)
		return
	}
	owner := o.Metadata.Annotations[annotationOwner]
	if owner == "" {
		b.find(path, entry, "metadata.annotations %s is required", annotationOwner)
		return
	}
	query, window, metric, err := b.badShare(o.Spec.RatioMetric)
	if err != nil {
		b.find(path, entry, "%v", err)
		return
	}
	events, err := increase(o.Spec.RatioMetric.Total.query())
	if err != nil {
		b.find(path, entry, "%v", err)
		return
	}
	m := metricDef{Name: metric}
	m.Annotations.Headgate = facts{Owner: owner, Direction: LowerIsBetter}
	figure := strings.ReplaceAll(strings.ToLower(name), "-", "_") + "_bad_share"
	brief := "Share of bad events of the objective " + name + "."
	b.figure(path, m, figureDef{
		Name: figure, Brief: brief, Unit: "1", Group: "slo", Window: window.String(), UsedBy: []string{"alert", "dashboard"}, Query: query, Samples: events,
	})
	b.objective(path, owner, objectiveDef{
		Name: name, Brief: o.Spec.Description, Figure: figure, Target: target,
		Severity: o.Metadata.Annotations[annotationSeverity], Runbook: o.Metadata.Annotations[annotationRunbook],
	})
}

func (o slo) target() (target float64, problem string) {
	if len(o.Spec.Objectives) != 1 {
		return 0, fmt.Sprintf("has %d objectives; write one SLO for each", len(o.Spec.Objectives))
	}
	t := o.Spec.Objectives[0]
	if t.TargetPercent != 0 {
		return t.TargetPercent / 100, ""
	}
	return t.Target, ""
}

func (o slo) unsupported() (problem string) {
	r := o.Spec.RatioMetric
	switch {
	case o.Spec.Budgeting != "" && o.Spec.Budgeting != "Occurrences":
		return fmt.Sprintf("budgetingMethod %s is not supported; use Occurrences", o.Spec.Budgeting)
	case len(o.Spec.TimeWindow) != 1 || o.Spec.TimeWindow[0].Duration != "30d" || !o.Spec.TimeWindow[0].IsRolling:
		return "timeWindow must be one rolling window of 30d, for which the burn rates are made"
	case r == nil:
		return "needs an indicator with a ratioMetric, in place or by an indicatorRef to an SLI of the same file"
	case r.Total == nil || (r.Good == nil) == (r.Bad == nil):
		return "ratioMetric needs total and one of good and bad"
	}
	for _, s := range []*sloSource{r.Good, r.Bad, r.Total} {
		if s != nil && !strings.EqualFold(s.MetricSource.Type, "Prometheus") {
			return fmt.Sprintf("metricSource must be of type Prometheus, not %q", s.MetricSource.Type)
		}
	}
	return ""
}

// badShare writes the ratio as a query and says which window and metric it
// has. No bad event is 0, no event is no answer.
func (b *builder) badShare(r *sloRatio) (query string, window time.Duration, metric string, err error) {
	total := r.Total.query()
	if window, metric, err = b.reads(total); err != nil {
		return "", 0, "", fmt.Errorf("total: %w", err)
	}
	if r.Bad != nil {
		return fmt.Sprintf("((%s) or (%s) * 0) / ((%s) > 0)", r.Bad.query(), total, total), window, metric, nil
	}
	return fmt.Sprintf("1 - ((%s) or (%s) * 0) / ((%s) > 0)", r.Good.query(), total, total), window, metric, nil
}

// increase turns a query of a rate into that of how many events there were.
func increase(query string) (string, error) {
	expr, err := promql.ParseExpr(query)
	if err != nil {
		return "", fmt.Errorf("query does not parse: %w", err)
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if call, ok := node.(*parser.Call); ok && (call.Func.Name == "rate" || call.Func.Name == "irate") {
			call.Func = parser.Functions["increase"]
		}
		return nil
	})
	return expr.String(), nil
}

// reads returns the window and the metric of a query.
func (b *builder) reads(query string) (window time.Duration, metric string, err error) {
	expr, err := promql.ParseExpr(query)
	if err != nil {
		return 0, "", fmt.Errorf("query does not parse: %w", err)
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			window = n.Range
		case *parser.VectorSelector:
			metric = n.Name
		}
		return nil
	})
	if window == 0 {
		return 0, "", errors.New("query must take a rate over a window, as in sum(rate(x_total[5m])), so that alerts can ask for other windows")
	}
	for _, m := range b.metrics {
		for _, suffix := range seriesSuffixes {
			if b.rename[strings.TrimSuffix(metric, suffix)] == m.Prometheus {
				return window, m.Name, nil
			}
		}
	}
	return window, metric, nil // compile refuses what is not known
}
