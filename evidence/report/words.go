package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// words says things in one language. The keys are the English texts.
type words struct {
	lang Lang
	// missing, when set, hears of texts without a translation.
	missing func(text string)
}

// tr translates a text. One that is in no table, such as a stage of the
// future, is shown as it is, without the kind before its colon.
func (w words) tr(text string) string {
	table := english
	if w.lang == Chinese {
		table = chinese
	}
	if t, ok := table[text]; ok || text == "" {
		return t
	}
	if w.lang == Chinese && w.missing != nil {
		w.missing(text)
	}
	if kind, name, ok := strings.Cut(text, ":"); ok && !strings.Contains(kind, " ") && !strings.HasPrefix(name, " ") {
		return name
	}
	return text
}

func (w words) trf(format string, args ...any) string { return fmt.Sprintf(w.tr(format), args...) }

// StageName is what a report calls a stage.
func StageName(l Lang, s headgate.Stage) string { return words{lang: l}.stage(s) }

// none stands for what there is none of.
const none = "–"

func (w words) time(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func (w words) when(t time.Time) cell { return cell{Text: w.time(t), Whole: true} }

func (w words) between(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return none
	}
	return w.duration(to.Sub(from))
}

func (w words) duration(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 0:
		return none
	case s < 1:
		return w.trf("%d ms", d.Milliseconds())
	case s < 10:
		return w.trf("%.1f s", s)
	case s < 60:
		return w.trf("%.0f s", s)
	case s < 3600:
		return w.trf("%d min %d s", int(s)/60, int(s)%60)
	default:
		return w.trf("%d h %d min", int(s)/3600, int(s)/60%60)
	}
}

func (w words) verdict(v headgate.Verdict) cell {
	switch v {
	case "":
		return cell{Text: none}
	case headgate.Pass:
		return cell{Text: "✓ " + w.tr("pass"), Tone: good}
	case headgate.Fail:
		return cell{Text: "✕ " + w.tr("fail"), Tone: bad}
	case headgate.Insufficient:
		return cell{Text: "… " + w.tr("insufficient"), Tone: warn}
	case headgate.Broken:
		return cell{Text: "! " + w.tr("broken"), Tone: warn}
	}
	return cell{Text: string(v), Tone: warn}
}

func (w words) passed(ok bool) cell {
	if ok {
		return w.verdict(headgate.Pass)
	}
	return w.verdict(headgate.Fail)
}

// number writes x with four significant digits, all of those before the point,
// and without exponents.
func number(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return none
	}
	digits := 3 - int(math.Floor(math.Log10(max(math.Abs(x), 1e-9))))
	s := strconv.FormatFloat(x, 'f', max(digits, 0), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return strings.Replace(s, "-", "−", 1)
}

// exact writes x so that it never looks equal to a different limit.
func exact(x float64, limit any) string {
	if l, ok := limit.(float64); ok && l != x && number(l) == number(x) {
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return number(x)
}

func signed(x float64) string {
	if x > 0 {
		return "+" + number(x)
	}
	return number(x)
}

// unit gives the text after a number: annotations such as {job} and the
// dimensionless 1 are not shown.
func unit(u string) string {
	if u == "" || u == "1" || strings.HasPrefix(u, "{") {
		return ""
	}
	return " " + u
}

// quantity writes a check's value or threshold.
func (w words) quantity(v any, limit any, u string) string {
	switch v := v.(type) {
	case float64:
		return exact(v, limit) + unit(u)
	case int:
		return strconv.Itoa(v) + unit(u)
	case int64:
		return strconv.FormatInt(v, 10) + unit(u)
	case bool:
		if v {
			return w.tr("yes")
		}
		return w.tr("no")
	case string:
		return v
	}
	return none
}

func comparison(op string) string {
	switch op {
	case ">=":
		return "≥ "
	case "<=":
		return "≤ "
	case "==":
		return "= "
	}
	return ""
}

func percent(share float64) string { return number(math.Round(share*1e4)/100) + " %" }

func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
