// Package dictionary defines every figure once: its metric, unit, direction,
// owner and PromQL. Dashboards, alerts, gates, the canary and reports all ask
// through it, so that one name means one number everywhere.
//
// The definitions are YAML files in OpenTelemetry's semantic-convention
// format (file_format: definition/2); what that format does not know stands
// under annotations.headgate. The package owns names and queries. It never
// talks to a store: it returns PromQL text.
package dictionary

import (
	"cmp"
	"slices"
	"time"
)

// Direction says whether more of something is better.
type Direction string

// The directions.
const (
	HigherIsBetter Direction = "higher_is_better"
	LowerIsBetter  Direction = "lower_is_better"
	Neutral        Direction = "neutral"
)

// Metric is one instrument that a service emits.
type Metric struct {
	Name       string   // OpenTelemetry name with the namespace, "bea.api.request.duration"
	Prometheus string   // family name in the store, "bea_api_request_duration_seconds"
	Brief      string   // one sentence
	Note       string   // more, may be empty
	Instrument string   // counter, updowncounter, gauge or histogram
	Unit       string   // UCUM
	Attributes []string // OpenTelemetry attribute names, sorted
	Owner      string
	Direction  Direction
}

// Figure is one number derived from metrics by a query.
type Figure struct {
	Name      string
	Brief     string
	Unit      string // UCUM
	Owner     string
	Group     string // api, worker, quality, cost, security, parse_retrieval or slo
	Metric    string // OpenTelemetry name of the metric that it belongs to
	Direction Direction
	// Window is how far the query looks back by default; 0 for a figure that
	// reads the present.
	Window time.Duration
	UsedBy []string // where it appears: summary, gate:performance, canary, dashboard

	query   string // PromQL with the default window, namespaced
	samples string // the same, of how many observations the query rests on; may be empty
}

// Alert is a threshold on a figure.
type Alert struct {
	Name     string
	Figure   string
	Op       string // > or <
	Bound    float64
	Samples  int // fewer observations than this fire nothing; 0 asks for none
	For      time.Duration
	Severity string // P0, P1 or P2
	Runbook  string
	Owner    string
}

// Objective is a service level objective: the share of bad events, which is
// the figure, stays below 1−Target over 30 days.
type Objective struct {
	Name     string
	Brief    string
	Figure   string
	Target   float64
	Severity string // of the fastest burn
	Runbook  string
	Owner    string
}

// Attribute is one key of metrics, spans and events.
type Attribute struct {
	Key   string
	Brief string
	// Aliases are older or other names under which services send it.
	Aliases []string
	// Values translates older values into today's.
	Values map[string]string
}

// Dictionary is a loaded, checked set of definitions. It is immutable and
// safe for concurrent use.
type Dictionary struct {
	namespace  string
	metrics    map[string]Metric // by OpenTelemetry name
	families   map[string]Metric // by Prometheus family name
	figures    map[string]Figure
	attributes map[string]Attribute
	alerts     []Alert
	objectives []Objective
}

// Metrics returns all metrics by name.
func (d *Dictionary) Metrics() []Metric {
	out := make([]Metric, 0, len(d.metrics))
	for _, m := range d.metrics {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Figures returns all figures by group and name.
func (d *Dictionary) Figures() []Figure {
	out := make([]Figure, 0, len(d.figures))
	for _, f := range d.figures {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Figure) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Alerts returns the threshold alerts by name.
func (d *Dictionary) Alerts() []Alert { return slices.Clone(d.alerts) }

// Objectives returns the service level objectives by name.
func (d *Dictionary) Objectives() []Objective { return slices.Clone(d.objectives) }

// Metric returns the metric of an OpenTelemetry name, with the namespace.
func (d *Dictionary) Metric(name string) (Metric, bool) {
	m, ok := d.metrics[name]
	return m, ok
}

// Figure returns the figure of a name.
func (d *Dictionary) Figure(name string) (Figure, bool) {
	f, ok := d.figures[name]
	return f, ok
}

// Attribute returns the attribute of a key.
func (d *Dictionary) Attribute(key string) (Attribute, bool) {
	a, ok := d.attributes[key]
	return a, ok
}
