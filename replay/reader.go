package replay

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var (
	nameOfStep  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	nameOfValue = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	placeholder = regexp.MustCompile(`\{\{\s*([a-z][a-z0-9_]*)\s*\}\}`)
)

// maxProblems bounds how much of a broken suite is reported at once.
const maxProblems = 10

// maxDepth bounds how deep a body or an answer may nest.
const maxDepth = 200

// fields are the handlers of an object's known keys.
type fields map[string]func(n *yaml.Node, field string)

// reader turns YAML nodes into a suite and collects every problem with its
// line and field.
type reader struct {
	file     string
	problems []string
	files    []string
	// captured are the names of the session being read, allCaptured those of
	// every session.
	captured    map[string]bool
	allCaptured map[string]bool
}

func (r *reader) fail(n *yaml.Node, field, format string, args ...any) {
	if field == "" {
		field = "suite"
	}
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s: %s", r.file, n.Line, field, fmt.Sprintf(format, args...)))
	}
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return invalid("%s", strings.Join(r.problems, "\n"))
}

// known reports whether a template may name v at this step.
func (r *reader) known(v string) bool {
	return r.captured[v] || slices.Contains(variables, v)
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

// pairs calls each for the entries of a mapping, refusing repeated keys.
func (r *reader) pairs(n *yaml.Node, field string, each func(key string, n *yaml.Node, field string)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, field, "must be a mapping")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode {
			r.fail(k, field, "keys must be plain text")
			continue
		}
		if seen[k.Value] {
			r.fail(k, join(field, k.Value), "appears twice; remove one")
			continue
		}
		seen[k.Value] = true
		each(k.Value, n.Content[i+1], join(field, k.Value))
	}
}

func (r *reader) object(n *yaml.Node, field string, known fields, required ...string) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, field, "must be a mapping")
		return
	}
	seen := map[string]bool{}
	r.pairs(n, field, func(key string, n *yaml.Node, f string) {
		handle, ok := known[key]
		if !ok {
			r.fail(n, f, "unknown field; docs/replay.md lists the fields")
			return
		}
		seen[key] = true
		handle(n, f)
	})
	for _, key := range required {
		if !seen[key] {
			r.fail(n, join(field, key), "is required")
		}
	}
}

func (r *reader) list(n *yaml.Node, field string, each func(n *yaml.Node, field string)) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		r.fail(n, field, "must be a list with at least one entry")
		return
	}
	if len(n.Content) > 1000 {
		r.fail(n, field, "has more than 1000 entries; split the suite")
		return
	}
	for i, c := range n.Content {
		each(c, fmt.Sprintf("%s[%d]", field, i))
	}
}

// each takes one value or a list of them.
func (r *reader) each(n *yaml.Node, field string, each func(n *yaml.Node, field string)) {
	if n.Kind == yaml.ScalarNode {
		each(n, field)
		return
	}
	r.list(n, field, each)
}

func (r *reader) text(n *yaml.Node, field string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		r.fail(n, field, "must be a text that is not empty")
		return ""
	}
	return n.Value
}

func (r *reader) name(n *yaml.Node, field string) string {
	s := r.text(n, field)
	if s != "" && !nameOfStep.MatchString(s) {
		r.fail(n, field, "is lower-case letters, digits, '.', '_' and '-', at most 64")
	}
	return s
}

func (r *reader) oneOf(n *yaml.Node, field string, allowed ...string) string {
	s := r.text(n, field)
	if s != "" && !slices.Contains(allowed, s) {
		r.fail(n, field, "must be one of %s", strings.Join(allowed, ", "))
	}
	return s
}

func (r *reader) number(n *yaml.Node, field string, low, high float64) float64 {
	v, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || err != nil || math.IsNaN(v) || v < low || v > high {
		r.fail(n, field, "must be a number from %g to %g", low, high)
		return 0
	}
	return v
}

func (r *reader) duration(n *yaml.Node, field string, low, high time.Duration) time.Duration {
	d, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || d < low || d > high {
		r.fail(n, field, "must be a duration from %s to %s, for example 500ms or 30s", low, high)
	}
	return d
}

// template is a text whose placeholders all name something known.
func (r *reader) template(n *yaml.Node, field string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.fail(n, field, "must be a text")
		return ""
	}
	for _, m := range placeholder.FindAllStringSubmatch(n.Value, -1) {
		if !r.known(m[1]) {
			r.fail(n, field, "{{%s}} is neither a variable (%s) nor captured by an earlier step",
				m[1], strings.Join(variables, ", "))
		}
	}
	if strings.Contains(placeholder.ReplaceAllString(n.Value, ""), "{{") {
		r.fail(n, field, "has a {{ that is no placeholder; write {{name}} in lower case")
	}
	return n.Value
}

func (r *reader) urlPath(n *yaml.Node, field string) string {
	s := r.template(n, field)
	plain := placeholder.ReplaceAllString(s, "x")
	if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(plain, "#\\ \t\r\n") {
		r.fail(n, field, "must be a path that begins with one /, without spaces or #")
	}
	return s
}

func (r *reader) dotted(n *yaml.Node, field, p string) {
	segs := strings.Split(p, ".")
	deep := 0
	for _, s := range segs {
		if s == "" {
			r.fail(n, field, "must be a dotted path such as data.items.0.id")
			return
		}
		if s == "**" {
			deep++
		}
	}
	if deep > 2 || len(segs) > maxDepth {
		r.fail(n, field, "is too deep; use ** at most twice")
	}
}

// value turns a node into what encoding/json would have made of it.
func (r *reader) value(n *yaml.Node, field string, depth int) any {
	if depth > maxDepth {
		r.fail(n, field, "nests too deep")
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		r.pairs(n, field, func(key string, n *yaml.Node, f string) { out[key] = r.value(n, f, depth+1) })
		return out
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, c := range n.Content {
			out[i] = r.value(c, fmt.Sprintf("%s[%d]", field, i), depth+1)
		}
		return out
	case yaml.ScalarNode:
		return r.scalar(n, field)
	}
	r.fail(n, field, "anchors and aliases are not supported; write the value out")
	return nil
}

func (r *reader) scalar(n *yaml.Node, field string) any {
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			r.fail(n, field, "is not a JSON value")
			return nil
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			r.fail(n, field, "JSON has no NaN and no infinity")
			return nil
		}
		return v
	}
	return r.template(n, field)
}
