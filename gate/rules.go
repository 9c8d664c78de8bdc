package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"github.com/headgate/headgate"
)

// Format is the first field of every rule file.
const Format = "headgate-rules/v1"

// RuleSet is a complete, valid, immutable set of thresholds and rules. The zero
// value holds none, and [Evaluate] refuses it.
type RuleSet struct {
	body     body
	digest   string
	programs []cel.Program // one per body.Rules
	criteria map[headgate.Gate][]criterion
}

// criterion is a measure with what the rules ask of it, all that does not
// depend on a request.
type criterion struct {
	measure
	value, limit string   // the keys of value and threshold in a result
	inputs       []string // the request metrics on which it rests
	threshold    any      // nil for an input of another
	minSamples   int64
	floor        float64 // of the inputs of a ratio
}

// body is the canonical form: everything written out, defaults included.
type body struct {
	Format     string                             `json:"format"`
	Version    int64                              `json:"version"`
	Owner      string                             `json:"owner"`
	Reason     string                             `json:"reason"`
	Thresholds map[headgate.Gate]map[string]any   `json:"thresholds"`
	MinSamples map[headgate.Gate]map[string]int64 `json:"min_samples"`
	Rules      []rule                             `json:"rules"`
	// Comparisons are by gate and check. A set without any reads as it always
	// did, so that stored digests stay what they are.
	Comparisons map[headgate.Gate]map[string]comparison `json:"comparisons,omitempty"`
	// Accept lists the codes of tools' runs that do not block a gate.
	Accept map[headgate.Gate][]string `json:"accept_tool_codes,omitempty"`
}

// comparison is how much worse than the baseline a candidate may be, and on how
// many samples of each that has to rest.
type comparison struct {
	Max        float64 `json:"max"`
	MinSamples int64   `json:"min_samples"`
	// Floor is a duration in seconds up to which all are alike, for a ratio of
	// durations.
	Floor float64 `json:"floor_s,omitempty"`
}

// rule is one of a service's own: a CEL expression that must be true.
type rule struct {
	Name string        `json:"name"`
	Gate headgate.Gate `json:"gate"`
	Code string        `json:"code"`
	Expr string        `json:"expr"`
}

// DefaultRules returns the thresholds that the HTTP contract fixes, without a
// minimum of samples and without further rules.
func DefaultRules() RuleSet { return contractRules() }

var contractRules = sync.OnceValue(func() RuleSet {
	return seal(defaults(), nil)
})

func defaults() body {
	b := body{
		Format: Format, Version: 1, Owner: "headgate",
		Reason:     "the thresholds of the HTTP contract",
		Thresholds: map[headgate.Gate]map[string]any{},
		MinSamples: map[headgate.Gate]map[string]int64{},
		Rules:      []rule{},
	}
	for g, measures := range catalogue {
		b.Thresholds[g], b.MinSamples[g] = map[string]any{}, map[string]int64{}
		for _, m := range measures {
			if m.code != "" {
				b.Thresholds[g][m.threshold()] = m.limit
				b.MinSamples[g][m.flat()] = 0
			}
		}
	}
	return b
}

// seal computes the digest of a valid body.
func seal(b body, programs []cel.Program) RuleSet {
	r := RuleSet{body: b, programs: programs, criteria: map[headgate.Gate][]criterion{}}
	for g := range catalogue {
		for _, m := range r.measures(g) {
			c := criterion{measure: m, value: m.flat(), limit: m.threshold(), inputs: m.inputs(), floor: r.body.Comparisons[g][m.name].Floor}
			if m.code != "" {
				c.threshold, c.minSamples = r.limit(g, m)
			}
			r.criteria[g] = append(r.criteria[g], c)
		}
	}
	sum := sha256.Sum256(r.Canonical())
	r.digest = "sha256:" + hex.EncodeToString(sum[:])
	return r
}

// Version is the number that the owner raises with every change.
func (r RuleSet) Version() int64 { return r.body.Version }

// Owner is who answers for the rules.
func (r RuleSet) Owner() string { return r.body.Owner }

// Reason is why they are as they are.
func (r RuleSet) Reason() string { return r.body.Reason }

// Digest is "sha256:" and the hash of [RuleSet.Canonical]. Every verdict names
// it; a verdict made under another digest is stale.
func (r RuleSet) Digest() string { return r.digest }

// Canonical returns the rules as JSON with every default written out and every
// key in order. [ParseRules] reads it back to the same digest, so it is what
// evidence keeps.
func (r RuleSet) Canonical() []byte {
	out, err := json.Marshal(r.body)
	if err != nil {
		// A valid body holds finite numbers, booleans and strings only.
		return nil
	}
	return out
}

// Metrics returns the request metrics that the rules need of a gate, in
// contract order, then those of its comparisons.
func (r RuleSet) Metrics(g headgate.Gate) []string { return sent(r.measures(g)) }

// Comparisons returns the codes of the checks in which the rules have a gate
// compare the candidate with the baseline beyond the contract.
func (r RuleSet) Comparisons(g headgate.Gate) []string {
	var codes []string
	for _, m := range comparable[g] {
		if _, ok := r.body.Comparisons[g][m.name]; ok {
			codes = append(codes, m.code)
		}
	}
	return codes
}

// measures are a gate's, those of the rules' comparisons included.
func (r RuleSet) measures(g headgate.Gate) []measure {
	asked := r.body.Comparisons[g]
	if len(asked) == 0 {
		return catalogue[g]
	}
	out := slices.Clone(catalogue[g])
	for _, m := range comparable[g] {
		if _, ok := asked[m.name]; !ok {
			continue
		}
		for _, input := range comparable[g] {
			if slices.Contains(m.inputs(), input.name) {
				out = append(out, input)
			}
		}
		out = append(out, m)
	}
	return out
}

// limit is the threshold of a check and the samples that it needs.
func (r RuleSet) limit(g headgate.Gate, m measure) (threshold any, minSamples int64) {
	if c, ok := r.body.Comparisons[g][m.name]; ok {
		return c.Max, c.MinSamples
	}
	return r.body.Thresholds[g][m.threshold()], r.body.MinSamples[g][m.flat()]
}

// MarshalJSON returns the canonical form.
func (r RuleSet) MarshalJSON() ([]byte, error) { return r.Canonical(), nil }

// Change is one way in which a rule set differs from another.
type Change struct {
	Gate headgate.Gate `json:"gate"`
	// Rule is the threshold's key, the check's name or the name of a rule of
	// one's own.
	Rule string `json:"rule"`
	From string `json:"from"`
	To   string `json:"to"`
	Why  string `json:"why"`
	// Looser is true when the change may let something pass that did not.
	Looser bool `json:"looser"`
}

// Loosened lists what is looser in next than in old, in contract order; such a
// change needs a second approver. Nothing can prove that a changed CEL
// expression is as strict as before, so every change to one counts.
func Loosened(old, next RuleSet) []Change {
	return slices.DeleteFunc(Diff(old, next), func(c Change) bool { return !c.Looser })
}

// Diff lists every difference between two rule sets that a verdict could
// depend on, in contract order, then rules of one's own.
func Diff(old, next RuleSet) []Change {
	var out []Change
	for _, g := range headgate.GateD() {
		for _, m := range catalogue[g] {
			if m.code == "" {
				continue
			}
			key := m.threshold()
			from, to := old.body.Thresholds[g][key], next.body.Thresholds[g][key]
			if fmt.Sprint(from) != fmt.Sprint(to) {
				why, looser := direction(m.bound, from, to)
				out = append(out, Change{g, key, fmt.Sprint(from), fmt.Sprint(to), why, looser})
			}
			out = append(out, diffSamples(g, m, old.body.MinSamples[g][m.flat()], next.body.MinSamples[g][m.flat()])...)
		}
		out = append(out, diffCompared(g, old.body.Comparisons[g], next.body.Comparisons[g])...)
		out = append(out, diffAccepted(g, old.body.Accept[g], next.body.Accept[g])...)
	}
	return append(out, diffOwn(old, next)...)
}

func diffSamples(g headgate.Gate, m measure, from, to int64) []Change {
	switch {
	case to < from:
		return []Change{{g, m.flat(), fmt.Sprint(from), fmt.Sprint(to), "fewer samples suffice", true}}
	case to > from:
		return []Change{{g, m.flat(), fmt.Sprint(from), fmt.Sprint(to), "more samples are needed", false}}
	}
	return nil
}

// diffCompared compares what is compared with the baseline.
func diffCompared(g headgate.Gate, old, next map[string]comparison) []Change {
	var out []Change
	for _, m := range comparable[g] {
		from, before := old[m.name]
		to, after := next[m.name]
		switch {
		case before && !after:
			out = append(out, Change{g, m.threshold(), fmt.Sprint(from.Max), "", "the comparison is gone", true})
		case after && !before:
			out = append(out, Change{g, m.threshold(), "", fmt.Sprint(to.Max), "the comparison is new", false})
		case before:
			if from.Max != to.Max {
				why, looser := direction(m.bound, from.Max, to.Max)
				out = append(out, Change{g, m.threshold(), fmt.Sprint(from.Max), fmt.Sprint(to.Max), why, looser})
			}
			out = append(out, diffSamples(g, m, from.MinSamples, to.MinSamples)...)
			if from.Floor != to.Floor {
				// Beside a maximum below 1, being alike is a fault.
				why, looser := "less counts as alike", to.Max < 1
				if to.Floor > from.Floor {
					why, looser = "more counts as alike", true
				}
				out = append(out, Change{g, m.flat() + "_floor_s", fmt.Sprint(from.Floor), fmt.Sprint(to.Floor), why, looser})
			}
		}
	}
	return out
}

// diffAccepted compares what tools may say without blocking a gate.
func diffAccepted(g headgate.Gate, old, next []string) []Change {
	var out []Change
	for _, code := range ToolCodes() {
		before, after := slices.Contains(old, code), slices.Contains(next, code)
		switch {
		case after && !before:
			out = append(out, Change{g, code, "blocks", "accepted", "a tool may say so", true})
		case before && !after:
			out = append(out, Change{g, code, "accepted", "blocks", "no tool may say so", false})
		}
	}
	return out
}

// diffOwn compares rules of one's own.
func diffOwn(old, next RuleSet) []Change {
	var out []Change
	named := func(rules []rule, name string) int {
		return slices.IndexFunc(rules, func(r rule) bool { return r.Name == name })
	}
	for _, r := range old.body.Rules {
		i := named(next.body.Rules, r.Name)
		switch {
		case i < 0:
			out = append(out, Change{r.Gate, r.Name, r.Expr, "", "the rule is gone", true})
		case next.body.Rules[i].Expr != r.Expr:
			out = append(out, Change{r.Gate, r.Name, r.Expr, next.body.Rules[i].Expr, "the expression changed", true})
		case next.body.Rules[i].Gate != r.Gate:
			out = append(out, Change{r.Gate, r.Name, string(r.Gate), string(next.body.Rules[i].Gate), "the rule left the gate", true})
		}
	}
	for _, r := range next.body.Rules {
		if named(old.body.Rules, r.Name) < 0 {
			out = append(out, Change{r.Gate, r.Name, "", r.Expr, "the rule is new", false})
		}
	}
	return out
}

// direction says what a changed threshold means.
func direction(bound string, from, to any) (why string, looser bool) {
	switch bound {
	case "min":
		if number(to) < number(from) {
			return "the minimum is lower", true
		}
		return "the minimum is higher", false
	case "max":
		if number(to) > number(from) {
			return "the maximum is higher", true
		}
		return "the maximum is lower", false
	default:
		if to != true {
			return "it is no longer required", true
		}
		return "it is required", false
	}
}

// ruleNames lists map keys for an error message.
func ruleNames[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
