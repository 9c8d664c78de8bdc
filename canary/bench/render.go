package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteText writes the tables and the goals for a person.
func (r Report) WriteText(out io.Writer) error {
	w := &strings.Builder{}
	mode := "full"
	if r.Quick {
		mode = "quick"
	}
	fmt.Fprintf(w, "Canary detectors on simulated traffic (%s, seed %d). [a, b] is a 95 %% interval; * is best in its row;\n", mode, r.Seed)
	fmt.Fprintln(w, "scenarios marked ° played no part in choosing the defaults.")
	for _, tuned := range []bool{false, true} {
		labels := r.labels(tuned)
		if len(labels) == 0 {
			continue
		}
		title := "at documented defaults"
		if tuned {
			title = fmt.Sprintf("rivals tuned to at most %s false rollbacks where not marked °", percent(tunedRate))
		}
		r.table(w, "False rollbacks of a good candidate, "+title, labels, []Kind{Clean, Stress}, falseRollbacks)
		r.table(w, "Bad candidate, "+title+": median seconds to rollback / failed requests (share stopped if not all)", labels, []Kind{Bad}, stopped)
	}
	r.table(w, "False passes at twice the errors, and median seconds to a pass of a good candidate", []string{Product}, []Kind{Limit, Good}, passed)
	fmt.Fprintln(w, "\nGoals, judged on the bound of the interval")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range r.Goals {
		met := "not met"
		if g.Met {
			met = "met"
		}
		_, _ = fmt.Fprintf(tw, "  %s\t%s\t%.4g\t%s\n", g.Name, g.Target, g.Measured, met)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, w.String())
	return err
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

func (r Report) table(w *strings.Builder, title string, labels []string, kinds []Kind, show func(Cell) (string, float64)) {
	var scenarios []string
	for _, c := range r.Cells {
		if slices.Contains(kinds, c.Kind) && !slices.Contains(scenarios, c.Scenario) {
			scenarios = append(scenarios, c.Scenario)
		}
	}
	if len(scenarios) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(tw, "  \t%s\n", strings.Join(labels, "\t"))
	for _, s := range scenarios {
		name, best := s, math.Inf(1)
		texts, values := make([]string, len(labels)), make([]float64, len(labels))
		for i, label := range labels {
			texts[i], values[i] = "", math.Inf(1)
			for _, c := range r.Cells {
				if c.Scenario == s && c.label() == label {
					texts[i], values[i] = show(c)
					best = min(best, values[i])
					if c.Unseen {
						name = s + " °"
					}
				}
			}
		}
		for i := range texts {
			if len(labels) > 1 && values[i] == best && !math.IsInf(best, 1) {
				texts[i] += " *"
			}
		}
		_, _ = fmt.Fprintf(tw, "  %s\t%s\n", name, strings.Join(texts, "\t"))
	}
	_ = tw.Flush() // a strings.Builder never fails
}

func falseRollbacks(c Cell) (string, float64) {
	return fmt.Sprintf("%.2f %% [%.2f, %.2f]", 100*c.RollbackRate, 100*c.RollbackLow, 100*c.RollbackHigh), c.RollbackRate
}

func stopped(c Cell) (string, float64) {
	if c.Detection == nil {
		return fmt.Sprintf("– (%.0f %%)", 100*c.RollbackRate), math.Inf(1)
	}
	text := fmt.Sprintf("%.0f [%.0f, %.0f] / %.0f", c.Detection.Value, c.Detection.Low, c.Detection.High, c.Failed.Value)
	if c.Rollbacks < c.Runs {
		text += fmt.Sprintf(" (%.0f %%)", 100*c.RollbackRate)
	}
	return text, c.Detection.Value
}

func passed(c Cell) (string, float64) {
	text := fmt.Sprintf("%.1f %% pass, bound %.1f %%", 100*c.PassRate, 100*c.PassHigh)
	if c.Kind == Good && c.Pass != nil {
		text = fmt.Sprintf("%.0f s [%.0f, %.0f]", c.Pass.Value, c.Pass.Low, c.Pass.High)
	}
	return text, 0
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
