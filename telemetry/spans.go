package telemetry

import (
	"encoding/hex"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// SpanEvents returns the spans of an OTLP document as events. The events of a
// span become log records of it.
func SpanEvents(td ptrace.Traces) []Event {
	var out []Event
	for _, rs := range td.ResourceSpans().All() {
		res := rs.Resource().Attributes()
		of := Event{
			Service: text(res, "service.name"), Version: text(res, "service.version"),
			Environment: text(res, "deployment.environment.name"), Instance: text(res, "service.instance.id"),
			TenantID: text(res, AttrTenant),
		}
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				out = appendSpan(out, of, span)
			}
		}
	}
	return out
}

func appendSpan(out []Event, of Event, span ptrace.Span) []Event {
	e := of
	e.Kind, e.Name = Span, span.Name()
	e.Time, e.End = at(span.StartTimestamp()), at(max(span.StartTimestamp(), span.EndTimestamp()))
	e.TraceID, e.SpanID, e.ParentID = traceID(span.TraceID()), spanID(span.SpanID()), spanID(span.ParentSpanID())
	e.Message = span.Status().Message()
	switch span.Status().Code() {
	case ptrace.StatusCodeError:
		e.Status = "error"
	case ptrace.StatusCodeOk:
		e.Status = "ok"
	}
	for _, l := range span.Links().All() {
		if id := traceID(l.TraceID()); id != "" {
			e.Links = append(e.Links, id)
		}
	}
	e.describe(span.Attributes())
	out = append(out, e)
	for _, x := range span.Events().All() {
		log := e
		log.Kind, log.Name, log.Time, log.End = Log, x.Name(), at(x.Timestamp()), time.Time{}
		log.ParentID, log.Message, log.Status, log.Links = "", "", "INFO", nil
		log.ErrorCode = "" // the span has it already
		log.describe(x.Attributes())
		if x.Name() == "exception" {
			log.Status, log.Message = "ERROR", text(x.Attributes(), "exception.message")
		}
		out = append(out, log)
	}
	return out
}

// describe takes the identifiers out of the attributes and keeps the rest.
func (e *Event) describe(a pcommon.Map) {
	e.Attributes = nil
	for k, v := range a.All() {
		e.SetAttribute(k, v.AsString())
	}
}

// SetAttribute sets the identifier that the key stands for, or else the
// attribute.
func (e *Event) SetAttribute(key, value string) {
	switch key {
	case AttrTenant:
		e.TenantID = value
	case AttrRequest:
		e.RequestID = value
	case AttrJob:
		e.JobID = value
	case AttrErrorCode:
		e.ErrorCode = value
	default:
		if e.Attributes == nil {
			e.Attributes = make(map[string]string)
		}
		e.Attributes[key] = value
	}
}

func at(t pcommon.Timestamp) time.Time { return t.AsTime().UTC() }

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
