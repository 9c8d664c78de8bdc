package report

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
)

// ragas is a table of scores by column. Questions, answers and contexts are
// dropped as soon as their column is known not to be a wanted one.
type ragas struct {
	columns map[string][]*float64
	// aggregate says that the file holds means only, so that nobody knows of
	// how many cases.
	aggregate bool
}

func isRagas(d document) bool {
	for _, m := range []map[string]json.RawMessage{d.object, d.line, d.first()} {
		for key := range m {
			if ragasColumn(key) {
				return true
			}
		}
	}
	if len(d.raw) == 0 || strings.ContainsRune("{[<", rune(d.raw[0])) {
		return false
	}
	header, err := csv.NewReader(bytes.NewReader(d.raw)).Read()
	return err == nil && slices.ContainsFunc(header, ragasColumn)
}

func decodeRagas(d document, o Options) (content, error) {
	t := ragas{columns: map[string][]*float64{}}
	keep := o.wanted(headgate.GateQuality, ragasColumns)
	wanted := func(column string) bool {
		for _, names := range keep {
			if slices.Contains(names, column) {
				return true
			}
		}
		return false
	}
	var err error
	switch {
	case len(d.raw) == 0:
		err = errors.New("is empty")
	case d.object != nil:
		err = t.readColumns(d.object, wanted)
	case d.isList:
		err = t.readRows(d.list, wanted)
	case d.raw[0] == '{':
		err = t.readLines(d.raw, wanted)
	case d.raw[0] == '[' || d.raw[0] == '<':
		err = errors.New("is not valid JSON or CSV")
	default:
		err = t.readCSV(d.raw, wanted)
	}
	if err != nil {
		return nil, err
	}
	if len(t.columns) == 0 {
		return nil, errors.New("has none of the columns looked for; name them with a column map")
	}
	return t, nil
}

// readColumns reads a single object: means by column, or what pandas writes by
// default, {"faithfulness": {"0": 0.9, "1": 0.8}}, or one row.
func (t *ragas) readColumns(object map[string]json.RawMessage, wanted func(string) bool) error {
	for name, raw := range object {
		if !wanted(name) {
			continue
		}
		var cells map[string]*float64
		if json.Unmarshal(raw, &cells) == nil && cells != nil {
			for _, row := range sortedKeys(cells) {
				t.columns[name] = append(t.columns[name], cells[row])
			}
			continue
		}
		var list []*float64
		if json.Unmarshal(raw, &list) == nil && list != nil {
			t.columns[name] = list
			continue
		}
		var mean *float64
		if json.Unmarshal(raw, &mean) != nil {
			return fmt.Errorf("%s: must be a number", clip(name))
		}
		t.aggregate = true
		t.columns[name] = []*float64{mean}
	}
	return nil
}

func (t *ragas) readRows(rows []json.RawMessage, wanted func(string) bool) error {
	for i, row := range rows {
		if err := t.readRow(i, row, wanted); err != nil {
			return err
		}
	}
	return t.rectangular()
}

func (t *ragas) readLines(raw []byte, wanted func(string) bool) error {
	lines := bufio.NewScanner(bytes.NewReader(nanToNull(raw)))
	lines.Buffer(nil, len(raw)+1)
	for i := 0; lines.Scan(); {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			if err := t.readRow(i, line, wanted); err != nil {
				return err
			}
			i++
		}
	}
	return t.rectangular()
}

func (t *ragas) readRow(i int, raw []byte, wanted func(string) bool) error {
	var row map[string]json.RawMessage
	if err := decodeJSON(raw, &row); err != nil {
		return fmt.Errorf("row %d: %w", i, err)
	}
	for name, cell := range row {
		if !wanted(name) {
			continue
		}
		var v *float64
		if json.Unmarshal(cell, &v) != nil {
			return fmt.Errorf("row %d: %s must be a number", i, clip(name))
		}
		// Rows before the first that has the column have no score in it.
		for len(t.columns[name]) < i {
			t.columns[name] = append(t.columns[name], nil)
		}
		t.columns[name] = append(t.columns[name], v)
	}
	return nil
}

// rectangular fills the columns that end before the last row.
func (t *ragas) rectangular() error {
	rows := 0
	for _, c := range t.columns {
		rows = max(rows, len(c))
	}
	for name := range t.columns {
		for len(t.columns[name]) < rows {
			t.columns[name] = append(t.columns[name], nil)
		}
	}
	return nil
}

func (t *ragas) readCSV(raw []byte, wanted func(string) bool) error {
	r := csv.NewReader(bytes.NewReader(raw))
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return errors.New("has no header")
	}
	header = slices.Clone(header)
	for i, name := range header {
		if !wanted(name) {
			continue
		}
		if _, twice := t.columns[name]; twice {
			return fmt.Errorf("%s is there twice", clip(name))
		}
		t.columns[header[i]] = []*float64{}
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			var at *csv.ParseError
			if errors.As(err, &at) {
				return fmt.Errorf("is not valid CSV at line %d, column %d", at.Line, at.Column)
			}
			return errors.New("is not valid CSV")
		}
		for i, name := range header {
			if _, ok := t.columns[name]; !ok {
				continue
			}
			v, err := cell(row[i])
			if err != nil {
				line, _ := r.FieldPos(i)
				return fmt.Errorf("line %d: %s must be a number", line, clip(name))
			}
			t.columns[name] = append(t.columns[name], v)
		}
	}
}

// cell reads a CSV cell; pandas leaves NaN empty.
func cell(s string) (*float64, error) {
	s = strings.TrimSpace(s)
	if s == "" || strings.EqualFold(s, "nan") || strings.EqualFold(s, "none") || strings.EqualFold(s, "null") {
		return nil, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	return &v, err
}

func (t ragas) facts(o Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "ragas"}, Verdict: headgate.Pass}
	wanted := o.wanted(headgate.GateQuality, ragasColumns)
	for _, name := range sortedKeys(wanted) {
		from := ""
		for _, column := range wanted[name] {
			if _, ok := t.columns[column]; !ok {
				continue
			}
			if from != "" {
				return f, fmt.Errorf("both %s and %s could be %s; say which with a column map", from, column, name)
			}
			from = column
		}
		if from == "" {
			continue
		}
		var s scores
		for i, v := range t.columns[from] {
			if err := s.add(v); err != nil {
				return f, fmt.Errorf("case %d: %s %w", i, clip(from), err)
			}
		}
		s.metric(&f, name, from)
	}
	if t.aggregate {
		for i := range f.Metrics {
			f.Metrics[i].Samples = nil
		}
		f.note("the file holds means only; how many cases they stand for is not known")
	}
	return f, nil
}

func (t ragas) stored() ([]byte, error) {
	if !t.aggregate {
		return json.Marshal(t.columns)
	}
	means := map[string]*float64{}
	for name, c := range t.columns {
		means[name] = c[0]
	}
	return json.Marshal(means)
}
