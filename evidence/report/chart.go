package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// The drawing area of a chart in SVG units.
const (
	chartWidth, chartHeight   = 980.0, 204.0
	plotLeft, plotRight       = 56.0, 868.0
	plotTop, plotBottom       = 20.0, 176.0
	maxDrawn                  = 600 // points of one line
	maxListed                 = 60  // rows of the data table
	lowestEValue, mostEValues = 1e-3, 1e12
)

// chart is one picture: lines over time.
type chart struct {
	ID          string
	Title, Desc string
	X, Y        []tick
	Lines       []line
	Rules       []rule
	Data        *table
}

type tick struct {
	At    float64
	Label string
}

// line is one series; the label stands at its end.
type line struct {
	Class  string
	Path   string
	Label  string
	LabelY float64
}

// rule is a straight line across the plot with a meaning.
type rule struct {
	Class          string
	X1, Y1, X2, Y2 float64
	Label          string
	LabelX, LabelY float64
}

// axis maps values to the plot's height.
type axis struct {
	low, high float64
	log       bool
}

func (a axis) y(v float64) string { return coordinate(a.at(v)) }

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	v = min(max(v, low), high)
	if a.log {
		v, low, high = math.Log10(v), math.Log10(low), math.Log10(high)
	}
	return plotBottom - (v-low)/(high-low)*(plotBottom-plotTop)
}

func coordinate(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func (w words) canary(r Release) section {
	s := section{ID: "canary", Title: w.tr("Canary against stable")}
	if r.Canary == nil || len(r.Canary.Points) == 0 {
		s.Text = w.tr("There was no canary: no user request was sent to the new version.")
		return s
	}
	p := r.Canary.Points
	last := p[len(p)-1]
	s.Badge = w.verdict(last.Verdict)
	s.Text = w.trf("Over %s the stable version answered %s requests, of which %s failed (%s); the candidate %s, of which %s failed (%s).",
		w.between(p[0].Time, last.Time), count(last.StableRequests), count(last.StableErrors), rate(last.StableErrors, last.StableRequests),
		count(last.CandidateRequests), count(last.CandidateErrors), rate(last.CandidateErrors, last.CandidateRequests))
	c := canvas{words: w, points: p, rollback: r.Rollback}
	s.Charts = []chart{c.errors(), c.evidence(r.Canary.Alpha), c.share()}
	if slices.ContainsFunc(p, func(p Point) bool { return p.CandidateP95S > 0 }) {
		s.Charts = slices.Insert(s.Charts, 1, c.latency())
	}
	s.Charts[len(s.Charts)-1].Data = c.data()
	return s
}

func rate(errors, requests int64) string {
	if requests == 0 {
		return none
	}
	return percent(float64(errors) / float64(requests))
}

// canvas draws a canary's charts over one time axis.
type canvas struct {
	words
	points   []Point
	rollback *Rollback
}

func (c canvas) span() (time.Time, time.Duration) {
	from := c.points[0].Time
	return from, max(c.points[len(c.points)-1].Time.Sub(from), time.Second)
}

func (c canvas) x(t time.Time) float64 {
	from, span := c.span()
	return plotLeft + min(max(t.Sub(from).Seconds()/span.Seconds(), 0), 1)*(plotRight-plotLeft)
}

// path draws value over time; points without one leave a gap.
func (c canvas) path(a axis, stepped bool, value func(i int) (float64, bool)) (string, float64) {
	var b strings.Builder
	stride := max(1, (len(c.points)+maxDrawn-1)/maxDrawn)
	pen, lastY := false, plotBottom
	for i := 0; i < len(c.points); i++ {
		if i%stride != 0 && i != len(c.points)-1 {
			continue
		}
		v, ok := value(i)
		if !ok || math.IsNaN(v) {
			pen = false
			continue
		}
		x, y := coordinate(c.x(c.points[i].Time)), a.y(v)
		switch {
		case !pen:
			fmt.Fprintf(&b, "M%s %s", x, y)
		case stepped:
			fmt.Fprintf(&b, "H%sV%s", x, y)
		default:
			fmt.Fprintf(&b, "L%s %s", x, y)
		}
		pen, lastY = true, a.at(v)
	}
	return b.String(), lastY
}

// trailing is the time over which a rate is taken: a twentieth of the canary,
// but 4 s at least and 30 s at most.
func (c canvas) trailing() time.Duration {
	_, span := c.span()
	return min(max(span/20, 4*time.Second), 30*time.Second).Truncate(time.Second)
}

// trailingRate is the share of failures in the time before point i.
func (c canvas) trailingRate(i int, counts func(Point) (requests, errors int64)) (float64, bool) {
	j, window := i, c.trailing()
	for j > 0 && c.points[i].Time.Sub(c.points[j].Time) < window {
		j--
	}
	requests, errors := counts(c.points[i])
	if j < i && c.points[i].Time.Sub(c.points[j].Time) >= window {
		r, e := counts(c.points[j])
		requests, errors = requests-r, errors-e
	}
	if requests <= 0 {
		return 0, false
	}
	return float64(errors) / float64(requests), true
}

func stableCounts(p Point) (int64, int64)    { return p.StableRequests, p.StableErrors }
func candidateCounts(p Point) (int64, int64) { return p.CandidateRequests, p.CandidateErrors }

func (c canvas) errors() chart {
	highest := 0.0
	for i := range c.points {
		a, _ := c.trailingRate(i, stableCounts)
		b, _ := c.trailingRate(i, candidateCounts)
		highest = max(highest, a, b)
	}
	a := axis{high: niceShare(highest)}
	stable, stableY := c.path(a, false, func(i int) (float64, bool) { return c.trailingRate(i, stableCounts) })
	candidate, candidateY := c.path(a, false, func(i int) (float64, bool) { return c.trailingRate(i, candidateCounts) })
	ch := c.chart("errors", c.trf("Failed requests, trailing %d s", int(c.trailing().Seconds())),
		c.tr("The share of requests that failed, for the stable version and for the candidate, over the time of the canary."))
	ch.Lines = []line{
		{Class: "stable", Path: stable, Label: c.tr("stable"), LabelY: stableY},
		{Class: "candidate", Path: candidate, Label: c.tr("candidate"), LabelY: candidateY},
	}
	spread(ch.Lines)
	for i := range 5 {
		v := a.high * float64(i) / 4
		ch.Y = append(ch.Y, tick{a.at(v), percent(v)})
	}
	return ch
}

func (c canvas) latency() chart {
	highest := 0.0
	for _, p := range c.points {
		for _, v := range []float64{p.StableP95S, p.CandidateP95S} {
			if !math.IsInf(v, 0) {
				highest = max(highest, v)
			}
		}
	}
	a := axis{high: niceSeconds(highest)}
	stable, stableY := c.path(a, false, func(i int) (float64, bool) { return c.points[i].StableP95S, c.points[i].StableP95S > 0 })
	candidate, candidateY := c.path(a, false, func(i int) (float64, bool) { return c.points[i].CandidateP95S, c.points[i].CandidateP95S > 0 })
	ch := c.chart("latency", c.tr("Response time, 95th percentile"),
		c.tr("The time within which 95 of 100 requests were answered, for the stable version and for the candidate, over the time of the canary."))
	ch.Lines = []line{
		{Class: "stable", Path: stable, Label: c.tr("stable"), LabelY: stableY},
		{Class: "candidate", Path: candidate, Label: c.tr("candidate"), LabelY: candidateY},
	}
	spread(ch.Lines)
	for i := range 5 {
		v := a.high * float64(i) / 4
		ch.Y = append(ch.Y, tick{a.at(v), seconds(v)})
	}
	return ch
}

// niceSeconds rounds up to 1, 2 or 4 times a power of ten.
func niceSeconds(v float64) float64 {
	power := decade(max(v, 1e-3), math.Floor)
	for _, m := range []float64{1, 2, 4} {
		if v <= m*power {
			return m * power
		}
	}
	return 10 * power
}

func (c canvas) share() chart {
	highest := 0.0
	for _, p := range c.points {
		highest = max(highest, p.Share)
	}
	a := axis{high: niceShare(highest)}
	path, y := c.path(a, true, func(i int) (float64, bool) { return c.points[i].Share, true })
	ch := c.chart("share", c.tr("Share of traffic to the candidate"),
		c.tr("The share of user traffic that the candidate was allowed, over the time of the canary."))
	ch.Lines = []line{{Class: "candidate", Path: path, Label: c.tr("share"), LabelY: y}}
	for i := range 5 {
		v := a.high * float64(i) / 4
		ch.Y = append(ch.Y, tick{a.at(v), percent(v)})
	}
	return ch
}

func (c canvas) evidence(alpha float64) chart {
	limit := 1 / cmp.Or(alpha, 0.01)
	low, high := 0.1, limit
	for _, p := range c.points {
		if p.EValue > 0 && !math.IsInf(p.EValue, 0) {
			low, high = min(low, p.EValue), max(high, p.EValue)
		}
	}
	low, high = max(decade(low, math.Floor), lowestEValue), min(decade(high*1.5, math.Ceil), mostEValues)
	a := axis{low: low, high: high, log: true}
	path, y := c.path(a, false, func(i int) (float64, bool) { return max(c.points[i].EValue, low), c.points[i].EValue >= 0 })
	ch := c.chart("e-value", c.tr("Evidence that the candidate is worse (e-value, logarithmic)"),
		c.trf("The e-value over the time of the canary. At %s, the dashed line, the canary fails; by chance it gets there with probability %s at most.", number(limit), number(1/limit)))
	ch.Lines = []line{{Class: "candidate", Path: path, Label: c.tr("e-value"), LabelY: y}}
	decades := int(math.Round(math.Log10(high / low)))
	for i := 0; i <= decades; i += max(1, (decades+4)/5) {
		v := low * math.Pow(10, float64(i))
		ch.Y = append(ch.Y, tick{a.at(v), number(v)})
	}
	ch.Rules = append(ch.Rules, rule{
		Class: "limit", X1: plotLeft, X2: plotRight, Y1: a.at(limit), Y2: a.at(limit),
		Label: c.trf("fails at %s", number(limit)), LabelX: plotRight + 8, LabelY: a.at(limit) + 4,
	})
	if l := &ch.Lines[0]; math.Abs(l.LabelY-a.at(limit)) < 22 {
		l.LabelY = a.at(limit) + 22
		if y < a.at(limit) {
			l.LabelY = a.at(limit) - 22
		}
	}
	return ch
}

func decade(v float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(v)))
}

// chart returns the frame: title, time axis and the moment of the rollback.
func (c canvas) chart(id, title, desc string) chart {
	ch := chart{ID: id, Title: title, Desc: desc}
	from, span := c.span()
	for i := range 6 {
		at := from.Add(span * time.Duration(i) / 5)
		ch.X = append(ch.X, tick{c.x(at), at.UTC().Format("15:04:05")})
	}
	if b := c.rollback; b != nil && !b.TriggeredAt.Before(from) && !b.TriggeredAt.After(from.Add(span)) {
		x := c.x(b.TriggeredAt)
		ch.Rules = append(ch.Rules, rule{Class: "moment", X1: x, X2: x, Y1: plotTop, Y2: plotBottom, Label: c.tr("rollback"), LabelX: x, LabelY: plotTop - 6})
	}
	return ch
}

// spread keeps two labels from covering each other.
func spread(lines []line) {
	const apart = 22 // also for the larger letters of a narrow page
	a, b := &lines[0], &lines[1]
	if d := b.LabelY - a.LabelY; math.Abs(d) < apart {
		middle := (a.LabelY + b.LabelY) / 2
		up, down := a, b
		if d < 0 {
			up, down = b, a
		}
		up.LabelY, down.LabelY = middle-apart/2, middle+apart/2
		if over := down.LabelY - plotBottom; over > 0 {
			up.LabelY, down.LabelY = up.LabelY-over, plotBottom
		}
	}
}

// niceShare rounds up to a share whose quarters are easy to read.
func niceShare(v float64) float64 {
	for _, s := range []float64{0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8} {
		if v <= s {
			return s
		}
	}
	return 1
}

// data lists what the charts show.
func (c canvas) data() *table {
	stride := max(1, (len(c.points)+maxListed-1)/maxListed)
	t := &table{
		Caption: c.tr("The figures behind the pictures"), Folded: true,
		Head: columns(c.tr("When (UTC)"), ">"+c.tr("Share"), ">"+c.tr("Stable requests"), ">"+c.tr("failed"), ">"+c.tr("Candidate requests"), ">"+c.tr("failed"), ">"+c.tr("Stable p95"), ">"+c.tr("Candidate p95"), ">"+c.tr("e-value"), c.tr("Verdict")),
	}
	if stride > 1 {
		t.Note = c.trf("Every %d. of %d observations; the report as JSON has all of them.", stride, len(c.points))
	}
	for i, p := range c.points {
		if i%stride != 0 && i != len(c.points)-1 && p.Verdict != headgate.Fail {
			continue
		}
		t.Rows = append(t.Rows, []cell{
			text(c.time(p.Time)), text(percent(p.Share)), text(count(p.StableRequests)), text(count(p.StableErrors)),
			text(count(p.CandidateRequests)), text(count(p.CandidateErrors)), latency(p.StableP95S), latency(p.CandidateP95S), text(number(p.EValue)), c.verdict(p.Verdict),
		})
	}
	return t
}

// latency is a cell for a response time; nobody was answered in 0 s.
func latency(v float64) cell {
	if v <= 0 {
		return text("")
	}
	return text(seconds(v))
}

func seconds(v float64) string {
	if v < 1 {
		return number(v*1000) + " ms"
	}
	return number(v) + " s"
}
