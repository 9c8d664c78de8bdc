package client_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

func TestStoriesAndErrors(t *testing.T) {
	t.Parallel()
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		if r.URL.Path == "/api/v1/timeline" {
			succeed(w, `{"matched_by":"request_id","entries":[]}`)
			return
		}
		succeed(w, `{"release_id":"rel/1","reason":"because","changes":[{"error_code":"DB_LOCKED","count":3,"stable_count_scaled":0.5}]}`)
	})
	raw, err := c.Story(t.Context(), "req 1/2", "acme")
	if err != nil || !json.Valid(raw) {
		t.Fatalf("story %s, %v", raw, err)
	}
	rep, err := c.Errors(t.Context(), "rel/1", 90*time.Second)
	if err != nil || rep.Reason != "because" || len(rep.Changes) != 1 || rep.Changes[0].Count != 3 || rep.Changes[0].StableCount != 0.5 {
		t.Fatalf("errors %+v, %v", rep, err)
	}
	if _, err := c.Errors(t.Context(), "rel_2", 0); err != nil {
		t.Fatal(err)
	}
	want := []string{"GET /api/v1/timeline?id=req+1%2F2&tenant_id=acme", "GET /api/v1/releases/rel%2F1/errors?since_s=90", "GET /api/v1/releases/rel_2/errors"}
	for i := range want {
		if asked[i] != want[i] {
			t.Errorf("asked %s, want %s", asked[i], want[i])
		}
	}
}
