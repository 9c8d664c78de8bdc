package report

import (
	_ "embed"
	"html/template"
	"strings"
	"sync"
)

//go:embed page.tmpl
var pageSource string

var page = sync.OnceValue(func() *template.Template {
	frame := struct{ Width, Height, Left, Right, YLabels, XLabels, Labels float64 }{
		chartWidth, chartHeight, plotLeft, plotRight, plotLeft - 8, plotBottom + 18, plotRight + 8,
	}
	return template.Must(template.New("page").Funcs(template.FuncMap{
		"at":    coordinate,
		"below": func(v float64) float64 { return v + 4 }, // from a text's middle to its baseline
		"frame": func() any { return frame },
		"zone":  func(v float64) float64 { return v + 60 }, // clear of the last time
		"class": cellClass, "content": content, "breakable": breakable,
	}).Parse(pageSource))
})

var afterParts = strings.NewReplacer("_", "_<wbr>", ".", ".<wbr>", ",", ",<wbr>", "{", "{<wbr>", "/", "/<wbr>")

// breakable lets a long name or query go on in the next line between its parts.
func breakable(s string) template.HTML {
	return template.HTML(afterParts.Replace(template.HTMLEscapeString(s))) //nolint:gosec // escaped
}

// content is what stands in a cell.
func content(c cell) template.HTML {
	if c.Mono && !c.Whole {
		return breakable(c.Text)
	}
	return template.HTML(template.HTMLEscapeString(c.Text)) //nolint:gosec // escaped
}

// cellClass joins what the style sheet needs to know about a cell.
func cellClass(c column, v cell) string {
	var all []string
	if c.Right {
		all = append(all, "right")
	}
	if v.Text == none && v.Sub == "" {
		all = append(all, "none")
	}
	if v.Mono {
		all = append(all, "mono")
		if len(v.Text) > 60 {
			all = append(all, "wide")
		}
	}
	if v.Whole {
		all = append(all, "whole")
	}
	if v.Tone != plain {
		all = append(all, string(v.Tone))
	}
	return strings.Join(all, " ")
}
