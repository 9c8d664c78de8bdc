package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Placeholders are what a command of a stage may refer to, as {{name}};
// headgate is the program that runs the command.
func Placeholders() []string {
	return []string{"headgate", "release_id", "version", "digest", "staging_url", "candidate_url"}
}

var placeholder = regexp.MustCompile(`\{\{\s*([^{}]*?)\s*\}\}`)

// Expand returns argv with each {{name}} replaced by its value. A value stays
// inside its argument whatever it contains; no shell is involved. A name
// without a value is an error.
func Expand(argv []string, values map[string]string) ([]string, error) {
	out := make([]string, len(argv))
	for i, arg := range argv {
		if unknown := unknownPlaceholder(arg, slices.Sorted(maps.Keys(values))); unknown != "" {
			return nil, invalidf("the command %s needs {{%s}}, which this release does not have", argv[0], unknown)
		}
		out[i] = placeholder.ReplaceAllStringFunc(arg, func(m string) string {
			return values[placeholder.FindStringSubmatch(m)[1]]
		})
	}
	return out, nil
}

// unknownPlaceholder returns the first name in arg that is not known.
func unknownPlaceholder(arg string, known []string) string {
	for _, m := range placeholder.FindAllStringSubmatch(arg, -1) {
		if !slices.Contains(known, m[1]) {
			return strings.TrimSpace(m[1])
		}
	}
	return ""
}
