package dictionary

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Markdown returns the dictionary as a document.
func (d *Dictionary) Markdown() string {
	var b strings.Builder
	b.WriteString(`# Metrics

<!-- Generated from the metric dictionary; run "go test ./dictionary -update" to refresh. -->

Every number that Headgate shows, alerts on or judges by is a figure below, and
every figure is one PromQL query over the metrics that the service sends. The
dashboard, the alert, the gate and the report ask the same query, narrowed by
tenant, service, version, environment and window.

## Metrics

Sent by the service through OTLP, cumulative, with the resource attributes
` + "`service.name`, `service.version`, `deployment.environment.name` and `service.instance.id`" + `.

| metric | instrument | unit | attributes | in the store | owner | what it is |
|---|---|---|---|---|---|---|
`)
	for _, m := range d.Metrics() {
		brief := m.Brief
		if m.Note != "" {
			brief += " " + m.Note
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s | `%s` | %s | %s |\n",
			m.Name, m.Instrument, m.Unit, strings.Join(m.Attributes, ", "), m.Prometheus, m.Owner, brief)
	}
	d.aliasTable(&b)
	b.WriteString("\n## Figures\n")
	group := ""
	for _, f := range d.Figures() {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "\n### %s\n", strings.ReplaceAll(group, "_", " "))
		}
		fmt.Fprintf(&b, "\n**%s** (`%s`, %s", f.Name, f.Unit, strings.ReplaceAll(string(f.Direction), "_", " "))
		if f.Window > 0 {
			fmt.Fprintf(&b, ", over %s", duration(f.Window))
		}
		fmt.Fprintf(&b, "). %s Used by: %s. Recorded as `%s`.\n\n```promql\n%s\n```\n",
			f.Brief, strings.Join(f.UsedBy, ", "), RecordName(f.Name), f.query)
	}
	b.WriteString("\n## Alerts\n\n| alert | when | samples, at least | for | severity | owner | runbook |\n|---|---|---|---|---|---|---|\n")
	for _, a := range d.alerts {
		samples := "any"
		if a.Samples > 0 {
			samples = strconv.Itoa(a.Samples)
		}
		fmt.Fprintf(&b, "| %s | `%s %s %s` | %s | %s | %s | %s | %s |\n",
			a.Name, a.Figure, a.Op, number(a.Bound), samples, duration(a.For), a.Severity, a.Owner, a.Runbook)
	}
	b.WriteString("\n## Objectives\n\nEach has burn-rate alerts for 30 days:")
	for i, w := range burns {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " %s× on %s and %s", number(w.factor), duration(w.short), duration(w.long))
	}
	fmt.Fprintf(&b, ".\nNone fires on fewer than %d bad events in its longer window, nor before there were events earlier than its shorter one: a service without history has not filled any.\n\n", minBad)
	b.WriteString("| objective | target | bad events | severity | owner | runbook |\n|---|---|---|---|---|---|\n")
	for _, o := range d.objectives {
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s | %s | %s |\n", o.Name, number(o.Target), o.Figure, o.Severity, o.Owner, o.Runbook)
	}
	return b.String()
}

// aliasTable lists the attributes that are understood under other names.
func (d *Dictionary) aliasTable(b *strings.Builder) {
	b.WriteString("\n## Other names\n\nUnderstood in what services send:\n\n| attribute | also sent as | values |\n|---|---|---|\n")
	for _, key := range sortedKeys(d.attributes) {
		a := d.attributes[key]
		if len(a.Aliases) == 0 && len(a.Values) == 0 {
			continue
		}
		var values []string
		for _, old := range sortedKeys(a.Values) {
			values = append(values, old+" → "+a.Values[old])
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", key, strings.Join(a.Aliases, ", "), strings.Join(values, ", "))
	}
}

// Describe returns one figure for a person: what it is and its queries.
func (d *Dictionary) Describe(figure string) (string, error) {
	f, ok := d.figures[figure]
	if !ok {
		_, err := d.Query(figure, Scope{})
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\nunit %s, %s, owner %s, from %s\nused by %s\n",
		f.Name, f.Brief, f.Unit, strings.ReplaceAll(string(f.Direction), "_", " "), f.Owner, f.Metric, strings.Join(f.UsedBy, ", "))
	for _, v := range []struct {
		what  string
		scope Scope
		by    []string
	}{
		{"all", Scope{}, nil},
		{"last hour", Scope{Window: time.Hour}, nil},
		{"per tenant", Scope{}, []string{"tenant_id"}},
		{"per version", Scope{}, []string{"service_version"}},
	} {
		q, err := d.QueryBy(figure, v.scope, v.by...)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n%s:\n  %s\n", v.what, q)
	}
	return b.String(), nil
}
