package dictionary

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate"
)

// Prices is what models cost, in US dollars. The zero value knows no price.
type Prices struct {
	rows []modelPrice // the most specific pattern first
}

type modelPrice struct {
	Model  string   `yaml:"model"`
	Input  *float64 `yaml:"input"`
	Output *float64 `yaml:"output"`
}

// perPrice is how many tokens a price of the table is for.
const perPrice = 1000

// LoadPrices reads a price table:
//
//	currency: USD
//	per_tokens: 1000
//	models:
//	  - {model: small-1, input: 0.0005, output: 0.0015}
//	  - {model: "small-*", input: 0.001, output: 0.003}
//
// A model that ends in * is a prefix; an exact name goes before prefixes, a
// longer prefix before a shorter one. It returns CONFIG_INVALID for a table
// that leaves something open: prices have no defaults.
func LoadPrices(text []byte) (Prices, error) {
	var table struct {
		Currency  string       `yaml:"currency"`
		PerTokens int          `yaml:"per_tokens"`
		Models    []modelPrice `yaml:"models"`
	}
	invalid := func(format string, args ...any) (Prices, error) {
		return Prices{}, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the price table: "+format, args...)
	}
	if err := yaml.UnmarshalWithOptions(text, &table, yaml.Strict()); err != nil {
		return invalid("%s", yamlError(err))
	}
	if table.Currency != "USD" || table.PerTokens != perPrice {
		return invalid("say currency: USD and per_tokens: %d; nothing else is read", perPrice)
	}
	seen := make(map[string]bool)
	for _, m := range table.Models {
		switch {
		case m.Model == "" || m.Input == nil || m.Output == nil:
			return invalid("model %q needs model, input and output", m.Model)
		case !validPrice(*m.Input) || !validPrice(*m.Output):
			return invalid("model %q has a price that is not zero or more", m.Model)
		case seen[m.Model]:
			return invalid("model %q is priced twice", m.Model)
		case strings.Contains(strings.TrimSuffix(m.Model, "*"), "*"):
			return invalid("model %q may have a * at its end only", m.Model)
		}
		seen[m.Model] = true
	}
	slices.SortFunc(table.Models, func(a, b modelPrice) int {
		return cmp.Or(-cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.Model, b.Model))
	})
	return Prices{table.Models}, nil
}

func validPrice(usd float64) bool { return usd >= 0 && !math.IsInf(usd, 1) }

// rank orders patterns: exact names, then prefixes by length.
func (m modelPrice) rank() int {
	if prefix, ok := strings.CutSuffix(m.Model, "*"); ok {
		return len(prefix)
	}
	return 1 << 20
}

// Empty reports whether no model has a price.
func (p Prices) Empty() bool { return len(p.rows) == 0 }

// Token returns what one token of a model costs. tokenType is input or
// output; ok is false when the table has no such price.
func (p Prices) Token(model, tokenType string) (usd float64, ok bool) {
	for _, m := range p.rows {
		prefix, pattern := strings.CutSuffix(m.Model, "*")
		if model != m.Model && (!pattern || !strings.HasPrefix(model, prefix)) {
			continue
		}
		switch tokenType {
		case "input":
			return *m.Input / perPrice, true
		case "output":
			return *m.Output / perPrice, true
		}
		return 0, false
	}
	return 0, false
}
