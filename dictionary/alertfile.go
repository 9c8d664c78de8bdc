package dictionary

import (
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate"
)

// maxFileAlerts bounds how many thresholds one file may try.
const maxFileAlerts = 100

// ParseAlerts reads the threshold alerts of a file in the format of the
// definitions, to be tried and not to be loaded: those of metrics that the
// dictionary knows, which may but need not bear other names than its own. A
// figure may be repeated as the dictionary has it. path is used in messages
// only; an error is CONFIG_INVALID with every finding.
func (d *Dictionary) ParseAlerts(path string, text []byte) ([]Alert, error) {
	var f file
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "%s: %s", path, yamlError(err))
	}
	own := *d
	own.alerts = nil
	b := &builder{Dictionary: &own, rename: map[string]string{}, used: map[string]string{}}
	if f.FileFormat != "definition/2" {
		b.find(path, "file_format", "must be definition/2, not %q", f.FileFormat)
	}
	for _, def := range f.Metrics {
		b.tryMetric(path, def)
	}
	for _, a := range b.alerts {
		b.alertFigure(path, a)
	}
	switch n := len(b.alerts); {
	case n == 0 && len(b.findings) == 0:
		b.find(path, "alerts", "there are none; they stand under metrics[].annotations.headgate.alerts")
	case n > maxFileAlerts:
		b.find(path, "alerts", "are %d; at most %d can be tried at once", n, maxFileAlerts)
	}
	if len(b.findings) > 0 {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the alerts cannot be tried:\n  %s", strings.Join(b.findings, "\n  ")).With("findings", b.findings)
	}
	return b.alerts, nil
}

func (b *builder) tryMetric(path string, def metricDef) {
	entry := "metric " + def.Name
	m, ok := b.metrics[b.metricName(def.Name)]
	if !ok {
		b.find(path, entry, "the server's metric dictionary does not know it")
		return
	}
	if def.Unit != "" { // a whole definition, whose queries may use its series
		if written, err := PrometheusName(def.Name, def.Unit, def.Instrument); err == nil {
			b.rename[written] = m.Prometheus
		}
	}
	for _, fig := range def.Annotations.Headgate.Figures {
		known, ok := b.figures[fig.Name]
		if query, err := b.compile(fig.Query, known.Window); !ok || err != nil || query != known.query {
			b.find(path, "figure "+fig.Name, "is not the one of the dictionary; only thresholds can be tried")
		}
	}
	for _, a := range def.Annotations.Headgate.Alerts {
		b.alert(path, m.Owner, a)
	}
}
