package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a configuration file; real ones are a few kilobytes and five deep.
// The YAML parser's time and memory grow with the square of the nesting, so
// they are kept before it runs.
const (
	maxDocument = 64 << 10
	maxTokens   = 10_000
	maxNesting  = 32
	maxIndent   = 200
)

// document is a parsed YAML file: its plain value, in the types of
// encoding/json, and the line of every part of it.
type document struct {
	file  string
	root  ast.Node
	value any
	lines map[string]int
}

// parseDocument refuses, with lines, what no configuration needs: several
// documents, anchors and aliases, tags, duplicate keys, NaN and infinity.
func parseDocument(file string, data []byte) (*document, problems) {
	if len(data) > maxDocument {
		return nil, problems{{File: file, Message: fmt.Sprintf("is larger than %d KiB; this is not a configuration file", maxDocument>>10)}}
	}
	tokens := lexer.Tokenize(string(data))
	if line := tooDeep(tokens); line > 0 {
		return nil, problems{{File: file, Line: line, Message: "is nested too deeply or too large for a configuration file"}}
	}
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // walkMapping refuses them, all at once
	if err != nil {
		return nil, problems{yamlProblem(file, err)}
	}
	d := &document{file: file, lines: map[string]int{}}
	var found problems
	for _, doc := range parsed.Docs {
		if doc.Body == nil {
			continue
		}
		if d.root != nil {
			return nil, problems{{File: file, Line: doc.Body.GetToken().Position.Line, Message: "holds a second document; keep one per file"}}
		}
		d.root = doc.Body
	}
	if d.root == nil {
		return nil, problems{{File: file, Message: "is empty"}}
	}
	d.value = d.walk(nil, d.root, &found)
	return d, found
}

// tooDeep returns the line at which the bounds are passed, or 0.
func tooDeep(tokens token.Tokens) int {
	depth := 0
	for i, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			if depth == 0 && t.Position.Column > maxIndent {
				return t.Position.Line
			}
		}
		if depth > maxNesting || i > maxTokens {
			return t.Position.Line
		}
	}
	return 0
}

// yamlProblem keeps the YAML library's message and line, not its excerpt of
// the source.
func yamlProblem(file string, err error) Problem {
	p := Problem{File: file, Message: err.Error()}
	var located yaml.Error
	if errors.As(err, &located) {
		p.Message = located.GetMessage()
		if t := located.GetToken(); t != nil && t.Position != nil {
			p.Line = t.Position.Line
		}
	}
	return p
}

// walk returns the plain value of node and records the lines below path.
func (d *document) walk(path []string, node ast.Node, found *problems) any {
	if _, known := d.lines[dotted(path)]; !known {
		d.lines[dotted(path)] = node.GetToken().Position.Line
	}
	refuse := func(message string) any {
		found.add(d.problem(path, message))
		return nil
	}
	switch n := node.(type) {
	case *ast.MappingNode:
		return d.walkMapping(path, n.Values, found)
	case *ast.MappingValueNode:
		return d.walkMapping(path, []*ast.MappingValueNode{n}, found)
	case *ast.SequenceNode:
		items := make([]any, len(n.Values))
		for i, v := range n.Values {
			items[i] = d.walk(child(path, strconv.Itoa(i)), v, found)
		}
		return items
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.IntegerNode:
		return n.Value
	case *ast.FloatNode:
		return n.Value
	case *ast.BoolNode:
		return n.Value
	case *ast.NullNode:
		return nil
	case *ast.NanNode, *ast.InfinityNode:
		return refuse("must be a finite number")
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return refuse("anchors and aliases are not read here; write the value out")
	case *ast.TagNode:
		return refuse("tags are not read here; write the value without " + n.Start.Value)
	}
	return refuse("cannot be read")
}

func (d *document) walkMapping(path []string, entries []*ast.MappingValueNode, found *problems) any {
	m := make(map[string]any, len(entries))
	for _, e := range entries {
		line := e.Key.GetToken().Position.Line
		key, ok := e.Key.(*ast.StringNode)
		if !ok {
			found.add(Problem{File: d.file, Line: line, Field: dotted(path), Message: fmt.Sprintf("the key %s is not text; quote it", e.Key)})
			continue
		}
		at := child(path, key.Value)
		if _, twice := m[key.Value]; twice {
			found.add(Problem{File: d.file, Line: line, Field: dotted(at), Message: "is given twice"})
			continue
		}
		d.lines[dotted(at)] = line
		m[key.Value] = d.walk(at, e.Value, found)
	}
	return m
}

// problem locates a message at path, or at its nearest ancestor that is in
// the file.
func (d *document) problem(path []string, message string) Problem {
	p := Problem{File: d.file, Field: dotted(path), Message: message}
	for n := len(path); n >= 0; n-- {
		if line, ok := d.lines[dotted(path[:n])]; ok {
			p.Line = line
			break
		}
	}
	return p
}

// child returns path with one more element, never sharing its array.
func child(path []string, name string) []string {
	return append(path[:len(path):len(path)], name)
}

// dotted is how people write a path: tenants[2].size.
func dotted(path []string) string {
	var b strings.Builder
	for i, p := range path {
		switch _, err := strconv.Atoi(p); {
		case err == nil && i > 0:
			b.WriteString("[" + p + "]")
		case i > 0:
			b.WriteString("." + p)
		default:
			b.WriteString(p)
		}
	}
	return b.String()
}

// applyFile reads a settings file: a flat map of the settings' keys.
func (s *Settings) applyFile(file string, data []byte, found *problems) {
	d, bad := parseDocument(file, data)
	*found = append(*found, bad...)
	if d == nil {
		return
	}
	m, ok := d.value.(map[string]any)
	if !ok {
		found.add(d.problem(nil, "must be a map of settings, for example listen: 127.0.0.1:8080"))
		return
	}
	fields := map[string]field{}
	var known []string
	for _, f := range s.fields() {
		fields[f.key] = f
		known = append(known, f.key)
	}
	for key, value := range m {
		where := d.problem([]string{key}, "")
		f, ok := fields[key]
		if !ok {
			where.Message = "unknown setting" + suggest(key, known)
			found.add(where)
			continue
		}
		switch v := value.(type) {
		case nil:
			where.Message = "is empty; give a value or remove the line"
			found.add(where)
		case map[string]any, []any:
			where.Message = "must be a single value"
			found.add(where)
		default:
			s.set(f, fmt.Sprint(v), fmt.Sprintf("%s:%d", file, where.Line), where, found)
		}
	}
}
