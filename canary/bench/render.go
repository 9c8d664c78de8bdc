package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// maxColumns is how wide the text gets.
const maxColumns = 120

const legend = `  *        best in its row, all parts of the table
  °        this scenario played no part in choosing the defaults
  [a, b]   95 % confidence interval; "no end" where it has no upper one
  (84 %)   so many of the bad candidates were stopped at all; without it, all were
  –        fewer than half were stopped, so there is no median

  headgate             the judge of this program
  threshold N=5        so many looks in a row, 10 s apart, at a success rate of the last minute below 99 %
  Flagger, Argo        their documented rules on the success rate, each minute: the fifth failed look, the fourth
  Kayenta              Mann-Whitney on points of a minute, as documented, once after ten minutes; peeked: at each point
  z .001 peeked        a z-test of all that was counted, at the 0.1 % level, every 10 s
  mSPRT .001           a mixture sequential probability ratio test at the 0.1 % level, at every tick
  tuned to X           the rival's own setting at X: a minimum success rate, a confidence, a bound or a level
`

// WriteText writes the tables and the goals for a person.
func (r Report) WriteText(out io.Writer) error {
	w := &strings.Builder{}
	mode := "full"
	if r.Quick {
		mode = "quick"
	}
	fmt.Fprintf(w, "Canary detectors on simulated traffic (%s, seed %d)\n\n%s", mode, r.Seed, legend)
	for _, tuned := range []bool{false, true} {
		labels := r.labels(tuned)
		if len(labels) == 0 {
			continue
		}
		title := "each at its documented defaults:"
		if tuned {
			title = fmt.Sprintf("rivals tuned to at most %s false rollbacks in scenarios without °:", percent(tunedRate))
		}
		r.table(w, "Good candidates that are rolled back,\n"+title, labels, []Kind{Clean, Stress}, falseRollbacks)
		r.table(w, "Bad candidates: median seconds until the rollback, and requests failed by then,\n"+title, labels, []Kind{Bad}, stopped)
	}
	r.table(w, "Candidates with twice the errors that pass nevertheless", []string{Product}, []Kind{Limit}, passed)
	r.table(w, "Good candidates: median seconds until they pass", []string{Product}, []Kind{Good}, passed)
	fmt.Fprintln(w, "\nGoals, judged on the worse end of the confidence interval, which is shown")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range r.Goals {
		met := "not met"
		if g.Met {
			met = "met"
		}
		_, _ = fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", g.Name, g.Target, g.measured(), met)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, w.String())
	return err
}

// measured is what a person reads: the goals without a percentage count.
func (g Goal) measured() string {
	switch {
	case g.Measured < 0:
		return "no end"
	case strings.HasSuffix(g.Name, "seconds"), strings.HasSuffix(g.Name, "seconds (stretch)"):
		return number(g.Measured) + " s"
	case strings.HasSuffix(g.Target, "%"), g.Target == notMore:
		return percent(g.Measured)
	default:
		return number(g.Measured)
	}
}

// labels returns the detectors of a table: the product at its default first.
func (r Report) labels(tuned bool) []string {
	var labels []string
	for _, c := range r.Cells {
		ofProduct := c.Detector == Product && (c.Setting == "" || !tuned)
		ofRival := c.Detector != Product && (c.Setting != "") == tuned
		if (ofProduct || ofRival) && !slices.Contains(labels, c.label()) {
			labels = append(labels, c.label())
		}
	}
	if tuned && len(labels) == 1 {
		return nil
	}
	return labels
}

// table writes one row a scenario and one column a detector, in as many parts as
// the columns need.
func (r Report) table(w *strings.Builder, title string, labels []string, kinds []Kind, show func(Cell) (string, float64)) {
	columns := make([][]string, len(labels)+1) // the scenarios' names first
	columns[0] = []string{""}
	for i, label := range labels {
		columns[i+1] = []string{label}
	}
	for _, first := range r.Cells {
		name := first.Scenario
		if first.Unseen {
			name += " °"
		}
		if !slices.Contains(kinds, first.Kind) || slices.Contains(columns[0], name) {
			continue
		}
		columns[0] = append(columns[0], name)
		best, values := math.Inf(1), make([]float64, len(labels))
		for i, label := range labels {
			text := ""
			values[i] = math.Inf(1)
			for _, c := range r.Cells {
				if c.Scenario == first.Scenario && c.label() == label {
					text, values[i] = show(c)
					best = min(best, values[i])
				}
			}
			columns[i+1] = append(columns[i+1], text)
		}
		for i := range labels {
			if len(labels) > 1 && values[i] == best && !math.IsInf(best, 1) {
				columns[i+1][len(columns[0])-1] += " *"
			}
		}
	}
	if len(columns[0]) == 1 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	for rest := columns[1:]; len(rest) > 0; {
		n, used := 1, width(columns[0])+width(rest[0])
		for n < len(rest) && used+width(rest[n]) <= maxColumns {
			used += width(rest[n])
			n++
		}
		writeColumns(w, append([][]string{columns[0]}, rest[:n]...))
		rest = rest[n:]
		if len(rest) > 0 {
			fmt.Fprintln(w)
		}
	}
}

// width is how many columns of the screen the texts take, with the two before
// them.
func width(texts []string) int {
	widest := 0
	for _, t := range texts {
		widest = max(widest, utf8.RuneCountInString(t))
	}
	return widest + 2
}

func writeColumns(w *strings.Builder, columns [][]string) {
	for row := range columns[0] {
		line := ""
		for _, c := range columns {
			line += "  " + c[row] + strings.Repeat(" ", width(c)-2-utf8.RuneCountInString(c[row]))
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

func falseRollbacks(c Cell) (string, float64) {
	return fmt.Sprintf("%.2f %% [%.2f, %.2f]", 100*c.RollbackRate, 100*c.RollbackLow, 100*c.RollbackHigh), c.RollbackRate
}

func stopped(c Cell) (string, float64) {
	if c.Detection == nil {
		return fmt.Sprintf("– (%.0f %%)", 100*c.RollbackRate), math.Inf(1)
	}
	text := fmt.Sprintf("%s, %.0f failed", c.Detection.interval(), c.Failed.Value)
	if c.Rollbacks < c.Runs {
		text += fmt.Sprintf(" (%.0f %%)", 100*c.RollbackRate)
	}
	return text, c.Detection.Value
}

func passed(c Cell) (string, float64) {
	if c.Kind == Good && c.Pass != nil {
		return c.Pass.interval(), 0
	}
	return fmt.Sprintf("%.2f %% [%.2f, %.2f]", 100*c.PassRate, 100*c.PassLow, 100*c.PassHigh), 0
}

// interval is a median of seconds for a person.
func (m *Median) interval() string {
	high := fmt.Sprintf("%.0f", m.High)
	if m.High < 0 {
		high = "no end"
	}
	return fmt.Sprintf("%.0f s [%.0f, %s]", m.Value, m.Low, high)
}

// WriteSVG draws every detector by its worst false-rollback rate and by the
// user requests that fail until a candidate that fails everything is stopped.
func (r Report) WriteSVG(w io.Writer) error {
	const width, height, margin = 760, 460, 70
	x := func(rate float64) float64 { // 0.01 % to 100 %
		return margin + (math.Log10(max(rate, 1e-4))+4)/4*(width-2*margin)
	}
	y := func(failed float64) float64 { // 10 to 20,000
		return height - margin - (math.Log10(max(failed, 10))-1)/3.3*(height-2*margin)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`, width, height)
	b.WriteString(`<title>Canary detectors: false rollbacks against failed requests</title><rect width="100%" height="100%" fill="#fff"/>`)
	for _, rate := range []float64{1e-4, 1e-3, 1e-2, 1e-1, 1} {
		fmt.Fprintf(&b, `<line x1="%.0f" x2="%.0f" y1="%d" y2="%d" stroke="#eee"/><text x="%.0f" y="%d" text-anchor="middle" fill="#555">%s</text>`,
			x(rate), x(rate), margin, height-margin, x(rate), height-margin+16, percent(rate))
	}
	for _, n := range []float64{10, 100, 1000, 10000} {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.0f" y2="%.0f" stroke="#eee"/><text x="%d" y="%.0f" text-anchor="end" fill="#555">%.0f</text>`,
			margin, width-margin, y(n), y(n), margin-6, y(n)+4, n)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">worst false-rollback rate of a good candidate</text>`, width/2, height-margin+38)
	fmt.Fprintf(&b, `<text x="%d" y="%d">user requests that fail until a candidate that fails everything is stopped (median)</text>`, margin, margin-20)
	for _, p := range r.points() {
		colour := "#888"
		if p.product {
			colour = "#0a7"
		}
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/><text x="%.1f" y="%.1f" fill="%s">%s</text>`,
			x(p.worst), y(p.failed), colour, x(p.worst)+7, y(p.failed)+4, colour, html.EscapeString(p.label))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

type point struct {
	label         string
	product       bool
	worst, failed float64
}

// points are the detectors that have a cell for a total failure.
func (r Report) points() []point {
	var points []point
	for _, c := range r.Cells {
		if c.Scenario != "100 % errors" || c.Failed == nil {
			continue
		}
		p := point{label: c.label(), product: c.Detector == Product, failed: c.Failed.Value}
		for _, other := range r.Cells {
			if other.label() == p.label && (other.Kind == Clean || other.Kind == Stress) {
				p.worst = max(p.worst, other.RollbackRate)
			}
		}
		points = append(points, p)
	}
	return points
}
