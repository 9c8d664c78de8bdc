package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/report"
)

var update = flag.Bool("update", false, "rewrite golden files")

// secret is what the fixtures hide where a real report would quote a
// credential.
const secret = "demo_tok_"

// fixtures maps every file in testdata to its format; testdata/README.md says
// who wrote it.
var fixtures = map[string]string{
	"cyclonedx-gomod.json": "cyclonedx", "cyclonedx-npm.json": "cyclonedx", "cyclonedx-trivy.json": "cyclonedx", "cyclonedx.xml": "cyclonedx",
	"deepeval-evaluate.json": "deepeval", "deepeval-test-run.json": "deepeval",
	"gate-metrics.json":   "gate-metrics",
	"gitleaks-clean.json": "gitleaks", "gitleaks-redacted.json": "gitleaks", "gitleaks.json": "gitleaks",
	"gotest-build-fails.jsonl": "gotest", "gotest-fail.jsonl": "gotest", "gotest-no-tests.jsonl": "gotest", "gotest-pass.jsonl": "gotest",
	"junit-gotestsum.xml": "junit", "junit-maven-flaky.xml": "junit", "junit-maven.xml": "junit", "junit-pytest-empty.xml": "junit", "junit-pytest.xml": "junit",
	"k6-handle-summary.json": "k6", "k6-machine-readable.json": "k6", "k6-summary-export.json": "k6",
	"promptfoo.json":    "promptfoo",
	"ragas-means.json":  "ragas",
	"ragas-pandas.json": "ragas", "ragas-records.json": "ragas", "ragas.csv": "ragas", "ragas.jsonl": "ragas",
	"sarif-gitleaks-clean.json": "sarif", "sarif-gitleaks.json": "sarif", "sarif-golangci-lint.json": "sarif", "sarif-traps.json": "sarif", "sarif-trivy.json": "sarif",
	"spdx-3.json": "spdx", "spdx-npm.json": "spdx", "spdx-trivy-tag-value.spdx": "spdx", "spdx-trivy.json": "spdx", "spdx.spdx": "spdx",
	"trivy-clean.json": "trivy", "trivy-vulnerabilities.json": "trivy", "trivy.json": "trivy",
	"vegeta.json": "vegeta",
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func parse(t testing.TB, format string, raw []byte, o report.Options) report.Facts {
	t.Helper()
	f, err := report.Parse(format, bytes.NewReader(raw), o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFixtures(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]report.Facts{}
	for _, file := range files {
		name := file.Name()
		if name == "README.md" || file.IsDir() || strings.Contains(name, ".golden.") {
			continue
		}
		format, ok := fixtures[name]
		if !ok {
			t.Errorf("%s: the test does not know its format", name)
			continue
		}
		raw := read(t, name)
		all[name] = parse(t, format, raw, report.Options{Source: name})
		checkFixture(t, name, format, raw, all[name])
	}
	if len(all) != len(fixtures) {
		t.Errorf("%d fixtures found, %d expected", len(all), len(fixtures))
	}
	golden(t, "facts.golden.json", all)
}

// checkFixture asserts what holds for every format: it is recognised, neither
// the facts nor what is stored hold a secret, and what is stored says the same.
func checkFixture(t *testing.T, name, format string, raw []byte, facts report.Facts) {
	t.Helper()
	if got, err := report.Detect(bytes.NewReader(raw)); got != format && name != "gitleaks-clean.json" {
		t.Errorf("%s: detected as %q (%v), want %s", name, got, err, format)
	}
	stored, err := report.Redact(format, bytes.NewReader(raw), report.Options{})
	if err != nil {
		t.Errorf("%s: Redact: %v", name, err)
		return
	}
	again := parse(t, format, stored, report.Options{Source: name})
	if diff := cmp.Diff(facts, again); diff != "" {
		t.Errorf("%s: the stored form says something else:\n%s", name, diff)
	}
	listed, err := json.Marshal(facts)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	for what, text := range map[string][]byte{"facts": listed, "stored form": stored} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%s: the %s hold the secret", name, what)
		}
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, name)), string(got)+"\n"); diff != "" {
		t.Errorf("%s (-want +got), refresh with -update:\n%s", path, diff)
	}
}

func metric(f report.Facts, name string) (report.Metric, bool) {
	i := slices.IndexFunc(f.Metrics, func(m report.Metric) bool { return m.Name == name })
	if i < 0 {
		return report.Metric{}, false
	}
	return f.Metrics[i], true
}

func TestTraps(t *testing.T) {
	t.Parallel()
	const suite, k6State = `<testsuite name="a" tests="2" failures="0">`, `"root_group":{},"state":{}`
	k6 := func(metrics string) string { return `{` + k6State + `,"metrics":{` + metrics + `}}` }
	tests := []struct {
		name, format, report string
		columns              map[string]string
		verdict              headgate.Verdict
		reason               string // part of a reason, or "" for any
		metric               string
		value                any // nil: the metric must be absent
		samples              int64
	}{
		{name: "k6 export: a threshold of true was crossed", format: "k6", report: `{"root_group":{},"metrics":{"http_reqs":{"count":9},"http_req_duration":{"p(95)":1500,"thresholds":{"p(95)<500":true}}}}`,
			verdict: headgate.Fail, reason: "p(95)<500", metric: "api_p95_s", value: 1.5, samples: 9},
		{name: "k6 export: a threshold of false held", format: "k6", report: `{"root_group":{},"metrics":{"http_reqs":{"count":9},"http_req_duration":{"p(95)":1500,"thresholds":{"p(95)<5000":false}}}}`,
			verdict: headgate.Pass, metric: "api_p95_s", value: 1.5, samples: 9},
		{name: "k6 handleSummary: ok is what it says", format: "k6", report: k6(`"http_reqs":{"values":{"count":9}},"http_req_duration":{"values":{"p(95)":10},"thresholds":{"p(95)<5":{"ok":false}}}`),
			verdict: headgate.Fail, reason: "p(95)<5", metric: "api_p95_s", value: 0.01, samples: 9},
		{name: "k6: fails of http_req_failed are the good ones", format: "k6", report: k6(`"http_reqs":{"values":{"count":100}},"http_req_failed":{"values":{"passes":0,"fails":100}},"http_req_duration":{"values":{"p(95)":10}}`),
			verdict: headgate.Pass, metric: "api_p95_s", value: 0.01, samples: 100},
		{name: "k6: latencies of failures are no measurement", format: "k6", report: k6(`"http_reqs":{"values":{"count":100}},"http_req_failed":{"values":{"passes":100,"fails":0}},"http_req_duration":{"values":{"p(95)":1}}`),
			verdict: headgate.Fail, reason: "every request failed", metric: "api_p95_s"},
		{name: "k6: no request", format: "k6", report: k6(`"iterations":{"values":{"count":3}}`), verdict: headgate.Insufficient, reason: "no HTTP request", metric: "api_p95_s"},
		{name: "k6: column map", format: "k6", report: string(read(t, "k6-summary-export.json")), columns: map[string]string{"retrieval_p95_s": "http_req_duration{scenario:search}"},
			verdict: headgate.Fail, metric: "retrieval_p95_s", value: 0.0198445869, samples: -1},
		{name: "vegeta: nanoseconds", format: "vegeta", report: `{"latencies":{"95th":1500000000},"requests":200,"success":0.98,"status_codes":{"200":196,"503":4}}`,
			verdict: headgate.Pass, reason: "4 of 200 requests failed", metric: "api_p95_s", value: 1.5, samples: 200},
		{name: "vegeta: nothing answered", format: "vegeta", report: `{"latencies":{"95th":1},"requests":5,"success":0,"status_codes":{"0":5}}`,
			verdict: headgate.Fail, reason: "every request failed", metric: "api_p95_s"},
		{name: "vegeta: another kind of request", format: "vegeta", report: `{"latencies":{"95th":2000000000},"requests":5,"success":1,"status_codes":{"200":5}}`, columns: map[string]string{"evaluation_p95_s": "latencies.95th"},
			verdict: headgate.Pass, metric: "evaluation_p95_s", value: 2.0, samples: 5},
		{name: "junit: no test", format: "junit", report: `<testsuites/>`, verdict: headgate.Fail, reason: "no test ran"},
		{name: "junit: all skipped", format: "junit", report: suite + `<testcase name="a"><skipped/></testcase></testsuite>`, verdict: headgate.Fail, reason: "every test was skipped"},
		{name: "junit: more failures than listed", format: "junit", report: `<testsuites failures="1">` + suite + `<testcase name="a"/></testsuite></testsuites>`, verdict: headgate.Fail},
		{name: "junit: a suite that did not load", format: "junit", report: suite + `<testcase name="a"/><error/></testsuite>`, verdict: headgate.Fail},
		{name: "junit: flaky passed in the end", format: "junit", report: suite + `<testcase name="a"><flakyFailure/></testcase></testsuite>`, verdict: headgate.Pass},
		{name: "junit: nested suites", format: "junit", report: `<testsuites><testsuite>` + suite + `<testcase name="a"><failure/></testcase></testsuite></testsuite></testsuites>`, verdict: headgate.Fail},
		{name: "go test: cut off", format: "gotest", report: `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"run","Package":"p","Test":"T"}`, verdict: headgate.Fail, reason: "did not finish"},
		{name: "go test: died outside a test", format: "gotest", report: `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"pass","Package":"p","Test":"T"}` + "\n" + `{"Action":"fail","Package":"p"}`, verdict: headgate.Fail},
		{name: "deepeval: an error is not a low score", format: "deepeval", report: string(read(t, "deepeval-test-run.json")), verdict: headgate.Broken, reason: "1 of 24 cases have no score", metric: "deepeval.hallucination_rate", value: 0.5 / 23, samples: 23},
		{name: "deepeval: too many errors leave nothing to judge", format: "deepeval", report: `{"testCases":[{"success":true,"metricsData":[{"name":"Hallucination","score":0}]},{"success":false,"metricsData":[{"name":"Hallucination","score":0,"error":"timeout"}]}]}`,
			verdict: headgate.Broken, reason: "left out", metric: "deepeval.hallucination_rate"},
		{name: "deepeval: column map", format: "deepeval", report: string(read(t, "deepeval-evaluate.json")), columns: map[string]string{"ragas.faithfulness": "Faithfulness"}, verdict: headgate.Broken, metric: "ragas.faithfulness", value: 0.9, samples: 24},
		{name: "promptfoo: an error is not a score of zero", format: "promptfoo", report: string(read(t, "promptfoo.json")), verdict: headgate.Fail, metric: "ragas.faithfulness", value: 18.6 / 19, samples: 19},
		{name: "junit: Maven counts tries", format: "junit", report: string(read(t, "junit-maven-flaky.xml")), verdict: headgate.Pass},
		{name: "junit: a failure beside the tries", format: "junit", report: `<testsuite tests="2" failures="2"><testcase name="a"><flakyFailure/></testcase></testsuite>`, verdict: headgate.Fail, reason: "1 did not run properly"},
		{name: "junit: more failures than tries", format: "junit", report: `<testsuite tests="1" failures="2"><testcase name="a"><flakyFailure/></testcase></testsuite>`, verdict: headgate.Fail, reason: "2 did not run properly"},
		{name: "promptfoo: the totals know more", format: "promptfoo", report: `{"results":{"version":3,"results":[{"success":true,"failureReason":0}],"stats":{"successes":1,"failures":2,"errors":0}}}`, verdict: headgate.Fail, reason: "more failures than the file lists"},
		{name: "ragas: NaN is no score", format: "ragas", report: "faithfulness,answer_relevancy\n" + strings.Repeat("0.9,0.9\n", 19) + ",0.9\n", verdict: headgate.Pass, reason: "1 of 20 cases have no score", metric: "ragas.faithfulness", value: 0.9, samples: 19},
		{name: "ragas: too many without a score", format: "ragas", report: "faithfulness\n0.9\nnan\n", verdict: headgate.Insufficient, reason: "left out", metric: "ragas.faithfulness"},
		{name: "ragas: Python's NaN in JSON", format: "ragas", report: `[{"faithfulness": NaN, "user_input": "NaN \" NaN"}]`, verdict: headgate.Insufficient, metric: "ragas.faithfulness"},
		{name: "ragas: no cases", format: "ragas", report: "faithfulness\n", verdict: headgate.Insufficient, metric: "ragas.faithfulness"},
		{name: "ragas: column map", format: "ragas", report: `{"my_score": 0.5, "other": 1}` + "\n" + `{"my_score": 1}`, columns: map[string]string{"citation.resolvable_rate": "my_score"}, verdict: headgate.Pass, metric: "citation.resolvable_rate", value: 0.75, samples: 2},
		{name: "gitleaks: nothing found", format: "gitleaks", report: `[]`, verdict: headgate.Pass, metric: "secret_scan_findings", value: 0.0, samples: -1},
		{name: "gitleaks: null is nothing found", format: "gitleaks", report: `null`, verdict: headgate.Pass, metric: "secret_scan_findings", value: 0.0, samples: -1},
		{name: "trivy: silence about secrets is no count", format: "trivy", report: string(read(t, "trivy-clean.json")), verdict: headgate.Pass, reason: "does not say whether", metric: "secret_scan_findings"},
		{name: "trivy: the caller vouches", format: "trivy", report: string(read(t, "trivy-clean.json")), columns: map[string]string{"secret_scan_findings": "secret"}, verdict: headgate.Pass, metric: "secret_scan_findings", value: 0.0, samples: -1},
		{name: "trivy: a check that passed is listed too", format: "trivy", report: `{"SchemaVersion":2,"ArtifactName":"a","Results":[{"Misconfigurations":[{"ID":"a","Severity":"CRITICAL","Status":"PASS"}]}]}`, verdict: headgate.Pass, metric: "secret_scan_findings"},
		{name: "sarif: no level is a warning", format: "sarif", report: `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"ruleId":"r"}]}]}`, verdict: headgate.Pass, reason: "1 finding(s) of level warning"},
		{name: "sarif: the rule's level", format: "sarif", report: `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x","rules":[{"id":"r","defaultConfiguration":{"level":"note"}}]}},"results":[{"ruleId":"r"}]}]}`, verdict: headgate.Pass},
		{name: "sarif: pass, suppressed and absent do not count", format: "sarif", report: string(read(t, "sarif-traps.json")), columns: map[string]string{"auth_bypass_findings": "auth/*"}, verdict: headgate.Pass, reason: "3 finding(s) of level warning", metric: "auth_bypass_findings", value: 3.0, samples: -1},
		{name: "sarif: no results is not none found", format: "sarif", report: `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"gitleaks"}}}]}`, verdict: headgate.Insufficient, reason: "nothing was scanned", metric: "secret_scan_findings"},
		{name: "sarif: the tool failed", format: "sarif", report: `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"invocations":[{"executionSuccessful":false}],"results":[]}]}`, verdict: headgate.Broken},
		{name: "sarif: results elsewhere", format: "sarif", report: `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"externalPropertyFileReferences":{"results":[{}]},"results":[]}]}`, verdict: headgate.Insufficient},
		{name: "gate-metrics: one count for all", format: "gate-metrics", report: `{"metrics":{"api_p95_s":1},"samples":40}`, verdict: headgate.Pass, metric: "api_p95_s", value: 1.0, samples: 40},
		{name: "gate-metrics: null is not zero samples", format: "gate-metrics", report: `{"metrics":{"api_p95_s":1},"samples":null}`, verdict: headgate.Pass, metric: "api_p95_s", value: 1.0, samples: -1},
		{name: "spdx: nothing listed", format: "spdx", report: `{"spdxVersion":"SPDX-2.3","packages":[]}`, verdict: headgate.Fail, reason: "lists nothing"},
		{name: "cyclonedx: nothing listed", format: "cyclonedx", report: `{"bomFormat":"CycloneDX","specVersion":"1.6"}`, verdict: headgate.Fail, reason: "lists nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := parse(t, tt.format, []byte(tt.report), report.Options{Columns: tt.columns})
			if f.Verdict != tt.verdict || !strings.Contains(strings.Join(f.Reasons, "\n"), tt.reason) {
				t.Errorf("got %s %q, want %s %q", f.Verdict, f.Reasons, tt.verdict, tt.reason)
			}
			if tt.metric == "" {
				return
			}
			m, ok := metric(f, tt.metric)
			if tt.value == nil {
				if ok {
					t.Errorf("%s = %v, want no such metric", tt.metric, m.Value)
				}
				return
			}
			wantSamples := &tt.samples
			if tt.samples < 0 {
				wantSamples = nil
			}
			if !same(m.Value, tt.value) || !cmp.Equal(m.Samples, wantSamples) {
				t.Errorf("%s = %v of %v, want %v of %d", tt.metric, m.Value, m.Samples, tt.value, tt.samples)
			}
		})
	}
}

func same(got, want any) bool {
	g, ok := got.(float64)
	w, isFloat := want.(float64)
	if ok && isFloat {
		return math.Abs(g-w) < 1e-9
	}
	return got == want
}

func TestBadReports(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, format, report, want string }{
		{"unknown format", "lighthouse", "{}", "known are cyclonedx, deepeval, gate-metrics, gitleaks, gotest, junit, k6, promptfoo, ragas, sarif, spdx, trivy, vegeta"},
		{"cut off", "trivy", `{"SchemaVersion":2,"ArtifactName":"a"`, "is not valid JSON at byte"},
		{"another version", "trivy", `{"SchemaVersion":1}`, "only version 2"},
		{"another version", "sarif", `{"version":"2.0.0","runs":[]}`, "only 2.1.0"},
		{"another version", "promptfoo", `{"results":{"version":2}}`, "only 3"},
		{"another version", "spdx", `{"spdxVersion":"SPDX-9"}`, "only SPDX-2"},
		{"wrong type", "vegeta", `{"latencies":{"95th":"demo_tok_x"},"requests":1,"success":1}`, "must not be of JSON type string"},
		{"missing", "vegeta", `{"requests":1,"success":1}`, "latencies.95th"},
		{"no percentile", "k6", `{"root_group":{},"metrics":{"http_reqs":{"count":1},"http_req_duration":{"avg":1}}}`, "summaryTrendStats"},
		{"no XML", "junit", `demo_tok_x`, "XML"},
		{"cut off XML", "junit", `<testsuite><testcase name="demo_tok_x">`, "at line 1"},
		{"no event", "gotest", `ok`, "no test event"},
		{"percentage", "ragas", "faithfulness\n90\n", "outside 0..1"},
		{"text", "ragas", "faithfulness\ndemo_tok_x\n", "line 2: faithfulness must be a number"},
		{"ragged", "ragas", "faithfulness,a\n1\n", "not valid CSV"},
		{"which column", "ragas", "answer_relevancy,response_relevancy\n1,1\n", "say which"},
		{"no column", "ragas", "a,b\n1,2\n", "column map"},
		{"no list", "gitleaks", `{"Secret":"demo_tok_x"}`, "list of leaks"},
		{"text metric", "gate-metrics", `{"metrics":{"api_p95_s":"demo_tok_x"}}`, "metrics.api_p95_s: must be a number"},
		{"huge metric", "gate-metrics", `{"metrics":{"api_p95_s":1e999}}`, "must be finite"},
		{"empty", "deepeval", ``, "the report is empty; did the tool"},
		{"another document", "deepeval", `{}`, "testCases"},
	}
	for _, tt := range tests {
		t.Run(tt.format+"/"+tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := report.Parse(tt.format, strings.NewReader(tt.report), report.Options{})
			if !errors.Is(err, headgate.Invalidf("")) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want …%s…", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error repeats the report: %v", err)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		t.Parallel()
		_, err := report.Parse("gitleaks", strings.NewReader(strings.Repeat(" ", 100)+"[]"), report.Options{MaxBytes: 100})
		if err == nil || !strings.Contains(err.Error(), "larger than 100 bytes") {
			t.Errorf("got %v", err)
		}
	})
	if _, err := report.Detect(strings.NewReader(" \n")); err == nil || !strings.Contains(err.Error(), "the report is empty") {
		t.Errorf("nothing: %v", err)
	}
	for _, text := range []string{"[]", "{}", "hello", "<html/>", "\xff\xfe"} {
		if got, err := report.Detect(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "one of cyclonedx") {
			t.Errorf("Detect(%q) = %s, %v; want an error that lists the formats", text, got, err)
		}
	}
}

func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	leak := `{"RuleID":"r","StartLine":1,"Fingerprint":"f","File":"` + strings.Repeat("甲", 500) + `"},`
	f := parse(t, "gitleaks", []byte("["+strings.TrimSuffix(strings.Repeat(leak, 1500), ",")+"]"), report.Options{})
	if len(f.Findings) != 1000 || f.FindingCount != 1500 || len(f.Findings[0].File) > 310 {
		t.Errorf("%d of %d listed, file name of %d bytes", len(f.Findings), f.FindingCount, len(f.Findings[0].File))
	}
	if m, _ := metric(f, "secret_scan_findings"); m.Value != 1500.0 {
		t.Errorf("%v counted", m.Value)
	}
}

// Reports of real tools, put together, are a gate's input.
func TestMerge(t *testing.T) {
	t.Parallel()
	load := parse(t, "k6", read(t, "k6-summary-export.json"), report.Options{Source: "k6.json"})
	rest := parse(t, "gate-metrics", []byte(`{"dataset_id":"staging-30m","metrics":{"retrieval_p95_s":1,"parse_50p_p95_s":60,"evaluation_p95_s":30,"queue_dlq_rate":0,"cache_hit_rate":0.8,"secret_scan_findings":0}}`), report.Options{Source: "rest.json"})
	in, err := report.Merge(headgate.GatePerformance, "", load, rest)
	if err != nil {
		t.Fatal(err)
	}
	res, err := gate.Evaluate(gate.DefaultRules(), headgate.GatePerformance, in)
	if err != nil {
		t.Fatal(err)
	}
	c := res.Checks[0]
	if !slices.Equal(res.FailedChecks, []string{gate.ToolThresholdCrossed}) || res.Verdict != headgate.Fail || c.Samples == nil || *c.Samples != 260 || c.Source != "k6.json (http_req_duration)" || res.DatasetID != "staging-30m" {
		t.Errorf("got %+v", res)
	}
	if _, ok := in.Metrics["secret_scan_findings"]; ok {
		t.Error("a metric of another gate came along")
	}
	for _, again := range []string{`[]`, `{"metrics":{"secret_scan_findings":0}}`} {
		format := map[byte]string{'[': "gitleaks", '{': "gate-metrics"}[again[0]]
		if _, err := report.Merge(headgate.GateSecurity, "d", rest, parse(t, format, []byte(again), report.Options{})); err != nil {
			t.Errorf("two reports that agree: %v", err)
		}
	}
	other := parse(t, "gate-metrics", []byte(`{"metrics":{"api_p95_s":9}}`), report.Options{Source: "other.json"})
	if _, err := report.Merge(headgate.GatePerformance, "d", load, other); err == nil || !strings.Contains(err.Error(), "metrics.api_p95_s: k6.json (http_req_duration) and other.json (metrics.api_p95_s) disagree") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse feeds every adapter. The number picks one, so that no mutation is
// lost on an unknown name.
func FuzzParse(f *testing.F) {
	formats := report.Formats()
	for name, format := range fixtures {
		f.Add(uint8(slices.Index(formats, format)), read(f, name))
	}
	for i := range formats {
		f.Add(uint8(i), []byte(`{"a":NaN}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		format := formats[int(which)%len(formats)]
		_, _ = report.Detect(bytes.NewReader(raw))
		facts, err := report.Parse(format, bytes.NewReader(raw), report.Options{})
		if err != nil {
			if !errors.Is(err, headgate.Invalidf("")) {
				t.Fatalf("not a validation error: %v", err)
			}
			return
		}
		if _, err := json.Marshal(facts); err != nil {
			t.Fatalf("the facts have no JSON: %v", err)
		}
		if facts.Verdict == "" {
			t.Fatal("no verdict")
		}
		stored, err := report.Redact(format, bytes.NewReader(raw), report.Options{})
		if err != nil {
			t.Fatalf("Redact: %v", err)
		}
		again, err := report.Parse(format, bytes.NewReader(stored), report.Options{})
		if err != nil {
			t.Fatalf("what is stored does not parse: %v", err)
		}
		if diff := cmp.Diff(facts, again); diff != "" {
			t.Fatalf("the stored form says something else:\n%s", diff)
		}
	})
}
