// Package report reads the files that real tools write (test runners, load
// generators, scanners, evaluation suites) and turns them into facts a gate can
// judge: metrics with their sample counts, test totals and findings.
//
// It owns the knowledge of each format and of its traps. It never decides
// whether a release passes, never opens a file or a connection, and never keeps
// a secret, a prompt or a document that a report happens to contain.
package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// DefaultMaxBytes is the largest report that is read unless [Options] say
// otherwise.
const DefaultMaxBytes = 64 << 20

const (
	// maxFindings bounds how many findings are listed; all are counted.
	maxFindings = 1000
	// maxText bounds every text taken from a report, in bytes.
	maxText = 300
	// maxUnscored is the largest share of cases without a score at which the
	// rest still stand for the whole.
	maxUnscored = 0.05
)

// Options say how to read a report. The zero value reads what the tools name by
// default.
type Options struct {
	// Columns maps a gate metric ("ragas.response_relevancy", "api_p95_s",
	// "auth_bypass_findings") to what the tool calls it: a CSV column or JSON
	// field, a k6 metric ("http_req_duration{scenario:search}"), a promptfoo
	// metric, a rule id or a prefix of one ending in "*".
	Columns map[string]string
	// Source is recorded as the origin of every metric, usually the file name.
	Source string
	// MaxBytes bounds reading; 0 means [DefaultMaxBytes].
	MaxBytes int64
}

// Facts are what a report says.
type Facts struct {
	Format string `json:"format"`
	Tool   Tool   `json:"tool"`
	Source string `json:"source,omitempty"`
	// Digest is that of the report as it is kept, "sha256:<hex>". Whoever keeps
	// it sets it; [Parse] leaves it empty.
	Digest string `json:"digest,omitempty"`
	// Verdict is the tool's own: fail when a test, a threshold or a scan
	// failed, broken when the tool itself did, insufficient when nothing was
	// tested or measured. The rules say what a gate makes of it.
	Verdict headgate.Verdict `json:"verdict"`
	// Problems are why Verdict is not pass, one for each code.
	Problems []gate.Problem `json:"problems,omitempty"`
	// Reasons say the same in words, and what else a reader should know.
	Reasons  []string  `json:"reasons,omitempty"`
	Metrics  []Metric  `json:"metrics,omitempty"`
	Tests    *Tests    `json:"tests,omitempty"`
	Requests *Requests `json:"requests,omitempty"`
	// Findings are the first 1,000, without secrets; FindingCount counts all.
	Findings     []Finding `json:"findings,omitempty"`
	FindingCount int       `json:"finding_count"`
	// Components is the number of packages in a bill of materials.
	Components int `json:"components,omitempty"`
	// DatasetID is set when the report itself names one.
	DatasetID string `json:"dataset_id,omitempty"`
}

// Tool is who wrote the report; Version is empty when the report does not say.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// Metric is one gate metric, in the gate's unit.
type Metric struct {
	Gate headgate.Gate `json:"gate"`
	Name string        `json:"name"`
	// Value is a float64 or a bool, so that it survives JSON unchanged.
	Value any `json:"value"`
	// Samples is nil when the report does not say how many there were.
	Samples *int64 `json:"samples"`
	// Unscored is how many cases have no value because the tool failed on
	// them. They are not low scores.
	Unscored int64 `json:"unscored,omitempty"`
	// From is what the report calls it.
	From string `json:"from"`
}

// Tests are the totals of a test report.
type Tests struct {
	Total   int `json:"total"`
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Errored int `json:"errored"`
	Skipped int `json:"skipped"`
}

// Requests are the totals of a load test.
type Requests struct {
	Total  int64 `json:"total"`
	Failed int64 `json:"failed"`
}

// Finding is one thing a tool complains about. It says where, never what the
// offending text was.
type Finding struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Title    string `json:"title,omitempty"`
}

// format is one adapter.
type format struct {
	name string
	// detect reports whether the document may be of this format.
	detect func(document) bool
	decode func(document, Options) (content, error)
}

// content is a decoded report.
type content interface {
	facts(Options) (Facts, error)
	// stored is the report reduced to what facts needs, so that nothing else
	// of it is ever kept.
	stored() ([]byte, error)
}

// formats are tried in this order by [Detect]; no two claim the same document.
var formats = []format{
	{"sarif", isSARIF, decodeSARIF},
	{"cyclonedx", isCycloneDX, decodeCycloneDX},
	{"spdx", isSPDX, decodeSPDX},
	{"trivy", isTrivy, decodeTrivy},
	{"gitleaks", isGitleaks, decodeGitleaks},
	{"k6", isK6, decodeK6},
	{"vegeta", isVegeta, decodeVegeta},
	{"promptfoo", isPromptfoo, decodePromptfoo},
	{"deepeval", isDeepEval, decodeDeepEval},
	{"gate-metrics", isGateMetrics, decodeGateMetrics},
	{"gotest", isGoTest, decodeGoTest},
	{"junit", isJUnit, decodeJUnit},
	{"ragas", isRagas, decodeRagas},
}

// Formats lists the known formats.
func Formats() []string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	slices.Sort(names)
	return names
}

// Parse reads a report of the named format. An unknown format is a
// REQ_VALIDATION_FAILED error that lists the known ones, and so is a report
// that is not of its format, is cut off, or is larger than allowed.
func Parse(name string, r io.Reader, opts Options) (Facts, error) {
	c, err := open(name, r, opts)
	if err != nil {
		return Facts{}, err
	}
	facts, err := c.facts(opts)
	if err != nil {
		return Facts{}, headgate.Invalidf("%s report: %w", name, err)
	}
	facts.Format, facts.Source = name, opts.Source
	return facts, nil
}

// Redact returns the report in the form in which it may be stored. What a
// scanner quotes of a secret, what a test printed, what was asked and answered
// is gone; [Parse] finds the same facts in it as in the original.
func Redact(name string, r io.Reader, opts Options) ([]byte, error) {
	c, err := open(name, r, opts)
	if err != nil {
		return nil, err
	}
	out, err := c.stored()
	if err != nil {
		return nil, headgate.Invalidf("%s report: %w", name, err)
	}
	return out, nil
}

// Detect names the format of a report. When none fits, or when the report says
// too little to tell, the error lists the known ones.
func Detect(r io.Reader) (string, error) {
	doc, err := readAll(r, DefaultMaxBytes)
	if err != nil {
		return "", err
	}
	for _, f := range formats {
		if f.detect(doc) {
			return f.name, nil
		}
	}
	if len(doc.raw) == 0 {
		return "", errEmpty
	}
	return "", headgate.Invalidf("the report's format is not recognised; name it (on the command line with --format), one of %s", strings.Join(Formats(), ", "))
}

var errEmpty = headgate.Invalidf("the report is empty; did the tool that should have written it run to its end?")

func open(name string, r io.Reader, opts Options) (content, error) {
	i := slices.IndexFunc(formats, func(f format) bool { return f.name == name })
	if i < 0 {
		return nil, headgate.Invalidf("unknown report format; known are %s", strings.Join(Formats(), ", "))
	}
	limit := opts.MaxBytes
	if limit <= 0 {
		limit = DefaultMaxBytes
	}
	doc, err := readAll(r, limit)
	if err != nil {
		return nil, err
	}
	if len(doc.raw) == 0 {
		return nil, errEmpty
	}
	c, err := formats[i].decode(doc, opts)
	if err != nil {
		return nil, headgate.Invalidf("%s report: %w; is it of this format, and did the tool write it to its end?", name, err)
	}
	return c, nil
}

// Merge puts the facts of several reports together as the input of one gate.
// Two reports that give the same metric with different values contradict each
// other, which is an error. Metrics of other gates are left out; what a tool
// says of its own run is not.
func Merge(g headgate.Gate, datasetID string, facts ...Facts) (gate.Input, error) {
	in := gate.Input{DatasetID: datasetID, Metrics: map[string]any{}, Origins: map[string]gate.Origin{}}
	for _, f := range facts {
		if in.DatasetID == "" {
			in.DatasetID = f.DatasetID
		}
		for _, m := range f.Metrics {
			if m.Gate != g {
				continue
			}
			if v, ok := in.Metrics[m.Name]; ok && v != m.Value {
				return gate.Input{}, headgate.Invalidf("metrics.%s: %s and %s disagree", m.Name, in.Origins[m.Name].Source, f.origin(m).Source)
			}
			in.Metrics[m.Name], in.Origins[m.Name] = m.Value, f.origin(m)
		}
		in.Tools = append(in.Tools, f.toolReport())
	}
	return in, nil
}

// toolReport is what a gate judges of the tool's own run.
func (f Facts) toolReport() gate.ToolReport {
	t := gate.ToolReport{
		File: cmp.Or(f.Source, f.Format), Digest: f.Digest, Tool: cmp.Or(f.Tool.Name, f.Format), Version: f.Tool.Version,
		Counts: map[string]int64{}, Verdict: f.Verdict, Problems: f.Problems,
	}
	if f.Tests != nil {
		t.Counts["tests_total"], t.Counts["tests_failed"] = int64(f.Tests.Total), int64(f.Tests.Failed)
		t.Counts["tests_errored"], t.Counts["tests_skipped"] = int64(f.Tests.Errored), int64(f.Tests.Skipped)
	}
	if f.Requests != nil {
		t.Counts["requests_total"], t.Counts["requests_failed"] = f.Requests.Total, f.Requests.Failed
	}
	if f.FindingCount > 0 {
		t.Counts["findings"] = int64(f.FindingCount)
	}
	if f.Components > 0 {
		t.Counts["components"] = int64(f.Components)
	}
	return t
}

func (f Facts) origin(m Metric) gate.Origin {
	return gate.Origin{Samples: m.Samples, Source: fmt.Sprintf("%s (%s)", cmp.Or(f.Source, f.Format), m.From)}
}

// sortMetrics makes the order of the facts independent of map order.
func (f *Facts) sortMetrics() {
	slices.SortFunc(f.Metrics, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
}

// find lists a finding, as long as there is room, and counts it.
func (f *Facts) find(x Finding) {
	f.FindingCount++
	if len(f.Findings) < maxFindings {
		f.Findings = append(f.Findings, x)
	}
}

// count adds a security metric of which nobody said how much was scanned.
func (f *Facts) count(name string, n int64, from string) {
	f.Metrics = append(f.Metrics, Metric{Gate: headgate.GateSecurity, Name: name, Value: float64(n), From: from})
}

// fail sets the verdict unless one that blocks is there already, and says why.
// A failure outranks the rest.
func (f *Facts) fail(v headgate.Verdict, code, format string, args ...any) {
	if v == headgate.Fail || f.Verdict == headgate.Pass {
		f.Verdict = v
	}
	why := fmt.Sprintf(format, args...)
	f.note("%s", why)
	if i := slices.IndexFunc(f.Problems, func(p gate.Problem) bool { return p.Code == code }); i >= 0 {
		f.Problems[i].Detail = clip(f.Problems[i].Detail + "; " + why)
		return
	}
	f.Problems = append(f.Problems, gate.Problem{Code: code, Verdict: v, Detail: clip(why)})
}

func (f *Facts) note(format string, args ...any) {
	f.Reasons = append(f.Reasons, fmt.Sprintf(format, args...))
}
