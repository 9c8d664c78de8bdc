package replay

import (
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

const (
	maxDifferences = 200
	maxShown       = 200
)

// Diff is how a candidate's answers differ from stable's.
type Diff struct {
	Equal       bool         `json:"equal"`
	Differences []Difference `json:"differences"`
	// Omitted counts the differences beyond the first 200.
	Omitted int `json:"omitted,omitempty"`
}

// Difference is one value that differs. Stable and Candidate are JSON,
// shortened to 200 bytes; empty means absent.
type Difference struct {
	Session   string `json:"session,omitempty"`
	Step      string `json:"step,omitempty"`
	Path      string `json:"path,omitempty"`
	Kind      string `json:"kind"`
	Stable    string `json:"stable,omitempty"`
	Candidate string `json:"candidate,omitempty"`
}

// The kinds of difference.
const (
	DiffSuite       = "suite"   // the runs were made with different suites
	DiffOutcome     = "outcome" // a step passed in one run only
	DiffStatus      = "status"
	DiffContentType = "content_type"
	DiffMissing     = "missing" // in stable only
	DiffAdded       = "added"   // in the candidate only
	DiffType        = "type"
	DiffValue       = "value"
)

// Compare walks both runs in the suite's order and keys in alphabetical
// order; the result is the same for the same runs. Durations are not compared.
// Runs of different suites are never equal.
func Compare(stable, candidate Run) Diff {
	w := walker{diff: Diff{Differences: []Difference{}}}
	if stable.SuiteDigest != candidate.SuiteDigest || len(stable.Sessions) != len(candidate.Sessions) {
		w.report(DiffSuite, nil, stable.SuiteDigest, candidate.SuiteDigest)
		return w.result()
	}
	for i, s := range stable.Sessions {
		w.session, w.step = s.Name, ""
		other := candidate.Sessions[i]
		if s.Name != other.Name || len(s.Steps) != len(other.Steps) {
			w.report(DiffSuite, nil, s.Name, other.Name)
			continue
		}
		for j, step := range s.Steps {
			w.step = step.Name
			w.tolerance = tolerances(stable.Compare.Tolerance, step.Compare.Tolerance)
			w.steps(step, other.Steps[j])
		}
	}
	return w.result()
}

type tolerance struct {
	pattern []string
	within  float64
}

// tolerances puts the step's rules before the suite's; the first that matches
// counts.
func tolerances(suite, step map[string]float64) []tolerance {
	var out []tolerance
	for _, rules := range []map[string]float64{step, suite} {
		for _, p := range slices.Sorted(maps.Keys(rules)) {
			out = append(out, tolerance{strings.Split(p, "."), rules[p]})
		}
	}
	return out
}

type walker struct {
	diff          Diff
	session, step string
	tolerance     []tolerance
}

func (w *walker) result() Diff {
	w.diff.Equal = len(w.diff.Differences) == 0
	return w.diff
}

func (w *walker) report(kind string, segs []string, stable, candidate any) {
	if len(w.diff.Differences) == maxDifferences {
		w.diff.Omitted++
		return
	}
	w.diff.Differences = append(w.diff.Differences, Difference{
		Session: w.session, Step: w.step, Path: strings.Join(segs, "."), Kind: kind,
		Stable: show(stable), Candidate: show(candidate),
	})
}

func (w *walker) steps(a, b StepResult) {
	if a.Outcome != b.Outcome {
		w.report(DiffOutcome, nil, a.Outcome, b.Outcome)
	}
	if a.Status != b.Status {
		w.report(DiffStatus, nil, a.Status, b.Status)
	}
	if a.ContentType != b.ContentType {
		w.report(DiffContentType, nil, a.ContentType, b.ContentType)
	}
	x, errA := decodeBody(a.Body)
	y, errB := decodeBody(b.Body)
	if errA != nil || errB != nil {
		w.report(DiffType, nil, string(a.Body), string(b.Body))
		return
	}
	w.walk(x, y, nil)
}

// absent marks a body or a member that is not there, unlike a JSON null.
type absent struct{}

func decodeBody(body json.RawMessage) (any, error) {
	if len(body) == 0 {
		return absent{}, nil
	}
	return decode(body)
}

func (w *walker) walk(a, b any, segs []string) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			w.objects(x, y, segs)
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			w.arrays(x, y, segs)
			return
		}
	case json.Number:
		if y, ok := b.(json.Number); ok {
			if !w.near(x, y, segs) {
				w.report(DiffValue, segs, x, y)
			}
			return
		}
	case string, bool, nil, absent:
		if a == b {
			return
		}
		if reflect.TypeOf(a) == reflect.TypeOf(b) {
			w.report(DiffValue, segs, a, b)
			return
		}
	}
	switch {
	case a == (absent{}):
		w.report(DiffAdded, segs, a, b)
	case b == (absent{}):
		w.report(DiffMissing, segs, a, b)
	default:
		w.report(DiffType, segs, a, b)
	}
}

func (w *walker) objects(a, b map[string]any, segs []string) {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	member := func(m map[string]any, k string) any {
		if v, ok := m[k]; ok {
			return v
		}
		return absent{}
	}
	for _, k := range keys {
		w.walk(member(a, k), member(b, k), append(slices.Clip(segs), k))
	}
}

func (w *walker) arrays(a, b []any, segs []string) {
	element := func(s []any, i int) any {
		if i < len(s) {
			return s[i]
		}
		return absent{}
	}
	for i := range max(len(a), len(b)) {
		w.walk(element(a, i), element(b, i), append(slices.Clip(segs), strconv.Itoa(i)))
	}
}

// near compares two numbers. Integers are compared by digit, so that large
// ones do not become equal by rounding.
func (w *walker) near(a, b json.Number, segs []string) bool {
	if a == b {
		return true
	}
	x, errA := a.Float64()
	y, errB := b.Float64()
	if errA != nil || errB != nil {
		return false
	}
	within := 0.0
	for _, t := range w.tolerance {
		if matches(t.pattern, segs) {
			within = t.within
			break
		}
	}
	if within == 0 && !strings.ContainsAny(a.String()+b.String(), ".eE") {
		return false
	}
	return math.Abs(x-y) <= within
}

func show(v any) string {
	if v == (absent{}) {
		return ""
	}
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	if len(data) > maxShown {
		return strings.ToValidUTF8(string(data[:maxShown]), "") + "…"
	}
	return string(data)
}
