// Package dictionary defines every figure once: its metric, unit, direction,
// owner and PromQL. Dashboards, alerts, gates, the canary and reports all ask
// through it, so that one name means one number everywhere.
//
// It owns names and queries. It never talks to a store: it returns PromQL
// text.
package dictionary

import (
	"io/fs"
	"time"
)

// Direction says whether more of a metric is better.
type Direction string

// The directions.
const (
	HigherIsBetter Direction = "higher_is_better"
	LowerIsBetter  Direction = "lower_is_better"
	Neutral        Direction = "neutral"
)

// Scope narrows a query. Empty fields do not narrow.
type Scope struct {
	Tenant      string
	Service     string
	Version     string
	Environment string
	Queue       string
	// Window is the time that rates and quantiles look back; 0 means the
	// figure's own default.
	Window time.Duration
}

// Metric is one instrument that a service emits.
type Metric struct {
	Name       string   // OpenTelemetry name with the namespace, "bea.api.request.duration"
	Prometheus string   // family name in the store, "bea_api_request_duration_seconds"
	Brief      string   // one sentence
	Instrument string   // counter, updowncounter, gauge or histogram
	Unit       string   // UCUM
	Attributes []string // attribute names, sorted
	Owner      string
	Direction  Direction
}

// Figure is one number derived from metrics by a query.
type Figure struct {
	Name      string
	Brief     string
	Unit      string
	Owner     string
	Group     string // api, worker, quality, cost, security, parse_retrieval or slo
	Direction Direction
	Window    time.Duration
	UsedBy    []string // where it appears: summary, gate:performance, canary, dashboard
	By        []string // labels that the answer keeps; empty means one number
	query     string
}

// Dictionary is a loaded, checked set of definitions. It is immutable.
type Dictionary struct{}

// Load reads the embedded definitions and then the extra ones, whose *.yaml
// files may add but not redefine. The namespace prefixes the names of the
// service's metrics. It returns CONFIG_INVALID naming file and entry for
// anything that is not well-formed.
func Load(namespace string, extra ...fs.FS) (*Dictionary, error) { return nil, nil }

// Metrics returns all metrics by name.
func (d *Dictionary) Metrics() []Metric { return nil }

// Figures returns all figures by group and name.
func (d *Dictionary) Figures() []Figure { return nil }

// Metric returns the metric of an OpenTelemetry name, with the namespace.
func (d *Dictionary) Metric(name string) (Metric, bool) { return Metric{}, false }

// Figure returns the figure of a name.
func (d *Dictionary) Figure(name string) (Figure, bool) { return Figure{}, false }

// Query returns the PromQL of a figure within a scope, for instant and range
// evaluation alike. The answer is one number per combination of the figure's
// By labels, and nothing at all when there is no data. It returns
// REQ_VALIDATION_FAILED for a name that the dictionary does not know.
func (d *Dictionary) Query(figure string, s Scope) (string, error) { return "", nil }

// QueryBy is Query with one value per combination of the labels, for example
// "tenant_id" or "service_version".
func (d *Dictionary) QueryBy(figure string, s Scope, labels ...string) (string, error) {
	return "", nil
}
