package gate_test

import (
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

var update = flag.Bool("update", false, "rewrite golden files")

// good returns a request on which every check of the gate passes.
func good(g headgate.Gate) map[string]any {
	switch g {
	case headgate.GateQuality:
		return map[string]any{
			"ragas": map[string]any{
				"context_precision": 0.9, "context_recall": 0.9, "faithfulness": 0.95, "response_relevancy": 0.9,
			},
			"deepeval": map[string]any{"hallucination_rate": 0.01},
			"citation": map[string]any{"resolvable_rate": 0.99},
		}
	case headgate.GatePerformance:
		return map[string]any{
			"api_p95_s": 0.8, "retrieval_p95_s": 2.0, "parse_50p_p95_s": 100.0, "evaluation_p95_s": 60.0,
			"queue_dlq_rate": 0.0, "cache_hit_rate": 0.9,
		}
	case headgate.GateSecurity:
		return map[string]any{
			"tenant_scope_violations": 0.0, "auth_bypass_findings": 0.0, "high_risk_approval_coverage": 1.0,
			"log_redaction_failures": 0.0, "secret_scan_findings": 0.0,
		}
	default:
		return map[string]any{
			"task_cost_p95": 1.1, "baseline_task_cost_p95": 1.0, "routing_degrade_passed": true,
			"degrade_availability": 0.999, "budget_alert_coverage": 1.0,
		}
	}
}

// set writes a metric by its dotted path.
func set(doc map[string]any, path string, v any) {
	head, tail, nested := strings.Cut(path, ".")
	if !nested {
		doc[path] = v
		return
	}
	doc[head].(map[string]any)[tail] = v
}

func input(g headgate.Gate, path string, v any) gate.Input {
	doc := good(g)
	set(doc, path, v)
	return gate.Input{DatasetID: "gold-v1", Metrics: doc}
}

type boundary struct {
	gate      headgate.Gate
	path      string
	threshold string
	limit     any
	pass      []any
	fail      []any
	code      string
}

var boundaries = []boundary{
	{headgate.GateQuality, "ragas.context_precision", "ragas_context_precision_min", 0.80, []any{0.80, 0.8000001, 1.0}, []any{0.7999999, 0.0}, "RAGAS_CONTEXT_PRECISION_LOW"},
	{headgate.GateQuality, "ragas.context_recall", "ragas_context_recall_min", 0.80, []any{0.80, 0.8000001, 1.0}, []any{0.7999999, 0.0}, "RAGAS_CONTEXT_RECALL_LOW"},
	{headgate.GateQuality, "ragas.faithfulness", "ragas_faithfulness_min", 0.90, []any{0.90, 0.9000001, 1.0}, []any{0.8999999, 0.0}, "RAGAS_FAITHFULNESS_LOW"},
	{headgate.GateQuality, "ragas.response_relevancy", "ragas_response_relevancy_min", 0.85, []any{0.85, 0.8500001, 1.0}, []any{0.8499999, 0.0}, "RAGAS_RESPONSE_RELEVANCY_LOW"},
	{headgate.GateQuality, "deepeval.hallucination_rate", "deepeval_hallucination_rate_max", 0.05, []any{0.05, 0.0499999, 0.0}, []any{0.0500001, 1.0}, "DEEPEVAL_HALLUCINATION_RATE_HIGH"},
	{headgate.GateQuality, "citation.resolvable_rate", "citation_resolvable_rate_min", 0.98, []any{0.98, 0.9800001, 1.0}, []any{0.9799999, 0.0}, "CITATION_RESOLVABLE_RATE_LOW"},
	{headgate.GatePerformance, "api_p95_s", "api_p95_s_max", 1.5, []any{1.5, 1.4999999, 0.0}, []any{1.5000001, 1e300}, "API_P95_EXCEEDED"},
	{headgate.GatePerformance, "retrieval_p95_s", "retrieval_p95_s_max", 4.0, []any{4.0, 3.9999999}, []any{4.0000001}, "RETRIEVAL_P95_EXCEEDED"},
	{headgate.GatePerformance, "parse_50p_p95_s", "parse_50p_p95_s_max", 180.0, []any{180.0, 179.9999}, []any{180.0001}, "PARSE_P95_EXCEEDED"},
	{headgate.GatePerformance, "evaluation_p95_s", "evaluation_p95_s_max", 120.0, []any{120.0, 119.9999}, []any{120.0001}, "EVALUATION_P95_EXCEEDED"},
	{headgate.GatePerformance, "queue_dlq_rate", "queue_dlq_rate_max", 0.01, []any{0.01, 0.0099999, 0.0}, []any{0.0100001, 1.0}, "QUEUE_DLQ_RATE_HIGH"},
	{headgate.GatePerformance, "cache_hit_rate", "cache_hit_rate_min", 0.70, []any{0.70, 0.7000001, 1.0}, []any{0.6999999, 0.0}, "CACHE_HIT_RATE_LOW"},
	{headgate.GateSecurity, "tenant_scope_violations", "tenant_scope_violations_max", 0.0, []any{0, 0.0, json.Number("0")}, []any{1, json.Number("2")}, "TENANT_SCOPE_VIOLATION_FOUND"},
	{headgate.GateSecurity, "auth_bypass_findings", "auth_bypass_findings_max", 0.0, []any{0}, []any{1}, "AUTH_BYPASS_FOUND"},
	{headgate.GateSecurity, "high_risk_approval_coverage", "high_risk_approval_coverage_min", 1.0, []any{1.0, 1, json.Number("1.0")}, []any{0.9999999, 0.0}, "HIGH_RISK_APPROVAL_COVERAGE_LOW"},
	{headgate.GateSecurity, "log_redaction_failures", "log_redaction_failures_max", 0.0, []any{0}, []any{1}, "LOG_REDACTION_FAILURE_FOUND"},
	{headgate.GateSecurity, "secret_scan_findings", "secret_scan_findings_max", 0.0, []any{0}, []any{1, 1 << 40}, "SECRET_SCAN_FINDING_FOUND"},
	{headgate.GateCost, "task_cost_p95", "task_cost_p95_ratio_max", 1.2, []any{1.2, 1.1999999, 0.0}, []any{1.2000001, 1e300}, "TASK_COST_P95_RATIO_HIGH"},
	{headgate.GateCost, "routing_degrade_passed", "routing_degrade_passed_required", true, []any{true}, []any{false}, "ROUTING_DEGRADE_FAILED"},
	{headgate.GateCost, "degrade_availability", "degrade_availability_min", 0.995, []any{0.995, 0.9950001, 1.0}, []any{0.9949999}, "DEGRADE_AVAILABILITY_LOW"},
	{headgate.GateCost, "budget_alert_coverage", "budget_alert_coverage_min", 1.0, []any{1.0}, []any{0.9999999, 0.0}, "BUDGET_ALERT_COVERAGE_LOW"},
}

func TestEveryThresholdAtItsBoundary(t *testing.T) {
	t.Parallel()
	for _, b := range boundaries {
		t.Run(b.path, func(t *testing.T) {
			t.Parallel()
			for _, v := range b.pass {
				res := evaluate(t, b.gate, input(b.gate, b.path, v))
				if !res.Passed || res.Verdict != headgate.Pass || len(res.FailedChecks) != 0 {
					t.Errorf("%v: got %s %v, want pass", v, res.Verdict, res.FailedChecks)
				}
				if got := res.Thresholds[b.threshold]; got != b.limit {
					t.Errorf("thresholds[%s] = %v, want %v", b.threshold, got, b.limit)
				}
				if _, ok := res.Values[strings.ReplaceAll(b.path, ".", "_")]; !ok {
					t.Errorf("values do not hold %s: %v", b.path, res.Values)
				}
			}
			for _, v := range b.fail {
				res := evaluate(t, b.gate, input(b.gate, b.path, v))
				if res.Passed || res.Verdict != headgate.Fail || !slices.Equal(res.FailedChecks, []string{b.code}) {
					t.Errorf("%v: got %s %v, want fail [%s]", v, res.Verdict, res.FailedChecks, b.code)
				}
			}
		})
	}
}

func evaluate(t *testing.T, g headgate.Gate, in gate.Input) gate.Result {
	t.Helper()
	res, err := gate.Evaluate(gate.DefaultRules(), g, in)
	if err != nil {
		t.Fatalf("Evaluate: %v", err)
	}
	return res
}

// The catalogue's boundary table must not forget a metric.
func TestBoundariesCoverEveryMetric(t *testing.T) {
	t.Parallel()
	for _, g := range headgate.GateD() {
		for _, name := range gate.DefaultRules().Metrics(g) {
			tested := slices.ContainsFunc(boundaries, func(b boundary) bool { return b.path == name })
			if !tested && name != "baseline_task_cost_p95" {
				t.Errorf("no boundary test for %s", name)
			}
			if got, ok := gate.Known(name); !ok || got != g {
				t.Errorf("Known(%s) = %s, %v", name, got, ok)
			}
		}
	}
}

func TestBadInputIsRefused(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-value"
	everywhere := map[string]any{
		"missing": nil, "NaN": math.NaN(), "+Inf": math.Inf(1), "-Inf": math.Inf(-1),
		"text": secret, "NaN text": "NaN", "boolean": true, "list": []any{1.0}, "object": map[string]any{"v": 1.0},
		"negative": -0.5, "huge literal": json.Number("1e999"), "not a literal": json.Number("NaN"),
	}
	above := map[string]any{"above one": 1.0000001}
	whole := map[string]any{"fraction": 0.5, "fraction literal": json.Number("1.5"), "too large": 1e300}
	boolean := map[string]any{"missing": nil, "number": 1.0, "text": "true", "zero": 0.0, "object": map[string]any{}}
	positive := map[string]any{"zero": 0.0, "negative zero": math.Copysign(0, -1)}
	for _, g := range headgate.GateD() {
		for _, name := range gate.DefaultRules().Metrics(g) {
			bad := maps.Clone(everywhere)
			switch name {
			case "api_p95_s", "retrieval_p95_s", "parse_50p_p95_s", "evaluation_p95_s", "task_cost_p95":
			case "tenant_scope_violations", "auth_bypass_findings", "log_redaction_failures", "secret_scan_findings":
				maps.Copy(bad, whole)
			case "baseline_task_cost_p95":
				maps.Copy(bad, positive)
			case "routing_degrade_passed":
				bad = boolean
			default:
				maps.Copy(bad, above)
			}
			for what, v := range bad {
				t.Run(name+"/"+what, func(t *testing.T) {
					t.Parallel()
					_, err := gate.Evaluate(gate.DefaultRules(), g, input(g, name, v))
					wantInvalid(t, err, "metrics."+name)
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error repeats what was sent: %v", err)
					}
				})
			}
		}
	}
}

func wantInvalid(t *testing.T, err error, field string) {
	t.Helper()
	var e *headgate.Error
	if !errors.As(err, &e) || e.Code != headgate.CodeValidation || e.Class != headgate.ClassValidation {
		t.Fatalf("got %v, want %s", err, headgate.CodeValidation)
	}
	if !strings.Contains(e.Message, field+":") {
		t.Errorf("message %q does not name %s", e.Message, field)
	}
}

func TestBadRequestShapes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		gate  headgate.Gate
		in    gate.Input
		field string
	}{
		{"no dataset", headgate.GateCost, gate.Input{Metrics: good(headgate.GateCost)}, "dataset_id"},
		{"blank dataset", headgate.GateCost, gate.Input{DatasetID: " \t", Metrics: good(headgate.GateCost)}, "dataset_id"},
		{"long dataset", headgate.GateCost, gate.Input{DatasetID: strings.Repeat("x", 300), Metrics: good(headgate.GateCost)}, "dataset_id"},
		{"no metrics", headgate.GateCost, gate.Input{DatasetID: "d"}, "metrics"},
		{"group is no object", headgate.GateQuality, input(headgate.GateQuality, "ragas", 0.9), "metrics.ragas.faithfulness"},
		{"given twice", headgate.GateQuality, func() gate.Input {
			in := input(headgate.GateQuality, "ragas.faithfulness", 0.95)
			in.Metrics["ragas.faithfulness"] = 0.1
			return in
		}(), "metrics.ragas.faithfulness"},
		{"not a gate of Gate D", headgate.GateOps, gate.Input{DatasetID: "d", Metrics: map[string]any{}}, "gate"},
		{"baseline too small", headgate.GateCost, func() gate.Input {
			in := input(headgate.GateCost, "task_cost_p95", 1e300)
			in.Metrics["baseline_task_cost_p95"] = 1e-300
			return in
		}(), "metrics.baseline_task_cost_p95"},
		{"negative samples", headgate.GateCost, gate.Input{
			DatasetID: "d", Metrics: good(headgate.GateCost),
			Origins: map[string]gate.Origin{"task_cost_p95": {Samples: new(int64(-1))}},
		}, "origins.task_cost_p95.samples"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := gate.Evaluate(gate.DefaultRules(), tt.gate, tt.in)
			wantInvalid(t, err, tt.field)
		})
	}
	if _, err := gate.Evaluate(gate.RuleSet{}, headgate.GateCost, gate.Input{}); err == nil {
		t.Error("a rule set without rules must be refused")
	}
}

func TestEveryOffendingFieldIsNamed(t *testing.T) {
	t.Parallel()
	_, err := gate.Evaluate(gate.DefaultRules(), headgate.GateSecurity, gate.Input{Metrics: map[string]any{}})
	for _, field := range append([]string{"dataset_id"}, gate.DefaultRules().Metrics(headgate.GateSecurity)...) {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

func TestDottedNamesMeanTheSame(t *testing.T) {
	t.Parallel()
	nested := good(headgate.GateQuality)
	dotted := map[string]any{}
	for _, name := range gate.DefaultRules().Metrics(headgate.GateQuality) {
		group, key, _ := strings.Cut(name, ".")
		dotted[name] = nested[group].(map[string]any)[key]
	}
	a := evaluate(t, headgate.GateQuality, gate.Input{DatasetID: "d", Metrics: nested})
	b := evaluate(t, headgate.GateQuality, gate.Input{DatasetID: "d", Metrics: dotted})
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
}

func TestCostRatioIsExactAtTheBoundary(t *testing.T) {
	t.Parallel()
	for tenths := 1; tenths <= 2000; tenths++ {
		base := float64(tenths) / 100
		cost := math.Round(base*1.2*1000) / 1000
		in := input(headgate.GateCost, "task_cost_p95", cost)
		in.Metrics["baseline_task_cost_p95"] = base
		if res := evaluate(t, headgate.GateCost, in); !res.Passed || res.Values["task_cost_p95_ratio"] != 1.2 {
			t.Fatalf("%v of %v: got %v with ratio %v, want pass at 1.2", cost, base, res.FailedChecks, res.Values["task_cost_p95_ratio"])
		}
		in.Metrics["task_cost_p95"] = math.Nextafter(cost, math.Inf(1))
		if res := evaluate(t, headgate.GateCost, in); res.Passed {
			t.Fatalf("just above %v of %v passes", cost, base)
		}
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	rules, err := gate.ParseRules("rules.yaml", []byte(`
format: headgate-rules/v1
version: 2
owner: platform
reason: tests
min_samples:
  performance: {api_p95_s: 200}
  security: {secret_scan_findings: 10}
  cost: {task_cost_p95_ratio: 50, routing_degrade_passed: 1}
`))
	if err != nil {
		t.Fatal(err)
	}
	origin := func(n int64) gate.Origin {
		return gate.Origin{Samples: &n, Window: "30m", Source: "histogram_quantile(…)"}
	}
	tests := []struct {
		name    string
		gate    headgate.Gate
		path    string
		value   any
		origins map[string]gate.Origin
		verdict headgate.Verdict
		failed  []string
	}{
		{"enough", headgate.GatePerformance, "api_p95_s", 1.0, map[string]gate.Origin{"api_p95_s": origin(200)}, headgate.Pass, []string{}},
		{"one too few", headgate.GatePerformance, "api_p95_s", 1.0, map[string]gate.Origin{"api_p95_s": origin(199)}, headgate.Insufficient, []string{"API_P95_S_INSUFFICIENT_SAMPLES"}},
		{"nobody counted", headgate.GatePerformance, "api_p95_s", 1.0, nil, headgate.Insufficient, []string{"API_P95_S_INSUFFICIENT_SAMPLES"}},
		{"too few to condemn", headgate.GatePerformance, "api_p95_s", 9.0, map[string]gate.Origin{"api_p95_s": origin(3)}, headgate.Insufficient, []string{"API_P95_S_INSUFFICIENT_SAMPLES"}},
		{"nothing observed", headgate.GatePerformance, "api_p95_s", nil, map[string]gate.Origin{"api_p95_s": origin(0)}, headgate.Insufficient, []string{"API_P95_S_INSUFFICIENT_SAMPLES"}},
		{"a violation is a fact", headgate.GateSecurity, "secret_scan_findings", 1, nil, headgate.Fail, []string{"SECRET_SCAN_FINDING_FOUND"}},
		{"none found among too few", headgate.GateSecurity, "secret_scan_findings", 0, map[string]gate.Origin{"secret_scan_findings": origin(9)}, headgate.Insufficient, []string{"SECRET_SCAN_FINDINGS_INSUFFICIENT_SAMPLES"}},
		{"broken telemetry", headgate.GatePerformance, "api_p95_s", 1.0, map[string]gate.Origin{"api_p95_s": {Broken: "no data for 90 s", Samples: new(int64(500))}}, headgate.Broken, []string{"API_P95_S_TELEMETRY_BROKEN"}},
		{"broken and absent", headgate.GatePerformance, "api_p95_s", nil, map[string]gate.Origin{"api_p95_s": {Broken: "NaN"}}, headgate.Broken, []string{"API_P95_S_TELEMETRY_BROKEN"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := input(tt.gate, tt.path, tt.value)
			in.Origins = tt.origins
			res, err := gate.Evaluate(rules, tt.gate, in)
			if err != nil {
				t.Fatal(err)
			}
			if res.Verdict != tt.verdict || !slices.Equal(res.FailedChecks, tt.failed) || res.Passed != (tt.verdict == headgate.Pass) {
				t.Errorf("got %s %v passed=%v, want %s %v", res.Verdict, res.FailedChecks, res.Passed, tt.verdict, tt.failed)
			}
		})
	}

	t.Run("the ratio has as many samples as its poorer side", func(t *testing.T) {
		t.Parallel()
		in := input(headgate.GateCost, "task_cost_p95", 1.1)
		in.Origins = map[string]gate.Origin{
			"task_cost_p95": origin(500), "baseline_task_cost_p95": origin(49), "routing_degrade_passed": origin(1),
		}
		res, err := gate.Evaluate(rules, headgate.GateCost, in)
		if err != nil || !slices.Equal(res.FailedChecks, []string{"TASK_COST_P95_RATIO_INSUFFICIENT_SAMPLES"}) {
			t.Errorf("got %v %v", res.FailedChecks, err)
		}
	})
	t.Run("an absent cost never passes", func(t *testing.T) {
		t.Parallel()
		in := input(headgate.GateCost, "task_cost_p95", nil)
		in.Origins = map[string]gate.Origin{"task_cost_p95": origin(0)}
		if res := evaluate(t, headgate.GateCost, in); res.Verdict != headgate.Insufficient {
			t.Errorf("got %s, want insufficient", res.Verdict)
		}
	})
}

func TestFailuresAreInContractOrderAndOutrankTheRest(t *testing.T) {
	t.Parallel()
	in := input(headgate.GatePerformance, "cache_hit_rate", 0.1)
	set(in.Metrics, "api_p95_s", 2.0)
	in.Origins = map[string]gate.Origin{"retrieval_p95_s": {Broken: "stale"}, "queue_dlq_rate": {Samples: new(int64(0))}}
	res := evaluate(t, headgate.GatePerformance, in)
	want := []string{"API_P95_EXCEEDED", "RETRIEVAL_P95_S_TELEMETRY_BROKEN", "QUEUE_DLQ_RATE_INSUFFICIENT_SAMPLES", "CACHE_HIT_RATE_LOW"}
	if !slices.Equal(res.FailedChecks, want) || res.Verdict != headgate.Fail {
		t.Errorf("got %s %v, want fail %v", res.Verdict, res.FailedChecks, want)
	}
}

// A verdict can be recomputed from what was recorded.
func TestRecordedInputGivesTheSameResult(t *testing.T) {
	t.Parallel()
	for _, g := range headgate.GateD() {
		in := gate.Input{DatasetID: "gold-v1", Metrics: good(g), Origins: map[string]gate.Origin{
			gate.DefaultRules().Metrics(g)[0]: {Samples: new(int64(12)), Window: "30m", Source: "report.json"},
		}}
		recorded, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var again gate.Input
		if err := json.Unmarshal(recorded, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(evaluate(t, g, in), evaluate(t, g, again)); diff != "" {
			t.Errorf("%s:\n%s", g, diff)
		}
	}
}

func TestResultAsJSON(t *testing.T) {
	t.Parallel()
	in := input(headgate.GateQuality, "ragas.faithfulness", json.Number("0.85"))
	in.Origins = map[string]gate.Origin{"ragas.faithfulness": {Samples: new(int64(120)), Window: "v1.0.0", Source: "ragas.csv"}}
	golden(t, "quality.golden.json", evaluate(t, headgate.GateQuality, in))
	golden(t, "cost.golden.json", evaluate(t, headgate.GateCost, input(headgate.GateCost, "task_cost_p95", 1.08)))
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), refresh with -update:\n%s", path, diff)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	for _, g := range headgate.GateD() {
		in := gate.Input{DatasetID: "gold-v1", Metrics: good(g)}
		b.Run(string(g), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := gate.Evaluate(gate.DefaultRules(), g, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzEvaluate(f *testing.F) {
	for _, g := range headgate.GateD() {
		seed, err := json.Marshal(gate.Input{DatasetID: "d", Metrics: good(g)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(g), seed)
	}
	f.Add("quality", []byte(`{"dataset_id":"d","metrics":{"ragas":[],"x":{"y":{"z":1e308}}}}`))
	f.Fuzz(func(t *testing.T, g string, body []byte) {
		var in gate.Input
		if json.Unmarshal(body, &in) != nil {
			return
		}
		res, err := gate.Evaluate(gate.DefaultRules(), headgate.Gate(g), in)
		if err != nil {
			if !errors.Is(err, headgate.Invalidf("")) {
				t.Fatalf("not a validation error: %v", err)
			}
			return
		}
		if res.Passed != (len(res.FailedChecks) == 0) || res.Passed != (res.Verdict == headgate.Pass) {
			t.Fatalf("passed=%v verdict=%s failed=%v", res.Passed, res.Verdict, res.FailedChecks)
		}
		if _, err := json.Marshal(res); err != nil {
			t.Fatalf("the result has no JSON: %v", err)
		}
	})
}
