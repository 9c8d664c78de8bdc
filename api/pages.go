package api

import (
	"bytes"
	"embed"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/evidence/report"
)

//go:embed templates/*.html
var templates embed.FS

var pageTemplates = template.Must(template.New("").Funcs(template.FuncMap{"stage": report.StageName}).ParseFS(templates, "templates/*.html"))

// pages serves what a person reads in a browser.
func (s *server) pages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", guard(s.reader(s.index)))
	mux.HandleFunc("GET /releases/{id}", guard(s.reader(s.releasePage)))
	mux.HandleFunc("GET /trace", guard(s.reader(s.findTrace)))
	mux.HandleFunc("GET /trace/{id}", guard(s.reader(s.tracePage)))
	mux.HandleFunc("GET /login", guard(s.loginForm))
	mux.HandleFunc("POST /login", guard(s.login))
}

// reader lets those in who may read; others have to log in first. A
// development server shows its pages to whoever can reach loopback.
func (s *server) reader(next func(http.ResponseWriter, *http.Request, access.Identity)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := caller(r.Context())
		if who.Role == "" && s.Development && loopbackHost(r.Host) {
			who = access.Identity{Name: "browser", Role: access.Viewer}
		}
		if who.Role == "" {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		next(w, r, who)
	}
}

// guard keeps a page from running scripts, from being framed and from staying
// in a cache.
func guard(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next(w, r)
	}
}

// loopbackHost refuses other names for this address, by which a page of
// another site could read ours or act in its reader's place.
func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// language is zh-CN when it is asked for or preferred, else English.
func language(r *http.Request) report.Lang {
	if l := r.URL.Query().Get("lang"); l != "" {
		if strings.HasPrefix(l, "zh") {
			return report.Chinese
		}
		return report.English
	}
	if strings.HasPrefix(strings.ToLower(r.Header.Get("Accept-Language")), "zh") {
		return report.Chinese
	}
	return report.English
}

func (s *server) index(w http.ResponseWriter, r *http.Request, who access.Identity) {
	all, err := s.Plane.Releases(r.Context(), who, "", 100)
	if err != nil {
		pageError(w, r, err)
		return
	}
	render(w, r, "index.html", map[string]any{"Releases": all, "Lang": language(r), "Chinese": language(r) == report.Chinese})
}

func (s *server) releasePage(w http.ResponseWriter, r *http.Request, who access.Identity) {
	rel, err := s.Plane.Report(r.Context(), who, r.PathValue("id"))
	if err != nil {
		pageError(w, r, err)
		return
	}
	if rb := rel.Rollback; rb != nil && rb.TraceID != "" {
		rb.TraceURL = baseURL(r) + "/trace/" + url.PathEscape(rb.TraceID)
	}
	rel.HomeURL = "/?lang=" + string(language(r))
	var b bytes.Buffer
	switch r.URL.Query().Get("format") {
	case "json":
		w.Header().Set("Content-Type", "application/json")
		err = report.JSON(&b, rel)
	case "md":
		w.Header().Set("Content-Type", "text/markdown; charset=utf-8")
		err = report.Markdown(&b, rel, language(r))
	default:
		err = report.HTML(&b, rel, language(r))
	}
	if err != nil {
		pageError(w, r, err)
		return
	}
	_, _ = w.Write(b.Bytes()) // the client is gone if this fails
}

// baseURL is where the reader reached this server, so that a link also works
// from a page that was saved.
func baseURL(r *http.Request) string {
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// findTrace leads from the form on the first page to the story asked for.
func (s *server) findTrace(w http.ResponseWriter, r *http.Request, _ access.Identity) {
	id := strings.TrimSpace(r.URL.Query().Get("id"))
	if id == "" {
		http.Redirect(w, r, "/?lang="+string(language(r)), http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, "/trace/"+url.PathEscape(id)+"?lang="+string(language(r)), http.StatusSeeOther)
}

// tracePage shows the story of one request from any of its identifiers.
func (s *server) tracePage(w http.ResponseWriter, r *http.Request, who access.Identity) {
	found, err := s.Plane.Story(r.Context(), who, r.PathValue("id"), "")
	if err != nil {
		pageError(w, r, err)
		return
	}
	var b bytes.Buffer
	if err := found.WriteHTML(&b, string(language(r)), "/?lang="+string(language(r))); err != nil {
		pageError(w, r, err)
		return
	}
	if found.MatchedBy == "" {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = w.Write(b.Bytes()) // the client is gone if this fails
}

func (s *server) loginForm(w http.ResponseWriter, r *http.Request) {
	render(w, r, "login.html", map[string]any{"Lang": language(r), "Chinese": language(r) == report.Chinese})
}

// login keeps a good token in a cookie that scripts and other sites cannot
// read.
func (s *server) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	token := r.PostFormValue("token")
	req := r.Clone(r.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	if _, err := s.identity(req); err != nil || token == "" {
		w.WriteHeader(http.StatusUnauthorized)
		render(w, r, "login.html", map[string]any{"Lang": language(r), "Chinese": language(r) == report.Chinese, "Wrong": true})
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: token, Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode, MaxAge: 12 * 3600,
	})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// pageError answers a browser with a page, and a program with the envelope.
func pageError(w http.ResponseWriter, r *http.Request, err error) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		WriteError(w, r, err)
		return
	}
	e := failure(r.Context(), err)
	w.WriteHeader(e.status)
	render(w, r, "error.html", map[string]any{"Err": e.Err, "Meta": e.Meta, "Lang": language(r), "Chinese": language(r) == report.Chinese})
}

func render(w http.ResponseWriter, r *http.Request, name string, data any) {
	var b bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&b, name, data); err != nil {
		WriteError(w, r, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "the page could not be made").Wrap(err))
		return
	}
	_, _ = w.Write(b.Bytes()) // the client is gone if this fails
}
