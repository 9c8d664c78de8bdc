package config

import (
	"bytes"
	"cmp"
	_ "embed" // the schema below
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Schema is the JSON Schema (2020-12) of headgate.yaml. [Parse] checks the
// structure with it, so that an editor that uses it and Headgate agree.
//
//go:embed schema/headgate.schema.json
var Schema []byte

// schemaURL is the schema's $id.
const schemaURL = "https://headgate.dev/schema/headgate.schema.json"

// compiledSchema is the schema in the two forms that checking needs: one to
// validate with, and the plain one to look names and descriptions up in.
type compiledSchema struct {
	validate func(any) error
	plain    any
}

var compileSchema = sync.OnceValues(func() (compiledSchema, error) {
	plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		return compiledSchema{}, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schemaURL, plain); err != nil {
		return compiledSchema{}, err
	}
	s, err := c.Compile(schemaURL)
	if err != nil {
		return compiledSchema{}, err
	}
	return compiledSchema{validate: s.Validate, plain: plain}, nil
})

// service turns a parsed document into a checked description: structure by
// the schema, then types by strict decoding, then references.
// found is what parsing already refused; those values are not judged again.
func (d *document) service(found problems) (Service, error) {
	schema, err := compileSchema()
	if err != nil {
		return Service{}, fmt.Errorf("the embedded schema: %w", err)
	}
	if err := schema.validate(d.value); err != nil {
		var invalid *jsonschema.ValidationError
		if !errors.As(err, &invalid) {
			return Service{}, invalidf("%s: %w", d.file, err)
		}
		var violations problems
		d.explain(invalid, schema, &violations)
		found = found.merge(violations)
	}
	if len(found) > 0 {
		return Service{}, found.err()
	}
	s := defaults()
	if err := yaml.NodeToValue(d.root, &s, yaml.Strict()); err != nil {
		found.add(yamlProblem(d.file, err))
		return Service{}, found.err()
	}
	s.complete()
	d.check(s, &found)
	if err := found.err(); err != nil {
		return Service{}, err
	}
	return s, nil
}

// explain says for every leaf of a schema violation, in words for a person
// who knows YAML and not JSON Schema, what is wrong and what would be right.
func (d *document) explain(v *jsonschema.ValidationError, schema compiledSchema, found *problems) {
	if len(v.Causes) > 0 {
		for _, cause := range v.Causes {
			d.explain(cause, schema, found)
		}
		return
	}
	at, rule := v.InstanceLocation, schema.rule(v.SchemaURL)
	switch k := v.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			found.add(d.problem(child(at, name), "unknown field"+suggest(name, propertyNames(rule))))
		}
	case *kind.Required:
		for _, name := range k.Missing {
			found.add(d.problem(child(at, name), "is missing"))
		}
	case *kind.PropertyNames:
		found.add(d.problem(child(at, k.Property), "unknown name"))
	default:
		found.add(d.problem(at, violation(k, rule)))
	}
}

// violation words a violation that concerns one value.
func violation(k jsonschema.ErrorKind, rule map[string]any) string {
	switch k := k.(type) {
	case *kind.Type:
		return wrongType(k, rule)
	case *kind.Enum:
		return oneOf(k)
	case *kind.Pattern:
		if description, ok := rule["description"].(string); ok {
			return fmt.Sprintf("%q is not %s", clip(k.Got), description)
		}
	case *kind.Minimum:
		return "must be at least " + decimal(k.Want)
	case *kind.Maximum:
		return "must be at most " + decimal(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be above " + decimal(k.Want)
	case *kind.MinItems, *kind.MinLength, *kind.MinProperties:
		return "must not be empty"
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d items", k.Want)
	case *kind.MaxProperties:
		return "must have only one of " + strings.Join(propertyNames(rule), ", ")
	case *kind.UniqueItems:
		return fmt.Sprintf("items %d and %d are the same", k.Duplicates[0], k.Duplicates[1])
	}
	return "does not fit the schema"
}

var typeNames = map[string]string{
	"object": "a map", "array": "a list", "string": "text", "number": "a number",
	"integer": "a whole number", "boolean": "true or false",
}

func wrongType(k *kind.Type, rule map[string]any) string {
	if description, ok := rule["description"].(string); ok && rule["pattern"] != nil {
		return "must be " + description + "; this is " + cmp.Or(typeNames[k.Got], "empty")
	}
	var want []string
	for _, w := range k.Want {
		want = append(want, typeNames[w])
	}
	need := strings.Join(want, " or ")
	if k.Got == "null" {
		return "is empty; give " + need + " or remove the line"
	}
	message := "must be " + need + ", not " + typeNames[k.Got]
	if slices.Contains(k.Want, "string") && (k.Got == "number" || k.Got == "boolean") {
		message += "; put it in quotes"
	}
	return message
}

func oneOf(k *kind.Enum) string {
	var want []string
	for _, w := range k.Want {
		want = append(want, fmt.Sprint(w))
	}
	got := clip(fmt.Sprint(k.Got))
	return fmt.Sprintf("%q is not one of %s%s", got, strings.Join(want, ", "), suggest(got, want))
}

func decimal(r *big.Rat) string {
	f, _ := r.Float64()
	return fmt.Sprint(f)
}

// clip keeps a message short whatever the file holds.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// rule returns the part of the schema that url's fragment points to.
func (c compiledSchema) rule(url string) map[string]any {
	_, pointer, _ := strings.Cut(url, "#")
	at := c.plain
	for _, name := range strings.Split(strings.Trim(pointer, "/"), "/") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		if name != "" {
			at = m[name]
		}
	}
	m, _ := at.(map[string]any)
	return m
}

func propertyNames(rule map[string]any) []string {
	properties, _ := rule["properties"].(map[string]any)
	var names []string
	for name := range properties {
		names = append(names, name)
	}
	slices.Sort(names) // a tie goes to the same name every time
	return names
}
