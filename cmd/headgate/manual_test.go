package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// People steer canaries and quarantines from the command line.
func TestSteeringByCommand(t *testing.T) {
	t.Parallel()
	var got string
	answers := map[string]string{
		"/api/v1/quarantine":                      `[{"digest":"sha256:aa","service":"things","version":"v2","release_id":"rel_1","at":"2026-03-01T12:00:00Z","requested_by":"ann","reason":"a false alarm"}]`,
		"/api/v1/quarantine/sha256:aa/release":    `{"digest":"sha256:aa","service":"things","requested_by":"ann","released_by":"bob"}`,
		"/api/v1/releases/rel_1/rollback":         `{"release_id":"rel_1","outcome":"promoted","rollback":{"triggered_at":"2026-03-01T12:00:00Z","restored_at":"2026-03-01T12:00:02Z","steps":[{"component":"release_version","to":"v1","status":"done"}]}}`,
		"/api/v1/releases/rel_2/rollback":         `{"release_id":"rel_2","rollback":{"triggered_at":"2026-03-01T12:00:00Z","steps":[{"component":"model_config","status":"escalated","error":"503"}]}}`,
		"/api/v1/services/things/rollback-drills": `{"drill_id":"drill_1","passed":true,"ended_at":"2026-03-01T12:00:03Z","triggered_at":"2026-03-01T12:00:00Z","restored_at":"2026-03-01T12:00:01.5Z"}`,
		"/api/v1/services/broken/rollback-drills": `{"drill_id":"drill_1","ended_at":"2026-03-01T12:00:03Z","failure":"the replay has not passed"}`,
		"/api/v1/services/late/rollback-drills":   `{"every_s":3600,"overdue":"none has passed"}`,
		"/api/v1/quarantine/sha256:bb/release":    `{"digest":"sha256:bb","service":"things","requested_by":"ann"}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.Path + " " + string(body)
		data := answers[r.URL.Path]
		if data == "" {
			data = `{"release_id":"rel_1"}`
		}
		_, _ = io.WriteString(w, `{"success":true,"data":`+data+`}`)
	}))
	t.Cleanup(srv.Close)
	const release = "POST /api/v1/releases/rel_1"
	for _, tt := range []struct {
		args string
		code int
		sent string
		says string
	}{
		{"release pause rel_1 --reason why", 0, release + `/pause {"reason":"why"}`, "rel_1: pause recorded"},
		{"release resume rel_1 --reason why", 0, release + `/resume {"reason":"why"}`, "rel_1: resume recorded"},
		{"release promote rel_1 --reason why", 0, release + `/promote {"reason":"why"}`, "rel_1: promote recorded"},
		{"release share rel_1 12.5% --reason why", 0, release + `/share {"reason":"why","share":0.125}`, "rel_1: share recorded"},
		{"release share rel_1 0.5 --reason why", 0, release + `/share {"reason":"why","share":0.5}`, "rel_1: share recorded"},
		{"release share rel_1 0 --reason why", 2, "", "above 0 and at most 1"},
		{"release share rel_1 120% --reason why", 2, "", "above 0 and at most 1"},
		{"release share rel_1 NaN --reason why", 2, "", "above 0 and at most 1"},
		{"release share rel_1 --reason why", 2, "", "release share RELEASE SHARE"},
		{"release rollback rel_1 --reason why", 0, release + `/rollback {"reason":"why"}`, "rel_1: taken back and restored in 2"},
		{"release rollback rel_2 --reason why", 1, `POST /api/v1/releases/rel_2/rollback {"reason":"why"}`, "model_config      escalated    503"},
		{"release rollback rel_1", 2, "", "--reason is required"},
		{"drill rollback --service things --reason why", 0, `POST /api/v1/services/things/rollback-drills {"reason":"why"}`, "restored         1.500 s after the trigger"},
		{"drill rollback --service broken", 1, `POST /api/v1/services/broken/rollback-drills {"reason":"a drill by hand"}`, "FAILED: the replay has not passed"},
		{"drill rollback", 2, "", "--service is required"},
		{"drill show --service late", 0, "GET /api/v1/services/late/rollback-drills ", "OVERDUE: none has passed"},
		{"release pause rel_1", 2, "", "--reason is required"},
		{"quarantine list", 0, "GET /api/v1/quarantine ", "ann: a false alarm"},
		{"quarantine release sha256:bb --reason why", 0, `POST /api/v1/quarantine/sha256:bb/release {"reason":"why","service":""}`, "counts once somebody else"},
		{"quarantine release sha256:aa --reason why", 0, `POST /api/v1/quarantine/sha256:aa/release {"reason":"why","service":""}`, "by ann and bob"},
		{"quarantine release sha256:aa", 2, "", "--reason is required"},
	} {
		got = ""
		var out bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out, environ: []string{"HEADGATE_URL=" + srv.URL, "HEADGATE_TOKEN=hg_a.b"}}
		if code := a.run(t.Context(), strings.Fields(tt.args)); code != tt.code || got != tt.sent || !strings.Contains(out.String(), tt.says) {
			t.Errorf("%s: exit %d, sent %q, said %q", tt.args, code, got, out.String())
		}
	}
}
