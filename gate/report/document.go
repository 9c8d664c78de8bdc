package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate"
)

// document is a report in memory, opened just far enough to recognise it.
type document struct {
	raw []byte
	// object is the document when it is one JSON object, list when it is one
	// JSON array; line is the first line when that is an object of its own.
	object map[string]json.RawMessage
	list   []json.RawMessage
	isList bool
	line   map[string]json.RawMessage
	root   xml.Name
}

func readAll(r io.Reader, limit int64) (document, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return document{}, headgate.Invalidf("the report cannot be read").Wrap(err)
	}
	if int64(len(raw)) > limit {
		return document{}, headgate.Invalidf("the report is larger than %d bytes; give the tool's summary in place of its raw output", limit)
	}
	d := document{raw: bytes.TrimSpace(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")))}
	if len(d.raw) == 0 {
		return d, nil
	}
	switch d.raw[0] {
	case '{':
		clean := nanToNull(d.raw)
		if json.Unmarshal(clean, &d.object) != nil {
			d.object = nil
			first, _, _ := bytes.Cut(clean, []byte("\n"))
			if json.Unmarshal(first, &d.line) != nil {
				d.line = nil
			}
		}
	case '[':
		d.isList = json.Unmarshal(nanToNull(d.raw), &d.list) == nil
	case '<':
		d.root = rootElement(d.raw)
	}
	return d, nil
}

// first is the first element of a JSON array, as an object.
func (d document) first() map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if len(d.list) == 0 || json.Unmarshal(d.list[0], &m) != nil {
		return nil
	}
	return m
}

func (d document) has(keys ...string) bool { return hasKeys(d.object, keys...) }

func hasKeys(m map[string]json.RawMessage, keys ...string) bool {
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			return false
		}
	}
	return len(m) > 0
}

// nanToNull replaces the NaN and Infinity that Python writes into JSON, outside
// of strings, by null: nobody measured a number there.
func nanToNull(src []byte) []byte {
	if !bytes.Contains(src, []byte("NaN")) && !bytes.Contains(src, []byte("Infinity")) {
		return src
	}
	out := make([]byte, 0, len(src))
	inString := false
	for i := 0; i < len(src); {
		c := src[i]
		switch {
		case inString && c == '\\' && i+1 < len(src):
			out = append(out, c, src[i+1])
			i += 2
			continue
		case c == '"':
			inString = !inString
		case !inString:
			if word := notFinite(src[i:]); word > 0 {
				out = append(out, "null"...)
				i += word
				continue
			}
		}
		out = append(out, c)
		i++
	}
	return out
}

func notFinite(b []byte) int {
	for _, w := range []string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(b, []byte(w)) {
			return len(w)
		}
	}
	return 0
}

// decodeJSON reads one JSON value. The error says where the document broke and
// never what it holds.
func decodeJSON(raw []byte, to any) error {
	err := json.Unmarshal(raw, to)
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("is not valid JSON at byte %d", syntax.Offset)
	case errors.As(err, &typ) && typ.Field != "":
		return fmt.Errorf("%s must not be of JSON type %s", clip(typ.Field), strings.Fields(typ.Value)[0])
	case errors.As(err, &typ):
		return fmt.Errorf("must not be of JSON type %s", strings.Fields(typ.Value)[0])
	}
	return errors.New("is not valid JSON")
}

// decodeXML reads one XML document.
func decodeXML(raw []byte, to any) error {
	d := xml.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(to); err != nil {
		line, col := d.InputPos()
		return fmt.Errorf("is not a well-formed document of this kind at line %d, column %d", line, col)
	}
	return nil
}

func rootElement(raw []byte) xml.Name {
	d := xml.NewDecoder(bytes.NewReader(raw))
	for {
		t, err := d.Token()
		if err != nil {
			return xml.Name{}
		}
		if start, ok := t.(xml.StartElement); ok {
			return start.Name
		}
	}
}

// clip bounds a text from a report and drops what would disturb a terminal.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// location strips what a file address may carry besides the file: credentials
// and queries.
func location(uri string) string {
	scheme, rest, isURL := strings.Cut(uri, "://")
	if !isURL {
		return clip(uri)
	}
	rest, _, _ = strings.Cut(rest, "?")
	if host, path, ok := strings.Cut(rest, "/"); ok {
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			rest = host[i+1:] + "/" + path
		}
	}
	return clip(scheme + "://" + rest)
}
