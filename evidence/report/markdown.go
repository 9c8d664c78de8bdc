package report

import (
	"fmt"
	"strings"
)

// markdown renders a document for places that show neither HTML nor pictures.
func markdown(d document) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n**%s** · %s\n\n%s\n", escape(d.Title), d.Badge.Text, escape(d.Subtitle), escape(d.Lead))
	if len(d.Why) > 0 {
		b.WriteString("\n")
	}
	for _, r := range d.Why {
		b.WriteString("- " + inline(cell{Text: r.Code, Mono: true}))
		if r.Text != "" {
			fmt.Fprintf(&b, " – %s", escape(r.Text))
		}
		b.WriteString("\n")
	}
	if d.Found.Text != "" {
		fmt.Fprintf(&b, "\n%s\n", escape(d.Found.Text))
	}
	if d.Next.Text != "" {
		fmt.Fprintf(&b, "\n%s %s\n", escape(d.Next.Text), inline(cell{Text: d.Next.Command, Mono: true}))
	}
	for _, a := range d.Alarms {
		fmt.Fprintf(&b, "\n> ⚠ **%s**\n", escape(a))
	}
	b.WriteString("\n")
	for _, f := range d.Figures {
		fmt.Fprintf(&b, "- %s: **%s**", escape(f.Label), escape(f.Value))
		if f.Note != "" {
			fmt.Fprintf(&b, " (%s)", escape(f.Note))
		}
		b.WriteString("\n")
	}
	for _, f := range d.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", escape(f.Label), inline(cell{Text: f.Value, Mono: f.Mono}))
	}
	for _, s := range d.Sections {
		fmt.Fprintf(&b, "\n## %s", escape(s.Title))
		if s.Badge.Text != "" {
			fmt.Fprintf(&b, " · %s", s.Badge.Text)
		}
		b.WriteString("\n")
		if s.Text != "" {
			fmt.Fprintf(&b, "\n%s\n", escape(s.Text))
		}
		for _, c := range s.Charts {
			if c.Data != nil {
				writeTable(&b, *c.Data)
			}
		}
		for _, t := range s.Tables {
			writeTable(&b, t)
		}
	}
	fmt.Fprintf(&b, "\n---\n\n%s\n", escape(d.Footer))
	return b.String()
}

func writeTable(b *strings.Builder, t table) {
	if t.Caption != "" {
		fmt.Fprintf(b, "\n### %s", escape(t.Caption))
		if t.Badge.Text != "" {
			fmt.Fprintf(b, " · %s", t.Badge.Text)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n|")
	for _, c := range t.Head {
		fmt.Fprintf(b, " %s |", escape(c.Text))
	}
	b.WriteString("\n|")
	for _, c := range t.Head {
		if c.Right {
			b.WriteString(" ---: |")
		} else {
			b.WriteString(" --- |")
		}
	}
	for _, row := range t.Rows {
		b.WriteString("\n|")
		for _, c := range row {
			fmt.Fprintf(b, " %s |", inline(c))
		}
	}
	b.WriteString("\n")
	for i, q := range t.Queries {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(b, "%d. %s\n", i+1, inline(cell{Text: q, Mono: true}))
	}
	if t.Note != "" {
		fmt.Fprintf(b, "\n%s\n", escape(t.Note))
	}
}

func inline(c cell) string {
	s := escape(c.Text)
	if c.Mono {
		s = "`" + strings.NewReplacer("`", "'", "|", `\|`, "\n", " ").Replace(c.Text) + "`"
	}
	if c.Sub != "" {
		for line := range strings.SplitSeq(c.Sub, "\n") {
			s += "<br>" + escape(line)
		}
	}
	return s
}

// escape keeps what was recorded from becoming markup.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "|", `\|`, "#", `\#`, "\n", " ", "\r", "").Replace(s)
}
