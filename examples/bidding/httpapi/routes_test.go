package httpapi

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestOpenAPIHasEveryRoute keeps the published contract true to the routes,
// from both sides.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	t.Parallel()
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Parameters []struct {
				Name     string
				Required bool
			}
			Security *[]any
		}
	}
	if err := json.Unmarshal(OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("openapi %q, want 3.1", doc.OpenAPI)
	}
	published := map[string]bool{}
	for path, operations := range doc.Paths {
		for method := range operations {
			published[strings.ToUpper(method)+" "+path] = true
		}
	}
	for _, r := range (&API{}).routes() {
		name := r.method + " " + r.path
		if !published[name] {
			t.Errorf("%s is served but not published", name)
		}
		delete(published, name)
		op := doc.Paths[r.path][strings.ToLower(r.method)]
		if r.public != (op.Security != nil) {
			t.Errorf("%s: public is %v, but the contract says otherwise", name, r.public)
		}
		needsKey := false
		for _, p := range op.Parameters {
			needsKey = needsKey || p.Name == "Idempotency-Key" && p.Required
		}
		if needsKey != (r.method == "POST") {
			t.Errorf("%s: every write, and no read, needs an Idempotency-Key", name)
		}
	}
	for name := range published {
		t.Errorf("%s is published but not served", name)
	}
}
