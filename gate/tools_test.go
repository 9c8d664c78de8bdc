package gate_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

func TestAToolsOwnVerdictDecidesUnlessTheRulesAcceptIt(t *testing.T) {
	t.Parallel()
	problem := func(code string, v headgate.Verdict) []gate.Problem { return []gate.Problem{{Code: code, Verdict: v}} }
	crossed := gate.ToolReport{File: "k6.json", Tool: "k6", Verdict: headgate.Fail, Problems: problem(gate.ToolThresholdCrossed, headgate.Fail)}
	accept := parse(t, "accept_tool_codes: {performance: [TOOL_THRESHOLD_CROSSED]}\n")
	elsewhere := parse(t, "accept_tool_codes: {security: [TOOL_THRESHOLD_CROSSED]}\n")
	tests := []struct {
		name    string
		rules   gate.RuleSet
		tools   []gate.ToolReport
		verdict headgate.Verdict
		failed  []string
	}{
		{"passed", gate.DefaultRules(), []gate.ToolReport{{File: "junit.xml", Verdict: headgate.Pass}}, headgate.Pass, nil},
		{"threshold crossed", gate.DefaultRules(), []gate.ToolReport{crossed}, headgate.Fail, []string{"TOOL_THRESHOLD_CROSSED"}},
		{"accepted", accept, []gate.ToolReport{crossed}, headgate.Pass, nil},
		{"accepted for another gate", elsewhere, []gate.ToolReport{crossed}, headgate.Fail, []string{"TOOL_THRESHOLD_CROSSED"}},
		{"an error is not a failure", gate.DefaultRules(), []gate.ToolReport{{File: "d.json", Verdict: headgate.Broken, Problems: problem(gate.ToolCasesErrored, headgate.Broken)}},
			headgate.Broken, []string{"TOOL_CASES_ERRORED"}},
		{"nothing measured", gate.DefaultRules(), []gate.ToolReport{{File: "k6.json", Verdict: headgate.Insufficient, Problems: problem(gate.ToolNoRequests, headgate.Insufficient)}},
			headgate.Insufficient, []string{"TOOL_NO_REQUESTS"}},
		{"failed without a reason", gate.DefaultRules(), []gate.ToolReport{{File: "x", Verdict: headgate.Fail}}, headgate.Fail, []string{"TOOL_REPORT_FAILED"}},
		{"the gravest of several", gate.DefaultRules(), []gate.ToolReport{
			{File: "a", Verdict: headgate.Pass},
			{File: "b", Verdict: headgate.Fail, Problems: append(problem(gate.ToolCasesErrored, headgate.Broken), problem(gate.ToolCasesFailed, headgate.Fail)...)},
		}, headgate.Fail, []string{"TOOL_CASES_ERRORED", "TOOL_CASES_FAILED"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := gate.Input{DatasetID: "d", Metrics: good(headgate.GatePerformance), Tools: tt.tools}
			res, err := gate.Evaluate(tt.rules, headgate.GatePerformance, in)
			if err != nil {
				t.Fatal(err)
			}
			if res.Verdict != tt.verdict || !slices.Equal(res.FailedChecks, tt.failed) || res.Passed != (tt.verdict == headgate.Pass) {
				t.Errorf("got %s %v, want %s %v", res.Verdict, res.FailedChecks, tt.verdict, tt.failed)
			}
		})
	}
}

func TestAToolReportThatSaysNothingIsRefused(t *testing.T) {
	t.Parallel()
	for want, report := range map[string]gate.ToolReport{
		"tools[0].verdict":     {File: "a"},
		"tools[0].file":        {Verdict: headgate.Pass},
		"tools[0].problems[0]": {File: "a", Verdict: headgate.Fail, Problems: []gate.Problem{{Code: gate.ToolTestsFailed, Verdict: headgate.Pass}}},
	} {
		in := gate.Input{DatasetID: "d", Metrics: good(headgate.GatePerformance), Tools: []gate.ToolReport{report}}
		if _, err := gate.Evaluate(gate.DefaultRules(), headgate.GatePerformance, in); !errors.Is(err, headgate.Invalidf("")) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestAcceptingAToolCodeLoosens(t *testing.T) {
	t.Parallel()
	strict, loose := parse(t, ""), parse(t, "accept_tool_codes: {security: [TOOL_FINDINGS, TOOL_FINDINGS]}\n")
	if got := gate.Loosened(strict, loose); len(got) != 1 || got[0].Rule != "TOOL_FINDINGS" || got[0].Gate != headgate.GateSecurity {
		t.Errorf("accepting loosens %+v", got)
	}
	if got := gate.Loosened(loose, strict); len(got) != 0 {
		t.Errorf("taking it back loosens %+v", got)
	}
	if _, err := gate.ParseRules("r", []byte(header+"accept_tool_codes: {security: [TOOL_FINDNGS]}\n")); err == nil || !strings.Contains(err.Error(), "known are TOOL_REPORT_FAILED") {
		t.Errorf("a code that does not exist: %v", err)
	}
}
