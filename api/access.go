package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
)

// call is what is known of a request. It is complete before a handler sees it.
type call struct {
	Meta
	who     access.Identity
	pattern string // that matches the path; empty for none
	log     *slog.Logger
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{log: slog.New(slog.DiscardHandler)}
}

func metaOf(ctx context.Context) Meta { return callOf(ctx).Meta }

// caller is who asks; the zero Identity is nobody.
func caller(ctx context.Context) access.Identity { return callOf(ctx).who }

// noteInternal logs the cause of an error that the client is not told.
func noteInternal(ctx context.Context, err error) {
	c := callOf(ctx)
	c.log.ErrorContext(ctx, "internal error", slog.Any("error", err), slog.Any("cause", headgate.AsError(err).Unwrap()), slog.String("request_id", c.RequestID), slog.String("trace_id", c.TraceID))
}

// The headers of a request's ids and tenant, as [http.Header] holds them.
const (
	traceIDHeader   = "X-Trace-Id"
	requestIDHeader = "X-Request-Id"
	tenantIDHeader  = "X-Tenant-Id"
)

var (
	requestIDPattern   = regexp.MustCompile(`^[A-Za-z0-9._:/+=@-]{1,128}$`)
	traceparentPattern = regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}`)
)

const zeroTrace = "00000000000000000000000000000000"

// identify gives each request its ids: the caller's where they are usable,
// fresh ones otherwise. W3C traceparent wins over x-trace-id.
func (s *server) identify(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := Meta{TraceID: r.Header.Get(traceIDHeader), RequestID: r.Header.Get(requestIDHeader)}
		if t := traceparentPattern.FindStringSubmatch(r.Header.Get("Traceparent")); t != nil && t[1] != zeroTrace {
			m.TraceID = t[1]
		}
		if !requestIDPattern.MatchString(m.TraceID) {
			b := make([]byte, 16)
			rand.Read(b) // never fails, see crypto/rand
			m.TraceID = hex.EncodeToString(b)
		}
		if !requestIDPattern.MatchString(m.RequestID) {
			m.RequestID = headgate.NewID("req")
		}
		w.Header().Set(traceIDHeader, m.TraceID)
		w.Header().Set(requestIDHeader, m.RequestID)
		_, pattern := mux.Handler(r)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, &call{Meta: m, pattern: pattern, log: s.Logger})))
	})
}

// drainTime bounds how long the rest of a refused body is read.
const drainTime = 10 * time.Second

// drain reads what a client still sends of a body that nobody wanted to the
// end. Most clients read the answer only after they have sent everything; if
// the connection were closed on them, they would not find out why.
func drain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		body := &openBody{ReadCloser: r.Body}
		r.Body = body
		next.ServeHTTP(w, r)
		if body.ended {
			return
		}
		c := http.NewResponseController(w)
		if c.SetReadDeadline(time.Now().Add(drainTime)) != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, body, maxReportBody) // what cannot be read need not be
		_ = c.SetReadDeadline(time.Time{})
	})
}

// openBody is a request's body that stays open for [drain], until its end.
type openBody struct {
	io.ReadCloser
	ended bool
}

func (b *openBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = errors.Is(err, io.EOF)
	return n, err
}

// Close implements [io.Closer] and does nothing: net/http closes the body.
func (b *openBody) Close() error { return nil }

// recoverPanics keeps one broken request from ending the process.
func (s *server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				s.Logger.ErrorContext(r.Context(), "handler panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
				WriteError(w, r, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "internal error; the server's log has the cause under this request id"))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// internalPrefix is the part of the API that is for operators only.
const internalPrefix = "/api/v1/internal/"

// authenticate establishes who asks and for which tenant, and keeps everybody
// but operators out of the internal part.
func (s *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.identity(r)
		if err == nil && strings.HasPrefix(r.URL.Path, internalPrefix) {
			err = who.May(access.Operator)
		}
		if err == nil && who.Role != "" {
			asked := r.Header.Get(tenantIDHeader)
			who, err = who.Narrow(asked)
			if err == nil && asked != "" {
				who.Tenants = []string{who.TenantID} // so that it sees no other's either
			}
		}
		if err != nil {
			WriteError(w, r, err)
			return
		}
		callOf(r.Context()).who = who
		next.ServeHTTP(w, r)
	})
}

// identity returns the caller; nobody, without an error, when no credential
// was sent.
func (s *server) identity(r *http.Request) (access.Identity, error) {
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	if token := bearer(r); token != "" {
		who, err := access.Verify(r.Context(), s.Credentials, token, time.Now())
		who.From = from
		return who, err
	}
	// By another name, a page of another site could have sent the header.
	if s.Development && r.Header.Get("x-internal-debug") == "true" && loopbackHost(r.Host) {
		return access.Identity{Name: "x-internal-debug", Person: access.DevelopmentHolder, Role: access.Operator, From: from}, nil
	}
	// A cookie only ever reads: another site's form cannot act with it. One
	// that is no good any more is none, so that its owner can log in again.
	c, err := r.Cookie(sessionCookie)
	if err != nil || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		return access.Identity{From: from}, nil
	}
	who, err := access.Verify(r.Context(), s.Credentials, c.Value, time.Now())
	if err != nil && headgate.AsError(err).Code == headgate.CodeUnauthorized {
		err = nil
	}
	who.From = from
	return who, err
}

// sessionCookie holds the token of a person who logged in with a browser.
const sessionCookie = "headgate_token"

// bearer returns the token of a request, "" without one. What reads
// Prometheus's API may know passwords only; there one is a token, too.
func bearer(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok && strings.HasPrefix(r.URL.Path, "/prometheus/") {
		return cmp.Or(password, "-")
	}
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "-" // a credential of a kind that nobody has
		}
		return token
	}
	return ""
}

// must returns the caller if it has the role. Nobody is AUTH_UNAUTHORIZED.
func must(ctx context.Context, role access.Role) (access.Identity, error) {
	who := caller(ctx)
	if who.Role == "" {
		return who, headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive,
			"send Authorization: Bearer with a token from headgate token create")
	}
	return who, who.May(role)
}

// route answers unknown paths and wrong methods in the envelope, and refuses
// nobody's posts.
func (s *server) route(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pattern := callOf(r.Context()).pattern
		if _, err := must(r.Context(), access.Viewer); err != nil && strings.HasPrefix(pattern, "POST /api/v1/") {
			WriteError(w, r, err) // before its body takes memory
			return
		}
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &statusProbe{header: http.Header{}}
		mux.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.header.Get("Allow"))
			WriteError(w, r, headgate.Errorf(headgate.CodeMethodNotAllowed, headgate.ClassValidation,
				"this path takes %s", probe.header.Get("Allow")))
			return
		}
		WriteError(w, r, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "there is nothing at this path; see /openapi.json"))
	})
}

// maxReports is how many bytes of reports are taken in at once: each is in
// memory until it is stored.
const maxReports = 4 * maxReportBody

// limitReports refuses a report for which there is no room now.
func (s *server) limitReports(c huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(c)
	size := r.ContentLength
	if size < 0 || size > maxReportBody {
		size = maxReportBody // more is not read
	}
	defer s.reports.Add(-size)
	if s.reports.Add(size) > maxReports {
		WriteError(w, r, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"too many reports are being taken in at once; send it again in a moment"))
		return
	}
	next(c)
}

// maxBundles is how many bundles are handed out at once: each is in memory until
// its reader has it.
const maxBundles = 2

const (
	bundleWait = 10 * time.Second // for others to have theirs
	bundleRead = 5 * time.Minute  // for a reader to take one
)

// limitBundles lets requests for bundles wait for each other.
func (s *server) limitBundles(c huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(c)
	waiting := time.NewTimer(bundleWait)
	defer waiting.Stop()
	select {
	case s.bundles <- struct{}{}:
		defer func() { <-s.bundles }()
	case <-waiting.C:
		WriteError(w, r, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"too many bundles are being fetched at once; ask for it again in a moment"))
		return
	case <-r.Context().Done():
		return
	}
	out := http.NewResponseController(w)
	if err := out.SetWriteDeadline(time.Now().Add(bundleRead)); err == nil {
		defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection's next answer has no end
	}
	next(c)
}

// statusProbe learns how the router would refuse a request.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
