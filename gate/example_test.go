package gate_test

import (
	"fmt"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

func ExampleEvaluate() {
	res, err := gate.Evaluate(gate.DefaultRules(), headgate.GateCost, gate.Input{
		DatasetID: "gold-v1",
		Metrics: map[string]any{
			"task_cost_p95": 0.15, "baseline_task_cost_p95": 0.12, "routing_degrade_passed": true,
			"degrade_availability": 0.999, "budget_alert_coverage": 1.0,
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(res.Passed, res.FailedChecks, res.Values["task_cost_p95_ratio"])
	// Output: false [TASK_COST_P95_RATIO_HIGH] 1.25
}

func ExampleLoosened() {
	next, err := gate.ParseRules("rules.yaml", []byte(`
format: headgate-rules/v1
version: 2
owner: platform
reason: the parser is slow this quarter
thresholds:
  performance:
    parse_50p_p95_s_max: 240
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range gate.Loosened(gate.DefaultRules(), next) {
		fmt.Println(c.Gate, c.Rule, c.From, "->", c.To+":", c.Why)
	}
	// Output: performance parse_50p_p95_s_max 180 -> 240: the maximum is higher
}
