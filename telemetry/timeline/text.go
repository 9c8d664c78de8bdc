package timeline

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// barWidth is the width of the waterfall's bars in characters.
const barWidth = 24

// WriteText writes the timeline as a waterfall for a terminal: when, how long,
// where, what, with gaps and the first error marked.
func (t Timeline) WriteText(w io.Writer) error {
	if len(t.Entries) == 0 {
		_, err := fmt.Fprintln(w, "Nothing is known of this identifier. It may be older than the retention, or belong to another tenant.")
		return err
	}
	var total float64
	for _, e := range t.Entries {
		total = max(total, e.Offset+e.Duration)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "from %s over %.3f s\n", t.Entries[0].Time.Format(time.RFC3339Nano), total)
	for _, ids := range []struct {
		what string
		ids  []string
	}{{"trace", t.TraceIDs}, {"request", t.RequestIDs}, {"job", t.JobIDs}} {
		if len(ids.ids) > 0 {
			fmt.Fprintf(&b, "%s %s\n", ids.what, strings.Join(ids.ids, ", "))
		}
	}
	for i, e := range t.Entries {
		if e.Gap > 0 {
			fmt.Fprintf(&b, "%10s   … nothing for %.1f s\n", "", e.Gap)
		}
		mark := " "
		switch {
		case i == t.FirstError:
			mark = "▶"
		case e.Failed():
			mark = "!"
		}
		fmt.Fprintf(&b, "%9.3fs %s %s %s%s\n", e.Offset, mark, bar(e, total), strings.Repeat("  ", e.Depth), describe(e))
	}
	if t.Truncated {
		b.WriteString("… there is more than fits\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func bar(e Entry, total float64) string {
	if total <= 0 {
		total = 1
	}
	from := min(int(e.Offset/total*barWidth), barWidth-1)
	length := min(max(int(e.Duration/total*barWidth), 1), barWidth-from)
	fill := "█"
	if e.Duration == 0 {
		fill = "·"
	}
	return strings.Repeat(" ", from) + strings.Repeat(fill, length) + strings.Repeat(" ", barWidth-from-length)
}

func describe(e Entry) string {
	parts := []string{printable(e.Name)}
	if e.Duration > 0 {
		parts = append(parts, fmt.Sprintf("(%.3f s)", e.Duration))
	}
	for _, f := range []struct{ name, value string }{
		{"", e.Service}, {"", e.Version}, {"", e.Status}, {"error_code=", e.ErrorCode}, {"job_id=", e.JobID}, {"", e.Message},
	} {
		if f.value != "" {
			parts = append(parts, f.name+printable(f.value))
		}
	}
	return strings.Join(parts, " ")
}

// printable keeps what a service sent from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
