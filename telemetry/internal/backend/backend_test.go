package backend_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

func client(t *testing.T, timeout time.Duration, h http.HandlerFunc) *backend.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := backend.New("log server", s.URL+"/below", nil, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, tt := range map[string]struct {
		answer    http.HandlerFunc
		want      string
		retryable bool
	}{
		"credential": {status(http.StatusUnauthorized, "secret detail"), "refuses Headgate's credential (status 401)", false},
		"busy":       {status(http.StatusTooManyRequests, ""), "try again", true},
		"broken":     {status(http.StatusBadGateway, ""), "try again", true},
		"bad query":  {status(http.StatusBadRequest, "parse error\n at line 1"), "refuses the query (status 400): parse error at line 1", false},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, "status 302", false},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			chunk := make([]byte, 1<<20)
			for range backend.MaxBody>>20 + 1 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, "larger than 32 MB", false},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("half"))
		}, "does not answer", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := client(t, 0, tt.answer).Get(t.Context(), "/query", "application/json", nil)
			e := headgate.AsError(err)
			if err == nil || !strings.Contains(e.Message, tt.want) || e.Retryable != tt.retryable || strings.Contains(e.Message, "secret detail") {
				t.Errorf("got %v, retryable %v", err, e.Retryable)
			}
		})
	}
}

func TestSlowServer(t *testing.T) {
	t.Parallel()
	stuck := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	_, _, err := client(t, 50*time.Millisecond, stuck).Get(t.Context(), "/query", "application/json", nil)
	if err == nil || !strings.Contains(err.Error(), "did not answer within 50ms") {
		t.Errorf("a stuck server: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := client(t, 0, stuck).Get(ctx, "/query", "application/json", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled question: %v", err)
	}
}

func TestQuestion(t *testing.T) {
	t.Parallel()
	c := client(t, 0, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/below/query" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(r.Header.Get("Accept") + " " + r.URL.Query().Get("q")))
	})
	body, found, err := c.Get(t.Context(), "/query", "text/plain", url.Values{"q": {"a&b"}})
	if err != nil || !found || string(body) != "text/plain a&b" {
		t.Errorf("got %q, %v, %v", body, found, err)
	}
	if body, found, err := c.Get(t.Context(), "/elsewhere", "text/plain", nil); err != nil || found || body != nil {
		t.Errorf("what is not there: %q, %v, %v", body, found, err)
	}
	if _, err := c.Ask(t.Context(), "/elsewhere", "text/plain", nil); err == nil || !strings.Contains(err.Error(), "has no /elsewhere") {
		t.Errorf("a path that every server has: %v", err)
	}
	for _, base := range []string{"", "localhost:3100", "ftp://host", "http://", "://"} {
		if _, err := backend.New("log server", base, nil, 0); err == nil || headgate.AsError(err).Code != headgate.CodeConfigInvalid {
			t.Errorf("address %q: %v", base, err)
		}
	}
}
