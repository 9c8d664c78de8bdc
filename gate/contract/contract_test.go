package contract_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/contract"
)

const document = `openapi: VERSION
info: {title: bids, version: "1.0.0"}
paths:
  /jobs/{id}:
    get:
      parameters:
        - {name: id, in: path, required: true, schema: {type: string}}
        - {name: verbose, in: query, schema: {type: boolean}}
      responses:
        "200":
          description: the job
          content:
            application/json:
              schema:
                type: object
                required: [job_id, status]
                properties:
                  job_id: {type: string}
                  status: {type: string, enum: [queued, running]}
                  attempts: {type: integer}
        "404": {description: none}
  /evaluations:
    post:
      requestBody:
        required: true
        content:
          application/json:
            schema:
              type: object
              required: [project_id]
              properties:
                project_id: {type: string}
                top_k: {type: integer, maximum: 50}
      responses:
        "202": {description: accepted}
    delete:
      responses:
        "204": {description: gone}
`

func TestCompare(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		old, new string
		breaking string // a breaking change's operation, "" for none
	}{
		{"nothing changes", "", "", ""},
		{"a path is removed", "  /jobs/{id}:", "  /tasks/{id}:", "GET /jobs/{id}"},
		{"an operation is removed", "    delete:\n      responses:\n        \"204\": {description: gone}\n", "", "DELETE /evaluations"},
		{"a response field is removed", "                  job_id: {type: string}\n", "", "GET /jobs/{id}"},
		{"a response field changes its type", "job_id: {type: string}", "job_id: {type: integer}", "GET /jobs/{id}"},
		{"a required response field becomes optional", "required: [job_id, status]", "required: [status]", "GET /jobs/{id}"},
		{"a request field becomes required", "required: [project_id]", "required: [project_id, top_k]", "POST /evaluations"},
		{"a query parameter becomes required", "{name: verbose, in: query,", "{name: verbose, in: query, required: true,", "GET /jobs/{id}"},
		{"a bound becomes tighter", "maximum: 50", "maximum: 10", "POST /evaluations"},
		{"the success status changes", `"202": {description: accepted}`, `"200": {description: accepted}`, "POST /evaluations"},
		{"a response field is added", "attempts: {type: integer}", "attempts: {type: integer}\n                  age: {type: integer}", ""},
		{"an optional request field is added", "top_k: {type: integer, maximum: 50}", "top_k: {type: integer, maximum: 50}\n                mode: {type: string}", ""},
		{"an optional parameter is added", "in: query, schema: {type: boolean}}", "in: query, schema: {type: boolean}}\n        - {name: wait, in: query, schema: {type: integer}}", ""},
		{"a path is added", "paths:\n", "paths:\n  /health:\n    get: {responses: {\"200\": {description: ok}}}\n", ""},
		{"a bound becomes wider", "maximum: 50", "maximum: 100", ""},
		{"a description changes", "the job", "the job as it is", ""},
	}
	for _, version := range []string{"3.0.3", "3.1.0"} {
		stable := strings.Replace(document, "VERSION", version, 1)
		for _, tt := range tests {
			t.Run(version+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				candidate := stable
				if tt.old != "" {
					if candidate = strings.Replace(stable, tt.old, tt.new, 1); candidate == stable {
						t.Fatal("the seeded change is not in the document")
					}
				}
				got, err := contract.Compare([]byte(stable), []byte(candidate))
				if err != nil {
					t.Fatal(err)
				}
				if tt.breaking == "" {
					if len(got.Breaking) > 0 {
						t.Errorf("harmless, but %+v", got.Breaking)
					}
					return
				}
				at := slices.IndexFunc(got.Breaking, func(c contract.Change) bool { return c.Operation == tt.breaking })
				if at < 0 {
					t.Fatalf("not found on %s: %+v", tt.breaking, got)
				}
				if c := got.Breaking[at]; c.ID == "" || c.Message == "" || strings.Contains(c.Message, "\x1b") {
					t.Errorf("unclear: %+v", c)
				}
			})
		}
	}
}

func TestCompareAcrossFormatsAndVersions(t *testing.T) {
	t.Parallel()
	old := strings.Replace(document, "VERSION", "3.0.3", 1)
	json31 := `{"openapi":"3.1.0","info":{"title":"bids","version":"1.1.0"},"paths":{"/jobs/{id}":{"get":{` +
		`"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],` +
		`"responses":{"200":{"description":"the job"}}}}}}`
	got, err := contract.Compare([]byte(old), []byte(json31))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Breaking) == 0 || got.StableVersion != "1.0.0" || got.CandidateVersion != "1.1.0" {
		t.Errorf("%+v", got)
	}
}

func TestNullableSpelledTheNewWayIsHarmless(t *testing.T) {
	t.Parallel()
	old := strings.Replace(document, "VERSION", "3.0.3", 1)
	old = strings.Replace(old, "attempts: {type: integer}", "attempts: {type: integer, nullable: true}", 1)
	neu := strings.Replace(document, "VERSION", "3.1.0", 1)
	neu = strings.Replace(neu, "attempts: {type: integer}", "attempts: {type: [integer, 'null']}", 1)
	got, err := contract.Compare([]byte(old), []byte(neu))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Breaking) > 0 {
		t.Errorf("%+v", got.Breaking)
	}
}

func TestCompareRefuses(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a reference was followed")
	}))
	t.Cleanup(srv.Close)
	good := strings.Replace(document, "VERSION", "3.1.0", 1)
	external := func(ref string) string {
		return strings.Replace(good, "job_id: {type: string}", fmt.Sprintf("job_id: {$ref: %q}", ref), 1)
	}
	tests := map[string]struct{ data, says string }{
		"not YAML":                {"{", "cannot be read"},
		"empty":                   {"", "OpenAPI"},
		"another kind of file":    {"name: bidding", "OpenAPI"},
		"Swagger 2":               {"swagger: '2.0'\ninfo: {title: a, version: '1'}\npaths: {/a: {}}", "openapi field"},
		"no paths":                {"openapi: 3.1.0\ninfo: {title: a, version: '1'}\npaths: {}", "no path"},
		"a reference to a URL":    {external(srv.URL + "/a.yaml#/A"), "bundle it"},
		"a reference to a file":   {external("/etc/passwd#/A"), "bundle it"},
		"a reference to a folder": {external("../x.yaml#/A"), "bundle it"},
		"too large":               {good + "# " + strings.Repeat("x", contract.MaxBytes), "larger than"},
		"an alias bomb":           {bomb(), "OpenAPI"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for which, pair := range map[string][2]string{"stable": {tt.data, good}, "candidate": {good, tt.data}} {
				_, err := contract.Compare([]byte(pair[0]), []byte(pair[1]))
				if !errors.Is(err, &headgate.Error{Code: headgate.CodeValidation}) {
					t.Fatalf("%s: error %v", which, err)
				}
				if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), which) {
					t.Errorf("%s: message %q does not say %q", which, err, tt.says)
				}
			}
		})
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString("openapi: 3.1.0\ninfo: {title: a, version: '1'}\nx-a0: &a0 [x, x]\n")
	for i := range 40 {
		fmt.Fprintf(&b, "x-a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	return b.String() + "paths: {}\n"
}

func FuzzCompare(f *testing.F) {
	good := strings.Replace(document, "VERSION", "3.1.0", 1)
	f.Add([]byte(good))
	f.Add([]byte("openapi: 3.1.0\npaths: {/a: {get: {responses: {}}}}"))
	f.Add([]byte("openapi: 3.0.0\npaths: {/a: null}"))
	f.Add([]byte(strings.Replace(good, "job_id: {type: string}", `job_id: {$ref: "#/paths/~1jobs~1{id}"}`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = contract.Compare([]byte(good), data)
		_, _ = contract.Compare(data, []byte(good))
	})
}
