package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	"github.com/open-feature/go-sdk/openfeature"

	"github.com/headgate/headgate/internal/needs"
)

// sdkCase is one evaluation by an OpenFeature SDK and what its caller gets.
type sdkCase struct {
	Name    string         `json:"name"`
	URL     string         `json:"url"`
	Token   string         `json:"token"`
	Flag    string         `json:"flag"`
	Context map[string]any `json:"context"`
	Want    sdkAnswer      `json:"-"`
}

// sdkAnswer is what both SDKs tell. The default in code is "fallback".
type sdkAnswer struct {
	Value     string `json:"value"`
	Variant   string `json:"variant,omitempty"`
	Reason    string `json:"reason"`
	ErrorCode string `json:"error_code,omitempty"`
	ForceHITL bool   `json:"force_hitl,omitempty"`
	Release   string `json:"release_id,omitempty"`
}

const fallback = "fallback"

func sdkCases(t *testing.T) []sdkCase {
	t.Helper()
	description := strings.Replace(things, `{kind: hook, url: "http://127.0.0.1:1"}`, `{kind: flag}`, 1)
	live, lapsed := newFlagServerOf(t, description, 10*time.Second), newFlagServerOf(t, description, 0)
	nobody := "http://" + needs.Addrs(t, 1)[0] // however long npm takes
	acme := map[string]any{"targetingKey": "session-1"}
	with := func(key string, value any) map[string]any {
		return map[string]any{"targetingKey": "session-1", key: value}
	}
	met := func(value string) sdkAnswer {
		return sdkAnswer{Value: value, Variant: "candidate", Reason: "SPLIT", Release: "rel-1"}
	}
	stable := func(value, reason string) sdkAnswer {
		return sdkAnswer{Value: value, Variant: "stable", Reason: reason}
	}
	failed := func(code string) sdkAnswer { return sdkAnswer{Value: fallback, Reason: "ERROR", ErrorCode: code} }
	risky := met("mc-2")
	risky.ForceHITL = true
	calm := stable("mc-1", "STATIC")
	calm.ForceHITL = true
	return []sdkCase{
		{"model_config", live.URL, live.acme, "model_config", acme, met("mc-2")},
		{"retrieval_params", live.URL, live.acme, "retrieval_params", acme, met("rp-1")},
		{"workflow_version", live.URL, live.acme, "workflow_version", acme, met("wf-1")},
		{"release_version", live.URL, live.acme, "release_version", acme, met("v2")},
		{"a token of every tenant names one", live.URL, live.all, "model_config", with("tenant_id", "acme"), met("mc-2")},
		{"a tenant that the canary may not meet", live.URL, live.all, "model_config", with("tenant_id", "borealis"), stable("mc-1", "DEFAULT")},
		{"high risk on the candidate", live.URL, live.acme, "model_config", with("high_risk", true), risky},
		{"high risk on stable", lapsed.URL, lapsed.acme, "model_config", with("high_risk", true), calm},
		{"the lease is over", lapsed.URL, lapsed.acme, "release_version", acme, stable("v1", "STATIC")},
		{"an unknown flag", live.URL, live.acme, "dark_mode", acme, failed("FLAG_NOT_FOUND")},
		{"a context of the wrong form", live.URL, live.acme, "model_config", with("high_risk", "perhaps"), failed("INVALID_CONTEXT")},
		{"somebody else's tenant", live.URL, live.acme, "model_config", with("tenant_id", "borealis"), failed("GENERAL")},
		{"no session", live.URL, live.acme, "model_config", map[string]any{"tenant_id": "acme"}, failed("TARGETING_KEY_MISSING")},
		{"the server is down", nobody, "none", "model_config", acme, failed("GENERAL")},
	}
}

func TestOpenFeatureGoSDK(t *testing.T) {
	t.Parallel()
	for _, tt := range sdkCases(t) {
		provider := ofrep.NewProvider(tt.URL, ofrep.WithBearerToken(tt.Token))
		if err := openfeature.SetNamedProviderAndWait(tt.Name, provider); err != nil {
			t.Fatal(err)
		}
		attributes := map[string]any{}
		key := ""
		for k, v := range tt.Context {
			if k == "targetingKey" {
				key = v.(string)
			} else {
				attributes[k] = v
			}
		}
		d, err := openfeature.NewClient(tt.Name).StringValueDetails(t.Context(), tt.Flag, fallback, openfeature.NewEvaluationContext(key, attributes))
		got := sdkAnswer{Value: d.Value, Variant: d.Variant, Reason: string(d.Reason), ErrorCode: string(d.ErrorCode)}
		got.ForceHITL, _ = d.FlagMetadata["force_hitl"].(bool)
		got.Release, _ = d.FlagMetadata["release_id"].(string)
		if got != tt.Want || (err != nil) != (tt.Want.ErrorCode != "") {
			t.Errorf("%s: %+v, %v; want %+v", tt.Name, got, err, tt.Want)
		}
	}
}

// TestOpenFeatureJavaScriptSDK runs the server SDK on the same cases, and the
// web SDK, which asks for all flags at once and polls by ETag.
func TestOpenFeatureJavaScriptSDK(t *testing.T) {
	t.Parallel()
	cases := sdkCases(t)
	var mu sync.Mutex
	var polls []int
	bulk := newFlagServer(t)
	counted := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		bulk.Config.Handler.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
		mu.Lock()
		polls = append(polls, rec.Code)
		mu.Unlock()
	}))
	defer counted.Close()
	in, err := json.Marshal(map[string]any{"cases": cases, "fallback": fallback, "bulk": map[string]string{"url": counted.URL, "token": bulk.acme}})
	if err != nil {
		t.Fatal(err)
	}
	dir := installJavaScript(t)
	cmd := exec.CommandContext(t.Context(), "node", "evaluate.mjs")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var out struct {
		Answers []sdkAnswer       `json:"answers"`
		Bulk    map[string]string `json:"bulk"`
	}
	if err := json.Unmarshal(text, &out); err != nil || len(out.Answers) != len(cases) {
		t.Fatalf("%v: %s", err, text)
	}
	for i, tt := range cases {
		if out.Answers[i] != tt.Want {
			t.Errorf("%s: %+v, want %+v", tt.Name, out.Answers[i], tt.Want)
		}
	}
	if out.Bulk["model_config"] != "mc-2" || out.Bulk["release_version"] != "v2" || out.Bulk["dark_mode"] != fallback {
		t.Errorf("all at once: %v", out.Bulk)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(polls) < 2 || polls[0] != http.StatusOK || polls[1] != http.StatusNotModified {
		t.Errorf("polls were answered %v, want 200 and then 304", polls)
	}
}

// installJavaScript installs the SDKs of package-lock.json into a folder of the
// test's own.
func installJavaScript(t *testing.T) string {
	t.Helper()
	npm := needs.Program(t, "npm", "npm")
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "evaluate.mjs"} {
		text, err := os.ReadFile(filepath.Join("testdata/openfeature", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--fetch-retries=5")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v: %s", err, out)
	}
	return dir
}
