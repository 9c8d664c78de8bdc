package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/replay"
)

func bidding(t *testing.T) replay.Suite {
	t.Helper()
	s, err := replay.Load(os.DirFS("../examples/bidding/replay"), "suite.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func execute(t *testing.T, s replay.Suite, url string) replay.Run {
	t.Helper()
	run, err := replay.Execute(t.Context(), s, target(url), vars())
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func failures(r replay.Run) string {
	var b strings.Builder
	for _, s := range r.Sessions {
		for _, st := range s.Steps {
			if st.Outcome == replay.StepFailed {
				fmt.Fprintf(&b, "%s/%s: %s\n", s.Name, st.Name, st.Failure)
			}
		}
	}
	return b.String()
}

func TestExecuteTheReferenceSuite(t *testing.T) {
	t.Parallel()
	svc, url := newService(t)
	run := execute(t, bidding(t), url)
	if !run.Passed {
		t.Fatalf("failed:\n%s", failures(run))
	}
	if !strings.HasPrefix(run.ID, "rpy_") {
		t.Errorf("id %q", run.ID)
	}
	for name, want := range map[string]string{
		"parse_job_id": "job_", "parse_status": "succeeded", "evaluation_id": "eval_",
		"evaluation_job_id": "job_", "resume_job_id": "job_", "needs_human_review": "true",
	} {
		v, ok := run.Value(name)
		if !ok || !strings.HasPrefix(fmt.Sprint(v), want) {
			t.Errorf("%s = %v, want %s…", name, v, want)
		}
	}
	if v, _ := run.Value("needs_human_review"); v != true {
		t.Errorf("needs_human_review lost its type: %T", v)
	}
	want := "bid-qinghe.md text/markdown"
	if !strings.HasPrefix(svc.forms[0], want) || !strings.Contains(svc.forms[0], "prj-1-"+run.ID) {
		t.Errorf("uploaded %q, want %s… in a project of the run", svc.forms[0], want)
	}
	for _, step := range run.Sessions[0].Steps {
		if strings.Contains(string(step.Body), "eval_") || strings.Contains(string(step.Body), "request_id") {
			t.Errorf("%s is not normalised: %s", step.Name, step.Body)
		}
	}
}

func TestExecuteSkipsWhatDoesNotApply(t *testing.T) {
	t.Parallel()
	svc, url := newService(t)
	svc.resumable = false
	run := execute(t, bidding(t), url)
	if !run.Passed {
		t.Fatalf("failed:\n%s", failures(run))
	}
	for _, st := range run.Sessions[0].Steps {
		if skipped := st.Outcome == replay.StepSkipped; skipped != strings.HasPrefix(st.Name, "resume") {
			t.Errorf("%s: %s", st.Name, st.Outcome)
		}
	}
}

func TestAFailedStepEndsItsSessionOnly(t *testing.T) {
	t.Parallel()
	svc, url := newService(t)
	svc.failJobs = true
	run := execute(t, bidding(t), url)
	if run.Passed {
		t.Fatal("passed")
	}
	for _, s := range run.Sessions {
		if got := s.Steps[1]; got.Outcome != replay.StepFailed || got.Failure != `data.status is "failed"` {
			t.Errorf("%s/%s: %s %q", s.Name, got.Name, got.Outcome, got.Failure)
		}
		if got := s.Steps[2]; got.Outcome != replay.StepNotRun {
			t.Errorf("%s went on after a failure: %s", s.Name, got.Outcome)
		}
	}
}

const smallSuite = `name: small
sessions:
  - name: one
    steps:
      - {name: get, method: GET, path: "/x?q={{project_id}}", timeout: 1m}
`

func load(t *testing.T, text string) replay.Suite {
	t.Helper()
	s, err := replay.Load(fstest.MapFS{"s.yaml": {Data: []byte(text)}}, "s.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFailuresSayWhatHappened(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	js := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	}
	with := func(what string) string { return strings.Replace(smallSuite, "timeout: 1m", what, 1) }
	const poll = "poll: {path: data.status, until: done, interval: 10ms, timeout: 1m}"
	tests := []struct {
		name, suite string
		handler     http.HandlerFunc
		says        string
	}{
		{"another status", smallSuite, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "status 500, expected [200]"},
		{"no answer in time", with("timeout: 200ms"), func(http.ResponseWriter, *http.Request) { <-release }, "no answer within 200ms"},
		{"a redirect is not followed", smallSuite, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/x" {
				t.Error("followed")
			}
			http.Redirect(w, r, "/login", http.StatusFound)
		}, "status 302"},
		{"JSON that is not", smallSuite, func(w http.ResponseWriter, _ *http.Request) { js(w, "{") }, "is JSON and is not"},
		{"JSON with more after it", smallSuite, func(w http.ResponseWriter, _ *http.Request) { js(w, "{} {}") }, "is JSON and is not"},
		{"a body too deep", smallSuite, func(w http.ResponseWriter, _ *http.Request) {
			js(w, strings.Repeat("[", 300)+strings.Repeat("]", 300))
		}, "too deep"},
		{"cut off", smallSuite, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		}, "connection failed"},
		{"polled too long", with(strings.Replace(poll, "1m", "5s", 1)), func(w http.ResponseWriter, _ *http.Request) { js(w, `{"data":{"status":"running"}}`) },
			`data.status is "running" after 5s`},
		{"nothing to poll", with(poll), func(w http.ResponseWriter, _ *http.Request) { js(w, `{}`) }, "has no data.status"},
		{"polling fails", with(poll), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "status 404"},
		{"nothing to capture", with("capture: {a: data.id}"),
			func(w http.ResponseWriter, _ *http.Request) { js(w, `{"data":{"id":null}}`) }, "no data.id to capture as a"},
		{"an object to capture", with("capture: {a: data}"),
			func(w http.ResponseWriter, _ *http.Request) { js(w, `{"data":{}}`) }, "not a single value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(tt.handler)
			t.Cleanup(srv.CloseClientConnections)
			run, err := replay.Execute(t.Context(), load(t, tt.suite), target(srv.URL), vars())
			if err != nil {
				t.Fatal(err)
			}
			if got := run.Sessions[0].Steps[0].Failure; run.Passed || !strings.Contains(got, tt.says) {
				t.Errorf("failure %q does not say %q", got, tt.says)
			}
		})
	}
}

func TestNobodyListening(t *testing.T) {
	t.Parallel()
	run := execute(t, load(t, smallSuite), "http://"+needs.Addrs(t, 1)[0])
	if got := run.Sessions[0].Steps[0].Failure; !strings.Contains(got, "connection failed") || strings.Contains(got, "prj-1") {
		t.Errorf("failure %q", got)
	}
}

func TestExecuteRefuses(t *testing.T) {
	t.Parallel()
	s := load(t, smallSuite)
	noTenant := vars()
	noTenant.Tenant = ""
	for name, tt := range map[string]struct {
		target replay.Target
		vars   replay.Vars
	}{
		"no tenant":     {target("http://127.0.0.1:1"), noTenant},
		"no credential": {replay.Target{BaseURL: "http://127.0.0.1:1"}, vars()},
		"no address":    {target(""), vars()},
		"not http":      {target("ftp://x"), vars()},
	} {
		if _, err := replay.Execute(t.Context(), s, tt.target, tt.vars); !errors.Is(err, &headgate.Error{Code: headgate.CodeValidation}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay.Execute(ctx, s, target("http://127.0.0.1:1"), vars()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTemplatesAreEscapedAndTyped(t *testing.T) {
	t.Parallel()
	var got atomic.Pointer[string]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body any
		_ = json.NewDecoder(r.Body).Decode(&body)
		s := fmt.Sprint(r.URL.EscapedPath(), " ", r.URL.RawQuery, " ", body)
		got.Store(&s)
	}))
	t.Cleanup(srv.Close)
	s := load(t, `name: s
sessions:
  - name: one
    steps:
      - name: post
        method: POST
        path: "/a/{{project_id}}?b={{supplier_id}}"
        json: {flag: "{{force_hitl}}", text: "is {{force_hitl}}", n: 3}
`)
	v := vars()
	v.ProjectID, v.SupplierID = "../x?y", "a&b=c"
	if run, err := replay.Execute(t.Context(), s, target(srv.URL), v); err != nil || !run.Passed {
		t.Fatal(err, failures(run))
	}
	if want := "/a/..%2Fx%3Fy b=a%26b%3Dc map[flag:true n:3 text:is true]"; *got.Load() != want {
		t.Errorf("got  %s\nwant %s", *got.Load(), want)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*service)
		want   []string // step, path, kind
	}{
		{"the same service", func(*service) {}, nil},
		{"a score within the tolerance", func(s *service) { s.score += 0.009 }, nil},
		{"another score", func(s *service) { s.score = 60 }, []string{
			"evaluation.report data.score value", "report data.score value", "report data.score value"}},
		{"a member more", func(s *service) { s.extra = true }, []string{
			"evaluation.report data.debug added", "report data.debug added", "report data.debug added"}},
		{"no review", func(s *service) { s.resumable = false }, []string{
			"evaluation.report data.interrupt type", "evaluation.report data.needs_human_review value",
			"resume  outcome", "resume  status", "resume  content_type", "resume  missing",
			"resume.wait  outcome", "resume.wait  status", "resume.wait  content_type", "resume.wait  missing",
			"report data.interrupt type", "report data.needs_human_review value"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := bidding(t)
			_, stableURL := newService(t)
			candidate, candidateURL := newService(t)
			candidate.n = 1000 // other identifiers
			tt.change(candidate)
			diff := replay.Compare(execute(t, s, stableURL), execute(t, s, candidateURL))
			var got []string
			for _, d := range diff.Differences {
				got = append(got, d.Step+" "+d.Path+" "+d.Kind)
			}
			if !slices.Equal(got, tt.want) || diff.Equal != (len(tt.want) == 0) {
				t.Errorf("equal %v, differences:\n%s\nwant\n%s", diff.Equal, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func run(body string, tolerance map[string]float64) replay.Run {
	return replay.Run{
		SuiteDigest: "sha256:1", Compare: replay.Rules{Tolerance: tolerance},
		Sessions: []replay.SessionResult{{Name: "s", Steps: []replay.StepResult{{Name: "a", Body: json.RawMessage(body)}}}},
	}
}

func TestCompareValues(t *testing.T) {
	t.Parallel()
	within := map[string]float64{"n": 0.5, "list.*.n": 1, "**.deep": 2}
	tests := []struct {
		stable, candidate string
		want              string // path kind, comma-separated
	}{
		{`{"a":1,"b":[1,2]}`, `{"b":[1,2],"a":1}`, ""},
		{`{"a":1}`, `{"a":1.0}`, ""},
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`, "a value"},
		{`{"n":1}`, `{"n":1.5}`, ""},
		{`{"n":1}`, `{"n":1.51}`, "n value"},
		{`{"list":[{"n":1},{"n":2}]}`, `{"list":[{"n":2},{"n":4}]}`, "list.1.n value"},
		{`{"x":{"y":{"deep":1}}}`, `{"x":{"y":{"deep":3}}}`, ""},
		{`{"a":1}`, `{"a":"1"}`, "a type"},
		{`{"a":null}`, `{}`, "a missing"},
		{`{}`, `{"a":null}`, "a added"},
		{`{"a":false}`, `{"a":null}`, "a type"},
		{`{"a":"x"}`, `{"a":"y"}`, "a value"},
		{`[1,2,3]`, `[1,2]`, "2 missing"},
		{`[1]`, `{"0":1}`, " type"},
		{`{"b":1,"a":1,"c":1}`, `{"c":2,"b":2,"a":2}`, "a value,b value,c value"},
		{`{"a":1e400}`, `{"a":1e401}`, "a value"},
		{``, `{}`, " added"},
		{`{}`, ``, " missing"},
	}
	for _, tt := range tests {
		var got []string
		for _, d := range replay.Compare(run(tt.stable, within), run(tt.candidate, within)).Differences {
			got = append(got, d.Path+" "+d.Kind)
		}
		if strings.Join(got, ",") != tt.want {
			t.Errorf("%s against %s: %q, want %q", tt.stable, tt.candidate, got, tt.want)
		}
	}
}

func TestCompareIsBounded(t *testing.T) {
	t.Parallel()
	list := func(v string) string { return "[" + strings.Repeat(v+",", 499) + v + "]" }
	long := `"` + strings.Repeat("长", 1000) + `"`
	diff := replay.Compare(run(list("1"), nil), run(list(long), nil))
	if len(diff.Differences) != 200 || diff.Omitted != 300 || len(diff.Differences[0].Candidate) > 210 {
		t.Errorf("%d shown, %d omitted, %d bytes", len(diff.Differences), diff.Omitted, len(diff.Differences[0].Candidate))
	}
}

func TestRunsOfDifferentSuitesAreNeverEqual(t *testing.T) {
	t.Parallel()
	a, b := run(`1`, nil), run(`1`, nil)
	b.SuiteDigest = "sha256:2"
	if d := replay.Compare(a, b); d.Equal || d.Differences[0].Kind != replay.DiffSuite {
		t.Errorf("%+v", d)
	}
}

func TestARunSurvivesBeingStored(t *testing.T) {
	t.Parallel()
	s := bidding(t)
	_, url := newService(t)
	first := execute(t, s, url)
	data, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	var stored replay.Run
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	if d := replay.Compare(stored, execute(t, s, url)); !d.Equal {
		t.Errorf("%+v", d.Differences)
	}
	if got, err := replay.Isolation(t.Context(), s, target(url), stored, []string{"globex"}); err != nil || len(got.Probes) == 0 {
		t.Errorf("%v", err)
	}
	if strings.Contains(string(data), "tok-acme") {
		t.Error("the record holds a credential")
	}
}

func TestIsolation(t *testing.T) {
	t.Parallel()
	type counts struct{ scope, bypass, inconclusive bool }
	tests := []struct {
		name   string
		change func(*service)
		want   counts
	}{
		{"apart", func(*service) {}, counts{}},
		{"a leak across tenants", func(s *service) { s.leak = true }, counts{scope: true}},
		{"open to everybody", func(s *service) { s.open = true }, counts{scope: true, bypass: true}},
		{"x-tenant-id is believed", func(s *service) { s.trusting = true }, counts{scope: true, bypass: true}},
		{"a list shows everybody's", func(s *service) { s.listAll = true }, counts{scope: true}},
		{"the other credential is not accepted", func(s *service) { s.locked["globex"] = true }, counts{inconclusive: true}},
		{"the service fails for the other", func(s *service) { s.failFor = "globex" }, counts{inconclusive: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := bidding(t)
			if tt.want.inconclusive {
				s.Sessions = s.Sessions[:1]
				s.Sessions[0].Steps = s.Sessions[0].Steps[:2]
			}
			svc, url := newService(t)
			r := execute(t, s, url)
			if !r.Passed {
				t.Fatal(failures(r))
			}
			svc.mu.Lock()
			tt.change(svc)
			svc.mu.Unlock()
			got, err := replay.Isolation(t.Context(), s, target(url), r, []string{"acme", "globex"})
			if err != nil {
				t.Fatal(err)
			}
			have := counts{got.TenantScopeViolations > 0, got.AuthBypassFindings > 0, got.Inconclusive > 0}
			if have != tt.want {
				t.Errorf("%+v, want %+v; probes %+v", have, tt.want, got.Probes)
			}
		})
	}
}

func TestIsolationAsksForEverythingTheOwnerSaw(t *testing.T) {
	t.Parallel()
	s := bidding(t)
	_, url := newService(t)
	tgt := target(url)
	tgt.Headers = map[string]string{"Authorization": "Bearer tok-acme", "x-tenant-id": "acme", "Cookie": "session=acme"}
	r, err := replay.Execute(t.Context(), s, tgt, vars())
	if err != nil {
		t.Fatal(err)
	}
	got, err := replay.Isolation(t.Context(), s, tgt, r, []string{"globex", "initech"})
	if err != nil {
		t.Fatal(err)
	}
	if got.TenantScopeViolations+got.AuthBypassFindings+got.Inconclusive > 0 {
		t.Errorf("the owner's own headers were sent along: %+v", got)
	}
	asked := map[string]int{}
	for _, p := range got.Probes {
		asked[p.Session+"/"+p.Step]++
	}
	for _, step := range []string{
		"chinese-bid/parse.wait", "chinese-bid/parse.page", "chinese-bid/evaluation.wait", "chinese-bid/evaluation.report",
		"chinese-bid/resume", "chinese-bid/resume.wait", "chinese-bid/report", "chinese-bid/dead-letters",
		"english-bid/parse.wait", "english-bid/evaluation.wait", "english-bid/report",
	} {
		if asked[step] != 6 { // nobody and two tenants, each also claiming to be the owner
			t.Errorf("%s was asked %d times, want 6", step, asked[step])
		}
		delete(asked, step)
	}
	if len(asked) > 0 {
		t.Errorf("also asked: %v", asked)
	}
}

func TestIsolationClaimsTheOwnerInTheConfiguredHeader(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok-acme" && r.Header.Get("X-Org") != "acme" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(srv.Close)
	s, tgt := load(t, smallSuite), target(srv.URL)
	tgt.TenantHeader = "x-org"
	r, err := replay.Execute(t.Context(), s, tgt, vars())
	if err != nil {
		t.Fatal(err)
	}
	got, err := replay.Isolation(t.Context(), s, tgt, r, []string{"globex"})
	if err != nil || got.AuthBypassFindings != 1 || got.TenantScopeViolations != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestIsolationIsNeverProvenByNothing(t *testing.T) {
	t.Parallel()
	s := bidding(t)
	svc, url := newService(t)
	good := execute(t, s, url)
	svc.failJobs = true
	bad := execute(t, s, url)
	other := good
	other.SuiteDigest = "sha256:old"
	same := target(url)
	same.Credential = func(string) string { return "tok-acme" }
	for name, tt := range map[string]struct {
		target replay.Target
		run    replay.Run
		others []string
	}{
		"no other tenant":        {target(url), good, nil},
		"only the owner":         {target(url), good, []string{"acme"}},
		"one credential for all": {same, good, []string{"globex"}},
		"nothing passed":         {target(url), bad, []string{"globex"}},
		"a run of another suite": {target(url), other, []string{"globex"}},
	} {
		if _, err := replay.Isolation(t.Context(), s, tt.target, tt.run, tt.others); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWaitHealthy(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(srv.Close)
	if err := replay.WaitHealthy(t.Context(), srv.URL, time.Minute); err != nil {
		t.Fatal(err)
	}
	calls.Store(-1 << 30)
	err := replay.WaitHealthy(t.Context(), srv.URL, 250*time.Millisecond)
	if !errors.Is(err, &headgate.Error{Code: headgate.CodeUnavailable}) || !strings.Contains(err.Error(), "503") {
		t.Errorf("error %v", err)
	}
}
