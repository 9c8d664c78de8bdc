//go:build unix

package main

import (
	"net/http"
	"time"

	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/timeline"
)

const fakeTrace = "4bf92f3577b34da6a3ce929d0e0e4736"

// fakeTimeline knows one request, by its request id.
func fakeTimeline(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	if q.Get("id") != "req_7" || q.Get("tenant_id") == "globex" {
		reply(w, http.StatusOK, control.Story{Timeline: timeline.Timeline{FirstError: -1, Entries: []timeline.Entry{}}})
		return
	}
	at := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	entry := func(name, code string, depth int, offset, took time.Duration) timeline.Entry {
		e := timeline.Entry{Depth: depth, Offset: offset.Seconds(), Duration: took.Seconds()}
		e.Event = telemetry.Event{
			Kind: telemetry.Span, Time: at.Add(offset), End: at.Add(offset + took), TraceID: fakeTrace, TenantID: "acme", Service: "shop", Name: name, ErrorCode: code,
		}
		if code != "" {
			e.Status = "error"
		}
		return e
	}
	reply(w, http.StatusOK, control.Story{MatchedBy: "request_id", Timeline: timeline.Timeline{
		TraceIDs: []string{fakeTrace}, RequestIDs: []string{"req_7"}, JobIDs: []string{"job_7"}, FirstError: 1,
		Entries: []timeline.Entry{entry("POST /orders", "DB_LOCKED", 0, 0, 300*time.Millisecond), entry("INSERT orders", "DB_LOCKED", 1, 100*time.Millisecond, 200*time.Millisecond)},
	}})
}

// fakeErrors has one error, on the release that was rolled back.
func fakeErrors(r *fakeRelease, req *http.Request) any {
	out := client.ErrorReport{ReleaseID: r.ID, Changes: []client.ErrorChange{}, From: time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)}
	if r.ID != "rel_bad" || req.URL.Query().Get("since_s") == "60" {
		return out
	}
	out.Reason = "DB_LOCKED occurred 30 times on the candidate, at POST /orders, and never there on stable; it hit tenant acme only."
	out.Changes = append(out.Changes,
		client.ErrorChange{Code: "DB_LOCKED", TenantID: "acme", Name: "POST /orders", Count: 30, New: true, TraceID: fakeTrace},
		client.ErrorChange{Code: "PARSE", TenantID: "acme", Name: "parse\x1b[31m", Count: 4, StableCount: 1})
	return out
}
