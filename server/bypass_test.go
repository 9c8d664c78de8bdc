package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/server"
)

// TestBlockedReleaseMeetsNobody: what was blocked stays away from users
// whatever is asked of the API, the router or a second server.
func TestBlockedReleaseMeetsNobody(t *testing.T) {
	t.Parallel()
	const id = "rel-blocked"
	w := startWorld(t, false, nil)
	digest := "sha256:" + strings.Repeat("e", 64)
	release := object{"release_id": id, "version": "v6.6.6", "digest": digest}
	w.data(t, w.do(t, "POST", "/releases", release))
	w.data(t, w.do(t, "POST", "/releases/"+id+"/stages/build", object{"verdict": "fail", "reasons": []string{"COMPILER_ERROR"}, "summary": "it does not compile"}))
	ended := func() bool { return w.data(t, w.do(t, "GET", "/releases/"+id, nil))["outcome"] == "blocked" }
	eventually(t, "the release is blocked", ended)

	why := object{"reason": "let it through"}
	for path, body := range map[string]object{
		"/promote": why, "/resume": why, "/pause": why, "/share": why.with("share", 1), "/approve": why,
		"/stages/build": {"verdict": "pass"}, "/gates/cost/evaluate": {},
		"/overrides": why.with("gate", "cost").with("expires_s", 3600),
	} {
		w.refuse(t, "POST", "/releases/"+id+path, body, http.StatusConflict, "RELEASE_DONE")
	}
	if got := w.data(t, w.do(t, "POST", "/releases", release)); got["outcome"] != "blocked" {
		t.Errorf("asked again: %v", got)
	}
	for gate := range gates {
		w.do(t, "POST", "/internal"+gatePath(gate), passing(gate).with("release_id", id))
	}
	w.post(t, "/release/rollout/plan", object{"release_id": id, "tenant_whitelist": []string{"acme"}, "enabled_project_sizes": []string{"small"}})
	w.post(t, "/release/pipeline/execute", ready(id))
	if !ended() {
		t.Error("claims have brought it back")
	}
	second := w.options
	if s, err := server.New(t.Context(), second); err == nil {
		_ = s.Stop()
		t.Error("a second server took the same data folder")
	}
	for _, route := range []string{"", "candidate"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.ProxyAddr()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Release-Route", route)
		req.Header.Set("X-Release-Tester", "candidate")
		res, err := w.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if got := res.Header.Get("X-Release-Route"); res.StatusCode != http.StatusOK || got != "stable" {
			t.Errorf("asked for %q: %d from %q", route, res.StatusCode, got)
		}
	}
}
