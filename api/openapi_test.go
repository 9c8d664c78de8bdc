package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/headgate/headgate/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

func handler(development bool) http.Handler {
	return api.New(api.Options{Version: "test", Logger: slog.New(slog.DiscardHandler), Development: development})
}

// document is the OpenAPI document as the server publishes it, indented.
func document(t *testing.T) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	handler(false).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("/openapi.json: %d %s", w.Code, w.Body)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, w.Body.Bytes(), "", "  "); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// TestOpenAPIIsAsAgreed: a change of the published contract shows in a review.
func TestOpenAPIIsAsAgreed(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "openapi.json")
	got := document(t)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range gotLines {
		if i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("the API differs from %s at line %d: %q; if that is meant, run go test ./api -update", path, i+1, gotLines[i])
		}
	}
	t.Fatalf("the API has less than %s; if that is meant, run go test ./api -update", path)
}

func TestOpenAPIIsValid(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(document(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %s, want 3.1", doc.OpenAPI)
	}
	for path, methods := range map[string][]string{
		"/internal/quality-gates/evaluate":     {"POST"},
		"/internal/performance-gates/evaluate": {"POST"},
		"/internal/security-gates/evaluate":    {"POST"},
		"/internal/cost-gates/evaluate":        {"POST"},
		"/internal/release/rollout/plan":       {"POST"},
		"/internal/release/rollout/decision":   {"POST"},
		"/internal/release/rollback/execute":   {"POST"},
		"/internal/release/replay/e2e":         {"POST"},
		"/internal/release/readiness/evaluate": {"POST"},
		"/internal/release/pipeline/execute":   {"POST"},
		"/internal/ops/data-feedback/run":      {"POST"},
		"/internal/ops/strategy-tuning/apply":  {"POST"},
		"/internal/ops/metrics/summary":        {"GET"},
		"/jobs/{id}":                           {"GET"},
	} {
		item := doc.Paths.Value("/api/v1" + path)
		if item == nil {
			t.Errorf("%s is not described", path)
			continue
		}
		for method, o := range item.Operations() {
			if !slices.Contains(methods, method) {
				t.Errorf("%s has a method %s that the contract does not know", path, method)
			}
			if o.Summary == "" || o.OperationID == "" {
				t.Errorf("%s %s has no name or summary", method, path)
			}
		}
	}
}

// Errors are described as they are sent: in the envelope.
func TestOpenAPIDescribesTheErrorEnvelope(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(document(t))
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			def := o.Responses.Value("default")
			if def == nil || def.Value == nil {
				t.Errorf("%s %s does not say what an error looks like", method, path)
				continue
			}
			content := def.Value.Content.Get("application/json")
			if content == nil {
				t.Errorf("%s %s: errors are described as %v, want application/json", method, path, def.Value.Content)
				continue
			}
			for _, field := range []string{"success", "error", "meta"} {
				if content.Schema.Value.Properties[field] == nil {
					t.Errorf("%s %s: the error envelope has no %s", method, path, field)
				}
			}
		}
	}
}

// TestEveryPathIsDocumented keeps docs/api.md whole.
func TestEveryPathIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(document(t))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join("..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if line := "`" + method + " " + strings.TrimPrefix(path, "/api/v1") + "`"; !strings.Contains(string(page), line) {
				t.Errorf("docs/api.md says nothing of %s", line)
			}
		}
	}
}
