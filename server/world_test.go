package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/cmd"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/server"
)

// TestMain lets the test binary be the reference service, so that tests can
// stop a real process and start it again.
func TestMain(m *testing.M) {
	if os.Getenv("BIDDING_MAIN") == "" {
		os.Exit(m.Run())
	}
	if err := cmd.Command().Execute(); err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		os.Exit(1)
	}
}

// service is the reference service as a process of its own.
type service struct {
	dir, addr string
	otlp      string
	tokens    map[string]string
	process   *exec.Cmd
}

// newService lays out what a control plane is told about the service, and
// starts it.
func newService(t *testing.T, otlp string) *service {
	t.Helper()
	s := &service{dir: t.TempDir(), addr: needs.Addrs(t, 1)[0], otlp: otlp, tokens: map[string]string{}}
	err := fs.WalkDir(bidding.Description, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(bidding.Description, name)
		if err != nil {
			return err
		}
		if name == "headgate.yaml" {
			content = bytes.ReplaceAll(content, []byte("127.0.0.1:9001"), []byte(s.addr))
		}
		path := filepath.Join(s.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range cmd.Tenants {
		s.tokens[tenant] = "token-of-" + tenant + "-in-tests"
		if err := os.WriteFile(filepath.Join(s.dir, "tokens", tenant), []byte(s.tokens[tenant]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.WriteTokens(filepath.Join(s.dir, "tokens.json"), s.tokens); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func (s *service) start(t *testing.T) {
	t.Helper()
	args := []string{"serve", "--listen", s.addr, "--db", filepath.Join(s.dir, "bidding.db"), "--tokens", filepath.Join(s.dir, "tokens.json")}
	if s.otlp != "" {
		args = append(args, "--otlp", "http://"+s.otlp)
	}
	s.process = exec.Command(os.Args[0], args...)
	s.process.Env = append(os.Environ(), "BIDDING_MAIN=1")
	out, err := s.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("the reference service did not start: %q, %v", line, err)
	}
}

// stop kills the process; a second time does nothing.
func (s *service) stop() {
	if s.process != nil {
		_ = s.process.Process.Kill() // it may have ended
		_ = s.process.Wait()
		s.process = nil
	}
}

func (s *service) description(t *testing.T) config.Service {
	t.Helper()
	d, err := config.Load(filepath.Join(s.dir, "headgate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// client speaks to the service itself, as a tenant.
func (s *service) client(tenant string) *client.Client {
	return &client.Client{BaseURL: "http://" + s.addr, Token: s.tokens[tenant]}
}

// world is a control plane that runs, with the reference service behind it.
type world struct {
	*server.Server
	options server.Options
	service *service
	log     *lockedBuffer
	http    *http.Client
	// as is put on every request unless the request says otherwise.
	as http.Header
}

func settings(dir string) config.Settings {
	s := config.DefaultSettings()
	s.DataDir, s.Listen, s.OTLPGRPC, s.OTLPHTTP, s.ProxyListen = dir, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return s
}

// startWorld serves until the test ends. A development server gets
// x-internal-debug on every request, another one an operator's token.
func startWorld(t *testing.T, development bool, change func(*server.Options)) *world {
	t.Helper()
	w := &world{log: &lockedBuffer{}, http: &http.Client{Timeout: time.Minute}}
	w.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	w.options = server.Options{
		Settings: settings(t.TempDir()), Development: development, Forward: development, Version: "test",
		Logger: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	otlp := ""
	if development {
		w.options.Settings.EvidenceMode = config.EvidenceDeclared
		w.options.Settings.OTLPHTTP = needs.Addrs(t, 1)[0]
		otlp = w.options.Settings.OTLPHTTP
	}
	w.service = newService(t, otlp)
	w.options.Services = []config.Service{w.service.description(t)}
	if change != nil {
		change(&w.options)
	}
	w.serve(t)
	t.Cleanup(func() { w.stop(t) })
	if w.as = (http.Header{"X-Internal-Debug": {"true"}}); !development {
		w.as = bearer(w.token(t, access.Operator))
	}
	return w
}

func (w *world) serve(t *testing.T) {
	t.Helper()
	var err error
	if w.Server, err = server.New(t.Context(), w.options); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) stop(t *testing.T) {
	t.Helper()
	if err := w.Stop(); err != nil {
		t.Errorf("the server did not stop cleanly: %v", err)
	}
}

func (w *world) token(t *testing.T, role access.Role, tenants ...string) string {
	t.Helper()
	token, err := w.IssueToken(t.Context(), "test "+string(role), role, tenants)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// tenant is a header that narrows a request.
func tenant(id string) http.Header { return http.Header{"X-Tenant-Id": {id}} }

// nobody takes the credential off a request.
var nobody = http.Header{"X-Internal-Debug": nil, "Authorization": nil}

// answer is a response with its envelope.
type answer struct {
	status  int
	header  http.Header
	raw     string
	Success *bool
	Data    json.RawMessage
	Message string
	Error   *struct {
		Code, Message, Class string
		Retryable            *bool
		Details              map[string]any
	}
	Meta struct {
		TraceID   string `json:"trace_id"`
		RequestID string `json:"request_id"`
	}
}

// code is the error's code, "" for a success.
func (a answer) code() string {
	if a.Error == nil {
		return ""
	}
	return a.Error.Code
}

// send makes a request as it is, and returns what came back.
func (w *world) send(t *testing.T, method, path string, body io.Reader, header ...http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range append([]http.Header{w.as}, header...) {
		for name, values := range h {
			if req.Header[name] = values; name == "Host" {
				req.Host = values[0]
			}
		}
	}
	res, err := w.http.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return res, string(raw)
}

// do makes an API request. Every answer is held to the envelope here, so that
// no test has to.
func (w *world) do(t *testing.T, method, path string, body any, header ...http.Header) answer {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(encoded)
	}
	res, raw := w.send(t, method, "/api/v1"+path, r, header...)
	a := answer{status: res.StatusCode, header: res.Header, raw: raw}
	if err := json.Unmarshal([]byte(raw), &a); err != nil {
		t.Fatalf("%s %s: %d is not the envelope: %v\n%s", method, path, a.status, err, raw)
	}
	a.checkEnvelope(t, method+" "+path)
	return a
}

func (a answer) checkEnvelope(t *testing.T, what string) {
	t.Helper()
	classes := []string{"validation", "business_rule", "transient", "permanent", "security_sensitive"}
	switch {
	case a.Success == nil || *a.Success != (a.status < 400):
		t.Errorf("%s: success does not say what status %d says: %s", what, a.status, a.raw)
	case *a.Success && (a.Message != "ok" || a.Data == nil || a.Error != nil):
		t.Errorf("%s: not the success envelope: %s", what, a.raw)
	case !*a.Success && (a.Error == nil || a.Error.Code == "" || a.Error.Message == "" || a.Error.Retryable == nil || !slices.Contains(classes, a.Error.Class)):
		t.Errorf("%s: not the error envelope: %s", what, a.raw)
	}
	if a.Meta.TraceID == "" || a.Meta.TraceID != a.header.Get("x-trace-id") || a.Meta.RequestID == "" || a.Meta.RequestID != a.header.Get("x-request-id") {
		t.Errorf("%s: meta %+v and headers %q, %q differ", what, a.Meta, a.header.Get("x-trace-id"), a.header.Get("x-request-id"))
	}
	if got := a.header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("%s: content type %q", what, got)
	}
}

// post makes a request to the operators' part and returns its data.
func (w *world) post(t *testing.T, path string, body any, header ...http.Header) object {
	t.Helper()
	return w.data(t, w.do(t, http.MethodPost, "/internal"+path, body, header...))
}

func (w *world) data(t *testing.T, a answer) object {
	t.Helper()
	if a.status >= 300 {
		t.Fatalf("status %d: %s", a.status, a.raw)
	}
	var o object
	if err := json.Unmarshal(a.Data, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// refuse expects an error.
func (w *world) refuse(t *testing.T, method, path string, body any, status int, code string, header ...http.Header) answer {
	t.Helper()
	a := w.do(t, method, path, body, header...)
	if a.status != status || a.code() != code {
		t.Errorf("%s %s %.200v: got %d %s, want %d %s\n%.500s", method, path, body, a.status, a.code(), status, code, a.raw)
	}
	return a
}

// object is a JSON object, written or read.
type object map[string]any

// in returns what is inside, by a dotted path.
func (o object) in(path string) any {
	var v any = map[string]any(o)
	for _, name := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// with returns a deep copy with the value at path replaced; the value gone
// takes it out.
func (o object) with(path string, v any) object {
	c := object{}
	for k, old := range o {
		c[k] = old
	}
	head, tail, nested := strings.Cut(path, ".")
	switch {
	case nested:
		inner, ok := c[head].(object)
		if !ok {
			inner = object{}
		}
		c[head] = inner.with(tail, v)
	case v == gone:
		delete(c, head)
	default:
		c[head] = v
	}
	return c
}

var gone = new(int)

func strs(v any) []string {
	out := []string{}
	list, _ := v.([]any)
	for _, s := range list {
		out = append(out, s.(string))
	}
	return out
}

func same(t *testing.T, what string, got any, want ...string) {
	t.Helper()
	if g := strs(got); !slices.Equal(g, want) {
		t.Errorf("%s: got %v, want %v", what, g, want)
	}
}

// fields expects these names in an object.
func fields(t *testing.T, what string, o any, names ...string) {
	t.Helper()
	m, ok := o.(map[string]any)
	if obj, isObject := o.(object); isObject {
		m, ok = obj, true
	}
	if !ok {
		t.Errorf("%s is %v, not an object", what, o)
		return
	}
	for _, n := range names {
		if _, ok := m[n]; !ok {
			t.Errorf("%s has no %s: %v", what, n, m)
		}
	}
}

// lockedBuffer is a log that a test can read while the server writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
