package loki_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/loki"
)

// server answers one path with a file and remembers what it was asked last.
type server struct {
	url   string
	asked atomic.Pointer[url.URL]
}

func serve(t *testing.T, path, file string) *server {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	s := new(server)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		s.asked.Store(r.URL)
		_, _ = w.Write(text)
	}))
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func lokiFinder(t *testing.T, file, selector string) (telemetry.Finder, *server) {
	t.Helper()
	s := serve(t, "/loki/api/v1/query_range", file)
	f, err := loki.New(s.url, selector, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

func victoria(t *testing.T, file string) (telemetry.Finder, *server) {
	t.Helper()
	s := serve(t, "/logs/select/logsql/query", file)
	f, err := loki.NewVictoriaLogs(s.url+"/logs", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

func at(ms int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, ms*int(time.Millisecond), time.UTC)
}

// records are what both servers know of acme's request.
func records() []telemetry.Event {
	base := telemetry.Event{
		Kind: telemetry.Log, TraceID: "0af7651916cd43dd8448eb211c80319c", Service: "bidding", Version: "v1.4.0",
		Environment: "production", Instance: "bidding-1", TenantID: "acme", RequestID: "req_1",
	}
	first, second := base, base
	first.Time, first.SpanID, first.Name, first.Status = at(50), "00f067aa0ba902b7", "job enqueued", "INFO"
	first.Attributes = map[string]string{"severity_number": "9"}
	second.Time, second.SpanID, second.Name, second.Status = at(150), "00f067aa0ba902b8", `cannot save the "score"`, "ERROR"
	second.JobID, second.ErrorCode = "job_1", "DB_LOCKED"
	second.Attributes = map[string]string{"severity_number": "17"}
	return []telemetry.Event{first, second}
}

func TestBothBackendsTellTheSameStory(t *testing.T) {
	t.Parallel()
	a, _ := lokiFinder(t, "loki-query-range.json", "")
	b, _ := victoria(t, "victorialogs-query.jsonl")
	all := records()
	for name, f := range map[string]telemetry.Finder{"loki": a, "victorialogs": b} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, tt := range []struct {
				q    telemetry.Query
				want []telemetry.Event
			}{
				{telemetry.Query{RequestID: "req_1", TenantID: "acme"}, all},
				{telemetry.Query{RequestID: "req_1", TenantID: "acme", Limit: 1}, all[1:]},
				{telemetry.Query{ErrorCode: "DB_LOCKED", TenantID: "acme", From: at(0), To: at(1000)}, all[1:]},
				{telemetry.Query{RequestID: "req_1", TenantID: "initech"}, nil},
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
			if _, err := f.Find(t.Context(), telemetry.Query{}); headgate.AsError(err).Code != headgate.CodeValidation {
				t.Errorf("a query without an identifier: %v", err)
			}
		})
	}
	both, err := telemetry.Finders{a, b}.Find(t.Context(), telemetry.Query{RequestID: "req_1", TenantID: "acme", Limit: 3})
	if err != nil || len(both) != 3 || !both[0].Time.Equal(at(50)) || !both[2].Time.Equal(at(150)) {
		t.Errorf("both together: %v, %v", both, err)
	}
}

// What Loki says to a query without a match and to one that it does not
// understand.
func TestWhatLokiAnswersOtherwise(t *testing.T) {
	t.Parallel()
	none, _ := lokiFinder(t, "loki-none.json", "")
	if found, err := none.Find(t.Context(), telemetry.Query{RequestID: "nobody"}); err != nil || len(found) > 0 {
		t.Errorf("no match: %v, %v", found, err)
	}
	answer, err := os.ReadFile("testdata/loki-bad-query.txt")
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(answer)
	}))
	t.Cleanup(h.Close)
	f, err := loki.New(h.URL, "{", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	const want = "refuses the query (status 400): parse error at line 1, col 35: syntax error"
	if _, err := f.Find(t.Context(), telemetry.Query{RequestID: "req_1"}); headgate.AsError(err).Code != headgate.CodeValidation || !strings.Contains(err.Error(), want) {
		t.Errorf("bad query: %v", err)
	}
}

func TestWhatIsAsked(t *testing.T) {
	t.Parallel()
	q := telemetry.Query{RequestID: "x\" or \"\\", TenantID: "acme", Service: "bidding", Version: "v1", From: at(0), To: at(1000)}
	f, s := lokiFinder(t, "loki-query-range.json", `{cluster="eu"}`)
	if _, err := f.Find(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"query":     {`{cluster="eu"} | request_id="x\" or \"\\" | tenant_id="acme" | service_name="bidding" | service_version="v1"`},
		"direction": {"backward"}, "limit": {"1000"}, "start": {"1772366400000000000"}, "end": {"1772366401000000001"},
	}
	if diff := cmp.Diff(want, s.asked.Load().Query()); diff != "" {
		t.Errorf("Loki (-want +got):\n%s", diff)
	}
	f, s = victoria(t, "victorialogs-query.jsonl")
	q.Limit = 10_000
	if _, err := f.Find(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	want = url.Values{
		"query": {`"request_id":="x\" or \"\\" AND "tenant_id":="acme" AND "service.name":="bidding" AND "service.version":="v1" | sort by (_time desc) limit 5000`},
		"start": {"2026-03-01T12:00:00Z"}, "end": {"2026-03-01T12:00:01Z"},
	}
	if diff := cmp.Diff(want, s.asked.Load().Query()); diff != "" {
		t.Errorf("VictoriaLogs (-want +got):\n%s", diff)
	}
}

func TestAnswersInAnotherFormat(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"<html>", `{"data":{"result":[{"values":[["now","x"]]}]}}`, `{"_time":"yesterday"}`, `[]`} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
		t.Cleanup(h.Close)
		a, err := loki.New(h.URL, "", nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := loki.NewVictoriaLogs(h.URL, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []telemetry.Finder{a, b} {
			found, err := f.Find(t.Context(), telemetry.Query{RequestID: "req_1"})
			if len(found) > 0 || err != nil && !strings.Contains(err.Error(), "unknown format") {
				t.Errorf("%T on %s: %v, %v", f, text, found, err)
			}
		}
	}
}

func TestServerThatIsAway(t *testing.T) {
	t.Parallel()
	f, err := loki.New("http://"+needs.Addrs(t, 1)[0], "", nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (telemetry.Finders{f}).Find(t.Context(), telemetry.Query{RequestID: "req_1"}); !headgate.AsError(err).Retryable || !strings.Contains(err.Error(), "log server") {
		t.Errorf("got %v", err)
	}
}
