package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// judge says what the totals mean: a run in which nothing ran has not passed.
func (t Tests) judge(f *Facts) {
	f.Tests = &t
	f.Verdict = headgate.Pass
	switch {
	case t.Failed+t.Errored > 0:
		f.fail(headgate.Fail, gate.ToolTestsFailed, "%d test(s) failed and %d did not run properly", t.Failed, t.Errored)
	case t.Total == 0:
		f.fail(headgate.Fail, gate.ToolNoTests, "no test ran")
	case t.Skipped == t.Total:
		f.fail(headgate.Fail, gate.ToolNoTests, "every test was skipped")
	}
}

// judgeCases is judge for cases that a model scored: one on which the
// evaluation itself failed says nothing of the candidate.
func (t Tests) judgeCases(f *Facts) {
	f.Tests = &t
	if t.Total == 0 {
		f.fail(headgate.Fail, gate.ToolNoTests, "no case was evaluated")
	}
	if t.Failed > 0 {
		f.fail(headgate.Fail, gate.ToolCasesFailed, "%d case(s) failed", t.Failed)
	}
	if t.Errored > 0 {
		f.fail(headgate.Broken, gate.ToolCasesErrored, "%d case(s) could not be evaluated; they are not low scores", t.Errored)
	}
}

// junitSuite is a <testsuites> or a <testsuite>. What tests printed and what
// they failed with is not decoded.
type junitSuite struct {
	XMLName  xml.Name
	Name     string       `xml:"name,attr,omitempty"`
	Tests    int          `xml:"tests,attr,omitempty"`
	Failures int          `xml:"failures,attr,omitempty"`
	Errors   int          `xml:"errors,attr,omitempty"`
	Suites   []junitSuite `xml:"testsuite"`
	Cases    []junitCase  `xml:"testcase"`
	// Failed and Errored are what some runners put on a suite itself, when it
	// could not even be loaded.
	Failed  *struct{} `xml:"failure"`
	Errored *struct{} `xml:"error"`
}

type junitCase struct {
	Name    string    `xml:"name,attr"`
	Class   string    `xml:"classname,attr,omitempty"`
	File    string    `xml:"file,attr,omitempty"`
	Status  string    `xml:"status,attr,omitempty"`
	Failure *struct{} `xml:"failure"`
	Error   *struct{} `xml:"error"`
	Skipped *struct{} `xml:"skipped"`
	// Maven's tries beside the one that counts.
	FlakyFailures []struct{} `xml:"flakyFailure"`
	FlakyErrors   []struct{} `xml:"flakyError"`
	RerunFailures []struct{} `xml:"rerunFailure"`
	RerunErrors   []struct{} `xml:"rerunError"`
}

func (c junitCase) tries() int {
	return len(c.FlakyFailures) + len(c.FlakyErrors) + len(c.RerunFailures) + len(c.RerunErrors)
}

func isJUnit(d document) bool { return d.root.Local == "testsuites" || d.root.Local == "testsuite" }

func decodeJUnit(d document, _ Options) (content, error) {
	if !isJUnit(d) {
		return nil, errors.New("is not an XML document with the root testsuites or testsuite")
	}
	var s junitSuite
	if err := decodeXML(d.raw, &s); err != nil {
		return nil, err
	}
	return s, nil
}

func (s junitSuite) facts(Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "junit"}}
	var t Tests
	s.count(&t, &f)
	// A runner that counts more failures than it lists knows of some that it
	// could not attribute, for example in loading a file.
	if missing := s.claimed() - t.Failed - t.Errored; missing > 0 {
		t.Errored += missing
		t.Total += missing
	}
	t.judge(&f)
	return f, nil
}

// claimed is the number of failures by the suites' own attributes, which some
// runners put on the root, others on the suites.
func (s junitSuite) claimed() int {
	below := 0
	for _, sub := range s.Suites {
		below += sub.claimed()
	}
	own := s.Failures + s.Errors
	// Maven Surefire 2 counts each try of a test that it ran again, also of one
	// that passed in the end.
	if cases, tries := s.listed(); s.Tests == cases+tries {
		own -= tries
	}
	return max(below, own)
}

// listed is the number of cases and of their tries beside the ones that count.
func (s junitSuite) listed() (cases, tries int) {
	for _, c := range s.Cases {
		cases++
		tries += c.tries()
	}
	for _, sub := range s.Suites {
		c, t := sub.listed()
		cases, tries = cases+c, tries+t
	}
	return cases, tries
}

func (s junitSuite) count(t *Tests, f *Facts) {
	if s.Failed != nil || s.Errored != nil {
		t.Total++
		t.Errored++
		f.find(Finding{Rule: "test suite", Severity: "error", Title: clip(s.Name)})
	}
	for _, c := range s.Cases {
		t.Total++
		switch {
		case c.Error != nil:
			t.Errored++
		case c.Failure != nil:
			t.Failed++
		case c.Skipped != nil || slices.Contains([]string{"notrun", "skipped", "disabled"}, strings.ToLower(c.Status)):
			t.Skipped++
		default:
			t.Passed++
		}
		if c.Error != nil || c.Failure != nil {
			f.find(Finding{Rule: "test", Severity: "error", File: location(c.File), Title: clip(strings.TrimPrefix(c.Class+"/"+c.Name, "/"))})
		}
	}
	for _, sub := range s.Suites {
		sub.count(t, f)
	}
}

func (s junitSuite) stored() ([]byte, error) { return xml.Marshal(s) }

// goTest is the stream of "go test -json", without what tests printed.
type goTest []goEvent

type goEvent struct {
	Action      string
	Package     string `json:",omitempty"`
	Test        string `json:",omitempty"`
	FailedBuild string `json:",omitempty"`
}

func isGoTest(d document) bool {
	head := d.line
	if head == nil {
		head = d.object
	}
	return hasKeys(head, "Action", "Package") || hasKeys(head, "Action", "ImportPath")
}

func decodeGoTest(d document, _ Options) (content, error) {
	events := goTest{}
	lines := bufio.NewScanner(bytes.NewReader(d.raw))
	lines.Buffer(nil, len(d.raw)+1)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] != '{' {
			// Builds before Go 1.24 and programs under test print in between.
			continue
		}
		var e goEvent
		if err := decodeJSON(line, &e); err != nil {
			return nil, err
		}
		if slices.Contains([]string{"start", "run", "pass", "fail", "skip"}, e.Action) {
			events = append(events, e)
		}
	}
	if len(events) == 0 {
		return nil, errors.New("holds no test event")
	}
	return events, nil
}

func (g goTest) facts(Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "go test"}}
	var t Tests
	running := map[[2]string]bool{}
	failures := map[string]int{}
	for _, e := range g {
		key := [2]string{e.Package, e.Test}
		if e.Action == "run" || e.Action == "start" {
			running[key] = true
			continue
		}
		delete(running, key)
		if e.Test == "" {
			// A package that failed without a failing test did not build, or
			// died outside of one.
			if e.Action == "fail" && (failures[e.Package] == 0 || e.FailedBuild != "") {
				t.errored(&f, e.Package)
			}
			continue
		}
		t.Total++
		switch e.Action {
		case "pass":
			t.Passed++
		case "skip":
			t.Skipped++
		case "fail":
			t.Failed++
			failures[e.Package]++
			f.find(Finding{Rule: "test", Severity: "error", Title: clip(e.Package + "." + e.Test)})
		}
	}
	unfinished := make([]string, 0, len(running))
	for key := range running {
		unfinished = append(unfinished, strings.TrimSuffix(key[0]+"."+key[1], "."))
	}
	slices.Sort(unfinished)
	for _, name := range unfinished {
		t.errored(&f, name)
	}
	if len(unfinished) > 0 {
		f.note("%d test(s) or package(s) did not finish: a panic, a timeout, or the stream is cut off", len(unfinished))
	}
	t.judge(&f)
	return f, nil
}

func (t *Tests) errored(f *Facts, name string) {
	t.Total++
	t.Errored++
	f.find(Finding{Rule: "test", Severity: "error", Title: clip(name)})
}

func (g goTest) stored() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for _, e := range g {
		if err := enc.Encode(e); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
