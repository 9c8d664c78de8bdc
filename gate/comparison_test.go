package gate_test

import (
	"slices"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// What a rule set compares is judged like the rest: on enough samples of both
// versions, on telemetry that can be trusted, and exactly at the boundary.
func TestComparisonsWithTheBaseline(t *testing.T) {
	t.Parallel()
	rules := parse(t, `
comparisons:
  performance:
    api_p95_ratio: {max: 1.2, min_samples: 200}
    api_error_rate_increase: {max: 0.01, min_samples: 200}
`)
	type arm struct {
		p95, errors any
		samples     int64
		broken      string
	}
	for _, tt := range []struct {
		name                string
		candidate, baseline arm
		verdict             headgate.Verdict
		failed              []string
	}{
		{"no worse", arm{0.3, 0.0, 200, ""}, arm{0.3, 0.0, 5000, ""}, headgate.Pass, []string{}},
		{"at the boundary", arm{1.08, 0.03, 200, ""}, arm{0.9, 0.02, 200, ""}, headgate.Pass, []string{}},
		{"better", arm{0.1, 0.0, 200, ""}, arm{0.9, 0.5, 200, ""}, headgate.Pass, []string{}},
		{"slower", arm{1.09, 0.0, 200, ""}, arm{0.9, 0.0, 200, ""}, headgate.Fail, []string{"API_P95_RATIO_HIGH"}},
		{"more errors", arm{0.3, 0.031, 200, ""}, arm{0.3, 0.02, 200, ""}, headgate.Fail, []string{"API_ERROR_RATE_INCREASE_HIGH"}},
		{"too few of the candidate", arm{9.0, 0.9, 199, ""}, arm{0.3, 0.0, 5000, ""}, headgate.Insufficient,
			[]string{"API_P95_RATIO_INSUFFICIENT_SAMPLES", "API_ERROR_RATE_INCREASE_INSUFFICIENT_SAMPLES"}},
		{"too few of the baseline", arm{0.3, 0.0, 5000, ""}, arm{0.3, 0.0, 199, ""}, headgate.Insufficient,
			[]string{"API_P95_RATIO_INSUFFICIENT_SAMPLES", "API_ERROR_RATE_INCREASE_INSUFFICIENT_SAMPLES"}},
		{"no baseline at all", arm{0.3, 0.0, 5000, ""}, arm{nil, nil, 0, ""}, headgate.Insufficient,
			[]string{"API_P95_RATIO_INSUFFICIENT_SAMPLES", "API_ERROR_RATE_INCREASE_INSUFFICIENT_SAMPLES"}},
		{"an outage is no bad release", arm{9.0, 0.9, 5000, "no telemetry for 40s"}, arm{0.3, 0.0, 5000, ""}, headgate.Broken,
			[]string{"API_P95_RATIO_TELEMETRY_BROKEN", "API_ERROR_RATE_INCREASE_TELEMETRY_BROKEN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := gate.Input{DatasetID: "d", Metrics: good(headgate.GatePerformance), Origins: map[string]gate.Origin{}}
			for name, a := range map[string]arm{"candidate": tt.candidate, "baseline": tt.baseline} {
				o := gate.Origin{Samples: &a.samples, Window: "10m", Source: "query of the " + name, Broken: a.broken}
				in.Metrics[name+"_api_p95_s"], in.Metrics[name+"_api_error_rate"] = a.p95, a.errors
				in.Origins[name+"_api_p95_s"], in.Origins[name+"_api_error_rate"] = o, o
			}
			res, err := gate.Evaluate(rules, headgate.GatePerformance, in)
			if err != nil {
				t.Fatal(err)
			}
			if res.Verdict != tt.verdict || !slices.Equal(res.FailedChecks, tt.failed) {
				t.Errorf("%s %v, want %s %v", res.Verdict, res.FailedChecks, tt.verdict, tt.failed)
			}
			i := slices.IndexFunc(res.Checks, func(c gate.Check) bool { return c.Name == "api_p95_ratio" })
			c := res.Checks[i]
			if c.Threshold != 1.2 || c.MinSamples != 200 || c.Window != "10m" || *c.Samples != min(tt.candidate.samples, tt.baseline.samples) ||
				c.Source != "query of the candidate; query of the baseline" || (c.Distance == nil) != (tt.baseline.p95 == nil) {
				t.Errorf("%+v", c)
			}
			if res.Thresholds["api_p95_ratio_max"] != 1.2 || res.Thresholds["api_error_rate_increase_max"] != 0.01 {
				t.Errorf("thresholds %v", res.Thresholds)
			}
		})
	}
	// Without the comparison nobody asks for its metrics.
	if res := evaluate(t, headgate.GatePerformance, input(headgate.GatePerformance, "api_p95_s", 1.0)); len(res.Checks) != 6 {
		t.Errorf("%d checks", len(res.Checks))
	}
	if _, err := gate.Evaluate(rules, headgate.GatePerformance, input(headgate.GatePerformance, "api_p95_s", 1.0)); err == nil {
		t.Error("the comparison was judged without its metrics")
	}
}

// Below the floor all latencies are alike.
func TestNobodyComparesLatenciesBelowTheFloor(t *testing.T) {
	t.Parallel()
	rules := parse(t, `comparisons: {performance: {api_p95_ratio: {max: 1.2, min_samples: 1, floor_s: 0.01}}}`)
	for _, tt := range []struct {
		candidate, baseline, ratio float64
		verdict                    headgate.Verdict
	}{
		{0.009, 0.005, 1, headgate.Pass},
		{0.012, 0.005, 1.2, headgate.Pass},
		{0.013, 0.005, 1.3, headgate.Fail},
		{0.005, 0.02, 0.5, headgate.Pass},
		{0.024, 0.02, 1.2, headgate.Pass},
	} {
		in := gate.Input{DatasetID: "d", Metrics: good(headgate.GatePerformance), Origins: map[string]gate.Origin{}}
		one := int64(1)
		for name, v := range map[string]float64{"candidate_api_p95_s": tt.candidate, "baseline_api_p95_s": tt.baseline} {
			in.Metrics[name], in.Origins[name] = v, gate.Origin{Samples: &one}
		}
		res, err := gate.Evaluate(rules, headgate.GatePerformance, in)
		if err != nil {
			t.Fatal(err)
		}
		if res.Verdict != tt.verdict || res.Values["api_p95_ratio"] != tt.ratio {
			t.Errorf("%v against %v: %s, %v; want %s, %v", tt.candidate, tt.baseline, res.Verdict, res.Values["api_p95_ratio"], tt.verdict, tt.ratio)
		}
	}
}
