package timeline

import (
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"

	_ "embed"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

//go:embed waterfall.html
var waterfallText string

var waterfall = template.Must(template.New("waterfall").Parse(waterfallText))

// words are the page's words in one language.
type words struct {
	Lang, Title, Empty, Caption, From, Span     string
	Trace, Request, Job                         string
	At, Event, Bar, Took, Where, Details        string
	FirstError, Failed, Silence, Truncated, Log string
	Home, Other, OtherLang                      string
}

var languages = map[string]words{
	"en": {
		Lang: "en", Title: "Timeline of a request",
		Empty:   "Nothing is known of this identifier. It may be older than the retention, or belong to another tenant.",
		Caption: "Spans and log records in order of time. Each row gives the time since the first event, what happened, when within the whole, how long it took and where.",
		From:    "From", Span: "over", Trace: "Trace", Request: "Request", Job: "Job",
		At: "At", Event: "Event", Bar: "When", Took: "Took", Where: "Where", Details: "Details",
		FirstError: "First error", Failed: "Failed", Silence: "Nothing for", Truncated: "There is more than fits on this page.",
		Log: "log", Home: "All releases", Other: "中文", OtherLang: "zh-CN",
	},
	"zh-CN": {
		Lang: "zh-CN", Title: "请求时间线",
		Empty:   "没有找到与该标识有关的记录。它可能已超出保留期，或属于其他租户。",
		Caption: "按时间排列的跨度与日志。每行依次为：距首个事件的时间、事件、在整体中的位置、耗时与来源。",
		From:    "始于", Span: "历时", Trace: "链路", Request: "请求", Job: "任务",
		At: "时刻", Event: "事件", Bar: "位置", Took: "耗时", Where: "来源", Details: "详情",
		FirstError: "首个错误", Failed: "失败", Silence: "静默", Truncated: "内容过多，此页未能全部列出。",
		Log: "日志", Home: "所有发布", Other: "English", OtherLang: "en",
	},
}

// htmlRow is one line of the page.
type htmlRow struct {
	Entry
	Gap      string
	At       string
	Took     string
	Indent   int    // steps of nesting, bounded
	From, To string // of the bar, in percent
	IsLog    bool
	IsFirst  bool
	IsFailed bool
	Where    string
	Facts    []fact
}

type fact struct{ Name, Value string }

// maxIndent bounds how far a deep call moves to the right.
const maxIndent = 12

// WriteHTML writes the timeline as a page of its own: a waterfall that needs
// neither script nor network, follows the reader's light or dark theme and can
// be read row by row by a screen reader. lang is en or zh-CN; anything else is
// REQ_VALIDATION_FAILED. On a page that a server shows, home is the address of
// the page above it; it is empty for a file.
func (t Timeline) WriteHTML(w io.Writer, lang, home string) error {
	said, ok := languages[lang]
	if !ok {
		return headgate.Invalidf("the timeline has no language %q; use en or zh-CN", lang)
	}
	var total float64
	for _, e := range t.Entries {
		total = max(total, e.Offset+e.Duration)
	}
	page := struct {
		Words                        words
		From, Total, Home            string
		TraceIDs, RequestIDs, JobIDs []string
		Rows                         []htmlRow
		Truncated                    bool
	}{
		Words: said, Home: home, Total: seconds(total), TraceIDs: t.TraceIDs, RequestIDs: t.RequestIDs, JobIDs: t.JobIDs, Truncated: t.Truncated,
	}
	for i, e := range t.Entries {
		page.Rows = append(page.Rows, row(e, i == t.FirstError, total))
	}
	if len(t.Entries) > 0 {
		page.From = t.Entries[0].Time.UTC().Format("2006-01-02 15:04:05.000 UTC")
	}
	if err := waterfall.Execute(w, page); err != nil {
		return fmt.Errorf("write the timeline: %w", err)
	}
	return nil
}

func row(e Entry, first bool, total float64) htmlRow {
	if total <= 0 {
		total = 1
	}
	const least = 0.4 // percent; a shorter bar cannot be seen
	from := min(100*e.Offset/total, 100-least)
	r := htmlRow{
		Entry: e, At: seconds(e.Offset), Indent: min(e.Depth, maxIndent), IsLog: e.Kind == telemetry.Log, IsFirst: first, IsFailed: e.Failed(),
		From: percent(from), To: percent(max(min(100*e.Duration/total, 100-from), least)),
		Where: e.Service,
	}
	if e.Version != "" {
		r.Where += " " + e.Version
	}
	if e.Gap > 0 {
		r.Gap = seconds(e.Gap)
	}
	if e.Duration > 0 {
		r.Took = seconds(e.Duration)
	}
	for _, f := range []fact{
		{"error_code", e.ErrorCode}, {"status", e.Status}, {"message", e.Message}, {"trace_id", e.TraceID}, {"span_id", e.SpanID},
		{"request_id", e.RequestID}, {"job_id", e.JobID}, {"tenant_id", e.TenantID}, {"environment", e.Environment}, {"instance", e.Instance},
	} {
		if f.Value != "" {
			r.Facts = append(r.Facts, f)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		r.Facts = append(r.Facts, fact{k, e.Attributes[k]})
	}
	return r
}

// seconds says a time to the hundredth of a millisecond when it is short, and
// to the millisecond when it is long.
func seconds(s float64) string {
	switch {
	case s >= 1:
		return strconv.FormatFloat(s, 'f', 3, 64) + " s"
	case s >= 0.01:
		return strconv.FormatFloat(s*1000, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(s*1000, 'f', 2, 64) + " ms"
}

func percent(p float64) string { return strconv.FormatFloat(p, 'f', 2, 64) + "%" }
