package report

// tone says what a piece of text means; it never stands alone, the text says
// the same.
type tone string

const (
	plain tone = ""
	good  tone = "good"
	bad   tone = "bad"
	warn  tone = "warn"
)

// document is a report in one language, before it becomes HTML or Markdown.
type document struct {
	Lang     Lang
	Nav      nav
	Title    string
	Subtitle string
	Badge    cell
	Lead     string
	Why      []reason
	Found    finding
	Next     next
	Alarms   []string // shown loudly at the top
	Figures  []figure
	Facts    []fact
	Sections []section
	Footer   string
}

// nav is where a page of a server leads; one without a Home shows none.
type nav struct {
	Home, HomeText string
	Lang           Lang // the other one
	LangText       string
	Reload         bool
}

// reason is a code with what it means here.
type reason struct {
	Code string
	Text string
}

// figure is a number worth a glance.
type figure struct {
	Label string
	Value string
	Note  string
	Tone  tone
}

type fact struct {
	Label string
	Value string
	Mono  bool
}

type section struct {
	ID     string
	Title  string
	Badge  cell
	Text   string
	Steps  []step
	Charts []chart
	Tables []table
}

// finding is what failed, with where to read more.
type finding struct {
	Text string
	URL  string // empty for nowhere
	Link string // the text of the link
}

// next is what a reader may do now.
type next struct {
	Text    string
	Command string
}

// step is one stage on the way.
type step struct {
	Name string
	Cell cell
}

type table struct {
	Caption string
	Badge   cell
	Head    []column
	Rows    [][]cell
	Folded  bool // shown on demand
	Note    string
	Queries []string // numbered from 1; cells name them
	Asked   string   // what stands above the queries
}

type column struct {
	Text  string
	Right bool // numbers are read from the right
	Width int  // percent of the table; 0 as its content needs
}

// Fixed reports whether the table's columns have widths.
func (t table) Fixed() bool { return len(t.Head) > 0 && t.Head[0].Width > 0 }

// widths gives each column its share of the table, in percent.
func widths(c []column, percent ...int) []column {
	for i := range c {
		c[i].Width = percent[i]
	}
	return c
}

type cell struct {
	Text  string
	Sub   string // smaller, below
	Tone  tone
	Mono  bool
	Whole bool // never broken over lines
}

func text(s string) cell {
	if s == "" {
		s = none
	}
	return cell{Text: s}
}

func mono(s string) cell {
	if s == "" {
		return cell{Text: none}
	}
	return cell{Text: s, Mono: true}
}

func columns(left ...string) []column {
	c := make([]column, len(left))
	for i, s := range left {
		c[i] = column{Text: s}
		if len(s) > 0 && s[0] == '>' {
			c[i] = column{Text: s[1:], Right: true}
		}
	}
	return c
}
