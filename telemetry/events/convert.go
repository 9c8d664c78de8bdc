package events

import (
	"encoding/hex"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/telemetry"
)

// The limits of one row; what is longer is cut and marked.
const (
	maxKeyBytes   = 200
	maxValueBytes = 16 << 10
	maxAttrs      = 128
	maxLinks      = 32
	cutMark       = "…[cut]"
)

// batch collects the rows of one request.
type batch struct {
	block    *builder
	errors   []errorRow
	rejected telemetry.Rejected
	tenant   string
	row      row
	received int64 // ns, stands in for a missing time stamp
}

// errorRow repeats a row that carries an error code, on its own.
type errorRow struct {
	code, tenant, service, version, name, trace string
	time                                        int64
	raw                                         []byte
}

func (b *batch) resource(res pcommon.Resource) {
	b.row = row{links: b.row.links[:0], attrs: b.row.attrs[:0]}
	a := res.Attributes()
	b.row.ids[idService] = text(a, "service.name")
	b.row.ids[idVersion] = text(a, "service.version")
	b.row.ids[idTenant] = text(a, telemetry.AttrTenant)
	b.row.text[textEnvironment] = text(a, "deployment.environment.name")
	b.row.text[textInstance] = text(a, "service.instance.id")
}

func text(a pcommon.Map, key string) string {
	if v, ok := a.Get(key); ok {
		return cut(v.AsString(), maxValueBytes)
	}
	return ""
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + cutMark
}

// attributes fills the row's attributes and takes the identifiers out of them.
func (b *batch) attributes(a pcommon.Map) {
	r := &b.row
	r.attrs = r.attrs[:0]
	for k, v := range a.All() {
		switch k {
		case telemetry.AttrTenant:
			r.ids[idTenant] = cut(v.AsString(), maxValueBytes)
		case telemetry.AttrRequest:
			r.ids[idRequest] = cut(v.AsString(), maxValueBytes)
		case telemetry.AttrJob:
			r.ids[idJob] = cut(v.AsString(), maxValueBytes)
		case telemetry.AttrErrorCode:
			r.ids[idCode] = cut(v.AsString(), maxValueBytes)
		default:
			if len(r.attrs) < maxAttrs {
				r.attrs = append(r.attrs, attr{cut(k, maxKeyBytes), cut(v.AsString(), maxValueBytes)})
			}
		}
	}
}

// add puts the row into the block unless it belongs to another tenant.
func (b *batch) add() bool {
	r := &b.row
	if b.tenant != "" {
		if r.ids[idTenant] != "" && r.ids[idTenant] != b.tenant {
			b.rejected.Add(telemetry.Rejected{Count: 1, Reason: "a record carries the tenant_id of another tenant than the credential's"})
			return false
		}
		r.ids[idTenant] = b.tenant
	}
	if r.time == 0 {
		r.time = b.received
	}
	r.end = max(r.end, r.time)
	b.block.add(r)
	if r.failed() {
		one := newBuilder()
		one.add(r)
		b.errors = append(b.errors, errorRow{
			code: r.ids[idCode], tenant: r.ids[idTenant], service: r.ids[idService], version: r.ids[idVersion],
			name: r.text[textName], trace: r.ids[idTrace], time: r.time, raw: one.raw(),
		})
	}
	return true
}

// failed reports whether a row says that something went wrong, with a code or
// without.
func (r *row) failed() bool {
	status := r.text[textStatus]
	return r.ids[idCode] != "" || status == "error" || status == "ERROR" || status == "FATAL"
}

func (b *batch) logs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		b.resource(rl.Resource())
		resource := b.row
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				b.row.ids = resource.ids
				b.log(rec)
			}
		}
	}
}

func (b *batch) log(rec plog.LogRecord) {
	r := &b.row
	r.kind = kindLog
	r.time = int64(rec.Timestamp())
	if r.time == 0 {
		r.time = int64(rec.ObservedTimestamp())
	}
	r.end = 0
	b.attributes(rec.Attributes())
	if name := rec.EventName(); name != "" {
		r.attrs = append(r.attrs, attr{telemetry.AttrEvent, cut(name, maxKeyBytes)})
	}
	r.ids[idTrace] = traceID(rec.TraceID())
	r.text[textSpan] = spanID(rec.SpanID())
	r.text[textName] = cut(rec.Body().AsString(), maxValueBytes)
	r.text[textStatus] = severity(rec)
	b.add()
}

func severity(rec plog.LogRecord) string {
	switch n := rec.SeverityNumber(); {
	case n >= plog.SeverityNumberFatal:
		return "FATAL"
	case n >= plog.SeverityNumberError:
		return "ERROR"
	case n >= plog.SeverityNumberWarn:
		return "WARN"
	case n >= plog.SeverityNumberInfo:
		return "INFO"
	case n >= plog.SeverityNumberDebug:
		return "DEBUG"
	case n >= plog.SeverityNumberTrace:
		return "TRACE"
	}
	return strings.ToUpper(cut(rec.SeverityText(), maxKeyBytes))
}

func (b *batch) traces(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		b.resource(rs.Resource())
		resource := b.row
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				b.row.ids, b.row.text = resource.ids, resource.text
				b.span(span)
			}
		}
	}
}

func (b *batch) span(span ptrace.Span) {
	r := &b.row
	r.kind = kindSpan
	r.time, r.end = int64(span.StartTimestamp()), int64(span.EndTimestamp())
	b.attributes(span.Attributes())
	r.ids[idTrace] = traceID(span.TraceID())
	r.text[textSpan] = spanID(span.SpanID())
	r.text[textParent] = spanID(span.ParentSpanID())
	r.text[textName] = cut(span.Name(), maxValueBytes)
	r.text[textMessage] = cut(span.Status().Message(), maxValueBytes)
	r.text[textStatus] = ""
	switch span.Status().Code() {
	case ptrace.StatusCodeError:
		r.text[textStatus] = "error"
	case ptrace.StatusCodeOk:
		r.text[textStatus] = "ok"
	}
	r.links = r.links[:0]
	for i, l := range span.Links().All() {
		if id := traceID(l.TraceID()); id != "" && i < maxLinks {
			r.links = append(r.links, id)
		}
	}
	if b.add() {
		b.spanEvents(span)
	}
}

// spanEvents stores a span's events as log records of the span: database
// events and exceptions are found like any other.
func (b *batch) spanEvents(span ptrace.Span) {
	r := &b.row
	ids := r.ids
	for _, e := range span.Events().All() {
		r.kind, r.ids, r.links, r.end = kindLog, ids, r.links[:0], 0
		r.ids[idCode] = "" // the span has been counted under it
		b.attributes(e.Attributes())
		r.time = int64(e.Timestamp())
		r.text[textName] = cut(e.Name(), maxValueBytes)
		r.text[textParent], r.text[textMessage] = "", ""
		r.text[textStatus] = "INFO"
		if e.Name() == "exception" {
			r.text[textStatus] = "ERROR"
			r.text[textMessage] = text(e.Attributes(), "exception.message")
		}
		b.add()
	}
}

func traceID(id pcommon.TraceID) string {
	if id.IsEmpty() {
		return ""
	}
	return hex.EncodeToString(id[:])
}

func spanID(id pcommon.SpanID) string {
	if id.IsEmpty() {
		return ""
	}
	return hex.EncodeToString(id[:])
}
