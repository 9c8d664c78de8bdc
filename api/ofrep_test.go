package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/api"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/store/sqlite"
)

// leased is a router that confirms release rel-1's share for so long.
type leased time.Duration

func (leased) Apply(context.Context, rollout.Split) (rollout.Status, error) {
	return rollout.Status{}, nil
}
func (leased) Counts(context.Context) (rollout.Counts, error) { return rollout.Counts{}, nil }
func (l leased) Status(context.Context) (rollout.Status, error) {
	st := rollout.Status{ReleaseID: "rel-1", LeaseRemaining: time.Duration(l)}
	if l > 0 {
		st.Share = 1
	}
	return st, nil
}

const things = `name: things
owner: team
on_call: somebody
tenants:
  - {id: acme, size: small}
  - {id: borealis, size: large}
components:
  model_config: {current: mc-1, actuator: {kind: flag}}
  retrieval_params: {current: rp-1, actuator: {kind: flag}}
  workflow_version: {current: wf-1, actuator: {kind: hook, url: "http://127.0.0.1:1"}}
  release_version: {current: v1, actuator: {kind: router}}
targets:
  stable: {version: v1, url: "http://127.0.0.1:1"}
  staging: {url: "http://127.0.0.1:1"}
  candidate: {url: "http://127.0.0.1:1"}
rollout:
  tenant_whitelist: [acme]
  enabled_project_sizes: [small, medium]
`

// flagServer serves the flags of a service whose release rel-1 is in canary
// with all of acme's sessions.
type flagServer struct {
	*httptest.Server
	acme, all string // tokens
}

func newFlagServer(t testing.TB) *flagServer {
	t.Helper()
	return newFlagServerOf(t, things, 10*time.Second)
}

// newFlagServerOf takes the service's description and how long the canary's
// lease still runs.
func newFlagServerOf(t testing.TB, description string, lease time.Duration) *flagServer {
	t.Helper()
	ctx := t.Context()
	db, err := sqlite.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	log := slog.New(slog.DiscardHandler)
	plane := control.New(control.Options{Settings: config.DefaultSettings(), Store: db, Logger: log})
	svc, err := config.Parse("headgate.yaml", []byte(description))
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.Add(ctx, svc, nil, leased(lease), nil); err != nil {
		t.Fatal(err)
	}
	plan, err := rollout.NewPlan("rel-1", []string{"acme"}, []headgate.ProjectSize{headgate.SizeSmall, headgate.SizeMedium}, true)
	if err != nil {
		t.Fatal(err)
	}
	stable := rollout.Backend{Version: "v1", URL: "http://127.0.0.1:1"}
	rel := headgate.Release{
		ID: "rel-1", Service: "things", Version: "v2", Digest: "sha256:a", CandidateURL: "http://127.0.0.1:2",
		Changes: []headgate.Change{{Component: headgate.ModelConfig, From: "mc-1", To: "mc-2"}},
	}
	first := pipeline.Begin(rel, pipeline.Plan{Rollout: plan, Tenants: []string{"acme"}, Share: 1, Stable: stable, Canary: canary.DefaultConfig()}, time.Now().Add(-time.Second))
	if _, err := db.CreateRelease(ctx, first); err != nil {
		t.Fatal(err)
	}
	rec, _, ok, err := db.Claim(ctx, "test", time.Minute, pipeline.PlanVersion)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	rec.Stage, rec.State.Granted, rec.State.Share = headgate.StageCanary, true, 1
	if err := db.Commit(ctx, pipeline.Commit{Record: rec, ClaimedGen: rec.Gen, HoldTraffic: true}); err != nil {
		t.Fatal(err)
	}
	s := &flagServer{Server: httptest.NewServer(api.New(api.Options{Plane: plane, Credentials: db, Version: "test", Logger: log}))}
	t.Cleanup(s.Close)
	for token, tenants := range map[*string][]string{&s.acme: {"acme"}, &s.all: nil} {
		if *token, _, err = access.Issue(ctx, db, root, access.Wanted{Name: "app", Role: access.Viewer, Tenants: tenants}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// post sends an evaluation and returns status, headers and the decoded body.
func (s *flagServer) post(t *testing.T, path, body string, header ...string) (int, http.Header, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/ofrep/v1/evaluate/flags"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
			t.Fatalf("%d %s: %s", resp.StatusCode, resp.Header.Get("Content-Type"), raw)
		}
	}
	return resp.StatusCode, resp.Header, out
}

// TestOFREPEvaluation holds single evaluations to the protocol's schema:
// serverEvaluationSuccess, evaluationFailure, flagNotFound.
func TestOFREPEvaluation(t *testing.T) {
	t.Parallel()
	s := newFlagServer(t)
	auth := []string{"Authorization", "Bearer " + s.acme}
	all := []string{"X-API-Key", s.all}
	for _, tt := range []struct {
		name, key, body string
		header          []string
		status          int
		want            string // value, variant and reason, or the error's code
	}{
		{"the candidate's", "model_config", `{"context": {"targetingKey": "s1"}}`, auth, 200, "mc-2 candidate SPLIT"},
		{"by an API key", "model_config", `{"context": {"targetingKey": "s1", "tenant_id": "acme"}}`, all, 200, "mc-2 candidate SPLIT"},
		{"the release itself", "release_version", `{"context": {"targetingKey": "s1"}}`, auth, 200, "v2 candidate SPLIT"},
		{"what it leaves alone", "retrieval_params", `{"context": {"targetingKey": "s1"}}`, auth, 200, "rp-1 candidate SPLIT"},
		{"attributes that do not count", "model_config", `{"context": {"targetingKey": "s1", "color": {"r": 1}}, "more": []}`, auth, 200, "mc-2 candidate SPLIT"},
		{"another tenant", "model_config", `{"context": {"targetingKey": "s1", "tenant_id": "borealis"}}`, all, 200, "mc-1 stable DEFAULT"},
		{"no tenant", "model_config", `{"context": {"targetingKey": "s1"}}`, all, 200, "mc-1 stable DEFAULT"},
		{"a size that is not enabled", "model_config", `{"context": {"targetingKey": "s1", "project_size": "large"}}`, auth, 200, "mc-1 stable DEFAULT"},
		{"no such flag", "dark_mode", `{"context": {"targetingKey": "s1"}}`, auth, 404, "FLAG_NOT_FOUND"},
		{"what a hook sets", "workflow_version", `{"context": {"targetingKey": "s1"}}`, auth, 404, "FLAG_NOT_FOUND"},
		{"no session", "model_config", `{"context": {"tenant_id": "acme"}}`, auth, 400, "TARGETING_KEY_MISSING"},
		{"no context", "model_config", `{}`, auth, 400, "TARGETING_KEY_MISSING"},
		{"no JSON", "model_config", `targetingKey=s1`, auth, 400, "PARSE_ERROR"},
		{"nothing", "model_config", ``, auth, 400, "PARSE_ERROR"},
		{"a context of another type", "model_config", `{"context": ["s1"]}`, auth, 400, "INVALID_CONTEXT"},
		{"a session of another type", "model_config", `{"context": {"targetingKey": 7}}`, auth, 400, "INVALID_CONTEXT"},
		{"a risk of another type", "model_config", `{"context": {"targetingKey": "s1", "high_risk": "yes"}}`, auth, 400, "INVALID_CONTEXT"},
		{"another service", "model_config", `{"context": {"targetingKey": "s1", "service": "nothing"}}`, auth, 400, "INVALID_CONTEXT"},
		{"endless", "model_config", `{"context": {"targetingKey": "` + strings.Repeat("s", 70_000) + `"}}`, auth, 400, "INVALID_CONTEXT"},
		{"somebody else's tenant", "model_config", `{"context": {"targetingKey": "s1", "tenant_id": "borealis"}}`, auth, 403, "INVALID_CONTEXT"},
		{"nobody", "model_config", `{"context": {"targetingKey": "s1"}}`, nil, 401, "GENERAL"},
		{"a wrong key", "model_config", `{"context": {"targetingKey": "s1"}}`, []string{"X-API-Key", "hg_a.b"}, 401, "GENERAL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			status, _, got := s.post(t, "/"+tt.key, tt.body, tt.header...)
			said, _ := got["errorCode"].(string)
			if status == 200 {
				said = strings.Join([]string{got["value"].(string), got["variant"].(string), got["reason"].(string)}, " ")
			} else if got["errorDetails"] == "" || got["success"] != nil {
				t.Errorf("error %v: not the protocol's, or without advice", got)
			}
			if status != tt.status || said != tt.want {
				t.Errorf("%d %v, want %d %s", status, got, tt.status, tt.want)
			}
			if status != 401 && got["key"] != tt.key {
				t.Errorf("key %v", got["key"])
			}
		})
	}
}

func TestOFREPTellsWhatNeedsAPerson(t *testing.T) {
	t.Parallel()
	s := newFlagServer(t)
	for _, risk := range []bool{true, false} {
		body, err := json.Marshal(map[string]any{"context": map[string]any{"targetingKey": "s1", "high_risk": risk}})
		if err != nil {
			t.Fatal(err)
		}
		_, _, got := s.post(t, "/model_config", string(body), "Authorization", "Bearer "+s.acme)
		meta, _ := got["metadata"].(map[string]any)
		if meta["force_hitl"] != risk || meta["service"] != "things" || meta["release_id"] != "rel-1" {
			t.Errorf("high risk %v: metadata %v", risk, meta)
		}
	}
}

// TestOFREPBulk holds bulk evaluations to the protocol: all flags, an ETag that
// changes with them, and 304 for those who have them.
func TestOFREPBulk(t *testing.T) {
	t.Parallel()
	s := newFlagServer(t)
	const body = `{"context": {"targetingKey": "s1"}}`
	auth := []string{"Authorization", "Bearer " + s.acme}
	status, header, got := s.post(t, "", body, auth...)
	var said []string
	for _, f := range got["flags"].([]any) {
		flag := f.(map[string]any)
		said = append(said, flag["key"].(string)+"="+flag["value"].(string))
	}
	tag := header.Get("ETag")
	if status != 200 || strings.Join(said, " ") != "model_config=mc-2 retrieval_params=rp-1 release_version=v2" || !strings.HasPrefix(tag, `"`) {
		t.Fatalf("%d, ETag %s: %v", status, tag, said)
	}
	for _, have := range []string{tag, "W/" + tag, `"old", ` + tag, "*"} {
		if status, header, got := s.post(t, "", body, append(auth, "If-None-Match", have)...); status != 304 || got != nil || header.Get("ETag") != tag {
			t.Errorf("having %s: %d %v", have, status, got)
		}
	}
	if status, _, _ := s.post(t, "", body, append(auth, "If-None-Match", `"old"`)...); status != 200 {
		t.Errorf("having others: %d", status)
	}
	if status, _, _ := s.post(t, "", `{"context": {"targetingKey": "s1", "project_size": "large"}}`, append(auth, "If-None-Match", tag)...); status != 200 {
		t.Errorf("under another context: %d", status)
	}
	if status, _, got := s.post(t, "", `{"context": {}}`, auth...); status != 400 || got["errorCode"] != "TARGETING_KEY_MISSING" || got["key"] != nil {
		t.Errorf("without a session: %d %v", status, got)
	}
	if status, _, got := s.post(t, "", body); status != 401 || got["success"] != nil {
		t.Errorf("nobody: %d %v", status, got)
	}
}

// BenchmarkOFREP is one evaluation over HTTP on loopback, credential included.
func BenchmarkOFREP(b *testing.B) {
	s := newFlagServer(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.URL+"/ofrep/v1/evaluate/flags/model_config", strings.NewReader(`{"context": {"targetingKey": "s1"}}`))
			if err != nil {
				b.Error(err)
				return
			}
			req.Header.Set("X-API-Key", s.acme)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b.Errorf("status %d", resp.StatusCode)
			}
		}
	})
}
