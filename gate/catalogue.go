package gate

import (
	"math/big"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// kind is a measure's type and range.
type kind int

const (
	share    kind = iota // a number in 0..1
	amount               // a number >= 0
	positive             // a number > 0
	count                // a whole number >= 0
	flag                 // a boolean
	ratio                // computed: an amount over a positive baseline
	increase             // computed: a share less the baseline's
)

// computed reports whether the measure follows from two others.
func (k kind) computed() bool { return k == ratio || k == increase }

// measure is one metric of a gate together with the check on it. A measure
// without a code is an input of another check only.
type measure struct {
	name   string // as in a request: "ragas.context_precision"
	kind   kind
	unit   string
	series string // the population whose samples it shares, as rules name it
	code   string
	bound  string // "min", "max" or "required"
	limit  any    // the contract's threshold; nil for what only a rule set can ask for
}

// catalogue is Gate D as the HTTP contract fixes it, in contract order.
var catalogue = map[headgate.Gate][]measure{
	headgate.GateQuality: {
		{"ragas.context_precision", share, "1", "ragas", "RAGAS_CONTEXT_PRECISION_LOW", "min", 0.80},
		{"ragas.context_recall", share, "1", "ragas", "RAGAS_CONTEXT_RECALL_LOW", "min", 0.80},
		{"ragas.faithfulness", share, "1", "ragas", "RAGAS_FAITHFULNESS_LOW", "min", 0.90},
		{"ragas.response_relevancy", share, "1", "ragas", "RAGAS_RESPONSE_RELEVANCY_LOW", "min", 0.85},
		{"deepeval.hallucination_rate", share, "1", "deepeval", "DEEPEVAL_HALLUCINATION_RATE_HIGH", "max", 0.05},
		{"citation.resolvable_rate", share, "1", "citation", "CITATION_RESOLVABLE_RATE_LOW", "min", 0.98},
	},
	headgate.GatePerformance: {
		{"api_p95_s", amount, "s", "api", "API_P95_EXCEEDED", "max", 1.5},
		{"retrieval_p95_s", amount, "s", "retrieval", "RETRIEVAL_P95_EXCEEDED", "max", 4.0},
		{"parse_50p_p95_s", amount, "s", "parse", "PARSE_P95_EXCEEDED", "max", 180.0},
		{"evaluation_p95_s", amount, "s", "evaluation", "EVALUATION_P95_EXCEEDED", "max", 120.0},
		{"queue_dlq_rate", share, "1", "queue", "QUEUE_DLQ_RATE_HIGH", "max", 0.01},
		{"cache_hit_rate", share, "1", "cache", "CACHE_HIT_RATE_LOW", "min", 0.70},
	},
	headgate.GateSecurity: {
		{"tenant_scope_violations", count, "{violation}", "tenant_scope", "TENANT_SCOPE_VIOLATION_FOUND", "max", 0.0},
		{"auth_bypass_findings", count, "{finding}", "auth_bypass", "AUTH_BYPASS_FOUND", "max", 0.0},
		{"high_risk_approval_coverage", share, "1", "high_risk", "HIGH_RISK_APPROVAL_COVERAGE_LOW", "min", 1.0},
		{"log_redaction_failures", count, "{failure}", "log_redaction", "LOG_REDACTION_FAILURE_FOUND", "max", 0.0},
		{"secret_scan_findings", count, "{finding}", "secret_scan", "SECRET_SCAN_FINDING_FOUND", "max", 0.0},
	},
	headgate.GateCost: {
		{name: "task_cost_p95", kind: amount, unit: "{USD}", series: "task_cost"},
		{name: "baseline_task_cost_p95", kind: positive, unit: "{USD}", series: "baseline_task_cost"},
		{"task_cost_p95_ratio", ratio, "1", "task_cost", "TASK_COST_P95_RATIO_HIGH", "max", 1.2},
		{"routing_degrade_passed", flag, "", "routing_degrade", "ROUTING_DEGRADE_FAILED", "required", true},
		{"degrade_availability", share, "1", "degrade", "DEGRADE_AVAILABILITY_LOW", "min", 0.995},
		{"budget_alert_coverage", share, "1", "budget", "BUDGET_ALERT_COVERAGE_LOW", "min", 1.0},
	},
}

// comparable is what a rule set may have compared beyond the contract: the
// candidate with the baseline, measured at the same time.
var comparable = map[headgate.Gate][]measure{
	headgate.GatePerformance: {
		{name: "candidate_api_p95_s", kind: amount, unit: "s", series: "candidate_api"},
		{name: "baseline_api_p95_s", kind: positive, unit: "s", series: "baseline_api"},
		{"api_p95_ratio", ratio, "1", "candidate_api", "API_P95_RATIO_HIGH", "max", nil},
		{name: "candidate_api_error_rate", kind: share, unit: "1", series: "candidate_api"},
		{name: "baseline_api_error_rate", kind: share, unit: "1", series: "baseline_api"},
		{"api_error_rate_increase", increase, "1", "candidate_api", "API_ERROR_RATE_INCREASE_HIGH", "max", nil},
	},
}

// arms are the metrics of candidate and baseline behind each computed measure.
var arms = map[string][2]string{
	"task_cost_p95_ratio":     {"task_cost_p95", "baseline_task_cost_p95"},
	"api_p95_ratio":           {"candidate_api_p95_s", "baseline_api_p95_s"},
	"api_error_rate_increase": {"candidate_api_error_rate", "baseline_api_error_rate"},
}

// flat is the name as the keys of values and thresholds use it.
func (m measure) flat() string { return strings.ReplaceAll(m.name, ".", "_") }

// threshold is the key of the measure's threshold.
func (m measure) threshold() string { return m.flat() + "_" + m.bound }

// inputs names the request metrics on which the check rests.
func (m measure) inputs() []string {
	if m.kind.computed() {
		both := arms[m.name]
		return both[:]
	}
	return []string{m.name}
}

// reason is the failed-check code for a verdict other than pass.
func (m measure) reason(v headgate.Verdict) string {
	switch v {
	case headgate.Insufficient:
		return strings.ToUpper(m.flat()) + "_INSUFFICIENT_SAMPLES"
	case headgate.Broken:
		return strings.ToUpper(m.flat()) + "_TELEMETRY_BROKEN"
	default:
		return m.code
	}
}

// judge compares the measured value with the threshold. Too few samples cannot
// condemn or acquit a distribution, but one violation found, or one drill
// failed, is a fact however little was looked at.
func (cr criterion) judge(in metrics) Check {
	o := in.origin(cr.inputs)
	c := Check{
		Name: cr.value, Code: cr.code, Value: in.flat[cr.value], Threshold: cr.threshold, Unit: cr.unit, Op: "==",
		Samples: o.Samples, MinSamples: cr.minSamples, Window: o.Window, Source: o.Source,
		Verdict: headgate.Pass,
	}
	if cr.kind != flag {
		cr.compare(&c, in.exact[cr.name])
	} else if cr.threshold == true && c.Value == false {
		c.Verdict = headgate.Fail
	}
	found := c.Verdict == headgate.Fail && (cr.kind == count || cr.kind == flag)
	switch {
	case o.Broken != "":
		c.Verdict, c.Detail = headgate.Broken, o.Broken
	case found:
	case c.Value == nil || o.tooFew(cr.minSamples):
		c.Verdict = headgate.Insufficient
	}
	return c
}

// compare fills in the operator, the distance and the verdict of a number.
// exact is a computed one before it was rounded, which a maximum bounds.
func (m measure) compare(c *Check, exact *big.Rat) {
	limit := c.Threshold.(float64)
	c.Op = "<="
	if m.bound == "min" {
		c.Op = ">="
	}
	if c.Value == nil {
		return
	}
	value := number(c.Value)
	var distance float64
	var bad bool
	switch {
	case exact != nil:
		margin := fraction(limit)
		bad = margin.Sub(margin, exact).Sign() < 0
		distance, _ = margin.Float64()
	case m.bound == "min":
		distance, bad = minus(value, limit), value < limit
	default:
		distance, bad = minus(limit, value), value > limit
	}
	if bad {
		c.Verdict = headgate.Fail
	}
	c.Distance = &distance
}

// tooFew reports whether the samples do not support a verdict.
func (o Origin) tooFew(least int64) bool {
	if o.Samples == nil {
		return least > 0
	}
	return *o.Samples == 0 || *o.Samples < least
}

// Known reports whether a metric of that name ("ragas.faithfulness",
// "api_p95_s") belongs to Gate D, and to which gate.
func Known(metric string) (headgate.Gate, bool) {
	for _, g := range headgate.GateD() {
		if slices.Contains(MetricNames(g), metric) {
			return g, true
		}
	}
	return "", false
}

// MetricNames returns every request metric that a gate can judge, in contract
// order, then those that only a rule set's comparisons ask for. See
// [RuleSet.Metrics].
func MetricNames(g headgate.Gate) []string {
	return sent(slices.Concat(catalogue[g], comparable[g]))
}

// sent are the measures that a request holds.
func sent(measures []measure) []string {
	var names []string
	for _, m := range measures {
		if !m.kind.computed() {
			names = append(names, m.name)
		}
	}
	return names
}
