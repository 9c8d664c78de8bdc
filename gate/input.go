package gate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/headgate/headgate"
)

const (
	maxDatasetID = 256
	// maxDepth bounds the nesting of metrics of one's own.
	maxDepth = 8
	// maxCount is where float64 stops telling whole numbers apart.
	maxCount = 1 << 53
)

// metrics are a gate's metrics after every check on type and range.
type metrics struct {
	flat    map[string]any      // by flat name: float64, int64 or bool
	exact   map[string]*big.Rat // what is computed of candidate and baseline
	origins map[string]Origin
}

// problems collects what is wrong with a request, by field path.
type problems []string

func (p *problems) add(field, what string) { *p = append(*p, field+": "+what) }

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return headgate.Invalidf("%s", strings.Join(p, "; ")).With("fields", []string(p))
}

// read validates in for criteria and brings it into the form the checks use.
func read(criteria []criterion, in Input) (metrics, error) {
	var p problems
	m := metrics{flat: make(map[string]any, len(criteria)), exact: map[string]*big.Rat{}, origins: in.Origins}
	switch {
	case strings.TrimSpace(in.DatasetID) == "":
		p.add("dataset_id", "is required")
	case len(in.DatasetID) > maxDatasetID:
		p.add("dataset_id", fmt.Sprintf("is longer than %d bytes", maxDatasetID))
	}
	if in.Metrics == nil {
		p.add("metrics", "is required")
		return m, p.err()
	}
	for _, cr := range criteria {
		if s := m.origins[cr.name].Samples; s != nil && *s < 0 {
			p.add("origins."+cr.name+".samples", "must not be negative")
		}
		if cr.kind.computed() {
			m.compute(cr, &p) // its inputs stand before it
			continue
		}
		v, err := lookup(in.Metrics, cr.name)
		if err == nil && v == nil && m.mayBeAbsent(cr.name) {
			continue
		}
		if err == nil {
			v, err = cr.kind.read(v)
		}
		if err != nil {
			p.add("metrics."+cr.name, err.Error())
			continue
		}
		m.flat[cr.value] = v
	}
	readTools(in.Tools, &p)
	return m, p.err()
}

// mayBeAbsent reports whether somebody looked for the metric and says that
// there was nothing to see.
func (m metrics) mayBeAbsent(name string) bool {
	o := m.origins[name]
	return o.Broken != "" || o.Samples != nil && *o.Samples == 0
}

// compute compares the candidate's number with the baseline's; in a ratio
// neither counts as less than the floor.
func (m *metrics) compute(cr criterion, p *problems) {
	both := cr.inputs
	candidate, okCandidate := m.flat[both[0]].(float64)
	base, okBase := m.flat[both[1]].(float64)
	if !okCandidate || !okBase {
		return
	}
	var exact *big.Rat
	if cr.kind == ratio {
		exact = fraction(max(candidate, cr.floor))
		exact.Quo(exact, fraction(max(base, cr.floor)))
	} else {
		exact = fraction(candidate)
		exact.Sub(exact, fraction(base))
	}
	f, _ := exact.Float64()
	if math.IsInf(f, 0) {
		p.add("metrics."+both[1], "is too small beside "+both[0])
		return
	}
	m.exact[cr.name], m.flat[cr.value] = exact, f
}

// origin merges the origins of a check's inputs: the fewest samples decide, and
// one uncounted input leaves the check uncounted.
func (m metrics) origin(names []string) Origin {
	o := m.origins[names[0]]
	for _, n := range names[1:] {
		other := m.origins[n]
		if o.Samples != nil && (other.Samples == nil || *other.Samples < *o.Samples) {
			o.Samples = other.Samples
		}
		o.Broken = cmp.Or(o.Broken, other.Broken)
		o.Window = cmp.Or(o.Window, other.Window)
		if other.Source != o.Source {
			o.Source = strings.Trim(o.Source+"; "+other.Source, "; ")
		}
	}
	return o
}

// lookup finds a metric by its path, or by its dotted name. Both at once would
// be two claims about one number.
func lookup(doc map[string]any, name string) (any, error) {
	dotted, isDotted := doc[name]
	head, tail, nested := strings.Cut(name, ".")
	if !nested {
		return dotted, nil
	}
	var v any
	switch sub := doc[head].(type) {
	case nil:
	case map[string]any:
		v = sub[tail]
	default:
		return nil, errors.New("is not inside an object")
	}
	if isDotted && v != nil {
		return nil, errors.New("is given twice")
	}
	if isDotted {
		return dotted, nil
	}
	return v, nil
}

// read checks v against the kind. The errors say what is wanted and never what
// was sent.
func (k kind) read(v any) (any, error) {
	if v == nil {
		return nil, errors.New("is required")
	}
	if k == flag {
		b, ok := v.(bool)
		if !ok {
			return nil, errors.New("must be true or false")
		}
		return b, nil
	}
	f, ok := toFloat(v)
	switch {
	case !ok:
		return nil, errors.New("must be a number")
	case math.IsNaN(f) || math.IsInf(f, 0):
		return nil, errors.New("must be finite")
	case k == share && (f < 0 || f > 1):
		return nil, errors.New("must be between 0 and 1")
	case k == positive && f <= 0:
		return nil, errors.New("must be greater than 0")
	case f < 0:
		return nil, errors.New("must not be negative")
	case k == count && f != math.Trunc(f):
		return nil, errors.New("must be a whole number")
	case k == count && f > maxCount:
		return nil, errors.New("must be at most 2^53")
	}
	if k == count {
		return int64(f), nil
	}
	return f + 0, nil // +0 turns a negative zero into zero
}

// toFloat returns the number in v; ok is false for anything but a number. A
// literal too large for float64 comes back infinite.
func toFloat(v any) (f float64, ok bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case float32:
		return float64(n), true
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	case int32:
		return float64(n), true
	case uint64:
		return float64(n), true
	case json.Number:
		// ParseFloat takes "NaN" and "0x1p3", which are not JSON numbers.
		if !json.Valid([]byte(n)) {
			return math.NaN(), true
		}
		f, err := n.Float64()
		if err != nil && !math.IsInf(f, 0) {
			return 0, false
		}
		return f, true
	}
	return 0, false
}

// number is toFloat for values that read has accepted.
func number(v any) float64 {
	f, _ := toFloat(v)
	return f
}

// plain copies the sent metrics for CEL with every number as float64, so that
// an expression does not depend on how a client spells a number. What no rule
// can mean (null, a list, a number that is not finite, an abyss of objects) is
// left out; a rule that asks for it is then broken, which blocks.
func plain(doc map[string]any, depth int) map[string]any {
	out := make(map[string]any, len(doc))
	for k, v := range doc {
		switch x := v.(type) {
		case map[string]any:
			if depth < maxDepth {
				out[k] = plain(x, depth+1)
			}
		case bool, string:
			out[k] = x
		default:
			if f, ok := toFloat(x); ok && !math.IsNaN(f) && !math.IsInf(f, 0) {
				out[k] = f
			}
		}
	}
	return out
}

// samples returns what rules of one's own call samples: the count by flat
// metric name, and by series the least of its metrics' counts. What nobody
// counted is zero.
func samples(criteria []criterion, origins map[string]Origin) map[string]int64 {
	out := map[string]int64{}
	for name, o := range origins {
		if o.Samples != nil {
			out[strings.ReplaceAll(name, ".", "_")] = *o.Samples
		}
	}
	for _, cr := range criteria {
		if cr.kind.computed() {
			continue
		}
		n := out[cr.value]
		out[cr.value] = n
		if least, ok := out[cr.series]; !ok || n < least {
			out[cr.series] = n
		}
	}
	return out
}
