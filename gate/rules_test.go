package gate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

const header = "format: headgate-rules/v1\nversion: 2\nowner: platform\nreason: tests\n"

func parse(t *testing.T, src string) gate.RuleSet {
	t.Helper()
	r, err := gate.ParseRules("rules.yaml", []byte(header+src))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDefaultRulesDigest(t *testing.T) {
	t.Parallel()
	golden(t, "default-rules.golden.json", struct {
		Digest string
		Rules  gate.RuleSet
	}{gate.DefaultRules().Digest(), gate.DefaultRules()})
}

func TestCanonicalFormParsesToTheSameDigest(t *testing.T) {
	t.Parallel()
	for _, r := range []gate.RuleSet{gate.DefaultRules(), parse(t, `
thresholds: {performance: {api_p95_s_max: 1}, cost: {routing_degrade_passed_required: false}}
min_samples: {performance: {api_p95_s: 200}}
comparisons: {performance: {api_p95_ratio: {max: 1.2, min_samples: 200}}}
accept_tool_codes: {performance: [TOOL_THRESHOLD_CROSSED]}
rules:
  - {name: fast, gate: performance, code: API_SLOW, expr: metrics.api_p95_s <= 1.5 && samples.api >= 200}
`)} {
		again, err := gate.ParseRules("canonical.json", r.Canonical())
		if err != nil {
			t.Fatal(err)
		}
		if again.Digest() != r.Digest() || !strings.HasPrefix(r.Digest(), "sha256:") {
			t.Errorf("digest %s became %s", r.Digest(), again.Digest())
		}
	}
}

func TestDigestIgnoresSpellingAndSeesMeaning(t *testing.T) {
	t.Parallel()
	base := parse(t, "thresholds: {performance: {api_p95_s_max: 1.5}}").Digest()
	if got := parse(t, "# a comment\nthresholds:\n  performance:\n    api_p95_s_max: 15e-1\n").Digest(); got != base {
		t.Error("another spelling changes the digest")
	}
	if got := parse(t, "").Digest(); got != base {
		t.Error("writing out the default changes the digest")
	}
	for _, src := range []string{
		"thresholds: {performance: {api_p95_s_max: 1.50001}}",
		"min_samples: {performance: {api_p95_s: 1}}",
		"rules: [{name: a, gate: cost, code: A, expr: 'true'}]",
		"comparisons: {performance: {api_p95_ratio: {max: 1.2, min_samples: 200}}}",
		"comparisons: {performance: {api_p95_ratio: {max: 1.2, min_samples: 200, floor_s: 0.01}}}",
	} {
		if parse(t, src).Digest() == base {
			t.Errorf("%s does not change the digest", src)
		}
	}
}

func TestRuleFileErrorsNameFileLineAndField(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, src, want string }{
		{"empty", "", "rules.yaml: is empty"},
		{"not YAML", "a: [", "rules.yaml: line 1"},
		{"a list", "- 1", "rules.yaml:1"},
		{"wrong format", "format: v9\nversion: 1\nowner: a\nreason: b", `rules.yaml:1: format: must be "headgate-rules/v1"`},
		{"no owner", "format: headgate-rules/v1\nversion: 1\nreason: b", "owner: is required"},
		{"unknown field", header + "treshold: 1", "rules.yaml:5: treshold: unknown field; known here: accept_tool_codes, comparisons, format,"},
		{"unknown gate", header + "thresholds:\n  speed: {}", "rules.yaml:6: thresholds.speed: unknown field; known here: cost, performance, quality, security"},
		{"wrong direction", header + "thresholds:\n  quality:\n    ragas_faithfulness_max: 1", "rules.yaml:7: thresholds.quality.ragas_faithfulness_max: unknown field"},
		{"twice", header + "thresholds:\n  cost: {degrade_availability_min: 1, degrade_availability_min: 0}", "thresholds.cost.degrade_availability_min: is given twice"},
		{"text", header + "thresholds:\n  cost:\n    degrade_availability_min: high", "rules.yaml:7: thresholds.cost.degrade_availability_min: must be a number"},
		{"not finite", header + "thresholds:\n  performance:\n    api_p95_s_max: .inf", "rules.yaml:7: thresholds.performance.api_p95_s_max: must be finite"},
		{"NaN", header + "thresholds:\n  performance:\n    api_p95_s_max: .nan", "must be finite"},
		{"out of range", header + "thresholds:\n  cost:\n    degrade_availability_min: 1.2", "must be between 0 and 1"},
		{"fractional count", header + "thresholds:\n  security:\n    secret_scan_findings_max: 0.5", "must be a whole number"},
		{"boolean", header + "thresholds:\n  cost:\n    routing_degrade_passed_required: 1", "must be true or false"},
		{"negative samples", header + "min_samples:\n  cost:\n    degrade_availability: -1", "rules.yaml:7: min_samples.cost.degrade_availability: must be a whole number"},
		{"comparison of what nobody compares", header + "comparisons:\n  performance:\n    cache_hit_rate: {max: 1, min_samples: 1}", "rules.yaml:7: comparisons.performance.cache_hit_rate: unknown field; known here: api_error_rate_increase, api_p95_ratio"},
		{"comparison without samples", header + "comparisons:\n  performance:\n    api_p95_ratio: {max: 1.2}", "rules.yaml:7: comparisons.performance.api_p95_ratio.min_samples: is required"},
		{"floor of what is no duration", header + "comparisons:\n  performance:\n    api_error_rate_increase: {max: 0.01, min_samples: 1, floor_s: 0.01}",
			"rules.yaml:7: comparisons.performance.api_error_rate_increase.floor_s: is for a ratio of durations only"},
		{"comparison on none", header + "comparisons:\n  performance:\n    api_p95_ratio: {max: 1.2, min_samples: 0}", "comparisons.performance.api_p95_ratio.min_samples: must be a whole number from 1"},
		{"comparison out of range", header + "comparisons:\n  performance:\n    api_error_rate_increase: {max: 1.2, min_samples: 1}", "comparisons.performance.api_error_rate_increase.max: must be between 0 and 1"},
		{"alias", header + "thresholds: &x\n  cost: *x", "rules.yaml:6: thresholds.cost: must be a mapping"},
		{"rule name", header + "rules:\n  - {name: A B, gate: cost, code: A, expr: 'true'}", "rules.yaml:6: rules[0].name: must match"},
		{"rule gate", header + "rules:\n  - {name: a, gate: ops, code: A, expr: 'true'}", "rules.yaml:6: rules[0].gate: must be one of"},
		{"rule code", header + "rules:\n  - {name: a, gate: cost, code: bad, expr: 'true'}", "rules[0].code: must match"},
		{"rule without expression", header + "rules:\n  - {name: a, gate: cost, code: A}", "rules[0].expr: is required"},
		{"rule twice", header + "rules:\n  - {name: a, gate: cost, code: A, expr: 'true'}\n  - {name: a, gate: cost, code: A, expr: 'true'}", "rules.yaml:7: rules[1].name: is used"},
		{"CEL syntax", header + "rules:\n  - name: a\n    gate: cost\n    code: A\n    expr: metrics.a <=", "rules.yaml:9: rules[0].expr: is not a valid CEL"},
		{"CEL type", header + "rules:\n  - {name: a, gate: cost, code: A, expr: 1 + 1}", "rules[0].expr: must be a comparison"},
		{"CEL unknown variable", header + "rules:\n  - {name: a, gate: cost, code: A, expr: env.SECRET == ''}", "rules[0].expr: is not a valid CEL"},
		{"too many rules", header + "rules:\n" + strings.Repeat("  - {name: a, gate: cost, code: A, expr: 'true'}\n", 65), "may hold at most 64"},
		{"too large", strings.Repeat("#", 1<<20+1), "may hold at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := gate.ParseRules("rules.yaml", []byte(tt.src))
			var e *headgate.Error
			if !errors.As(err, &e) || e.Code != headgate.CodeConfigInvalid {
				t.Fatalf("got %v, want CONFIG_INVALID", err)
			}
			if !strings.Contains(e.Message, tt.want) {
				t.Errorf("got  %s\nwant …%s…", e.Message, tt.want)
			}
		})
	}
}

func TestRulesOfOnesOwn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, expr string
		samples    int64
		verdict    headgate.Verdict
	}{
		{"holds", "metrics.api_p95_s <= 1.5 && samples.api >= 200", 200, headgate.Pass},
		{"does not hold", "metrics.api_p95_s <= 1.5 && samples.api >= 200", 199, headgate.Fail},
		{"a metric of one's own", "metrics.own.rate > 0.5", 0, headgate.Pass},
		{"whole numbers compare with fractions", "metrics.own.count == 3 && metrics.own.count < 3.5", 0, headgate.Pass},
		{"metric not sent", "metrics.unheard_of < 1", 0, headgate.Broken},
		{"not finite is not sent", "metrics.own.bad < 1.0 || metrics.own.bad >= 1.0", 0, headgate.Broken},
		{"a share of nothing is above every threshold", "metrics.api_p95_s / (metrics.own.rate - metrics.own.rate) >= 0.9", 0, headgate.Broken},
		{"nothing of nothing is not above one", "!((metrics.api_p95_s - metrics.api_p95_s) / (metrics.own.rate - metrics.own.rate) > 0.1)", 0, headgate.Broken},
		{"more than a number can be", "metrics.api_p95_s * 1e308 * 10.0 >= 0.9", 0, headgate.Broken},
		{"a share of something", "metrics.api_p95_s / metrics.own.rate >= 0.9", 0, headgate.Pass},
		{"not a boolean", "metrics.api_p95_s", 0, headgate.Broken},
		{"too expensive", strings.Repeat("[1,2,3,4,5,6,7,8,9].all(a, ", 6) + "true" + strings.Repeat(")", 6), 0, headgate.Broken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rules, err := gate.ParseRules("rules.yaml", fmt.Appendf(nil, "%srules:\n  - {name: own, gate: performance, code: OWN_RULE, expr: %q}", header, tt.expr))
			if err != nil {
				if tt.name == "not a boolean" {
					return // refused even earlier
				}
				t.Fatal(err)
			}
			in := input(headgate.GatePerformance, "api_p95_s", 1.0)
			in.Metrics["own"] = map[string]any{"rate": 0.6, "count": json.Number("3"), "bad": json.Number("1e999")}
			in.Origins = map[string]gate.Origin{}
			if tt.samples > 0 {
				in.Origins["api_p95_s"] = gate.Origin{Samples: &tt.samples}
			}
			res, err := gate.Evaluate(rules, headgate.GatePerformance, in)
			if err != nil {
				t.Fatal(err)
			}
			if res.Verdict != tt.verdict {
				t.Errorf("got %s (%+v), want %s", res.Verdict, res.Checks[len(res.Checks)-1], tt.verdict)
			}
			if wantCode := tt.verdict != headgate.Pass; wantCode != slices.Contains(res.FailedChecks, "OWN_RULE") {
				t.Errorf("failed checks %v", res.FailedChecks)
			}
			if other := evaluate(t, headgate.GateCost, input(headgate.GateCost, "task_cost_p95", 1.0)); !other.Passed {
				t.Error("the rule reaches into another gate")
			}
		})
	}
}

func TestComparisonsLoosen(t *testing.T) {
	t.Parallel()
	const compare = "comparisons: {performance: {api_p95_ratio: {max: 1.2, min_samples: 200}}}"
	for _, tt := range []struct {
		name, old, next string
		want            []string
	}{
		{"new", "", compare, nil},
		{"gone", compare, "", []string{"api_p95_ratio_max"}},
		{"the same", compare, compare, nil},
		{"higher maximum", compare, strings.Replace(compare, "1.2", "1.3", 1), []string{"api_p95_ratio_max"}},
		{"higher floor", compare, strings.Replace(compare, "200", "200, floor_s: 0.01", 1), []string{"api_p95_ratio_floor_s"}},
		{"lower floor", strings.Replace(compare, "200", "200, floor_s: 0.01", 1), compare, nil},
		{"lower floor where the candidate has to be faster", strings.Replace(compare, "1.2, min_samples: 200", "0.9, min_samples: 200, floor_s: 0.01", 1),
			strings.Replace(compare, "1.2", "0.9", 1), []string{"api_p95_ratio_floor_s"}},
		{"stricter", compare, strings.NewReplacer("1.2", "1.1", "200", "300").Replace(compare), nil},
		{"fewer samples", compare, strings.Replace(compare, "200", "199", 1), []string{"api_p95_ratio"}},
	} {
		var got []string
		for _, c := range gate.Loosened(parse(t, tt.old), parse(t, tt.next)) {
			got = append(got, c.Rule)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestLoosened(t *testing.T) {
	t.Parallel()
	const rules = "rules: [{name: a, gate: cost, code: A, expr: metrics.task_cost_p95 < 3.0}]"
	old := parse(t, "thresholds: {performance: {api_p95_s_max: 1.0}}\nmin_samples: {cost: {degrade_availability: 10}}\n"+rules)
	tests := []struct {
		name, next string
		want       []string
	}{
		{"the same", "thresholds: {performance: {api_p95_s_max: 1.0}}\nmin_samples: {cost: {degrade_availability: 10}}\n" + rules, nil},
		{"stricter", "thresholds: {performance: {api_p95_s_max: 0.9, cache_hit_rate_min: 0.8}}\nmin_samples: {cost: {degrade_availability: 11}}\n" + rules, nil},
		{"higher maximum", "thresholds: {performance: {api_p95_s_max: 1.1}}\nmin_samples: {cost: {degrade_availability: 10}}\n" + rules, []string{"api_p95_s_max"}},
		{"lower minimum, no longer required, fewer samples", "thresholds: {performance: {api_p95_s_max: 1.0, cache_hit_rate_min: 0.69}, cost: {routing_degrade_passed_required: false}}\n" + rules,
			[]string{"cache_hit_rate_min", "routing_degrade_passed_required", "degrade_availability"}},
		{"rule gone", "thresholds: {performance: {api_p95_s_max: 1.0}}\nmin_samples: {cost: {degrade_availability: 10}}", []string{"a"}},
		{"rule changed", "thresholds: {performance: {api_p95_s_max: 1.0}}\nmin_samples: {cost: {degrade_availability: 10}}\n" + strings.ReplaceAll(rules, "3.0", "2.0"), []string{"a"}},
		{"rule moved", "thresholds: {performance: {api_p95_s_max: 1.0}}\nmin_samples: {cost: {degrade_availability: 10}}\n" + strings.ReplaceAll(rules, "gate: cost", "gate: quality"), []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, c := range gate.Loosened(old, parse(t, tt.next)) {
				got = append(got, c.Rule)
				if c.Why == "" || c.From == c.To {
					t.Errorf("%+v explains nothing", c)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzParseRules(f *testing.F) {
	f.Add([]byte(header + "thresholds: {performance: {api_p95_s_max: 1.0}}\nrules: [{name: a, gate: cost, code: A, expr: 'true'}]"))
	f.Add(gate.DefaultRules().Canonical())
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, src []byte) {
		r, err := gate.ParseRules("f", src)
		if err != nil {
			return
		}
		again, err := gate.ParseRules("f", r.Canonical())
		if err != nil || again.Digest() != r.Digest() {
			t.Fatalf("canonical form does not parse back: %v", err)
		}
	})
}
