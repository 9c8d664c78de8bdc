package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"unicode/utf8"
)

// parse returns a JSON document as maps, slices and scalars. It refuses what
// two readers could read differently: text that is not UTF-8, and an object in
// which a name occurs twice.
func parse(raw []byte) (any, error) {
	if !utf8.Valid(raw) || !json.Valid(raw) { // the latter bounds the nesting, too
		return nil, errors.New("it is not JSON in UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return parseValue(d)
}

func parseValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			item, err := parseValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err = d.Token()
		return list, err
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			name, _ := key.(string)
			if _, twice := object[name]; twice {
				return nil, errors.New("a name occurs twice in one object; readers could disagree about which one counts")
			}
			if object[name], err = parseValue(d); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return object, err
	}
	return token, nil
}

// decode reads a document into v as every other reader would: encoding/json
// alone takes the last of two equal names, and a name in other letters, such
// as Verdict, for the field verdict.
func decode(raw []byte, v any) error {
	document, err := parse(raw)
	if err != nil {
		return err
	}
	return decodeParsed(document, raw, v)
}

// decodeParsed is decode for raw that parse has read.
func decodeParsed(document any, raw []byte, v any) error {
	if !exact(document, reflect.TypeOf(v)) {
		return errors.New("a field's name is written in other letters than it should be; readers could disagree about whether it counts")
	}
	return json.Unmarshal(raw, v)
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// exact reports whether each name in the document that encoding/json would
// take for a field of t is that field's name.
func exact(document any, t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct:
		object, _ := document.(map[string]any)
		fields := fieldsOf(t)
		for name, value := range object {
			field, ok := fields[name]
			if ok && !exact(value, field) {
				return false
			}
			for known := range fields {
				if !ok && strings.EqualFold(name, known) {
					return false
				}
			}
		}
	case reflect.Map:
		object, _ := document.(map[string]any)
		for _, value := range object {
			if !exact(value, t.Elem()) {
				return false
			}
		}
	case reflect.Slice:
		list, _ := document.([]any)
		for _, value := range list {
			if !exact(value, t.Elem()) {
				return false
			}
		}
	}
	return true
}

// fieldsOf returns the fields of a struct by their names in JSON, those of
// embedded structs included.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if f.IsExported() && !f.Anonymous && name != "-" {
			fields[name] = f.Type
		}
	}
	return fields
}
