package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// A gateMetric is a line of the contract's table of gates.
type gateMetric struct {
	name string
	// at is the threshold, beyond the nearest value that must fail.
	at, beyond any
	code       string
	threshold  string
	// bad are values that are no measurement of this metric.
	bad []any
}

var (
	notShares = []any{-0.01, 1.01, "0.9", true, nil, "NaN", "Infinity", []int{1}}
	notSizes  = []any{-0.01, "1", false, nil, "NaN"}
	notCounts = []any{-1, 0.5, "0", true, nil}
)

var gates = map[string][]gateMetric{
	"quality": {
		{"ragas.context_precision", 0.80, 0.7999, "RAGAS_CONTEXT_PRECISION_LOW", "ragas_context_precision_min", notShares},
		{"ragas.context_recall", 0.80, 0.7999, "RAGAS_CONTEXT_RECALL_LOW", "ragas_context_recall_min", notShares},
		{"ragas.faithfulness", 0.90, 0.8999, "RAGAS_FAITHFULNESS_LOW", "ragas_faithfulness_min", notShares},
		{"ragas.response_relevancy", 0.85, 0.8499, "RAGAS_RESPONSE_RELEVANCY_LOW", "ragas_response_relevancy_min", notShares},
		{"deepeval.hallucination_rate", 0.05, 0.0501, "DEEPEVAL_HALLUCINATION_RATE_HIGH", "deepeval_hallucination_rate_max", notShares},
		{"citation.resolvable_rate", 0.98, 0.9799, "CITATION_RESOLVABLE_RATE_LOW", "citation_resolvable_rate_min", notShares},
	},
	"performance": {
		{"api_p95_s", 1.5, 1.5001, "API_P95_EXCEEDED", "api_p95_s_max", notSizes},
		{"retrieval_p95_s", 4.0, 4.0001, "RETRIEVAL_P95_EXCEEDED", "retrieval_p95_s_max", notSizes},
		{"parse_50p_p95_s", 180.0, 180.001, "PARSE_P95_EXCEEDED", "parse_50p_p95_s_max", notSizes},
		{"evaluation_p95_s", 120.0, 120.001, "EVALUATION_P95_EXCEEDED", "evaluation_p95_s_max", notSizes},
		{"queue_dlq_rate", 0.01, 0.0101, "QUEUE_DLQ_RATE_HIGH", "queue_dlq_rate_max", notShares},
		{"cache_hit_rate", 0.70, 0.6999, "CACHE_HIT_RATE_LOW", "cache_hit_rate_min", notShares},
	},
	"security": {
		{"tenant_scope_violations", 0, 1, "TENANT_SCOPE_VIOLATION_FOUND", "tenant_scope_violations_max", notCounts},
		{"auth_bypass_findings", 0, 1, "AUTH_BYPASS_FOUND", "auth_bypass_findings_max", notCounts},
		{"high_risk_approval_coverage", 1.0, 0.9999, "HIGH_RISK_APPROVAL_COVERAGE_LOW", "high_risk_approval_coverage_min", notShares},
		{"log_redaction_failures", 0, 1, "LOG_REDACTION_FAILURE_FOUND", "log_redaction_failures_max", notCounts},
		{"secret_scan_findings", 0, 1, "SECRET_SCAN_FINDING_FOUND", "secret_scan_findings_max", notCounts},
	},
	"cost": {
		{"task_cost_p95", 1.2, 1.2001, "TASK_COST_P95_RATIO_HIGH", "task_cost_p95_ratio_max", notSizes},
		{"routing_degrade_passed", true, false, "ROUTING_DEGRADE_FAILED", "routing_degrade_passed_required", []any{"true", 1, nil}},
		{"degrade_availability", 0.995, 0.9949, "DEGRADE_AVAILABILITY_LOW", "degrade_availability_min", notShares},
		{"budget_alert_coverage", 1.0, 0.9999, "BUDGET_ALERT_COVERAGE_LOW", "budget_alert_coverage_min", notShares},
	},
}

// passing is a gate's request in which every value equals its threshold.
func passing(gate string) object {
	req := object{"dataset_id": "ds-1", "metrics": object{}}
	for _, m := range gates[gate] {
		req = req.with("metrics."+m.name, m.at)
	}
	if gate == "cost" {
		req = req.with("metrics.baseline_task_cost_p95", 1.0)
	}
	return req
}

func gatePath(gate string) string { return "/" + gate + "-gates/evaluate" }

func (w *world) gatesJudgeAtTheirThresholds(t *testing.T) {
	for gate, metrics := range gates {
		t.Run(gate, func(t *testing.T) {
			got := w.post(t, gatePath(gate), passing(gate).with("some_field_of_tomorrow", object{"a": 1}))
			fields(t, "data", got, "gate", "dataset_id", "passed", "failed_checks", "thresholds", "values")
			if got["gate"] != gate || got["dataset_id"] != "ds-1" || got["passed"] != true || len(strs(got["failed_checks"])) != 0 {
				t.Errorf("values equal to their thresholds: %v", got)
			}
			for _, m := range metrics {
				if _, ok := got.in("thresholds").(map[string]any)[m.threshold]; !ok {
					t.Errorf("thresholds have no %s: %v", m.threshold, got["thresholds"])
				}
				bad := w.post(t, gatePath(gate), passing(gate).with("metrics."+m.name, m.beyond))
				same(t, m.name, bad["failed_checks"], m.code)
				if bad["passed"] != false {
					t.Errorf("%s = %v passes", m.name, m.beyond)
				}
				if gate == "quality" {
					same(t, "ragchecker", bad.in("ragchecker.reason_codes"), m.code)
					if bad.in("ragchecker.triggered") != true {
						t.Errorf("ragchecker is not triggered by %s", m.code)
					}
				}
			}
			switch gate {
			case "quality":
				if got.in("ragchecker.triggered") != false || len(strs(got.in("ragchecker.reason_codes"))) != 0 {
					t.Errorf("ragchecker of a passing run: %v", got["ragchecker"])
				}
			case "cost":
				if got.in("values.task_cost_p95_ratio") != 1.2 {
					t.Errorf("values: %v", got["values"])
				}
			}
		})
	}
}

func (w *world) gatesTakeMeasurementsOnly(t *testing.T) {
	for gate, metrics := range gates {
		path := "/internal" + gatePath(gate)
		metrics := metrics
		if gate == "cost" {
			metrics = append(metrics, gateMetric{name: "baseline_task_cost_p95", bad: append(notSizes, 0)})
		}
		for _, m := range metrics {
			for _, v := range append(m.bad, gone) {
				a := w.refuse(t, "POST", path, passing(gate).with("metrics."+m.name, v), 400, "REQ_VALIDATION_FAILED")
				if !strings.Contains(a.Error.Message, m.name) || a.Error.Class != "validation" {
					t.Errorf("%s: the error does not name the metric: %+v", m.name, a.Error)
				}
			}
			// What JSON itself has no word for.
			marked, err := json.Marshal(passing(gate).with("metrics."+m.name, "@"))
			if err != nil {
				t.Fatal(err)
			}
			for _, literal := range []string{"NaN", "Infinity", "-Infinity", "1e999", "-1e999"} {
				w.refuse(t, "POST", path, strings.Replace(string(marked), `"@"`, literal, 1), 400, "REQ_VALIDATION_FAILED")
			}
		}
		for _, body := range []any{
			"", "null", "[]", `"text"`, "{", "{}", `{"dataset_id":"d"}`, `{"dataset_id":"d","metrics":null}`,
			`{"dataset_id":"d","metrics":[]}`, `{"dataset_id":"d","metrics":7}`,
			passing(gate).with("dataset_id", gone), passing(gate).with("dataset_id", ""), passing(gate).with("dataset_id", 7),
			passing(gate).with("release_id", 7),
		} {
			w.refuse(t, "POST", path, body, 400, "REQ_VALIDATION_FAILED")
		}
		// Two claims about one thing: which of them counts is not for the reader to
		// choose.
		whole, err := json.Marshal(passing(gate))
		if err != nil {
			t.Fatal(err)
		}
		open := strings.TrimSuffix(string(whole), "}")
		for _, twice := range []string{
			open + `,"metrics":{}}`, open + `,"Metrics":{}}`, open + `,"metric\u0073":{}}`, open + `,"release_id":"a","release_id":"b"}`,
			strings.Replace(string(whole), `"metrics":{`, `"metrics":{"own":{"a":[{"b":1,"b":0}]},`, 1),
		} {
			if a := w.refuse(t, "POST", path, twice, 400, "REQ_VALIDATION_FAILED"); !strings.Contains(a.Error.Message, "twice") {
				t.Errorf("the error does not say what is wrong: %+v", a.Error)
			}
		}
		a := w.refuse(t, "POST", path, passing(gate).with("dataset_id", 70007), 400, "REQ_VALIDATION_FAILED")
		if !strings.Contains(a.Error.Message, "dataset_id") || strings.Contains(a.Error.Message, "70007") {
			t.Errorf("the error does not say what is mistyped, or quotes it: %+v", a.Error)
		}
	}
}

// A gate's result is evidence only where a release is named.
func (w *world) gatesLeaveEvidence(t *testing.T) {
	before := w.trail(t, "gate_evaluated", "rel-with-evidence")
	w.post(t, gatePath("cost"), passing("cost"))
	if got := w.trail(t, "gate_evaluated", "rel-with-evidence"); got != before {
		t.Errorf("a result without release_id is in the audit log")
	}
	w.post(t, gatePath("cost"), passing("cost").with("release_id", "rel-with-evidence"))
	if got := w.trail(t, "gate_evaluated", "rel-with-evidence"); got != before+1 {
		t.Errorf("%d audit events, want %d", got, before+1)
	}
	w.refuse(t, http.MethodPost, "/internal"+gatePath("cost"), passing("cost").with("release_id", strings.Repeat("x", 101)), 400, "REQ_VALIDATION_FAILED")
}
