package dictionary

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/otlptranslator"

	"github.com/headgate/headgate"
)

//go:embed definitions/*.yaml
var definitions embed.FS

// defaultNamespace is the one that the definition files are written in.
const defaultNamespace = "bea"

// file is one definition file. Fields of the format that have no meaning here
// are accepted and ignored.
type file struct {
	FileFormat  string         `yaml:"file_format"`
	Attributes  []attributeDef `yaml:"attributes"`
	Metrics     []metricDef    `yaml:"metrics"`
	Imports     any            `yaml:"imports"`
	Groups      any            `yaml:"attribute_groups"`
	Spans       any            `yaml:"spans"`
	Events      any            `yaml:"events"`
	Entities    any            `yaml:"entities"`
	Refinements any            `yaml:"metric_refinements"`
}

type attributeDef struct {
	Key         string `yaml:"key"`
	Type        any    `yaml:"type"`
	Brief       string `yaml:"brief"`
	Note        string `yaml:"note"`
	Stability   string `yaml:"stability"`
	Examples    any    `yaml:"examples"`
	Deprecated  any    `yaml:"deprecated"`
	Annotations struct {
		Headgate struct {
			Aliases []string          `yaml:"aliases"`
			Values  map[string]string `yaml:"values"`
		} `yaml:"headgate"`
	} `yaml:"annotations"`
}

type metricDef struct {
	Name        string         `yaml:"name"`
	Brief       string         `yaml:"brief"`
	Note        string         `yaml:"note"`
	Instrument  string         `yaml:"instrument"`
	Unit        string         `yaml:"unit"`
	Stability   string         `yaml:"stability"`
	Attributes  []attributeRef `yaml:"attributes"`
	Entities    any            `yaml:"entity_associations"`
	Deprecated  any            `yaml:"deprecated"`
	Annotations struct {
		Headgate facts `yaml:"headgate"`
	} `yaml:"annotations"`
}

type attributeRef struct {
	Ref              string `yaml:"ref"`
	RequirementLevel any    `yaml:"requirement_level"`
	Brief            string `yaml:"brief"`
	Note             string `yaml:"note"`
	Examples         any    `yaml:"examples"`
}

// facts are what Headgate knows of a metric beyond OpenTelemetry's format.
type facts struct {
	Owner      string         `yaml:"owner"`
	Direction  Direction      `yaml:"direction"`
	Figures    []figureDef    `yaml:"figures"`
	Alerts     []alertDef     `yaml:"alerts"`
	Objectives []objectiveDef `yaml:"objectives"`
}

type figureDef struct {
	Name      string    `yaml:"name"`
	Brief     string    `yaml:"brief"`
	Unit      string    `yaml:"unit"`
	Group     string    `yaml:"group"`
	Direction Direction `yaml:"direction"`
	Window    string    `yaml:"window"`
	UsedBy    []string  `yaml:"used_by"`
	Query     string    `yaml:"query"`
	Samples   string    `yaml:"samples"`
}

type alertDef struct {
	Name     string   `yaml:"name"`
	Figure   string   `yaml:"figure"`
	Above    *float64 `yaml:"above"`
	Below    *float64 `yaml:"below"`
	Samples  int      `yaml:"samples"`
	For      string   `yaml:"for"`
	Severity string   `yaml:"severity"`
	Runbook  string   `yaml:"runbook"`
}

type objectiveDef struct {
	Name     string  `yaml:"name"`
	Brief    string  `yaml:"brief"`
	Figure   string  `yaml:"figure"`
	Target   float64 `yaml:"target"`
	Severity string  `yaml:"severity"`
	Runbook  string  `yaml:"runbook"`
}

// source is a definition file with the name that errors show.
type source struct {
	path string
	file
	slos []slo // of an OpenSLO file, which has nothing else
}

var validNamespace = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.]*$`)

// Load reads the embedded definitions and then the extra ones, whose *.yaml
// files may add but not redefine. Such a file may also be OpenSLO v1, whose
// SLO objects become objectives. The namespace takes the place of the "bea"
// that metric names begin with; empty means "bea". Load returns
// CONFIG_INVALID with every finding of file and entry when anything is not
// well-formed: see [Check].
func Load(namespace string, extra ...fs.FS) (*Dictionary, error) {
	d, findings := load(namespace, extra)
	if len(findings) > 0 {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the metric dictionary is not valid:\n  %s", strings.Join(findings, "\n  ")).
			With("findings", findings)
	}
	return d, nil
}

// Check returns what is wrong with the embedded and the extra definitions, one
// finding per line: an unknown metric or attribute, a missing unit, owner,
// direction or runbook, a name used twice, a query that does not parse.
func Check(namespace string, extra ...fs.FS) []string {
	_, findings := load(namespace, extra)
	return findings
}

func load(namespace string, extra []fs.FS) (*Dictionary, []string) {
	namespace = cmp.Or(namespace, defaultNamespace)
	if !validNamespace.MatchString(namespace) {
		return nil, []string{fmt.Sprintf("OBS_METRICS_NAMESPACE %q must begin with a letter and hold only letters, digits, _ and .", namespace)}
	}
	var findings []string
	var sources []source
	for _, fsys := range append([]fs.FS{definitions}, extra...) {
		s, f := read(fsys)
		sources, findings = append(sources, s...), append(findings, f...)
	}
	if len(findings) > 0 { // what refers to an unread file would only add noise
		return nil, findings
	}
	b := &builder{
		Dictionary: &Dictionary{
			namespace: namespace,
			metrics:   make(map[string]Metric),
			families:  make(map[string]Metric),
			figures:   make(map[string]Figure),

			attributes: make(map[string]Attribute),
		},
		rename:  make(map[string]string),
		used:    make(map[string]string),
		aliases: make(map[string]string),
	}
	b.build(sources)
	return b.Dictionary, b.findings
}

func read(fsys fs.FS) (sources []source, findings []string) {
	err := fs.WalkDir(fsys, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		text, err := fs.ReadFile(fsys, path)
		if err != nil {
			return err
		}
		s := source{path: path}
		if isOpenSLO(text) {
			slos, err := readOpenSLO(text)
			if err != nil {
				findings = append(findings, fmt.Sprintf("%s: %s", path, yamlError(err)))
			}
			s.slos = slos
			sources = append(sources, s)
			return nil
		}
		if err := yaml.UnmarshalWithOptions(text, &s.file, yaml.Strict()); err != nil {
			findings = append(findings, fmt.Sprintf("%s: %s", path, yamlError(err)))
			return nil
		}
		if s.FileFormat != "definition/2" {
			findings = append(findings, fmt.Sprintf("%s: file_format must be definition/2, not %q", path, s.FileFormat))
			return nil
		}
		sources = append(sources, s)
		return nil
	})
	if err != nil {
		findings = append(findings, fmt.Sprintf("cannot read definitions: %v", err))
	}
	return sources, findings
}

// yamlError keeps line, column and message of a YAML error, without the
// excerpt.
func yamlError(err error) string {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil {
		return err.Error()
	}
	p := y.GetToken().Position
	return fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, y.GetMessage())
}

// builder turns definition files into a dictionary, collecting findings.
type builder struct {
	*Dictionary
	rename   map[string]string // Prometheus family as written → namespaced
	used     map[string]string // names of figures, alerts and objectives → where
	aliases  map[string]string // alias of an attribute → its key
	findings []string
}

func (b *builder) find(path, entry, format string, args ...any) {
	b.findings = append(b.findings, fmt.Sprintf("%s: %s: %s", path, entry, fmt.Sprintf(format, args...)))
}

func (b *builder) build(sources []source) {
	for _, s := range sources {
		for _, a := range s.Attributes {
			b.attribute(s.path, a)
		}
	}
	for _, s := range sources {
		for _, m := range s.Metrics {
			b.metric(s.path, m)
		}
	}
	for _, s := range sources {
		for _, m := range s.Metrics {
			f := m.Annotations.Headgate
			for _, def := range f.Figures {
				b.figure(s.path, m, def)
			}
			for _, def := range f.Alerts {
				b.alert(s.path, f.Owner, def)
			}
			for _, def := range f.Objectives {
				b.objective(s.path, f.Owner, def)
			}
		}
		for _, o := range s.slos {
			b.openSLO(s.path, o)
		}
	}
	slices.SortFunc(b.alerts, func(x, y Alert) int { return cmp.Compare(x.Name, y.Name) })
	slices.SortFunc(b.objectives, func(x, y Objective) int { return cmp.Compare(x.Name, y.Name) })
	for _, a := range b.alerts {
		b.alertFigure("definitions", a)
	}
	for _, o := range b.objectives {
		b.knownFigure("objective "+o.Name, o.Figure)
		if f, ok := b.figures[o.Figure]; ok && f.samples == "" {
			b.find("definitions", "objective "+o.Name, "figure %q has no samples, which tell how many bad events there were", o.Figure)
		}
	}
}

func (b *builder) attribute(path string, def attributeDef) {
	entry := "attribute " + def.Key
	if def.Key == "" || def.Brief == "" {
		b.find(path, entry, "key and brief are required")
	}
	if _, twice := b.attributes[def.Key]; twice {
		b.find(path, entry, "is defined twice")
	}
	a := Attribute{Key: def.Key, Brief: def.Brief, Aliases: def.Annotations.Headgate.Aliases, Values: def.Annotations.Headgate.Values}
	for _, alias := range a.Aliases {
		if other, taken := b.aliases[alias]; taken {
			b.find(path, entry, "alias %q already stands for %s", alias, other)
		}
		b.aliases[alias] = def.Key
	}
	b.attributes[def.Key] = a
}

func (b *builder) knownFigure(entry, figure string) {
	if _, ok := b.figures[figure]; !ok {
		b.find("definitions", entry, "knows no figure %q", figure)
	}
}

// instruments map the format's instrument to the translation's metric type.
var instruments = map[string]otlptranslator.MetricType{
	"counter":       otlptranslator.MetricTypeMonotonicCounter,
	"updowncounter": otlptranslator.MetricTypeNonMonotonicCounter,
	"gauge":         otlptranslator.MetricTypeGauge,
	"histogram":     otlptranslator.MetricTypeHistogram,
}

// PrometheusName returns the family name that the store gives a metric: with
// underscores, the unit and, for a counter, _total.
func PrometheusName(name, unit, instrument string) (string, error) {
	namer := otlptranslator.MetricNamer{WithMetricSuffixes: true}
	return namer.Build(otlptranslator.Metric{Name: name, Unit: unit, Type: instruments[instrument]})
}

func (b *builder) metric(path string, def metricDef) {
	entry := "metric " + def.Name
	f := def.Annotations.Headgate
	_, known := instruments[def.Instrument]
	switch {
	case def.Name == "":
		b.find(path, "metric", "name is required")
		return
	case !known:
		b.find(path, entry, "instrument must be counter, updowncounter, gauge or histogram, not %q", def.Instrument)
		return
	case def.Unit == "":
		b.find(path, entry, `unit is required; "1" for a share`)
	case def.Brief == "":
		b.find(path, entry, "brief is required")
	case f.Owner == "":
		b.find(path, entry, "annotations.headgate.owner is required")
	case !validDirection(f.Direction):
		b.find(path, entry, "annotations.headgate.direction must be higher_is_better, lower_is_better or neutral, not %q", f.Direction)
	}
	var attributes []string
	for _, a := range def.Attributes {
		if _, ok := b.attributes[a.Ref]; !ok {
			b.find(path, entry, "refers to attribute %q, which is not defined", a.Ref)
		}
		attributes = append(attributes, a.Ref)
	}
	slices.Sort(attributes)
	m := Metric{
		Name: b.namespaced(def.Name), Brief: def.Brief, Note: def.Note, Instrument: def.Instrument, Unit: def.Unit,
		Attributes: attributes, Owner: f.Owner, Direction: f.Direction,
	}
	written, err := PrometheusName(def.Name, def.Unit, def.Instrument)
	if err == nil {
		m.Prometheus, err = PrometheusName(m.Name, def.Unit, def.Instrument)
	}
	if err != nil {
		b.find(path, entry, "has no name in Prometheus: %v", err)
		return
	}
	_, sameName := b.metrics[m.Name]
	if _, sameSeries := b.families[m.Prometheus]; sameName || sameSeries {
		b.find(path, entry, "is defined twice")
	}
	b.rename[written] = m.Prometheus
	b.metrics[m.Name] = m
	b.families[m.Prometheus] = m
}

func (b *builder) namespaced(name string) string {
	if rest, ok := strings.CutPrefix(name, defaultNamespace+"."); ok {
		return b.namespace + "." + rest
	}
	return name
}

// metricName returns the name of a metric that is named as the files name it
// or as the dictionary does.
func (b *builder) metricName(name string) string {
	if _, known := b.metrics[name]; known {
		return name
	}
	return b.namespaced(name)
}

func validDirection(d Direction) bool {
	return d == HigherIsBetter || d == LowerIsBetter || d == Neutral
}

var groups = []string{"api", "cost", "headgate", "parse_retrieval", "quality", "security", "slo", "worker"}

var validFigure = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func (b *builder) figure(path string, m metricDef, def figureDef) {
	entry := "figure " + def.Name
	f := Figure{
		Name: def.Name, Brief: def.Brief, Unit: def.Unit, Owner: m.Annotations.Headgate.Owner, Group: def.Group,
		Metric: b.metricName(m.Name), Direction: cmp.Or(def.Direction, m.Annotations.Headgate.Direction), UsedBy: def.UsedBy,
	}
	switch {
	case !validFigure.MatchString(def.Name):
		b.find(path, entry, "name must be lower_snake_case")
	case def.Unit == "":
		b.find(path, entry, `unit is required; "1" for a share`)
	case def.Brief == "":
		b.find(path, entry, "brief is required")
	case !slices.Contains(groups, def.Group):
		b.find(path, entry, "group must be one of %s, not %q", strings.Join(groups, ", "), def.Group)
	case !validDirection(f.Direction):
		b.find(path, entry, "direction %q is not known", f.Direction)
	}
	b.unique(path, entry, def.Name)
	if def.Window != "" {
		w, err := time.ParseDuration(def.Window)
		if err != nil || w < time.Second {
			b.find(path, entry, "window must be a duration of at least 1s, not %q", def.Window)
			return
		}
		f.Window = w
	}
	query, err := b.compile(def.Query, f.Window)
	if err != nil {
		b.find(path, entry, "query: %v", err)
		return
	}
	f.query = query
	if def.Samples != "" {
		if f.samples, err = b.compile(def.Samples, f.Window); err != nil {
			b.find(path, entry, "samples: %v", err)
			return
		}
	}
	b.figures[def.Name] = f
}

func (b *builder) unique(path, entry, name string) {
	if where, twice := b.used[name]; twice {
		b.find(path, entry, "the name is already used in %s", where)
	}
	b.used[name] = path
}

var severities = []string{"P0", "P1", "P2"}

func (b *builder) alert(path, owner string, def alertDef) {
	entry := "alert " + def.Name
	b.unique(path, entry, def.Name)
	a := Alert{Name: def.Name, Figure: def.Figure, Samples: def.Samples, Severity: def.Severity, Runbook: def.Runbook, Owner: owner}
	wait, err := time.ParseDuration(cmp.Or(def.For, "0s"))
	a.For = wait
	switch {
	case def.Above != nil && def.Below == nil:
		a.Op, a.Bound = ">", *def.Above
	case def.Below != nil && def.Above == nil:
		a.Op, a.Bound = "<", *def.Below
	default:
		b.find(path, entry, "needs one of above and below")
	}
	switch {
	case err != nil:
		b.find(path, entry, "for must be a duration, not %q", def.For)
	case def.Samples < 0:
		b.find(path, entry, "samples must be a number of observations, not %d", def.Samples)
	case !slices.Contains(severities, def.Severity):
		b.find(path, entry, "severity must be P0, P1 or P2, not %q", def.Severity)
	case def.Runbook == "":
		b.find(path, entry, "runbook is required")
	case owner == "":
		b.find(path, entry, "owner is required")
	}
	b.alerts = append(b.alerts, a)
}

// alertFigure checks what an alert says against the figure it names.
func (b *builder) alertFigure(path string, a Alert) {
	b.knownFigure("alert "+a.Name, a.Figure)
	if f, ok := b.figures[a.Figure]; ok && f.samples == "" && a.Samples > 0 {
		b.find(path, "alert "+a.Name, "asks for %d samples of figure %q, which does not say how many there are", a.Samples, a.Figure)
	}
}

func (b *builder) objective(path, owner string, def objectiveDef) {
	entry := "objective " + def.Name
	b.unique(path, entry, def.Name)
	switch {
	case def.Target <= 0 || def.Target >= 1:
		b.find(path, entry, "target must be between 0 and 1, exclusive")
	case !slices.Contains(severities, def.Severity):
		b.find(path, entry, "severity must be P0, P1 or P2, not %q", def.Severity)
	case def.Runbook == "":
		b.find(path, entry, "runbook is required")
	case owner == "":
		b.find(path, entry, "owner is required")
	}
	b.objectives = append(b.objectives, Objective{
		Name: def.Name, Brief: def.Brief, Figure: def.Figure, Target: def.Target,
		Severity: def.Severity, Runbook: def.Runbook, Owner: owner,
	})
}

// sortedKeys is for messages that list what is known.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
