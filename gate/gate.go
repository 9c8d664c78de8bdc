// Package gate judges a candidate before it meets a user: the four gates of
// Gate D (quality, performance, security, cost), the readiness assessment over
// all seven gates and the replay, and the backtest of a changed rule set.
//
// It owns thresholds, check codes and what counts as a measurement. It is a
// pure judge: every verdict follows from its arguments alone, so that anyone
// can recompute it later from what was recorded. It never does I/O, never reads
// a clock and never acts on a verdict. Real tools' files are read by
// gate/report.
package gate

import (
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// Input is what one gate judges.
type Input struct {
	// DatasetID names the dataset or the run on which the metrics were
	// measured. It is required.
	DatasetID string `json:"dataset_id"`
	// Metrics are the gate's metrics as decoded from JSON, for example
	// {"ragas": {"faithfulness": 0.93}}. Numbers may be float64, json.Number or
	// any Go integer. The dotted form {"ragas.faithfulness": 0.93} means the
	// same.
	Metrics map[string]any `json:"metrics"`
	// Origins says, by metric name ("ragas.faithfulness"), where the numbers
	// come from. It is optional; a rule set that asks for a minimum of samples
	// takes a metric without an origin as having too few.
	Origins map[string]Origin `json:"origins,omitempty"`
	// Tools are what the tools that measured say of their own runs.
	Tools []ToolReport `json:"tools,omitempty"`
}

// Origin says how a metric was measured.
type Origin struct {
	// Samples is the number of observations behind the value; nil when nobody
	// counted. Zero makes the check insufficient, and only then may the metric
	// itself be absent.
	Samples *int64 `json:"samples,omitempty"`
	// Window is the time covered, for example "30m", or the dataset's version.
	Window string `json:"window,omitempty"`
	// Source is the query or the file from which the value was read.
	Source string `json:"source,omitempty"`
	// Broken, when not empty, says why the telemetry behind the metric cannot
	// be trusted. The check's verdict is then broken, whatever the value, and
	// the metric may be absent.
	Broken string `json:"broken,omitempty"`
}

// Result is a gate's answer in the form of the HTTP contract, with the working
// beside it.
type Result struct {
	Gate      headgate.Gate `json:"gate"`
	DatasetID string        `json:"dataset_id"`
	Passed    bool          `json:"passed"`
	// FailedChecks holds a code for every check that did not pass, in contract
	// order, then rules of one's own in the order of the rule set, then what
	// tools said of their runs. A check
	// without enough samples appears as <METRIC>_INSUFFICIENT_SAMPLES, one
	// without trustworthy telemetry as <METRIC>_TELEMETRY_BROKEN. Never nil.
	FailedChecks []string `json:"failed_checks"`
	// Thresholds are keyed by check name with the suffix _min, _max or
	// _required.
	Thresholds map[string]any `json:"thresholds"`
	// Values are keyed by check name. A value nobody could measure is absent.
	Values map[string]any `json:"values"`
	// RAGChecker is set for the quality gate only.
	RAGChecker *RAGChecker `json:"ragchecker,omitempty"`

	Checks []Check `json:"checks"`
	// Verdict is fail when some check failed, else broken, else insufficient
	// when some check was that; only pass sets Passed.
	Verdict headgate.Verdict `json:"verdict"`
	// RulesDigest names the rule set under which the verdict was made.
	RulesDigest string `json:"rules_digest"`
}

// RAGChecker says whether the retrieval checker has to look at the run, and
// why.
type RAGChecker struct {
	Triggered   bool     `json:"triggered"`
	ReasonCodes []string `json:"reason_codes"`
}

// Check is one comparison.
type Check struct {
	// Name is the flat metric name ("ragas_faithfulness", "api_p95_s"), the
	// name of a rule of one's own, or "tool/" and the name of a report.
	Name string `json:"name"`
	// Code is what failed_checks holds when the comparison fails.
	Code string `json:"code"`
	// Value is a number or a boolean; null when it was not measured.
	Value any `json:"value"`
	// Threshold is a number, a boolean, or a CEL expression.
	Threshold any `json:"threshold"`
	// Op is ">=", "<=", "==", "cel", or "tool" for a tool's own run. The last
	// has Value true when it passed, and Threshold false when it need not.
	Op   string `json:"op"`
	Unit string `json:"unit"`
	// Samples is null when nobody counted.
	Samples    *int64 `json:"samples"`
	MinSamples int64  `json:"min_samples"`
	Window     string `json:"window"`
	Source     string `json:"source"`
	// Distance is how far the value is on the good side of the threshold, in
	// Unit; negative when it failed; null for booleans and CEL.
	Distance *float64         `json:"distance"`
	Verdict  headgate.Verdict `json:"verdict"`
	// Detail says why a verdict is broken, or what a tool complained about.
	Detail string `json:"detail,omitempty"`
}

// Evaluate judges in under rules. Boundaries are inclusive. A metric that is
// missing, of the wrong type, not finite or out of range is a
// REQ_VALIDATION_FAILED error that names the field and never its value; so is
// a gate outside Gate D. The error's details hold every offending field.
func Evaluate(rules RuleSet, g headgate.Gate, in Input) (Result, error) {
	if rules.digest == "" {
		return Result{}, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
			"no rule set is loaded; use the default rules or load a rule file")
	}
	if catalogue[g] == nil {
		return Result{}, headgate.Invalidf("gate: want one of %s", joinGates(headgate.GateD()))
	}
	criteria := rules.criteria[g]
	m, err := read(criteria, in)
	if err != nil {
		return Result{}, err
	}
	res := Result{
		Gate: g, DatasetID: in.DatasetID, FailedChecks: []string{},
		Thresholds: make(map[string]any, len(criteria)), Values: m.flat, Checks: make([]Check, 0, len(criteria)),
		RulesDigest: rules.digest,
	}
	for _, cr := range criteria {
		if cr.code == "" {
			continue
		}
		res.Thresholds[cr.limit] = cr.threshold
		c := cr.judge(m)
		res.add(c, cr.reason(c.Verdict))
	}
	res.judgeOwn(rules, in)
	for _, t := range in.Tools {
		for _, c := range t.judge(rules.body.Accept[g]) {
			res.add(c, c.Code)
		}
	}
	res.Verdict = worst(res.Checks)
	res.Passed = res.Verdict == headgate.Pass
	if g == headgate.GateQuality {
		res.RAGChecker = &RAGChecker{Triggered: !res.Passed, ReasonCodes: res.FailedChecks}
	}
	return res, nil
}

// add appends c, and its reason unless it passed.
func (r *Result) add(c Check, reason string) {
	r.Checks = append(r.Checks, c)
	if c.Verdict != headgate.Pass {
		r.FailedChecks = append(r.FailedChecks, reason)
	}
}

// worst orders verdicts by what they demand of a person: a bad release first,
// then telemetry to repair, then samples to wait for.
func worst(checks []Check) headgate.Verdict {
	for _, v := range []headgate.Verdict{headgate.Fail, headgate.Broken, headgate.Insufficient} {
		if slices.ContainsFunc(checks, func(c Check) bool { return c.Verdict == v }) {
			return v
		}
	}
	return headgate.Pass
}

func joinGates(gates []headgate.Gate) string {
	s := make([]string, len(gates))
	for i, g := range gates {
		s[i] = string(g)
	}
	return strings.Join(s, ", ")
}
