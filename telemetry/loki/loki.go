// Package loki finds log records in log backends that Headgate does not own:
// Grafana Loki and VictoriaLogs.
//
// It owns the translation of questions and answers. It never stores anything
// and never trusts a backend with a tenant: what an answer holds of another
// tenant than the query's is dropped here.
package loki

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

const (
	// maxEntries bounds one answer; it is Loki's own default bound.
	maxEntries = 5_000
	// lookBack is how far a query without From goes back.
	lookBack = 24 * time.Hour
)

// Loki asks Grafana Loki, 3.0 or later, whose records came through OTLP, so
// that their attributes are labels or structured metadata.
type Loki struct {
	client   *backend.Client
	selector string
	now      func() time.Time
}

// New returns a finder on Loki's query API at the base URL. selector narrows
// the streams that are searched, empty meaning {service_name=~".+"}. A nil
// transport is Go's default; authentication and X-Scope-OrgID are the
// transport's business. A query takes at most the timeout, 0 meaning 10 s.
func New(base, selector string, transport http.RoundTripper, timeout time.Duration) (*Loki, error) {
	c, err := backend.New("log server", base, transport, timeout)
	if err != nil {
		return nil, err
	}
	return &Loki{client: c, selector: cmp.Or(selector, `{service_name=~".+"}`), now: time.Now}, nil
}

// Find implements [telemetry.Finder], 24 hours back unless the query says
// otherwise, for at most 5000 records.
func (l *Loki) Find(ctx context.Context, q telemetry.Query) ([]telemetry.Event, error) {
	limit, err := q.Check()
	if err != nil {
		return nil, err
	}
	from, to := period(q, l.now())
	body, err := l.client.Ask(ctx, "/loki/api/v1/query_range", "application/json", url.Values{
		"query": {l.logQL(q)}, "direction": {"backward"}, "limit": {strconv.Itoa(min(limit, maxEntries))},
		// The end is exclusive.
		"start": {strconv.FormatInt(from.UnixNano(), 10)}, "end": {strconv.FormatInt(to.UnixNano()+1, 10)},
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Type   string   `json:"resultType"`
			Result []stream `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, l.client.Unreadable(err)
	}
	var out []telemetry.Event
	for _, s := range answer.Data.Result {
		for _, v := range s.Values {
			if e := s.event(v); q.Matches(e) {
				out = append(out, e)
			}
		}
	}
	return telemetry.Newest(out, limit), nil
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

// logQL selects records by the query's identifiers, as labels or structured
// metadata.
func (l *Loki) logQL(q telemetry.Query) string {
	var b strings.Builder
	b.WriteString(l.selector)
	for _, f := range fields(q, "service_name", "service_version") {
		b.WriteString(" | " + f.name + "=" + strconv.Quote(f.value))
	}
	return b.String()
}

type field struct{ name, value string }

// fields are the query's conditions under the backend's names.
func fields(q telemetry.Query, service, version string) (out []field) {
	for _, f := range []field{
		{"trace_id", q.TraceID}, {telemetry.AttrRequest, q.RequestID}, {telemetry.AttrJob, q.JobID},
		{telemetry.AttrErrorCode, q.ErrorCode}, {telemetry.AttrTenant, q.TenantID}, {service, q.Service}, {version, q.Version},
	} {
		if f.value != "" {
			out = append(out, f)
		}
	}
	return out
}

// stream is records with the same labels and structured metadata.
type stream struct {
	Labels map[string]string `json:"stream"`
	Values []entry           `json:"values"`
}

// entry is a time in nanoseconds and a line.
type entry struct {
	time time.Time
	line string
}

// UnmarshalJSON reads the array of both. A third element would be the
// structured metadata, for who asks for it apart from the labels.
func (e *entry) UnmarshalJSON(text []byte) error {
	var stamp string
	parts := []any{&stamp, &e.line}
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	ns, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return err
	}
	e.time = time.Unix(0, ns).UTC()
	return nil
}

func (s stream) event(v entry) telemetry.Event {
	e := telemetry.Event{Kind: telemetry.Log, Time: v.time, Name: v.line}
	for k, value := range s.Labels {
		switch k {
		case "scope_name", "scope_version":
		case "severity_text", "detected_level", "level":
			if e.Status == "" || k == "severity_text" {
				e.Status = severity(value)
			}
		default:
			describe(&e, k, value)
		}
	}
	return e
}

// describe sets what a field stands for; OTLP's names have dots in
// VictoriaLogs and underscores in Loki.
func describe(e *telemetry.Event, key, value string) {
	switch strings.ReplaceAll(key, ".", "_") {
	case "trace_id":
		e.TraceID = value
	case "span_id":
		e.SpanID = value
	case "service_name":
		e.Service = value
	case "service_version":
		e.Version = value
	case "deployment_environment_name":
		e.Environment = value
	case "service_instance_id":
		e.Instance = value
	default:
		e.SetAttribute(key, value)
	}
}

// severity brings the servers' words to OTLP's ranges.
func severity(s string) string {
	s = strings.ToUpper(s)
	for _, level := range []string{"FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"} {
		if strings.HasPrefix(s, level) { // ERROR2, WARNING
			return level
		}
	}
	if s == "CRITICAL" {
		return "FATAL"
	}
	return s
}
