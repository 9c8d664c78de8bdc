// Package tempo finds spans in trace backends that Headgate does not own:
// Grafana Tempo, and everything that answers Jaeger's query API.
//
// It owns the translation of questions and answers. It never stores anything
// and never trusts a backend with a tenant: what an answer holds of another
// tenant than the query's is dropped here.
package tempo

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

const (
	// maxTraces bounds the traces that one query looks into, newest first.
	maxTraces = 20
	// lookBack is how far a query without From goes back.
	lookBack = 24 * time.Hour
)

// Tempo asks Grafana Tempo, 2.0 or later.
type Tempo struct {
	client *backend.Client
	now    func() time.Time
}

// New returns a finder on Tempo's query API at the base URL. A nil transport
// is Go's default; authentication and X-Scope-OrgID are the transport's
// business. One request takes at most the timeout, 0 meaning 10 s, and a query
// takes at most 21 of them.
func New(base string, transport http.RoundTripper, timeout time.Duration) (*Tempo, error) {
	c, err := backend.New("trace server", base, transport, timeout)
	if err != nil {
		return nil, err
	}
	return &Tempo{client: c, now: time.Now}, nil
}

// Find implements [telemetry.Finder]. By another identifier than the trace id
// it searches with TraceQL, 24 hours back unless the query says otherwise, and
// looks into at most 20 traces.
func (t *Tempo) Find(ctx context.Context, q telemetry.Query) ([]telemetry.Event, error) {
	limit, err := q.Check()
	if err != nil {
		return nil, err
	}
	ids := []string{q.TraceID}
	if q.TraceID == "" {
		if ids, err = t.search(ctx, q); err != nil {
			return nil, err
		}
	}
	var out []telemetry.Event
	for _, id := range ids {
		events, err := t.trace(ctx, id)
		if err != nil {
			return nil, err
		}
		out = appendMatching(out, events, q)
	}
	return telemetry.Newest(out, limit), nil
}

func appendMatching(out, events []telemetry.Event, q telemetry.Query) []telemetry.Event {
	for _, e := range events {
		if q.Matches(e) {
			out = append(out, e)
		}
	}
	return out
}

// search returns the ids of the newest traces that have a span the query
// selects.
func (t *Tempo) search(ctx context.Context, q telemetry.Query) ([]string, error) {
	from, to := period(q, t.now())
	body, err := t.client.Ask(ctx, "/api/search", "application/json", url.Values{
		"q": {traceQL(q)}, "limit": {strconv.Itoa(maxTraces)},
		"start": {strconv.FormatInt(from.Unix(), 10)}, "end": {strconv.FormatInt(to.Unix()+1, 10)},
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Traces []struct {
			TraceID string `json:"traceID"`
		} `json:"traces"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, t.client.Unreadable(err)
	}
	var ids []string
	for _, x := range answer.Traces[:min(len(answer.Traces), maxTraces)] {
		ids = append(ids, x.TraceID)
	}
	return ids, nil
}

func period(q telemetry.Query, now time.Time) (from, to time.Time) {
	from, to = q.From, q.To
	if to.IsZero() {
		to = now
	}
	if from.IsZero() {
		from = to.Add(-lookBack)
	}
	return from, to
}

// traceQL selects spans by the query's identifiers, which may be attributes
// of the span or of its resource.
func traceQL(q telemetry.Query) string {
	var conditions []string
	for _, f := range []struct{ name, value string }{
		{"." + telemetry.AttrRequest, q.RequestID}, {"." + telemetry.AttrJob, q.JobID}, {"." + telemetry.AttrErrorCode, q.ErrorCode},
		{"." + telemetry.AttrTenant, q.TenantID}, {"resource.service.name", q.Service}, {"resource.service.version", q.Version},
	} {
		if f.value != "" {
			conditions = append(conditions, f.name+" = "+strconv.Quote(f.value))
		}
	}
	return "{ " + strings.Join(conditions, " && ") + " }"
}

// trace returns all spans of a trace, none when it is not there.
func (t *Tempo) trace(ctx context.Context, id string) ([]telemetry.Event, error) {
	// Tempo's JSON has ids in base64; its protobuf is OTLP's.
	body, found, err := t.client.Get(ctx, "/api/traces/"+url.PathEscape(id), "application/protobuf", nil)
	if err != nil || !found {
		return nil, err
	}
	td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(body)
	if err != nil {
		return nil, t.client.Unreadable(err)
	}
	return telemetry.SpanEvents(td), nil
}
