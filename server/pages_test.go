package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/headgate/headgate/access"
)

// page reads what a person sees.
func (w *world) page(t *testing.T, path string, header ...http.Header) (*http.Response, string) {
	t.Helper()
	return w.send(t, http.MethodGet, path, nil, append([]http.Header{nobody}, header...)...)
}

func (w *world) login(t *testing.T, form url.Values) (*http.Response, string) {
	t.Helper()
	return w.send(t, http.MethodPost, "/login", strings.NewReader(form.Encode()), nobody,
		http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
}

func protected(t *testing.T, path string, res *http.Response) {
	t.Helper()
	csp := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("%s: Content-Security-Policy %q lacks %s", path, csp, want)
		}
	}
	if strings.Contains(csp, "script-src") {
		t.Errorf("%s: scripts are allowed: %q", path, csp)
	}
	if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: headers %v", path, res.Header)
	}
}

// startRelease begins a release that waits for its build.
func (w *world) startRelease(t *testing.T, id, version string) {
	t.Helper()
	a := w.do(t, "POST", "/releases", object{"release_id": id, "version": version, "digest": "sha256:" + strings.Repeat("c", 64)})
	if a.status != http.StatusCreated {
		t.Fatalf("create: %d %s", a.status, a.raw)
	}
}

// On loopback a development server shows its pages without a login, to nobody
// who comes by another name.
func (w *world) pagesInDevelopment(t *testing.T) {
	w.startRelease(t, "rel-page", `v9<script>alert("x")</script>`)
	res, body := w.page(t, "/")
	if res.StatusCode != 200 || !strings.Contains(body, "rel-page") || !strings.Contains(body, `lang="en"`) {
		t.Errorf("index: %d\n%s", res.StatusCode, body)
	}
	protected(t, "/", res)
	if strings.Contains(body, "<script") {
		t.Error("the index lets a version's name be a script")
	}
	for _, header := range []http.Header{{"Host": {"evil.example"}}, {"Host": {"evil.example:80"}, "X-Internal-Debug": {"true"}}} {
		if res, body := w.page(t, "/", header); res.StatusCode != 303 || strings.Contains(body, "rel-page") {
			t.Errorf("%v: index %d", header, res.StatusCode)
		}
		if res, body := w.page(t, "/releases/rel-page", header); res.StatusCode != 303 || strings.Contains(body, "v9") {
			t.Errorf("%v: release %d", header, res.StatusCode)
		}
	}
	for query, want := range map[string]struct{ contentType, text string }{
		"":                    {"text/html", `lang="en"`},
		"?lang=zh":            {"text/html", `lang="zh-CN"`},
		"?format=md":          {"text/markdown", "rel-page"},
		"?format=md&lang=zh":  {"text/markdown", "发布"},
		"?format=json":        {"application/json", `"rel-page"`},
		"?format=unheard-of":  {"text/html", "rel-page"},
		"?lang=fr&format=":    {"text/html", `lang="en"`},
		"?format=json&lang=x": {"application/json", `"rel-page"`},
	} {
		res, body := w.page(t, "/releases/rel-page"+query)
		if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), want.contentType) || !strings.Contains(body, want.text) {
			t.Errorf("%s: %d %s, want %s with %s\n%.300s", query, res.StatusCode, res.Header.Get("Content-Type"), want.contentType, want.text, body)
		}
		protected(t, query, res)
		if want.contentType == "text/html" && strings.Contains(body, "<script>alert") {
			t.Errorf("%s lets a version's name be a script", query)
		}
		if want.contentType == "application/json" && !json.Valid([]byte(body)) {
			t.Errorf("%s is not JSON", query)
		}
	}
	for query, want := range map[string]string{"?id=+req/1%3F+": "/trace/req%2F1%3F?lang=en", "?id=&lang=zh": "/?lang=zh-CN", "": "/?lang=en"} {
		if res, _ := w.page(t, "/trace"+query); res.StatusCode != 303 || res.Header.Get("Location") != want {
			t.Errorf("/trace%s: %d to %q, want %q", query, res.StatusCode, res.Header.Get("Location"), want)
		}
	}
	if _, body := w.page(t, "/releases/rel-page?lang=zh"); !strings.Contains(body, `<a href="/?lang=zh-CN">所有发布</a>`) || !strings.Contains(body, `http-equiv="refresh"`) {
		t.Error("a release on its way has no way back to the others, or is not loaded again")
	}
	if _, body := w.page(t, "/", http.Header{"Accept-Language": {"zh-CN,zh;q=0.9"}}); !strings.Contains(body, `lang="zh-CN"`) {
		t.Error("the browser's language is not taken")
	}
	for accept, want := range map[string]string{"*/*": `"RELEASE_NOT_FOUND"`, "text/html,*/*": "<h1>RELEASE_NOT_FOUND</h1>"} {
		res, body := w.page(t, "/releases/none", http.Header{"Accept": {accept}})
		if res.StatusCode != 404 || !strings.Contains(body, want) {
			t.Errorf("unknown release to who accepts %s: %d, want %s\n%.500s", accept, res.StatusCode, want, body)
		}
	}
	if res, _ := w.send(t, http.MethodGet, "/healthz", nil, nobody); res.StatusCode != 204 {
		t.Errorf("healthz: %d", res.StatusCode)
	}
}

func (w *world) pagesNeedALogin(t *testing.T) {
	w.startRelease(t, "rel-private", "v1.1.0")
	for _, path := range []string{"/", "/releases/rel-private", "/releases/none"} {
		res, body := w.page(t, path)
		if res.StatusCode != 303 || res.Header.Get("Location") != "/login" || strings.Contains(body, "rel-private") {
			t.Errorf("%s: %d to %q", path, res.StatusCode, res.Header.Get("Location"))
		}
	}
	res, body := w.page(t, "/login?lang=zh")
	if res.StatusCode != 200 || !strings.Contains(body, "登录") {
		t.Errorf("login form: %d\n%s", res.StatusCode, body)
	}
	protected(t, "/login", res)
	for _, form := range []url.Values{{}, {"token": {""}}, {"token": {"hg_wrong.token-with-a-secret"}}, {"token": {strings.Repeat("x", 9000)}}} {
		res, body := w.login(t, form)
		if res.StatusCode != 401 || len(res.Cookies()) != 0 || !strings.Contains(body, "unknown or expired") || strings.Contains(body, "token-with-a-secret") {
			t.Errorf("login with %.40v: %d, %v", form, res.StatusCode, res.Cookies())
		}
		protected(t, "/login", res)
	}
	res, _ = w.login(t, url.Values{"token": {w.token(t, access.Operator)}})
	if res.StatusCode != 303 || res.Header.Get("Location") != "/" || len(res.Cookies()) != 1 {
		t.Fatalf("login: %d, %v", res.StatusCode, res.Cookies())
	}
	cookie := res.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.MaxAge <= 0 {
		t.Errorf("cookie %+v", cookie)
	}
	loggedIn := http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}
	for path, want := range map[string]string{"/": "rel-private", "/releases/rel-private": "v1.1.0"} {
		res, body := w.page(t, path, loggedIn)
		if res.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s with a cookie: %d", path, res.StatusCode)
		}
		protected(t, path, res)
	}
	// The cookie reads and does nothing else.
	w.data(t, w.do(t, "GET", "/releases/rel-private", nil, nobody, loggedIn))
	w.refuse(t, "POST", "/releases/rel-private/abort", object{"reason": "forged"}, 401, "AUTH_UNAUTHORIZED", nobody, loggedIn)
	w.refuse(t, "POST", "/internal"+gatePath("cost"), passing("cost"), 403, "AUTH_FORBIDDEN", nobody, loggedIn)
}

// A cookie of yesterday must not lock its owner out of the login.
func (w *world) staleCookiesLeadToTheLogin(t *testing.T) {
	stale := http.Header{"Cookie": {"headgate_token=hg_gone.gone"}}
	if res, body := w.page(t, "/", stale); res.StatusCode != 303 || res.Header.Get("Location") != "/login" {
		t.Errorf("index: %d %s", res.StatusCode, body)
	}
	if res, body := w.page(t, "/login", stale); res.StatusCode != 200 || !strings.Contains(body, "<form") {
		t.Errorf("login: %d %s", res.StatusCode, body)
	}
	w.refuse(t, "GET", "/releases", nil, 401, "AUTH_UNAUTHORIZED", nobody, stale)
}
