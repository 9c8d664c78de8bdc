package tempo_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/tempo"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	other   = "1af7651916cd43dd8448eb211c80319c"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func document(t *testing.T) ptrace.Traces {
	t.Helper()
	td, err := new(ptrace.JSONUnmarshaler).UnmarshalTraces(read(t, "tempo-trace.json"))
	if err != nil {
		t.Fatal(err)
	}
	return td
}

// server answers as recorded and remembers what it was asked.
type server struct {
	url string
	mu  sync.Mutex
	ask []*url.URL
}

func (s *server) asked(path string) url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.ask {
		if u.Path == path {
			return u.Query()
		}
	}
	return nil
}

func serve(t *testing.T, answers map[string][]byte) *server {
	t.Helper()
	s := new(server)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.ask = append(s.ask, r.URL)
		s.mu.Unlock()
		answer, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if strings.HasSuffix(r.URL.Path, "319c") && strings.HasPrefix(r.URL.Path, "/tempo") && r.Header.Get("Accept") != "application/protobuf" {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		_, _ = w.Write(answer)
	}))
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func tempoServer(t *testing.T) *server {
	t.Helper()
	body := read(t, "tempo-trace.pb")
	return serve(t, map[string][]byte{
		"/tempo/api/search":                                     read(t, "tempo-search.json"),
		"/tempo/api/traces/" + traceID:                          body,
		"/tempo/api/traces/" + strings.TrimPrefix(traceID, "0"): body,
	})
}

func jaegerServer(t *testing.T) *server {
	t.Helper()
	body := read(t, "jaeger-traces.json")
	return serve(t, map[string][]byte{"/jaeger/api/services": read(t, "jaeger-services.json"), "/jaeger/api/traces": body, "/jaeger/api/traces/" + traceID: body})
}

func at(ms int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, ms*int(time.Millisecond), time.UTC)
}

// story is what both servers know of acme's request.
func story() []telemetry.Event {
	base := telemetry.Event{
		TraceID: traceID, Service: "bidding", Version: "v1.4.0", Environment: "production", Instance: "bidding-1", TenantID: "acme", RequestID: "req_1",
	}
	api, db := base, base
	api.Kind, api.Time, api.End, api.SpanID, api.Name, api.Status, api.Message = telemetry.Span, at(0), at(250), "00f067aa0ba902b7", "POST /api/v1/evaluations", "error", "database is locked"
	api.Attributes = map[string]string{"http.response.status_code": "500"}
	db.Kind, db.Time, db.End, db.SpanID, db.ParentID, db.Name, db.Status = telemetry.Span, at(100), at(200), "00f067aa0ba902b8", "00f067aa0ba902b7", "INSERT", "error"
	db.JobID, db.ErrorCode, db.Links = "job_1", "DB_LOCKED", []string{other}
	log := db
	log.Kind, log.Time, log.End, log.ParentID, log.Name, log.Status, log.Message = telemetry.Log, at(150), time.Time{}, "", "exception", "ERROR", "SQLITE_BUSY"
	log.ErrorCode, log.Links, log.Attributes = "", nil, map[string]string{"exception.message": "SQLITE_BUSY"}
	return []telemetry.Event{api, db, log}
}

func finders(t *testing.T) map[string]telemetry.Finder {
	t.Helper()
	a, err := tempo.New(tempoServer(t).url+"/tempo", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tempo.NewJaeger(jaegerServer(t).url+"/jaeger/", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	store, err := events.Open(t.TempDir(), events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if _, err := store.AppendTraces(t.Context(), "", document(t)); err != nil {
		t.Fatal(err)
	}
	return map[string]telemetry.Finder{"tempo": a, "jaeger": b, "embedded": store}
}

// TestEveryBackendTellsTheSameStory asks both adapters and the embedded store.
func TestEveryBackendTellsTheSameStory(t *testing.T) {
	t.Parallel()
	all := story()
	for name, f := range finders(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, tt := range []struct {
				q    telemetry.Query
				want []telemetry.Event
			}{
				{telemetry.Query{TraceID: traceID, TenantID: "acme"}, all},
				{telemetry.Query{RequestID: "req_1", TenantID: "acme", From: at(0), To: at(1000)}, all},
				{telemetry.Query{RequestID: "req_1", TenantID: "acme", Service: "bidding", Version: "v1.4.0", Limit: 1, From: at(0), To: at(1000)}, all[2:]},
				{telemetry.Query{ErrorCode: "DB_LOCKED", TenantID: "acme", From: at(0), To: at(1000)}, all[1:2]},
				{telemetry.Query{JobID: "job_1", TenantID: "acme", From: at(120), To: at(1000)}, all[2:]},
				{telemetry.Query{RequestID: "req_1", TenantID: "initech"}, nil},
				{telemetry.Query{TraceID: other}, nil},
			} {
				got, err := f.Find(t.Context(), tt.q)
				if err != nil {
					t.Fatal(err)
				}
				if len(got)+len(tt.want) == 0 {
					continue
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%+v (-want +got):\n%s", tt.q, diff)
				}
			}
			if _, err := f.Find(t.Context(), telemetry.Query{Service: "bidding"}); headgate.AsError(err).Code != headgate.CodeValidation {
				t.Errorf("a query without an identifier: %v", err)
			}
		})
	}
}

func TestWhatTempoIsAsked(t *testing.T) {
	t.Parallel()
	s := tempoServer(t)
	f, err := tempo.New(s.url+"/tempo", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	hostile := "x\" } || { true \\"
	if _, err := f.Find(t.Context(), telemetry.Query{RequestID: hostile, TenantID: "acme", Service: "bidding", From: at(0), To: at(1000)}); err != nil {
		t.Fatal(err)
	}
	got := s.asked("/tempo/api/search")
	want := url.Values{
		"q":     {`{ .request_id = "x\" } || { true \\" && .tenant_id = "acme" && resource.service.name = "bidding" }`},
		"limit": {"20"}, "start": {"1772366400"}, "end": {"1772366402"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What Tempo says to a query without a match, to one that it does not
// understand and to a trace id that it does not have.
func TestWhatTempoAnswersOtherwise(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		answer []byte
		q      telemetry.Query
		want   string
	}{
		{http.StatusOK, read(t, "tempo-search-none.json"), telemetry.Query{RequestID: "nobody", TenantID: "acme"}, ""},
		{http.StatusNotFound, []byte("trace not found"), telemetry.Query{TraceID: other}, ""},
		{http.StatusBadRequest, read(t, "tempo-bad-query.txt"), telemetry.Query{RequestID: "req_1"}, "refuses the query (status 400): invalid TraceQL query: parse error at line 1, col 17"},
	} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = w.Write(tt.answer)
		}))
		t.Cleanup(h.Close)
		f, err := tempo.New(h.URL, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		found, err := f.Find(t.Context(), tt.q)
		if len(found) > 0 || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, %v; want %q", tt.q, found, err, tt.want)
		}
	}
}

func TestWhatJaegerIsAsked(t *testing.T) {
	t.Parallel()
	s := jaegerServer(t)
	f, err := tempo.NewJaeger(s.url+"/jaeger", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(t.Context(), telemetry.Query{JobID: `j"1`, TenantID: "acme", Service: "bidding", From: at(0), To: at(1000)}); err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"service": {"bidding"}, "tags": {`{"job_id":"j\"1","tenant_id":"acme"}`},
		"limit": {"20"}, "start": {"1772366400000000"}, "end": {"1772366401000000"},
	}
	if diff := cmp.Diff(want, s.asked("/jaeger/api/traces")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnswersInAnotherFormat(t *testing.T) {
	t.Parallel()
	page := []byte("<html>a login page</html>")
	s := serve(t, map[string][]byte{"/api/search": page, "/api/services": page, "/api/traces": page, "/api/traces/" + traceID: page})
	a, err := tempo.New(s.url, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tempo.NewJaeger(s.url, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []telemetry.Finder{a, b} {
		for _, q := range []telemetry.Query{{TraceID: traceID}, {RequestID: "req_1"}} {
			if _, err := f.Find(t.Context(), q); err == nil || !strings.Contains(err.Error(), "unknown format") {
				t.Errorf("%T %+v: %v", f, q, err)
			}
		}
	}
}
