package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/internal/needs"
)

// serve starts a server and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return client.New(s.URL+"/", "hg_test.secret", s.Client())
}

func succeed(w http.ResponseWriter, data string) {
	_, _ = io.WriteString(w, `{"success":true,"data":`+data+`,"message":"ok","meta":{"trace_id":"t","request_id":"req_1"}}`)
}

func fail(w http.ResponseWriter, status int, code string, class headgate.Class, retryable bool) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"success": false, "meta": map[string]any{"request_id": "req_7"},
		"error": map[string]any{"code": code, "message": "do this instead", "class": class, "retryable": retryable, "details": map[string]any{"field": "x"}},
	})
}

// Every call reaches the documented endpoint, with the credential.
func TestCallsReachTheirEndpoints(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, tt := range map[string]struct {
		call       func(*client.Client) error
		want, body string
		data       string
	}{
		"create": {
			call: func(c *client.Client) error {
				_, err := c.CreateRelease(ctx, client.CreateRequest{ID: "rel_1", Version: "v2", Digest: "sha256:00"})
				return err
			},
			want: "POST /api/v1/releases", body: `{"release_id":"rel_1","version":"v2","digest":"sha256:00"}`,
		},
		"releases": {
			call: func(c *client.Client) error { _, err := c.Releases(ctx, "bidding", 5); return err },
			want: "GET /api/v1/releases?limit=5&service=bidding", data: "[]",
		},
		"release": {
			call: func(c *client.Client) error { _, err := c.Release(ctx, "a b/c"); return err },
			want: "GET /api/v1/releases/a%20b%2Fc",
		},
		"events": {
			call: func(c *client.Client) error { _, err := c.Events(ctx, "r", 7, 2*time.Second); return err },
			want: "GET /api/v1/releases/r/events?after=7&wait_s=2", data: "[]",
		},
		"stage": {
			call: func(c *client.Client) error {
				_, err := c.ReportStage(ctx, "r", headgate.StageTest, headgate.Fail, "1 failed")
				return err
			},
			want: "POST /api/v1/releases/r/stages/test", body: `{"summary":"1 failed","verdict":"fail"}`,
		},
		"evidence": {
			call: func(c *client.Client) error {
				f := client.ReportFile{Gate: headgate.GateQuality, Name: "q.csv", Format: "ragas", Columns: map[string]string{"b": "2", "a": "1"}}
				_, err := c.AddEvidence(ctx, "r", f, strings.NewReader("raw"))
				return err
			},
			want: "POST /api/v1/releases/r/evidence?columns=a%3D1&columns=b%3D2&format=ragas&gate=quality&name=q.csv", body: "raw",
		},
		"approve": {
			call: func(c *client.Client) error { _, err := c.Approve(ctx, "r", "why"); return err },
			want: "POST /api/v1/releases/r/approve", body: `{"reason":"why"}`,
		},
		"abort": {
			call: func(c *client.Client) error { _, err := c.Abort(ctx, "r", "why"); return err },
			want: "POST /api/v1/releases/r/abort", body: `{"reason":"why"}`,
		},
		"job": {
			call: func(c *client.Client) error { _, err := c.Job(ctx, "job_1"); return err },
			want: "GET /api/v1/jobs/job_1",
		},
		"gate": {
			call: func(c *client.Client) error {
				_, err := c.EvaluateGate(ctx, headgate.GateCost, client.GateRequest{DatasetID: "d", Metrics: map[string]any{"m": 1}})
				return err
			},
			want: "POST /api/v1/internal/cost-gates/evaluate", body: `{"dataset_id":"d","metrics":{"m":1}}`,
		},
		"bundle": {
			call: func(c *client.Client) error { return c.Bundle(ctx, "r", io.Discard) },
			want: "GET /api/v1/releases/r/bundle",
		},
		"report": {
			call: func(c *client.Client) error { return c.Report(ctx, "r", "md", "zh-CN", io.Discard) },
			want: "GET /releases/r?format=md&lang=zh-CN",
		},
		"checkpoint": {
			call: func(c *client.Client) error { _, err := c.Checkpoint(ctx); return err },
			want: "GET /api/v1/evidence/checkpoint",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got, body, auth string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got, body, auth = r.Method+" "+r.URL.RequestURI(), string(b), r.Header.Get("Authorization")
				if tt.data == "" {
					tt.data = "{}"
				}
				succeed(w, tt.data)
			})
			if err := tt.call(c); err != nil {
				t.Fatal(err)
			}
			if got != tt.want || body != tt.body {
				t.Errorf("sent %s with %q, want %s with %q", got, body, tt.want, tt.body)
			}
			if auth != "Bearer hg_test.secret" {
				t.Errorf("Authorization %q", auth)
			}
		})
	}
}

func TestReleaseIsDecoded(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		succeed(w, `{"release_id":"rel_1","service":"bidding","version":"v2","stage":"canary","reasons":[],"phase":"running","share":0.1,
			"note":"n","evidence":4,"deadline":"2026-11-24T07:00:00Z",
			"stage_runs":[{"stage":"build","attempt":1,"verdict":"pass"},{"stage":"canary","attempt":1},{"stage":"canary","attempt":2}],
			"canary":{"verdict":"insufficient","action":"hold","remaining_s":12.5,"evidence":{"combined":3},"stable":{"requests":9,"errors":1},"breaches":null}}`)
	})
	r, err := c.Release(context.Background(), "rel_1")
	if err != nil {
		t.Fatal(err)
	}
	if r.ID != "rel_1" || r.Stage != headgate.StageCanary || r.Phase != "running" || r.Share != 0.1 || r.Evidence != 4 || r.Note != "n" || r.Deadline.IsZero() {
		t.Errorf("release %+v", r)
	}
	if k := r.Canary; k == nil || k.Verdict != headgate.Insufficient || k.Remaining != 12.5 || k.Evidence["combined"] != 3 || k.Stable != (client.Totals{Requests: 9, Errors: 1}) {
		t.Errorf("canary %+v", r.Canary)
	}
	if run, ok := r.Run(headgate.StageCanary); !ok || run.Attempt != 2 {
		t.Errorf("last canary run %+v, %v", run, ok)
	}
	if _, ok := r.Run(headgate.StageFull); ok {
		t.Error("a stage that never ran has a run")
	}
}

func TestServersErrorReachesTheCaller(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, headgate.CodeReleaseNotFound, headgate.ClassBusinessRule, false)
	})
	_, err := c.Release(context.Background(), "r")
	var e *headgate.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v", err)
	}
	want := &headgate.Error{
		Code: headgate.CodeReleaseNotFound, Class: headgate.ClassBusinessRule, Message: "do this instead",
		Details: map[string]any{"field": "x", "request_id": "req_7"},
	}
	if e.Code != want.Code || e.Class != want.Class || e.Message != want.Message || cmp.Diff(want.Details, e.Details) != "" {
		t.Errorf("error %+v, want %+v", e, want)
	}
}

// A transient error is tried again where that changes nothing, and only there.
func TestRetries(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	get := func(c *client.Client) error { _, err := c.Release(ctx, "r"); return err }
	for name, tt := range map[string]struct {
		call      func(*client.Client) error
		failures  int64 // before the server answers
		retryable bool
		attempts  int64
		ok        bool
	}{
		"a read":                {call: get, failures: 2, retryable: true, attempts: 3, ok: true},
		"not for ever":          {call: get, failures: 99, retryable: true, attempts: 4},
		"not what is permanent": {call: get, failures: 99, attempts: 1},
		"not an approval":       {call: func(c *client.Client) error { _, err := c.Approve(ctx, "r", "w"); return err }, failures: 1, retryable: true, attempts: 1},
		"not a new release":     {call: func(c *client.Client) error { _, err := c.CreateRelease(ctx, client.CreateRequest{}); return err }, failures: 1, retryable: true, attempts: 1},
		"a release with an id": {call: func(c *client.Client) error {
			_, err := c.CreateRelease(ctx, client.CreateRequest{ID: "r"})
			return err
		}, failures: 1, retryable: true, attempts: 2, ok: true},
		"a body is sent again": {call: func(c *client.Client) error {
			_, err := c.CreateRelease(ctx, client.CreateRequest{ID: "r"})
			return err
		}, failures: 2, retryable: true, attempts: 3, ok: true},
		"a report that was read": {call: func(c *client.Client) error { return c.Report(ctx, "r", "md", "en", io.Discard) }, failures: 1, retryable: true, attempts: 2, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int64
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if b, _ := io.ReadAll(r.Body); r.Method == http.MethodPost && len(b) == 0 {
					t.Error("empty body")
				}
				if seen.Add(1) <= tt.failures {
					fail(w, http.StatusServiceUnavailable, headgate.CodeUnavailable, headgate.ClassTransient, tt.retryable)
					return
				}
				succeed(w, "{}")
			})
			if err := tt.call(c); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
			if seen.Load() != tt.attempts {
				t.Errorf("%d attempts, want %d", seen.Load(), tt.attempts)
			}
		})
	}
}

func TestWhoeverAnswersIsNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer    http.HandlerFunc
		code      string
		message   string
		retryable bool
	}{
		"another site":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, headgate.CodeUnavailable, "not a Headgate server", false},
		"not found page": {http.NotFound, headgate.CodeUnavailable, "not a Headgate server", false},
		"a gateway":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, headgate.CodeUnavailable, "status 502", true},
		"a login":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusSeeOther) }, headgate.CodeUnauthorized, "token", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := serve(t, tt.answer).ReportStage(context.Background(), "r", headgate.StageBuild, headgate.Pass, "")
			e := headgate.AsError(err)
			if e.Code != tt.code || !strings.Contains(e.Message, tt.message) || e.Retryable != tt.retryable {
				t.Errorf("error %+v", e)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	nowhere := "http://" + needs.Addrs(t, 1)[0]
	_, err := client.New(nowhere, "secret-token", nil).Approve(context.Background(), "r", "w")
	e := headgate.AsError(err)
	if e.Code != headgate.CodeUnavailable || !e.Retryable || !strings.Contains(e.Message, nowhere) || strings.Contains(e.Message, "secret-token") {
		t.Errorf("error %+v", e)
	}
	_, err = client.New("127.0.0.1:8080", "", nil).Release(context.Background(), "r")
	if headgate.AsError(err).Code != headgate.CodeConfigInvalid {
		t.Errorf("address without a scheme: %v", err)
	}
}

// A caller that gives up is not kept waiting for retries.
func TestContextEndsTheCall(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 8)
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-started; cancel() }()
	if _, err := c.Events(ctx, "r", 0, 30*time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(started) > 0 {
		t.Error("the call was tried again")
	}
}

func TestBundleIsCopiedUnchanged(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte{0, 1, 0xff, '\n'}, 100_000)
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(want) })
	var got bytes.Buffer
	if err := c.Bundle(context.Background(), "r", &got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes of %d, error %v", got.Len(), len(want), err)
	}
}
