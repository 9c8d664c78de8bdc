package gate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// ToolReport is what a tool's report says of the tool's own run, beside the
// figures that it measured. By default a run that failed fails the gate.
type ToolReport struct {
	// File is the report's name, which is required.
	File string `json:"file"`
	// Digest is "sha256:<hex>" of the report as it is kept; empty when nobody
	// kept it.
	Digest  string `json:"digest,omitempty"`
	Tool    string `json:"tool"`
	Version string `json:"version,omitempty"`
	// Counts are totals such as tests_failed or requests_total, to be shown.
	Counts map[string]int64 `json:"counts,omitempty"`
	// Verdict is the run's. Without Problems it is what the gate judges by.
	Verdict  headgate.Verdict `json:"verdict"`
	Problems []Problem        `json:"problems,omitempty"`
}

// Problem is one way in which a tool's run did not pass.
type Problem struct {
	// Code is one of [ToolCodes].
	Code    string           `json:"code"`
	Verdict headgate.Verdict `json:"verdict"`
	Detail  string           `json:"detail,omitempty"`
}

// What a tool's run may come to besides passing. A rule set may accept each,
// gate by gate.
const (
	ToolReportFailed     = "TOOL_REPORT_FAILED"     // no further reason is known
	ToolThresholdCrossed = "TOOL_THRESHOLD_CROSSED" // a load test's own threshold
	ToolRequestsFailed   = "TOOL_REQUESTS_FAILED"   // every request of a load test
	ToolNoRequests       = "TOOL_NO_REQUESTS"       // insufficient
	ToolTestsFailed      = "TOOL_TESTS_FAILED"
	ToolNoTests          = "TOOL_NO_TESTS" // none ran, or all were skipped
	ToolCasesFailed      = "TOOL_CASES_FAILED"
	ToolCasesErrored     = "TOOL_CASES_ERRORED" // broken: an error is not a low score
	ToolScoresMissing    = "TOOL_SCORES_MISSING"
	ToolSecretsFound     = "TOOL_SECRETS_FOUND"
	ToolFindings         = "TOOL_FINDINGS"        // a SARIF error, a HIGH or CRITICAL of Trivy
	ToolRunFailed        = "TOOL_RUN_FAILED"      // broken: the scanner says that it failed
	ToolNothingScanned   = "TOOL_NOTHING_SCANNED" // insufficient
	ToolNothingListed    = "TOOL_NOTHING_LISTED"  // a bill of materials of nothing
	ToolNoMetrics        = "TOOL_NO_METRICS"      // insufficient
)

// ToolCodes lists every code of a [Problem].
func ToolCodes() []string {
	return []string{
		ToolReportFailed, ToolThresholdCrossed, ToolRequestsFailed, ToolNoRequests, ToolTestsFailed, ToolNoTests, ToolCasesFailed,
		ToolCasesErrored, ToolScoresMissing, ToolSecretsFound, ToolFindings, ToolRunFailed, ToolNothingScanned, ToolNothingListed,
		ToolNoMetrics,
	}
}

const (
	// maxTools and maxProblems bound one gate's input.
	maxTools    = 200
	maxProblems = 100
	// toolOp is the operator of a check on a tool's run, and toolName begins its
	// name, so that no file is taken for a metric.
	toolOp   = "tool"
	toolName = "tool/"
)

// readTools refuses what is not a report's outcome: an unknown verdict would
// otherwise be none that blocks.
func readTools(tools []ToolReport, p *problems) {
	if len(tools) > maxTools {
		p.add("tools", fmt.Sprintf("are more than %d", maxTools))
		return
	}
	known := []headgate.Verdict{headgate.Pass, headgate.Fail, headgate.Insufficient, headgate.Broken}
	for i, t := range tools {
		at := fmt.Sprintf("tools[%d]", i)
		if strings.TrimSpace(t.File) == "" {
			p.add(at+".file", "is required")
		}
		if !slices.Contains(known, t.Verdict) {
			p.add(at+".verdict", "must be pass, fail, insufficient or broken")
		}
		if len(t.Problems) > maxProblems {
			p.add(at+".problems", fmt.Sprintf("are more than %d", maxProblems))
			continue
		}
		for j, x := range t.Problems {
			if !slices.Contains(known[1:], x.Verdict) || !slices.Contains(ToolCodes(), x.Code) {
				p.add(fmt.Sprintf("%s.problems[%d]", at, j), "needs a known code and a verdict of fail, insufficient or broken")
			}
		}
	}
}

// judge returns one check for each problem of the run, or one for a run
// without any. Accepted codes do not block; they are shown all the same.
func (t ToolReport) judge(accepted []string) []Check {
	problems := t.Problems
	if len(problems) == 0 {
		problems = []Problem{{Code: ToolReportFailed, Verdict: t.Verdict}}
	}
	checks := make([]Check, len(problems))
	for i, x := range problems {
		required := !slices.Contains(accepted, x.Code)
		c := Check{
			Name: toolName + t.File, Code: x.Code, Threshold: required, Op: toolOp, Verdict: x.Verdict,
			Source: strings.TrimSpace(t.Tool + " " + t.Version), Detail: x.Detail,
		}
		switch {
		case x.Verdict == headgate.Pass:
			c.Value, c.Threshold = true, true
		case !required:
			c.Value, c.Verdict = false, headgate.Pass
		case x.Verdict == headgate.Fail:
			c.Value = false
		}
		checks[i] = c
	}
	return checks
}
