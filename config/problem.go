package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// Problem is one thing wrong with a file, an environment variable or a flag.
type Problem struct {
	// File is empty and Line zero when the value did not come from a file.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Field is the dotted path in the file, or the variable, or the flag.
	Field   string `json:"field"`
	Message string `json:"message"`
}

// String returns "file:line: field: message", leaving out what is unknown.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
		if p.Line > 0 {
			fmt.Fprintf(&b, "%d:", p.Line)
		}
		b.WriteByte(' ')
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// problems collects everything that is wrong, so that a person mends a file
// once and not line by line.
type problems []Problem

func (p *problems) add(q Problem) { *p = append(*p, q) }

// merge returns p and those of more whose field has no problem in p.
func (p problems) merge(more problems) problems {
	out := slices.Clone(p)
	for _, q := range more {
		if !slices.ContainsFunc(p, func(known Problem) bool { return known.Field == q.Field }) {
			out = append(out, q)
		}
	}
	return out
}

// err returns nil or one CONFIG_INVALID error that lists the problems in the
// order of their lines; Details["problems"] holds them as []Problem.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	sorted := slices.Clone(p)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field))
	})
	lines := make([]string, len(sorted))
	for i, q := range sorted {
		lines[i] = q.String()
	}
	return invalidf("%s", strings.Join(lines, "\n")).With("problems", []Problem(sorted))
}

func invalidf(format string, args ...any) *headgate.Error {
	return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, format, args...)
}

// suggest returns ` (did you mean "x"?)` for the known name nearest to got, or
// nothing when none is near.
func suggest(got string, known []string) string {
	best, bestDistance := "", max(2, len(got)/3)+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(got), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
