package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate/headgate"
)

// deepEval is a DeepEval test run, as evaluate() returns it or as the tool
// leaves it in its cache folder. Inputs, outputs and reasons are not decoded.
type deepEval struct {
	Cases []deepEvalCase `json:"testCases"`
}

type deepEvalCase struct {
	Success *bool            `json:"success,omitempty"`
	Metrics []deepEvalMetric `json:"metricsData"`
}

type deepEvalMetric struct {
	Name  string   `json:"name"`
	Score *float64 `json:"score"`
	// Failed says that the metric could not be computed. DeepEval then counts
	// the case as not successful and may still write a score.
	Failed bool `json:"failed,omitempty"`
}

// UnmarshalJSON keeps of the error only that there was one.
func (m *deepEvalMetric) UnmarshalJSON(raw []byte) error {
	var in struct {
		Name   string   `json:"name"`
		Score  *float64 `json:"score"`
		Error  any      `json:"error"`
		Failed bool     `json:"failed"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	failed := in.Failed || in.Error != nil && in.Error != ""
	*m = deepEvalMetric{Name: in.Name, Score: in.Score, Failed: failed}
	return nil
}

func isDeepEval(d document) bool {
	return d.has("testCases") || d.has("test_results") || d.has("testRunData") || d.has("conversationalTestCases")
}

func decodeDeepEval(d document, _ Options) (content, error) {
	raw := nanToNull(d.raw)
	if run, ok := d.object["testRunData"]; ok {
		raw = run
	}
	var in struct {
		deepEval
		Conversations []deepEvalCase `json:"conversationalTestCases"`
		Results       []struct {
			Success *bool            `json:"success"`
			Metrics []deepEvalMetric `json:"metrics_data"`
		} `json:"test_results"`
	}
	if err := decodeJSON(raw, &in); err != nil {
		return nil, err
	}
	run := in.deepEval
	run.Cases = append(run.Cases, in.Conversations...)
	for _, r := range in.Results {
		run.Cases = append(run.Cases, deepEvalCase(r))
	}
	if run.Cases == nil && !isDeepEval(d) {
		return nil, errors.New("holds neither testCases nor test_results")
	}
	return run, nil
}

var deepEvalDefault = map[string][]string{"deepeval.hallucination_rate": {"Hallucination"}}

// facts takes the hallucination rate as the mean of the Hallucination metric,
// which is the share of contexts that an answer contradicts; lower is better.
func (run deepEval) facts(o Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "deepeval"}, Verdict: headgate.Pass}
	wanted := o.wanted(headgate.GateQuality, deepEvalDefault)
	found := map[string]*scores{}
	var t Tests
	for i, c := range run.Cases {
		t.Total++
		failed := false
		for _, m := range c.Metrics {
			failed = failed || m.Failed
			score := m.Score
			if m.Failed {
				score = nil
			}
			for name, columns := range wanted {
				if columns[0] != m.Name {
					continue
				}
				if found[name] == nil {
					found[name] = &scores{}
				}
				if err := found[name].add(score); err != nil {
					return f, fmt.Errorf("test case %d: %s %w", i, clip(m.Name), err)
				}
			}
		}
		switch {
		case failed:
			t.Errored++
		case c.Success != nil && *c.Success:
			t.Passed++
		case c.Success == nil:
			t.Skipped++
		default:
			t.Failed++
		}
	}
	t.judgeCases(&f)
	for _, name := range sortedKeys(found) {
		found[name].metric(&f, name, wanted[name][0])
	}
	return f, nil
}

func (run deepEval) stored() ([]byte, error) { return json.Marshal(run) }

// promptfoo is the output of "promptfoo eval -o file.json", result version 3.
// Prompts, variables, answers and the configuration are not decoded.
type promptfoo struct {
	Results  promptfooResults  `json:"results"`
	Metadata promptfooMetadata `json:"metadata,omitzero"`
}

type promptfooMetadata struct {
	Version string `json:"promptfooVersion,omitempty"`
}

type promptfooResults struct {
	Version int               `json:"version"`
	Results []promptfooResult `json:"results"`
	Stats   promptfooStats    `json:"stats"`
}

type promptfooStats struct {
	Successes int `json:"successes"`
	Failures  int `json:"failures"`
	Errors    int `json:"errors"`
}

type promptfooResult struct {
	Success bool `json:"success"`
	// FailureReason is 0 for none, 1 for an assertion, 2 for an error: with 2
	// nothing was measured and the scores are fillers.
	FailureReason int                 `json:"failureReason"`
	NamedScores   map[string]*float64 `json:"namedScores,omitempty"`
}

const promptfooError = 2

func isPromptfoo(d document) bool {
	var inner map[string]json.RawMessage
	return d.has("results") && json.Unmarshal(d.object["results"], &inner) == nil && hasKeys(inner, "version", "results", "stats")
}

func decodePromptfoo(d document, _ Options) (content, error) {
	var p promptfoo
	if err := decodeJSON(nanToNull(d.raw), &p); err != nil {
		return nil, err
	}
	if p.Results.Version != 3 {
		return nil, errors.New("results.version: only 3 is known")
	}
	return p, nil
}

// promptfooDefault maps the gate's own names, for assertions that carry one as
// their "metric".
func promptfooDefault() map[string][]string {
	out := map[string][]string{}
	for _, name := range ragasNames() {
		out[name] = []string{name}
	}
	out["deepeval.hallucination_rate"] = []string{"deepeval.hallucination_rate"}
	out["citation.resolvable_rate"] = []string{"citation.resolvable_rate"}
	return out
}

func (p promptfoo) facts(o Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "promptfoo", Version: clip(p.Metadata.Version)}, Verdict: headgate.Pass}
	wanted := o.wanted(headgate.GateQuality, promptfooDefault())
	found := map[string]*scores{}
	var t Tests
	for i, r := range p.Results.Results {
		t.Total++
		switch {
		case r.FailureReason == promptfooError:
			t.Errored++
		case r.Success:
			t.Passed++
		default:
			t.Failed++
		}
		for name, columns := range wanted {
			score, ok := r.NamedScores[columns[0]]
			if r.FailureReason == promptfooError {
				score = nil
			} else if !ok {
				continue
			}
			if found[name] == nil {
				found[name] = &scores{}
			}
			if err := found[name].add(score); err != nil {
				return f, fmt.Errorf("result %d: %s %w", i, clip(columns[0]), err)
			}
		}
	}
	// Results can be filtered out of a file; the totals then know more.
	if s := p.Results.Stats; s.Failures > t.Failed || s.Errors > t.Errored {
		f.note("the totals count more failures than the file lists")
		t.Failed, t.Errored = max(t.Failed, s.Failures), max(t.Errored, s.Errors)
		t.Total = t.Passed + t.Failed + t.Errored
	}
	t.judgeCases(&f)
	for _, name := range sortedKeys(found) {
		if found[name].scored > 0 {
			found[name].metric(&f, name, wanted[name][0])
		}
	}
	return f, nil
}

func (p promptfoo) stored() ([]byte, error) { return json.Marshal(p) }

// ragasColumns are the names under which RAGAS and its users write the metrics
// of the quality gate.
var ragasColumns = map[string][]string{
	"ragas.context_precision":  {"context_precision", "llm_context_precision_with_reference", "llm_context_precision_without_reference"},
	"ragas.context_recall":     {"context_recall", "llm_context_recall"},
	"ragas.faithfulness":       {"faithfulness"},
	"ragas.response_relevancy": {"response_relevancy", "answer_relevancy"},
}

func ragasNames() []string { return sortedKeys(ragasColumns) }

func ragasColumn(name string) bool {
	for _, columns := range ragasColumns {
		for _, c := range columns {
			if strings.EqualFold(c, name) {
				return true
			}
		}
	}
	return false
}
