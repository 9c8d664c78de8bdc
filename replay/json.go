package replay

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// minIdentifier is the shortest captured identifier that is looked for inside
// other texts; shorter ones would match by accident.
const minIdentifier = 6

// text writes a captured value as templates and conditions see it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// lookup follows a dotted path; array elements are named by index.
func lookup(doc any, dotted string) (any, bool) {
	for seg := range strings.SplitSeq(dotted, ".") {
		switch d := doc.(type) {
		case map[string]any:
			v, ok := d[seg]
			if !ok {
				return nil, false
			}
			doc = v
		case []any:
			i, err := strconv.Atoi(seg)
			if err != nil || i < 0 || i >= len(d) {
				return nil, false
			}
			doc = d[i]
		default:
			return nil, false
		}
	}
	return doc, true
}

// matches reports whether a pattern of segments stands for the path.
func matches(pattern, segs []string) bool {
	for i, p := range pattern {
		if p == "**" {
			for skip := 0; skip <= len(segs)-i; skip++ {
				if matches(pattern[i+1:], segs[i+skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(segs) || (p != "*" && p != segs[i]) {
			return false
		}
	}
	return len(pattern) == len(segs)
}

func split(patterns []string) [][]string {
	out := make([][]string, len(patterns))
	for i, p := range patterns {
		out[i] = strings.Split(p, ".")
	}
	return out
}

// normaliser rewrites an answer so that two runs can be compared.
type normaliser struct {
	ignore [][]string
	ids    []identifier
}

type identifier struct{ value, name string }

func (c *caller) normalise(a answer, step Step, scope map[string]any) (json.RawMessage, error) {
	if a.status == 0 || len(a.body) == 0 {
		return nil, nil
	}
	if a.doc == nil {
		return fmt.Appendf(nil, `{"bytes":%d,"sha256":"%x"}`, len(a.body), sha256.Sum256(a.body)), nil
	}
	n := normaliser{ignore: split(slices.Concat(c.suite.Compare.Ignore, step.Compare.Ignore))}
	for _, name := range append([]string{"idempotency_key"}, c.suite.Compare.Identifiers...) {
		if v := text(scope[name]); v != "" {
			n.ids = append(n.ids, identifier{v, "{{" + name + "}}"})
		}
	}
	// An identifier may be part of another: the longest first.
	slices.SortStableFunc(n.ids, func(a, b identifier) int { return len(b.value) - len(a.value) })
	doc, err := n.walk(a.doc, nil)
	if err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func (n *normaliser) walk(v any, segs []string) (any, error) {
	if len(segs) > maxDepth {
		return nil, errors.New("the answer nests too deep to be compared")
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			at := append(slices.Clip(segs), k)
			if n.ignored(at) {
				continue
			}
			e, err := n.walk(e, at)
			if err != nil {
				return nil, err
			}
			out[k] = e
		}
		return out, nil
	case []any:
		out := make([]any, 0, len(v))
		for i, e := range v {
			at := append(slices.Clip(segs), strconv.Itoa(i))
			if n.ignored(at) {
				continue
			}
			e, err := n.walk(e, at)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	case string:
		return n.rename(v), nil
	case json.Number:
		if s := n.rename(v.String()); strings.HasPrefix(s, "{{") {
			return s, nil
		}
	}
	return v, nil
}

func (n *normaliser) ignored(segs []string) bool {
	return slices.ContainsFunc(n.ignore, func(p []string) bool { return matches(p, segs) })
}

func (n *normaliser) rename(s string) string {
	for _, id := range n.ids {
		if s == id.value {
			return id.name
		}
		if len(id.value) >= minIdentifier {
			s = strings.ReplaceAll(s, id.value, id.name)
		}
	}
	return s
}
