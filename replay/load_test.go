package replay_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/replay"
)

const goodSuite = `name: s
sessions:
  - name: one
    steps:
      - name: send
        method: POST
        path: /a/{{project_id}}
        multipart:
          files:
            - {field: file, path: docs/a.md}
        capture: {id: data.id}
      - name: wait
        method: GET
        path: /a/{{id}}
        poll: {path: data.status, until: [done, over], fail: bad}
compare:
  identifiers: [id]
  ignore: [meta.**]
  tolerance: {data.score: 0.5}
`

func files(suite string) fstest.MapFS {
	return fstest.MapFS{"in/s.yaml": {Data: []byte(suite)}, "in/docs/a.md": {Data: []byte("# bid")}}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	s, err := replay.Load(files(goodSuite), "in/s.yaml")
	if err != nil {
		t.Fatal(err)
	}
	wait := s.Sessions[0].Steps[1]
	if wait.Isolation != replay.Refused || s.Sessions[0].Steps[0].Isolation != replay.Unprobed {
		t.Error("a GET is asked again as a stranger unless said otherwise, a write only when said so")
	}
	if len(wait.Poll.Until) != 2 || wait.Status[0] != 200 || wait.Timeout == 0 || wait.Poll.Timeout == 0 {
		t.Errorf("%+v", wait)
	}
}

func TestDigestCoversTheDocuments(t *testing.T) {
	t.Parallel()
	one, two, three := files(goodSuite), files(goodSuite), files(goodSuite+"# a remark\n")
	two["in/docs/a.md"] = &fstest.MapFile{Data: []byte("# another bid")}
	digests := map[string]bool{}
	for _, fsys := range []fs.FS{one, two, three, one} {
		s, err := replay.Load(fsys, "in/s.yaml")
		if err != nil {
			t.Fatal(err)
		}
		digests[s.Digest] = true
	}
	if len(digests) != 3 {
		t.Errorf("%d digests of three different suites", len(digests))
	}
}

func TestLoadNamesFileLineAndField(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, old, new, says string }{
		{"unknown field", "path: /a/{{id}}", "paths: /a/{{id}}", "in/s.yaml:14: sessions[0].steps[1].paths: unknown field"},
		{"missing field", "        method: GET\n", "", "in/s.yaml:12: sessions[0].steps[1].method: is required"},
		{"unknown method", "method: GET", "method: FETCH", "in/s.yaml:13: sessions[0].steps[1].method: must be one of"},
		{"unknown placeholder", "/a/{{id}}", "/a/{{job}}", "in/s.yaml:14: sessions[0].steps[1].path: {{job}} is neither"},
		{"a placeholder before its capture", "/a/{{project_id}}", "/a/{{id}}", "in/s.yaml:7: sessions[0].steps[0].path: {{id}} is neither"},
		{"a broken placeholder", "/a/{{id}}", "/a/{{ID}}", "no placeholder"},
		{"another host", "/a/{{id}}", "//evil.example/{{id}}", "begins with one /"},
		{"a status that is none", "poll:", "status: [200, 204.5]\n        poll:", "whole number"},
		{"a status out of range", "poll:", "status: 99\n        poll:", "from 100 to 599"},
		{"a space in a path", "/a/{{id}}", "/a b/{{ id }}", "without spaces"},
		{"no path", "/a/{{id}}", "a", "begins with one /"},
		{"a path outside", "docs/a.md", "../../etc/passwd", "in/s.yaml:10: sessions[0].steps[0].multipart.files[0].path: must be a path below"},
		{"a document that is not there", "docs/a.md", "docs/b.md", "in/docs/b.md: cannot be opened"},
		{"a repeated key", "name: s\n", "name: s\nname: t\n", "in/s.yaml:2: name: appears twice"},
		{"a repeated step", "name: wait", "name: send", "is taken by an earlier step"},
		{"a capture that is a variable", "{id: data.id}", "{tenant: data.id}", "is taken"},
		{"an empty segment", "data.status", "data..status", "dotted path"},
		{"too many **", "meta.**", "'**.a.**.b.**'", "at most twice"},
		{"an identifier nobody captures", "[id]", "[job]", "no step captures"},
		{"a tolerance that is no number", "0.5", "nan", "must be a number"},
		{"a negative tolerance", "0.5", "-1", "must be a number"},
		{"a poll that writes", "method: GET", "method: PUT", "only GET is polled"},
		{"an interval without a unit", "fail: bad", "interval: 5", "for example 500ms"},
		{"a list that is a text", "sessions:\n", "sessions: none\nother:\n", "must be a list"},
		{"a credential", "capture: {id", "headers: {authorization: x}\n        capture: {id", "comes from the target"},
		{"json beside multipart", "multipart:", "json: {a: 1}\n        multipart:", "exclude each other"},
		{"NaN in a body", "        multipart:\n          files:\n            - {field: file, path: docs/a.md}\n", "        json: {a: .nan}\n", "no NaN"},
		{"an alias", "        multipart:\n          files:\n            - {field: file, path: docs/a.md}\n", "        json: {a: &x 1, b: *x}\n", "aliases are not supported"},
		{"not YAML", "name: s", "name: [", "in/s.yaml: line"},
		{"a second suite", "name: s\n", "name: s\n---\n", "a second document"},
		{"a list", goodSuite, "- a", "in/s.yaml:1: suite: must be a mapping"},
		{"nothing", goodSuite, "", "the file is empty"},
		{"too large", goodSuite, strings.Repeat("#", 1<<20+1), "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(goodSuite, tt.old, tt.new, 1)
			if text == goodSuite {
				t.Fatal("the suite was not changed")
			}
			_, err := replay.Load(files(text), "in/s.yaml")
			if !errors.Is(err, &headgate.Error{Code: headgate.CodeConfigInvalid}) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("message\n%v\ndoes not say\n%s", err, tt.says)
			}
		})
	}
}

func TestLoadReportsEverythingWrongAtOnce(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("fail: bad", "interval: 5", "[id]", "[job]", "data.status", "data.").Replace(goodSuite)
	_, err := replay.Load(files(text), "in/s.yaml")
	if err == nil || strings.Count(err.Error(), "in/s.yaml:") != 3 {
		t.Errorf("want three problems:\n%v", err)
	}
}

func FuzzLoad(f *testing.F) {
	reference, err := os.ReadFile("../examples/bidding/replay/suite.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference))
	f.Add(goodSuite)
	f.Add("name: a\nsessions: [{name: a, steps: [{name: b, method: GET, path: /}]}]")
	f.Add("a: &a [*a]")
	f.Add("<<: {name: x}")
	f.Add("? {a: b}\n: c")
	f.Add("sessions: [{name: a, steps: [{name: b, method: POST, path: /, json: !!binary x}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := replay.Load(files(text), "in/s.yaml")
		if err == nil && (s.Name == "" || len(s.Sessions) == 0 || s.Digest == "") {
			t.Errorf("an empty suite was accepted: %+v", s)
		}
		if err != nil && headgate.AsError(err).Code != headgate.CodeConfigInvalid {
			t.Errorf("error %v", err)
		}
	})
}
