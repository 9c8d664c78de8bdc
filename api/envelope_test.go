package api_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/api"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/store/sqlite"
)

// root makes the first credential.
var root = access.Identity{Name: "root", Role: access.Operator}

// asker asks a handler over an empty database, as an operator.
type asker struct {
	http.Handler
	token string
	log   bytes.Buffer
}

func newAsker(t *testing.T) *asker {
	t.Helper()
	db, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	a := &asker{}
	log := slog.New(slog.NewTextHandler(&a.log, nil))
	a.Handler = api.New(api.Options{
		Plane: control.New(control.Options{Settings: config.DefaultSettings(), Store: db, Logger: log}), Credentials: db, Version: "test", Logger: log,
	})
	if a.token, _, err = access.Issue(t.Context(), db, root, access.Wanted{Name: "olga", Role: access.Operator}, time.Now()); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *asker) ask(ctx context.Context, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+a.token)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// Who hangs up, as whoever watches a release does at some time, is no error of
// the server.
func TestHangingUpIsNoInternalError(t *testing.T) {
	t.Parallel()
	a := newAsker(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a.ask(ctx, http.MethodGet, "/api/v1/releases/rel-1/events?after=1&wait_s=30", "")
	if ctx.Err() == nil {
		t.Fatal("the answer did not wait")
	}
	if got := a.log.String(); got != "" {
		t.Errorf("the log says: %s", got)
	}
}

func TestWhatIsNotThereIs404(t *testing.T) {
	t.Parallel()
	a := newAsker(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	for code, r := range map[string]struct{ method, path, body string }{
		"QUARANTINE_NOT_FOUND": {http.MethodPost, "/api/v1/quarantine/" + digest + "/release", `{"reason": "why"}`},
		"RULES_NOT_FOUND":      {http.MethodPost, "/api/v1/rules/" + digest + "/approve", `{"reason": "why"}`},
		"RELEASE_NOT_FOUND":    {http.MethodGet, "/api/v1/releases/rel-1", ""},
		"JOB_NOT_FOUND":        {http.MethodGet, "/api/v1/jobs/job_1", ""},
		"SERVICE_NOT_FOUND":    {http.MethodGet, "/api/v1/services/none/rollback-drills", ""},
	} {
		if w := a.ask(t.Context(), r.method, r.path, r.body); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), `"`+code+`"`) {
			t.Errorf("%s: %d %s", code, w.Code, w.Body)
		}
	}
}
