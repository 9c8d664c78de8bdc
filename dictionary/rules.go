package dictionary

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/prometheus/promql/parser"
)

// RuleInterval is how often the rules are evaluated.
const RuleInterval = 30 * time.Second

// byVersion are the labels that tell releases apart.
var byVersion = []string{"service_name", "service_version", "deployment_environment_name"}

// ruleFile is Prometheus's rule file.
type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval,omitempty"`
	Rules    []rule `yaml:"rules"`
}

type rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// RecordName is the series under which the recording rules keep a figure, per
// service, version and environment.
func RecordName(figure string) string { return "headgate:" + figure }

// A burn is one pair of windows of a multiwindow burn-rate alert for a 30-day
// objective; see the Site Reliability Workbook, chapter 5.
type burn struct {
	factor      float64
	short, long time.Duration
	page        bool
}

const day = 24 * time.Hour

// minBad is how many bad events the longer window of a burn must hold. Where
// there is little traffic, one of them is a large share.
const minBad = 5

var burns = []burn{
	{14.4, 5 * time.Minute, time.Hour, true},
	{6, 30 * time.Minute, 6 * time.Hour, true},
	{3, 2 * time.Hour, day, false},
	{1, 6 * time.Hour, 3 * day, false},
}

// Rules returns recording rules for every figure, threshold alerts and
// burn-rate alerts as a Prometheus rule file.
func (d *Dictionary) Rules() ([]byte, error) {
	var file ruleFile
	records := ruleGroup{Name: "headgate-figures", Interval: duration(RuleInterval)}
	for _, f := range d.Figures() {
		expr, err := d.QueryBy(f.Name, Scope{}, byVersion...)
		if err != nil {
			return nil, err
		}
		records.Rules = append(records.Rules, rule{Record: RecordName(f.Name), Expr: expr})
	}
	file.Groups = append(file.Groups, records)

	alerts := ruleGroup{Name: "headgate-alerts", Interval: duration(RuleInterval)}
	for _, a := range d.alerts {
		r, err := d.alertRule(a)
		if err != nil {
			return nil, err
		}
		alerts.Rules = append(alerts.Rules, r)
	}
	file.Groups = append(file.Groups, alerts)

	for _, o := range d.objectives {
		g := ruleGroup{Name: "headgate-slo-" + o.Name, Interval: duration(RuleInterval)}
		for _, b := range burns {
			r, err := d.burnRule(o, b)
			if err != nil {
				return nil, err
			}
			g.Rules = append(g.Rules, r)
		}
		file.Groups = append(file.Groups, g)
	}
	out, err := yaml.Marshal(file)
	if err != nil {
		return nil, fmt.Errorf("write rules: %w", err)
	}
	return append([]byte("# Generated from the metric dictionary.\n"), out...), nil
}

// AlertQuery returns the PromQL whose answer is not empty while a figure is past
// the alert's bound and rests on enough samples, one series per combination of
// the labels.
func (d *Dictionary) AlertQuery(a Alert, s Scope, by ...string) (string, error) {
	expr, err := d.QueryBy(a.Figure, s, by...)
	if err != nil {
		return "", err
	}
	past := fmt.Sprintf("(%s) %s %s", expr, a.Op, number(a.Bound))
	if a.Samples == 0 {
		return past, nil
	}
	samples, err := d.Samples(a.Figure, s, by...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s and (%s) >= %d", past, samples, a.Samples), nil
}

// PresenceQuery returns the PromQL of how many series there are within a scope,
// nothing when there are none.
func (d *Dictionary) PresenceQuery(s Scope) string {
	sel := &parser.VectorSelector{LabelMatchers: d.matchers("", s)}
	return "count(" + sel.String() + ")"
}

func (d *Dictionary) alertRule(a Alert) (rule, error) {
	expr, err := d.AlertQuery(a, Scope{}, byVersion...)
	if err != nil {
		return rule{}, err
	}
	f := d.figures[a.Figure]
	return rule{
		Alert: a.Name,
		Expr:  expr,
		For:   duration(a.For),
		Labels: map[string]string{
			"severity": a.Severity, "owner": a.Owner,
		},
		Annotations: map[string]string{
			"summary": fmt.Sprintf("%s of {{ $labels.service_name }}{{ with $labels.service_version }} {{ . }}{{ end }} is %s, the bound is %s %s",
				f.Name, readable("$value", f.Unit), a.Op, readable(number(a.Bound), f.Unit)),
			"runbook": a.Runbook,
		},
	}, nil
}

// burnRule asks for both windows, for enough bad events in the long one, and
// for events in it before the short one: where there is no history every window
// shows the same few events.
func (d *Dictionary) burnRule(o Objective, b burn) (rule, error) {
	by := []string{"service_name", "deployment_environment_name"}
	bound := number(b.factor * (1 - o.Target))
	var terms []string
	for _, w := range []struct {
		scope Scope
		bound string
	}{
		{Scope{Window: b.long}, " > " + bound},
		{Scope{Window: b.short}, " > " + bound},
		{Scope{Window: b.long - b.short, ended: b.short}, ""},
	} {
		q, err := d.QueryBy(o.Figure, w.scope, by...)
		if err != nil {
			return rule{}, err
		}
		terms = append(terms, fmt.Sprintf("((%s)%s)", q, w.bound))
	}
	share, err := d.QueryBy(o.Figure, Scope{Window: b.long}, by...)
	if err != nil {
		return rule{}, err
	}
	events, err := d.Samples(o.Figure, Scope{Window: b.long}, by...)
	if err != nil {
		return rule{}, err
	}
	terms = append(terms, fmt.Sprintf("((%s) * (%s) >= %d)", share, events, minBad))
	severity := o.Severity
	if !b.page {
		severity = "P2"
	}
	return rule{
		Alert: fmt.Sprintf("%s-burn-%s", o.Name, duration(b.long)),
		Expr:  strings.Join(terms, " and "),
		Labels: map[string]string{
			"severity": severity, "owner": o.Owner, "objective": o.Name,
		},
		Annotations: map[string]string{
			"summary": fmt.Sprintf("{{ $labels.service_name }} burns the error budget of %s at %s times the sustainable rate", o.Name, number(b.factor)),
			"runbook": o.Runbook,
		},
	}, nil
}

// readable is the template of a value for people: 2.639s, 1.2%, 0.31 USD, 12k.
func readable(value, unit string) string {
	switch unit {
	case "s":
		return "{{ " + value + " | humanizeDuration }}"
	case "1":
		return "{{ " + value + " | humanizePercentage }}"
	case "{USD}":
		return "{{ " + value + " | humanize }} USD"
	default:
		return "{{ " + value + " | humanize }}"
	}
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 10, 64) }

// duration writes a duration as Prometheus does: 5m, 6h, 3d.
func duration(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= u.unit && d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}
