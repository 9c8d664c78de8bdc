package gate

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"github.com/headgate/headgate"
	"go.yaml.in/yaml/v3"
)

const maxRuleFile = 1 << 20

// ParseRules reads a rule file, YAML or the canonical JSON; see docs/gates.md
// for the format. A threshold that the file does not name keeps the contract's
// value. file is used in messages only: an error is CONFIG_INVALID, names file,
// line and field of everything that is wrong, and says what is wanted.
func ParseRules(file string, src []byte) (RuleSet, error) {
	p := &parser{file: file, body: defaults()}
	if len(src) > maxRuleFile {
		p.failf(nil, "", "a rule file may hold at most %d bytes", maxRuleFile)
		return RuleSet{}, p.err()
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		p.problems = append(p.problems, file+": "+strings.TrimPrefix(err.Error(), "yaml: "))
		return RuleSet{}, p.err()
	}
	if len(doc.Content) == 0 {
		p.failf(nil, "", "is empty; it starts with \"format: %s\"", Format)
		return RuleSet{}, p.err()
	}
	p.document(doc.Content[0])
	if err := p.err(); err != nil {
		return RuleSet{}, err
	}
	programs := make([]cel.Program, len(p.body.Rules))
	for i, r := range p.body.Rules {
		prg, err := compile(r.Expr)
		if err != nil {
			p.failf(p.exprs[i], fmt.Sprintf("rules[%d].expr", i), "%s", err)
			continue
		}
		programs[i] = prg
	}
	if err := p.err(); err != nil {
		return RuleSet{}, err
	}
	return seal(p.body, programs), nil
}

// parser walks the YAML tree by hand, because only the nodes know their lines.
type parser struct {
	file     string
	body     body
	exprs    []*yaml.Node // one per body.Rules
	problems []string
}

func (p *parser) failf(n *yaml.Node, field, format string, args ...any) {
	at := p.file
	if n != nil {
		at = fmt.Sprintf("%s:%d", p.file, n.Line)
	}
	if field != "" {
		at += ": " + field
	}
	p.problems = append(p.problems, at+": "+fmt.Sprintf(format, args...))
}

func (p *parser) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
		"%s", strings.Join(p.problems, "\n")).With("problems", p.problems)
}

// fields calls handle for every entry of a mapping and reports what is not one,
// what is there twice and what is unknown.
func (p *parser) fields(n *yaml.Node, path string, handle map[string]func(*yaml.Node, string)) {
	if n.Kind != yaml.MappingNode {
		p.failf(n, path, "must be a mapping (anchors and aliases are not supported)")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		field := strings.TrimPrefix(path+"."+k.Value, ".")
		h, ok := handle[k.Value]
		switch {
		case !ok:
			p.failf(k, field, "unknown field; known here: %s", ruleNames(handle))
		case seen[k.Value]:
			p.failf(k, field, "is given twice")
		default:
			h(v, field)
		}
		seen[k.Value] = true
	}
}

func (p *parser) document(n *yaml.Node) {
	var format string
	p.fields(n, "", map[string]func(*yaml.Node, string){
		"format":  p.text(&format),
		"version": p.whole(&p.body.Version, 1),
		"owner":   p.text(&p.body.Owner),
		"reason":  p.text(&p.body.Reason),
		"thresholds": p.perGate(func(m measure, g headgate.Gate) (string, func(*yaml.Node, string)) {
			return m.threshold(), func(v *yaml.Node, field string) { p.threshold(m, g, v, field) }
		}),
		"min_samples": p.perGate(func(m measure, g headgate.Gate) (string, func(*yaml.Node, string)) {
			return m.flat(), func(v *yaml.Node, field string) {
				var least int64
				p.whole(&least, 0)(v, field)
				p.body.MinSamples[g][m.flat()] = least
			}
		}),
		"comparisons":       p.comparisons(),
		"rules":             p.rules,
		"accept_tool_codes": p.acceptances(),
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	if format != Format {
		p.failf(n, "format", "must be %q", Format)
	}
	for _, name := range []string{"version", "owner", "reason"} {
		if !has(n, name) {
			p.failf(n, name, "is required")
		}
	}
}

// perGate handles a mapping of gate → check → value.
func (p *parser) perGate(entry func(measure, headgate.Gate) (string, func(*yaml.Node, string))) func(*yaml.Node, string) {
	gates := map[string]func(*yaml.Node, string){}
	for g, measures := range catalogue {
		handle := map[string]func(*yaml.Node, string){}
		for _, m := range measures {
			if m.code != "" {
				key, h := entry(m, g)
				handle[key] = h
			}
		}
		gates[string(g)] = func(v *yaml.Node, field string) { p.fields(v, field, handle) }
	}
	return func(v *yaml.Node, field string) { p.fields(v, field, gates) }
}

func (p *parser) threshold(m measure, g headgate.Gate, v *yaml.Node, field string) {
	if m.kind == flag {
		var b bool
		if v.Tag != "!!bool" || v.Decode(&b) != nil {
			p.failf(v, field, "must be true or false")
			return
		}
		p.body.Thresholds[g][m.threshold()] = b
		return
	}
	k := m.kind
	if k == ratio {
		k = positive
	}
	if f, ok := p.number(k, v, field); ok {
		p.body.Thresholds[g][m.threshold()] = f
	}
}

// comparisons reads gate → check → how much worse than the baseline it may be.
func (p *parser) comparisons() func(*yaml.Node, string) {
	gates := map[string]func(*yaml.Node, string){}
	for g, measures := range comparable {
		handle := map[string]func(*yaml.Node, string){}
		for _, m := range measures {
			if m.code != "" {
				handle[m.name] = func(v *yaml.Node, field string) { p.comparison(g, m, v, field) }
			}
		}
		gates[string(g)] = func(v *yaml.Node, field string) { p.fields(v, field, handle) }
	}
	return func(v *yaml.Node, field string) { p.fields(v, field, gates) }
}

func (p *parser) comparison(g headgate.Gate, m measure, n *yaml.Node, path string) {
	var c comparison
	before := len(p.problems)
	p.fields(n, path, map[string]func(*yaml.Node, string){
		"max": func(v *yaml.Node, field string) {
			k := share
			if m.kind == ratio {
				k = positive
			}
			c.Max, _ = p.number(k, v, field)
		},
		"min_samples": p.whole(&c.MinSamples, 1),
		"floor_s": func(v *yaml.Node, field string) {
			if m.kind != ratio {
				p.failf(v, field, "is for a ratio of durations only")
				return
			}
			c.Floor, _ = p.number(amount, v, field)
		},
	})
	for _, name := range []string{"max", "min_samples"} {
		if n.Kind == yaml.MappingNode && !has(n, name) {
			p.failf(n, path+"."+name, "is required")
		}
	}
	if len(p.problems) > before {
		return
	}
	if p.body.Comparisons == nil {
		p.body.Comparisons = map[headgate.Gate]map[string]comparison{}
	}
	if p.body.Comparisons[g] == nil {
		p.body.Comparisons[g] = map[string]comparison{}
	}
	p.body.Comparisons[g][m.name] = c
}

// number reads a number of a kind.
func (p *parser) number(k kind, v *yaml.Node, field string) (float64, bool) {
	var f float64
	if (v.Tag != "!!float" && v.Tag != "!!int") || v.Decode(&f) != nil {
		p.failf(v, field, "must be a number")
		return 0, false
	}
	read, err := k.read(f)
	if err != nil {
		p.failf(v, field, "%s", err)
		return 0, false
	}
	return number(read), true
}

// acceptances reads which codes of tools' runs each gate accepts.
func (p *parser) acceptances() func(*yaml.Node, string) {
	gates := map[string]func(*yaml.Node, string){}
	for _, g := range headgate.GateD() {
		gates[string(g)] = func(n *yaml.Node, field string) {
			var codes []string
			if n.Kind != yaml.SequenceNode || n.Decode(&codes) != nil {
				p.failf(n, field, "must be a list of codes")
				return
			}
			for _, code := range codes {
				if !slices.Contains(ToolCodes(), code) {
					p.failf(n, field, "holds a code that no tool's report has; known are %s", strings.Join(ToolCodes(), ", "))
					return
				}
			}
			slices.Sort(codes)
			if codes = slices.Compact(codes); len(codes) > 0 {
				if p.body.Accept == nil {
					p.body.Accept = map[headgate.Gate][]string{}
				}
				p.body.Accept[g] = codes
			}
		}
	}
	return func(v *yaml.Node, field string) { p.fields(v, field, gates) }
}

var (
	ruleName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
	ruleCode = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
)

func (p *parser) rules(n *yaml.Node, path string) {
	if n.Kind != yaml.SequenceNode {
		p.failf(n, path, "must be a list")
		return
	}
	if len(n.Content) > maxRules {
		p.failf(n, path, "may hold at most %d rules", maxRules)
		return
	}
	for i, item := range n.Content {
		p.rule(item, fmt.Sprintf("%s[%d]", path, i))
	}
}

func (p *parser) rule(n *yaml.Node, path string) {
	var r rule
	var g string
	expr := n
	before := len(p.problems)
	p.fields(n, path, map[string]func(*yaml.Node, string){
		"name": p.text(&r.Name),
		"gate": p.text(&g),
		"code": p.text(&r.Code),
		"expr": func(v *yaml.Node, field string) { expr = v; p.text(&r.Expr)(v, field) },
	})
	if len(p.problems) > before {
		return
	}
	r.Gate = headgate.Gate(g)
	switch {
	case !ruleName.MatchString(r.Name):
		p.failf(n, path+".name", "must match %s", ruleName)
	case slices.ContainsFunc(p.body.Rules, func(o rule) bool { return o.Name == r.Name }):
		p.failf(n, path+".name", "is used by an earlier rule")
	case catalogue[r.Gate] == nil:
		p.failf(n, path+".gate", "must be one of %s", joinGates(headgate.GateD()))
	case !ruleCode.MatchString(r.Code):
		p.failf(n, path+".code", "must match %s", ruleCode)
	case r.Expr == "":
		p.failf(n, path+".expr", "is required")
	default:
		p.body.Rules, p.exprs = append(p.body.Rules, r), append(p.exprs, expr)
	}
}

// text reads a string that is not empty.
func (p *parser) text(to *string) func(*yaml.Node, string) {
	return func(v *yaml.Node, field string) {
		if v.Kind != yaml.ScalarNode || v.Tag != "!!str" || strings.TrimSpace(v.Value) == "" {
			p.failf(v, field, "must be a text that is not empty")
			return
		}
		*to = v.Value
	}
}

// whole reads an integer of at least least.
func (p *parser) whole(to *int64, least int64) func(*yaml.Node, string) {
	return func(v *yaml.Node, field string) {
		var n int64
		if v.Tag != "!!int" || v.Decode(&n) != nil || n < least || n > math.MaxInt32 {
			p.failf(v, field, "must be a whole number from %d to %d", least, math.MaxInt32)
			return
		}
		*to = n
	}
}

func has(n *yaml.Node, key string) bool {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}
