package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
)

// endpoints are the contract's operators' endpoints with a request that each
// accepts.
func endpoints() map[string]object {
	readiness := object{"release_id": "r", "dataset_version": "v1.0.0", "replay_passed": true, "gate_results": allGates(true)}
	out := map[string]object{
		"/release/rollout/plan":       {"release_id": "r", "tenant_whitelist": []string{"acme"}, "enabled_project_sizes": []string{"small"}},
		"/release/rollout/decision":   {"release_id": "r", "tenant_id": "acme", "project_size": "small"},
		"/release/rollback/execute":   {"release_id": "r", "breaches": []object{breach("quality", 1)}},
		"/release/replay/e2e":         {"release_id": "r", "project_id": "p", "supplier_id": "s"},
		"/release/readiness/evaluate": readiness,
		"/release/pipeline/execute":   readiness,
		"/ops/data-feedback/run":      {"release_id": "r", "dlq_ids": []string{}},
		"/ops/strategy-tuning/apply":  strategy("r"),
	}
	for gate := range gates {
		out[gatePath(gate)] = passing(gate)
	}
	return out
}

func (w *world) requestsKeepTheirIDs(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	path := "/internal" + gatePath("cost")
	for _, body := range []any{passing("cost"), "{"} {
		a := w.do(t, "POST", path, body, http.Header{"X-Trace-Id": {"trace-1"}, "X-Request-Id": {"req-1"}})
		if a.Meta.TraceID != "trace-1" || a.Meta.RequestID != "req-1" {
			t.Errorf("ids are not echoed: %+v", a.Meta)
		}
		a = w.do(t, "POST", path, body, http.Header{"X-Trace-Id": {"trace-1"}, "Traceparent": {"00-" + trace + "-00f067aa0ba902b7-01"}})
		if a.Meta.TraceID != trace {
			t.Errorf("traceparent does not win over x-trace-id: %+v", a.Meta)
		}
		for _, useless := range []string{"garbage", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"} {
			if a = w.do(t, "POST", path, body, http.Header{"X-Trace-Id": {"trace-1"}, "Traceparent": {useless}}); a.Meta.TraceID != "trace-1" {
				t.Errorf("traceparent %q: trace id %q", useless, a.Meta.TraceID)
			}
		}
	}
	w.post(t, gatePath("cost"), passing("cost"), http.Header{"Content-Type": {"application/json; charset=utf-8"}})
	first, second := w.do(t, "POST", path, passing("cost")), w.do(t, "POST", path, passing("cost"))
	if first.Meta.RequestID == second.Meta.RequestID || first.Meta.TraceID == second.Meta.TraceID {
		t.Errorf("two requests share ids: %+v", first.Meta)
	}
}

func (w *world) unknownPathsAndMethods(t *testing.T) {
	for path := range endpoints() {
		a := w.refuse(t, "GET", "/internal"+path, nil, 405, "REQ_METHOD_NOT_ALLOWED")
		if a.header.Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", path, a.header.Get("Allow"))
		}
		w.refuse(t, "DELETE", "/internal"+path, nil, 405, "REQ_METHOD_NOT_ALLOWED")
		w.refuse(t, "POST", "/internal"+path+"/more", "{}", 404, "RESOURCE_NOT_FOUND")
	}
	w.refuse(t, "POST", "/internal/ops/metrics/summary", "{}", 405, "REQ_METHOD_NOT_ALLOWED")
	w.refuse(t, "POST", "/internal/robustness-gates/evaluate", "{}", 404, "RESOURCE_NOT_FOUND")
	w.refuse(t, "GET", "/", nil, 404, "RESOURCE_NOT_FOUND")
	w.refuse(t, "POST", "/jobs/job_1", "{}", 405, "REQ_METHOD_NOT_ALLOWED")
}

func (w *world) internalIsForOperators(t *testing.T) {
	all := endpoints()
	all["/nothing/here"] = nil // not even whether a path exists
	for path, body := range all {
		a := w.refuse(t, "POST", "/internal"+path, body, 403, "AUTH_FORBIDDEN", nobody)
		if a.Error.Class != "security_sensitive" {
			t.Errorf("%s: class %s", path, a.Error.Class)
		}
		w.refuse(t, "POST", "/internal"+path, body, 403, "AUTH_FORBIDDEN", nobody, http.Header{"X-Internal-Debug": {"false"}})
	}
	w.refuse(t, "GET", "/internal/ops/metrics/summary", nil, 403, "AUTH_FORBIDDEN", nobody)
	for _, role := range []access.Role{access.Viewer, access.Releaser, access.Approver} {
		w.refuse(t, "POST", "/internal"+gatePath("cost"), passing("cost"), 403, "AUTH_FORBIDDEN", nobody, bearer(w.token(t, role)))
	}
	operator := bearer(w.token(t, access.Operator))
	w.post(t, gatePath("cost"), passing("cost"), nobody, operator)
	for _, header := range []string{"Bearer hg_nobody.secret", "Bearer ", "Basic b3BlcmF0b3I6eA==", "Bearer " + strings.Repeat("x", 5000)} {
		a := w.do(t, "POST", "/internal"+gatePath("cost"), passing("cost"), nobody, http.Header{"Authorization": {header}})
		if a.status != 401 && a.status != 403 {
			t.Errorf("Authorization %.20q: status %d", header, a.status)
		}
	}
	for _, path := range []string{"/releases", "/releases/x", "/jobs/job_x", "/evidence/checkpoint", "/releases/x/bundle"} {
		w.refuse(t, "GET", path, nil, 401, "AUTH_UNAUTHORIZED", nobody)
	}
}

// On a server that is not for development, x-internal-debug means nothing.
func (w *world) debugHeaderMeansNothing(t *testing.T) {
	for path, body := range endpoints() {
		w.refuse(t, "POST", "/internal"+path, body, 403, "AUTH_FORBIDDEN", nobody, http.Header{"X-Internal-Debug": {"true"}})
	}
	w.refuse(t, "GET", "/releases", nil, 401, "AUTH_UNAUTHORIZED", nobody, http.Header{"X-Internal-Debug": {"true"}})
}

// A page of another site that resolves its own name to loopback must not act
// as the operator.
func (w *world) debugHeaderNeedsLoopbackHost(t *testing.T) {
	for _, host := range []string{"evil.example", "evil.example:8080", "127.0.0.1.evil.example"} {
		w.refuse(t, "POST", "/internal"+gatePath("cost"), passing("cost"), 403, "AUTH_FORBIDDEN", http.Header{"Host": {host}})
	}
	for _, host := range []string{"127.0.0.1", "localhost:8080", "[::1]:8080", "[::1]"} {
		w.post(t, gatePath("cost"), passing("cost"), http.Header{"Host": {host}})
	}
}

func (w *world) tenantsOnlyNarrow(t *testing.T) {
	acme, borealis := bearer(w.token(t, access.Operator, "acme")), bearer(w.token(t, access.Operator, "borealis"))
	summary := "/internal/ops/metrics/summary"
	for _, tt := range []struct {
		who  http.Header
		asks string
		is   string
	}{
		{acme, "", "acme"}, {acme, "acme", "acme"}, {acme, "borealis", ""},
		{borealis, "", "borealis"}, {borealis, "acme", ""}, {borealis, "borealis", "borealis"},
		{w.as, "acme", "acme"}, {w.as, "borealis", "borealis"},
	} {
		header := http.Header{}
		if tt.asks != "" {
			header = tenant(tt.asks)
		}
		if tt.is == "" {
			a := w.refuse(t, "GET", summary, nil, 403, "TENANT_SCOPE_VIOLATION", nobody, tt.who, header)
			if a.Error.Class != "security_sensitive" {
				t.Errorf("class %s", a.Error.Class)
			}
			w.refuse(t, "GET", "/releases", nil, 403, "TENANT_SCOPE_VIOLATION", nobody, tt.who, header)
			continue
		}
		got := w.data(t, w.do(t, "GET", summary, nil, nobody, tt.who, header))
		if got["tenant_id"] != tt.is {
			t.Errorf("asking for %q: tenant %v, want %s", tt.asks, got["tenant_id"], tt.is)
		}
	}
}

// rolesDoWhatTheyAreFor: everybody reads, and each role does its own.
func (w *world) rolesDoWhatTheyAreFor(t *testing.T) {
	w.startRelease(t, "rel-roles", "v1.1.0")
	reason := object{"reason": "a test of roles"}
	for _, tt := range []struct {
		method, path string
		body         object
		by           access.Role
	}{
		{"GET", "/releases", nil, access.Viewer},
		{"GET", "/releases/rel-roles", nil, access.Viewer},
		{"GET", "/releases/rel-roles/events", nil, access.Viewer},
		{"GET", "/rules", nil, access.Viewer},
		{"POST", "/releases/rel-roles/stages/build", object{"verdict": "pass"}, access.Releaser},
		{"POST", "/releases/rel-roles/approve", reason, access.Approver},
		{"POST", "/releases/rel-roles/overrides", object{"gate": "cost", "reason": "a test of roles", "expires_s": 60}, access.Approver},
		{"POST", "/releases/rel-roles/pause", reason, access.Releaser},
		{"POST", "/releases/rel-roles/resume", reason, access.Releaser},
		{"POST", "/releases/rel-roles/share", object{"reason": "a test of roles", "share": 0.2}, access.Releaser},
		{"POST", "/releases/rel-roles/abort", reason, access.Releaser},
	} {
		for _, role := range []access.Role{access.Viewer, access.Releaser, access.Approver} {
			if role != tt.by && tt.by != access.Viewer {
				w.refuse(t, tt.method, tt.path, tt.body, 403, "AUTH_FORBIDDEN", nobody, bearer(w.token(t, role)))
			}
		}
		// A role that may approve is told that nothing waits for it.
		if a := w.do(t, tt.method, tt.path, tt.body, nobody, bearer(w.token(t, tt.by))); a.status >= 300 && a.Error.Code != "NOTHING_TO_APPROVE" {
			t.Errorf("%s %s as %s: %d %s", tt.method, tt.path, tt.by, a.status, a.raw)
		}
	}
}

const secret = "sk-live-4f9a7c1e-do-not-repeat"

// Whatever is wrong with a request, nothing of it comes back or is logged.
func (w *world) bodiesAreNotRepeated(t *testing.T) {
	bodies := []string{
		secret, `{"` + secret + `"`, `"` + secret + `"`, `["` + secret + `"]`, `{"release_id": {"a": "` + secret + `"}}`,
	}
	for path, good := range endpoints() {
		for field := range good {
			for _, v := range []any{secret, []string{secret}, object{secret: secret}, object{secret: 1}} {
				if _, isText := good[field].(string); isText && v == secret {
					continue
				}
				bad, err := json.Marshal(good.with(field, v))
				if err != nil {
					t.Fatal(err)
				}
				bodies = append(bodies, string(bad))
			}
		}
		for _, body := range bodies {
			a := w.do(t, "POST", "/internal"+path, body)
			if a.status == 200 && strings.Contains(path, "rollout/plan") {
				continue // a whitelisted tenant may have any name
			}
			if a.status != 400 && a.status != 404 && a.status != 200 {
				t.Errorf("%s %.300s: status %d %s", path, body, a.status, a.raw)
			}
			if a.status >= 400 && strings.Contains(a.raw, secret) {
				t.Errorf("%s repeats the body: %s", path, a.raw)
			}
		}
		bodies = bodies[:5]
	}
	// A number that no float can hold is quoted by the JSON decoder.
	digits := "31415926535897932384626433832795"
	a := w.refuse(t, "POST", "/internal"+gatePath("cost"), `{"dataset_id":"d","metrics":{"task_cost_p95":`+digits+`e999}}`, 400, "REQ_VALIDATION_FAILED")
	if strings.Contains(a.raw, digits) {
		t.Errorf("the answer repeats the body: %s", a.raw)
	}
	if log := w.log.String(); strings.Contains(log, secret) || strings.Contains(log, digits) {
		t.Error("the log repeats a body")
	}
	for _, trace := range []string{"goroutine ", ".go:", "panic"} {
		if strings.Contains(a.raw, trace) {
			t.Errorf("a stack trace: %s", a.raw)
		}
	}
}

// A client that first sends all of a huge body and then reads must find the
// answer, not a broken connection.
func (w *world) hugeBodiesAreRefused(t *testing.T) {
	const size = 50 << 20
	for _, chunked := range []bool{false, true} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest("POST", w.URL()+"/api/v1/internal"+gatePath("cost"), io.LimitReader(spaces{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = w.as.Clone()
		req.Header.Set("Content-Type", "application/json")
		if req.ContentLength = size; chunked {
			req.ContentLength = -1
		}
		if err := req.Write(conn); err != nil {
			t.Fatalf("chunked %v: the body could not be sent: %v", chunked, err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			t.Fatalf("chunked %v: no answer: %v", chunked, err)
		}
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		a := answer{status: res.StatusCode, header: res.Header, raw: string(raw)}
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatal(err)
		}
		a.checkEnvelope(t, "50 MB")
		if a.status != 413 || a.code() != "REQ_BODY_TOO_LARGE" {
			t.Errorf("50 MB: %d %s", a.status, a.raw)
		}
	}
}

// Nobody can make the server hold anything, and those who may send reports no
// more than there is room for.
func TestReportsTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	w := startWorld(t, false, nil)
	for _, path := range []string{"/releases", "/releases/x/evidence", "/releases/x/abort", "/rules", "/rules/backtest"} {
		w.refuse(t, "POST", path, "not looked into", 401, "AUTH_UNAUTHORIZED", nobody)
	}
	report := func() answer { return w.do(t, "POST", "/releases/x/evidence?gate=cost&format=k6&name=k6.json", "{}") }
	var uploads []net.Conn
	upload := func() {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		uploads = append(uploads, conn)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST /api/v1/releases/x/evidence?gate=cost&format=k6&name=k6.json HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n"+
			"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", w.as.Get("Authorization"), 64<<20)
		if err != nil {
			t.Fatal(err)
		}
	}
	// One more each time: whoever asks while the small report is looked at is
	// refused for good.
	eventually(t, "four large reports leave no room", func() bool {
		a := report()
		if a.status != 503 {
			upload()
		}
		return a.status == 503 && a.code() == "UNAVAILABLE" && a.Error.Class == "transient"
	})
	if len(uploads) < 4 {
		t.Errorf("%d large reports left no room", len(uploads))
	}
	for _, conn := range uploads {
		_ = conn.Close()
	}
	eventually(t, "there is room again", func() bool { return report().status == 404 })
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func breach(gate string, failures int) object {
	return object{"gate": gate, "metric_code": strings.ToUpper(gate) + "_LOW", "consecutive_failures": failures}
}

func allGates(passed bool) object {
	out := object{}
	for _, g := range []string{"quality", "performance", "security", "cost", "rollout", "rollback", "ops"} {
		out[g] = passed
	}
	return out
}

// trail counts a release's audit events of a kind.
func (w *world) trail(t *testing.T, kind, release string, header ...http.Header) int {
	t.Helper()
	a := w.do(t, "GET", "/releases/"+release+"/events", nil, header...)
	if a.status == 404 {
		return 0
	}
	var rows []struct{ Kind string }
	if err := json.Unmarshal(a.Data, &rows); err != nil {
		t.Fatal(fmt.Errorf("%w: %s", err, a.raw))
	}
	n := 0
	for _, row := range rows {
		if row.Kind == kind {
			n++
		}
	}
	return n
}
