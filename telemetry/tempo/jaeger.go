package tempo

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

// Jaeger asks any server with Jaeger's HTTP query API.
type Jaeger struct {
	client *backend.Client
	now    func() time.Time
}

const (
	// maxServices bounds the services that one query searches, and atOnce how
	// many of them at the same time.
	maxServices = 100
	atOnce      = 8
)

// NewJaeger returns a finder on the query API at the base URL, which has
// /api/traces below it. The rest is as for [New].
func NewJaeger(base string, transport http.RoundTripper, timeout time.Duration) (*Jaeger, error) {
	c, err := backend.New("trace server", base, transport, timeout)
	if err != nil {
		return nil, err
	}
	return &Jaeger{client: c, now: time.Now}, nil
}

// Find implements [telemetry.Finder]. By another identifier than the trace id
// it searches 24 hours back unless the query says otherwise, for at most 20
// traces of each service. Jaeger searches within one service at a time; a
// query that names none searches all of them, at most 100.
func (j *Jaeger) Find(ctx context.Context, q telemetry.Query) ([]telemetry.Event, error) {
	limit, err := q.Check()
	if err != nil {
		return nil, err
	}
	if q.TraceID != "" {
		body, found, err := j.client.Get(ctx, "/api/traces/"+url.PathEscape(q.TraceID), "application/json", nil)
		if err != nil || !found {
			return nil, err
		}
		events, err := j.read(body)
		return telemetry.Newest(appendMatching(nil, events, q), limit), err
	}
	services := []string{q.Service}
	if q.Service == "" {
		if services, err = j.services(ctx); err != nil {
			return nil, err
		}
	}
	found := make([][]telemetry.Event, len(services))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, service := range services {
		group.Go(func() (err error) {
			found[i], err = j.search(ctx, service, q)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []telemetry.Event
	seen := make(map[string]bool) // a trace through several services is answered for each
	for _, e := range slices.Concat(found...) {
		id := strings.Join([]string{string(e.Kind), e.TraceID, e.SpanID, e.Name, e.Time.String()}, "\x00")
		if !seen[id] {
			seen[id] = true
			out = append(out, e)
		}
	}
	return telemetry.Newest(out, limit), nil
}

func (j *Jaeger) services(ctx context.Context) ([]string, error) {
	body, err := j.client.Ask(ctx, "/api/services", "application/json", nil)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data []string `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, j.client.Unreadable(err)
	}
	if n := len(answer.Data); n > maxServices {
		return nil, headgate.Invalidf("the trace server knows %d services and searches one at a time; look for the trace id instead", n)
	}
	return answer.Data, nil
}

func (j *Jaeger) search(ctx context.Context, service string, q telemetry.Query) ([]telemetry.Event, error) {
	tags, err := tagsOf(q)
	if err != nil {
		return nil, err
	}
	from, to := period(q, j.now())
	body, err := j.client.Ask(ctx, "/api/traces", "application/json", url.Values{
		"service": {service}, "tags": {tags}, "limit": {strconv.Itoa(maxTraces)},
		"start": {strconv.FormatInt(from.UnixMicro(), 10)}, "end": {strconv.FormatInt(to.UnixMicro(), 10)},
	})
	if err != nil {
		return nil, err
	}
	events, err := j.read(body)
	return appendMatching(nil, events, q), err
}

// tagsOf writes what Jaeger is to look for; it matches tags of spans and of
// their processes.
func tagsOf(q telemetry.Query) (string, error) {
	tags := make(map[string]string)
	for name, value := range map[string]string{
		telemetry.AttrRequest: q.RequestID, telemetry.AttrJob: q.JobID, telemetry.AttrErrorCode: q.ErrorCode,
		telemetry.AttrTenant: q.TenantID, "service.version": q.Version,
	} {
		if value != "" {
			tags[name] = value
		}
	}
	text, err := json.Marshal(tags)
	return string(text), err
}

// The answer as Jaeger's API has it. Times are in microseconds.
type (
	jaegerTrace struct {
		Spans     []jaegerSpan             `json:"spans"`
		Processes map[string]jaegerProcess `json:"processes"`
	}
	jaegerSpan struct {
		TraceID    string            `json:"traceID"`
		SpanID     string            `json:"spanID"`
		Name       string            `json:"operationName"`
		References []jaegerReference `json:"references"`
		Start      int64             `json:"startTime"`
		Duration   int64             `json:"duration"`
		Tags       []jaegerTag       `json:"tags"`
		Logs       []jaegerLog       `json:"logs"`
		ProcessID  string            `json:"processID"`
	}
	jaegerReference struct {
		Type    string `json:"refType"`
		TraceID string `json:"traceID"`
		SpanID  string `json:"spanID"`
	}
	jaegerLog struct {
		Time   int64       `json:"timestamp"`
		Fields []jaegerTag `json:"fields"`
	}
	jaegerTag struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	jaegerProcess struct {
		Service string      `json:"serviceName"`
		Tags    []jaegerTag `json:"tags"`
	}
)

func (t jaegerTag) text() string {
	switch v := t.Value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func (j *Jaeger) read(body []byte) ([]telemetry.Event, error) {
	var answer struct {
		Data []jaegerTrace `json:"data"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&answer); err != nil {
		return nil, j.client.Unreadable(err)
	}
	var out []telemetry.Event
	for _, trace := range answer.Data {
		for _, span := range trace.Spans {
			out = append(out, span.events(trace.Processes[span.ProcessID])...)
		}
	}
	return out, nil
}

// events returns the span and its logs.
func (s jaegerSpan) events(p jaegerProcess) []telemetry.Event {
	start := time.UnixMicro(s.Start).UTC()
	e := telemetry.Event{
		Kind: telemetry.Span, Time: start, End: start.Add(time.Duration(s.Duration) * time.Microsecond),
		TraceID: padded(s.TraceID, 32), SpanID: padded(s.SpanID, 16), Name: s.Name, Service: p.Service,
	}
	for _, t := range p.Tags {
		switch t.Key {
		case "service.version":
			e.Version = t.text()
		case "deployment.environment.name":
			e.Environment = t.text()
		case "service.instance.id":
			e.Instance = t.text()
		case telemetry.AttrTenant:
			e.TenantID = t.text()
		}
	}
	for _, r := range s.References {
		switch {
		case r.Type == "CHILD_OF" && e.ParentID == "" && padded(r.TraceID, 32) == e.TraceID:
			e.ParentID = padded(r.SpanID, 16)
		case r.TraceID != "":
			e.Links = append(e.Links, padded(r.TraceID, 32))
		}
	}
	for _, t := range s.Tags {
		switch t.Key {
		case "otel.status_code":
			e.Status = strings.ToLower(t.text())
		case "otel.status_description":
			e.Message = t.text()
		case "error":
			if t.text() == "true" && e.Status == "" {
				e.Status = "error"
			}
		case "span.kind", "otel.scope.name", "otel.scope.version": // OTLP has them beside the attributes
		default:
			e.SetAttribute(t.Key, t.text())
		}
	}
	out := []telemetry.Event{e}
	for _, l := range s.Logs {
		out = append(out, l.event(e))
	}
	return out
}

func (l jaegerLog) event(span telemetry.Event) telemetry.Event {
	e := span
	e.Kind, e.Time, e.End, e.Status = telemetry.Log, time.UnixMicro(l.Time).UTC(), time.Time{}, "INFO"
	e.ParentID, e.Message, e.ErrorCode, e.Links, e.Attributes = "", "", "", nil, nil
	e.Name = "event"
	for _, t := range l.Fields {
		switch t.Key {
		case "event":
			e.Name = t.text()
		case "exception.message":
			e.Message = t.text()
			fallthrough
		default:
			e.SetAttribute(t.Key, t.text())
		}
	}
	if e.Name == "exception" {
		e.Status = "ERROR"
	}
	return e
}

// padded gives an id the zeros that Jaeger leaves out.
func padded(id string, length int) string {
	if id == "" || len(id) >= length {
		return id
	}
	return strings.Repeat("0", length-len(id)) + id
}
