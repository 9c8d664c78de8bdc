package replay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/headgate/headgate"
)

// Load reads a suite and the documents it names from fsys. Errors carry the
// code CONFIG_INVALID and name file, line and field of everything wrong.
func Load(fsys fs.FS, name string) (Suite, error) {
	data, err := readBounded(fsys, name, maxSuiteBytes)
	if err != nil {
		return Suite{}, err
	}
	root, err := parseYAML(data, name)
	if err != nil {
		return Suite{}, err
	}
	r := &reader{file: name, allCaptured: map[string]bool{}}
	s := r.suite(root)
	if err := r.err(); err != nil {
		return Suite{}, err
	}
	if s.files, err = readFiles(fsys, path.Dir(name), r.files); err != nil {
		return Suite{}, err
	}
	s.Digest = digest(data, s.files)
	return s, nil
}

func invalid(format string, args ...any) *headgate.Error {
	return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, format, args...)
}

func readBounded(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, invalid("%s: cannot be opened; check the path, it is relative to the suite: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, invalid("%s: cannot be read: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, invalid("%s: is larger than %d bytes; make it smaller", name, limit)
	}
	return data, nil
}

func readFiles(fsys fs.FS, dir string, names []string) (map[string][]byte, error) {
	files := make(map[string][]byte, len(names))
	total := 0
	for _, n := range names {
		data, err := readBounded(fsys, path.Join(dir, n), maxFileBytes)
		if err != nil {
			return nil, err
		}
		if total += len(data); total > maxFilesBytes {
			return nil, invalid("%s: the suite's documents are larger than %d bytes together; use smaller ones", n, maxFilesBytes)
		}
		files[n] = data
	}
	return files, nil
}

func digest(suite []byte, files map[string][]byte) string {
	h := sha256.New()
	sum := sha256.Sum256(suite)
	h.Write(sum[:])
	for _, n := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[n])
		_, _ = fmt.Fprintf(h, "%q %x\n", n, sum)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func parseYAML(data []byte, name string) (*yaml.Node, error) {
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, invalid("%s:1: the file is empty; docs/replay.md shows a suite", name)
		}
		return nil, invalid("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, invalid("%s:%d: a second document; keep one suite in a file", name, max(1, second.Line))
	}
	return doc.Content[0], nil
}

func (r *reader) suite(n *yaml.Node) Suite {
	var s Suite
	var rules *yaml.Node
	r.object(n, "", fields{
		"name":     func(n *yaml.Node, f string) { s.Name = r.name(n, f) },
		"sessions": func(n *yaml.Node, f string) { s.Sessions = r.sessions(n, f) },
		"compare":  func(n *yaml.Node, f string) { rules = n },
	}, "name", "sessions")
	if rules != nil {
		s.Compare = r.rules(rules, "compare", true)
	}
	return s
}

func (r *reader) sessions(n *yaml.Node, field string) []Session {
	var out []Session
	seen := map[string]bool{}
	r.list(n, field, func(n *yaml.Node, f string) {
		s := r.session(n, f)
		if seen[s.Name] {
			r.fail(n, f+".name", "%q is taken by an earlier session; choose another", s.Name)
		}
		seen[s.Name] = true
		out = append(out, s)
	})
	return out
}

func (r *reader) session(n *yaml.Node, field string) Session {
	var s Session
	var steps *yaml.Node
	r.captured = map[string]bool{}
	r.object(n, field, fields{
		"name":  func(n *yaml.Node, f string) { s.Name = r.name(n, f) },
		"steps": func(n *yaml.Node, f string) { steps = n },
	}, "name", "steps")
	if steps == nil {
		return s
	}
	seen := map[string]bool{}
	r.list(steps, join(field, "steps"), func(n *yaml.Node, f string) {
		step := r.step(n, f)
		if seen[step.Name] {
			r.fail(n, f+".name", "%q is taken by an earlier step of the session; choose another", step.Name)
		}
		seen[step.Name] = true
		s.Steps = append(s.Steps, step)
	})
	return s
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
}

func (r *reader) step(n *yaml.Node, field string) Step {
	s := Step{Timeout: 30 * time.Second, Status: []int{http.StatusOK}}
	r.object(n, field, fields{
		"name":      func(n *yaml.Node, f string) { s.Name = r.name(n, f) },
		"method":    func(n *yaml.Node, f string) { s.Method = r.oneOf(n, f, methods...) },
		"path":      func(n *yaml.Node, f string) { s.Path = r.urlPath(n, f) },
		"headers":   func(n *yaml.Node, f string) { s.Headers = r.headers(n, f) },
		"when":      func(n *yaml.Node, f string) { s.When = r.condition(n, f) },
		"json":      func(n *yaml.Node, f string) { s.Body = r.value(n, f, 0) },
		"multipart": func(n *yaml.Node, f string) { s.Multipart = r.multipart(n, f) },
		"status":    func(n *yaml.Node, f string) { s.Status = r.statuses(n, f) },
		"capture":   func(n *yaml.Node, f string) { s.Captures = r.captures(n, f) },
		"poll":      func(n *yaml.Node, f string) { s.Poll = r.poll(n, f) },
		"timeout":   func(n *yaml.Node, f string) { s.Timeout = r.duration(n, f, time.Millisecond, 10*time.Minute) },
		"compare":   func(n *yaml.Node, f string) { s.Compare = r.rules(n, f, false) },
		"isolation": func(n *yaml.Node, f string) {
			s.Isolation = Access(r.oneOf(n, f, string(Refused), string(Listing), string(Unprobed)))
		},
	}, "name", "method", "path")
	if s.Body != nil && s.Multipart != nil {
		r.fail(n, field, "json and multipart exclude each other; keep one")
	}
	if s.Poll != nil && s.Method != http.MethodGet {
		r.fail(n, field+".poll", "only GET is polled; add a GET step that waits")
	}
	if s.Isolation == "" {
		s.Isolation = Unprobed
		if s.Method == http.MethodGet {
			s.Isolation = Refused
		}
	}
	for _, c := range s.Captures {
		r.captured[c.Name] = true
	}
	return s
}

func (r *reader) headers(n *yaml.Node, field string) map[string]string {
	out := map[string]string{}
	r.pairs(n, field, func(key string, n *yaml.Node, f string) {
		if http.CanonicalHeaderKey(key) == "Authorization" {
			r.fail(n, f, "the credential comes from the target; remove this header")
			return
		}
		out[key] = r.template(n, f)
	})
	return out
}

func (r *reader) condition(n *yaml.Node, field string) *Condition {
	var c Condition
	r.object(n, field, fields{
		"value": func(n *yaml.Node, f string) {
			if c.Value = r.text(n, f); c.Value != "" && !r.known(c.Value) {
				r.fail(n, f, "%q is neither a variable nor captured by an earlier step", c.Value)
			}
		},
		"is": func(n *yaml.Node, f string) { c.Is = r.text(n, f) },
	}, "value", "is")
	return &c
}

func (r *reader) multipart(n *yaml.Node, field string) *Multipart {
	var m Multipart
	r.object(n, field, fields{
		"fields": func(n *yaml.Node, f string) {
			r.pairs(n, f, func(key string, n *yaml.Node, f string) {
				m.Fields = append(m.Fields, Field{Name: key, Value: r.template(n, f)})
			})
		},
		"files": func(n *yaml.Node, f string) {
			r.list(n, f, func(n *yaml.Node, f string) { m.Files = append(m.Files, r.upload(n, f)) })
		},
	})
	return &m
}

func (r *reader) upload(n *yaml.Node, field string) File {
	u := File{Type: "application/octet-stream"}
	r.object(n, field, fields{
		"field": func(n *yaml.Node, f string) { u.Field = r.text(n, f) },
		"type":  func(n *yaml.Node, f string) { u.Type = r.text(n, f) },
		"path": func(n *yaml.Node, f string) {
			u.Path = r.text(n, f)
			if !fs.ValidPath(u.Path) {
				r.fail(n, f, "must be a path below the suite's folder, without \"..\"")
				return
			}
			if !slices.Contains(r.files, u.Path) {
				r.files = append(r.files, u.Path)
			}
		},
	}, "field", "path")
	return u
}

func (r *reader) statuses(n *yaml.Node, field string) []int {
	var out []int
	r.each(n, field, func(n *yaml.Node, f string) {
		code := r.number(n, f, 100, 599)
		if code != math.Trunc(code) {
			r.fail(n, f, "must be a whole number")
		}
		out = append(out, int(code))
	})
	return out
}

func (r *reader) captures(n *yaml.Node, field string) []Capture {
	var out []Capture
	r.pairs(n, field, func(key string, n *yaml.Node, f string) {
		c := Capture{Name: key}
		switch {
		case !nameOfValue.MatchString(key):
			r.fail(n, f, "a captured value's name is lower-case letters, digits and _")
		case r.known(key):
			r.fail(n, f, "%q is taken; a session captures a name once", key)
		}
		p := r.text(n, f)
		c.Path, c.Optional = strings.CutSuffix(p, "?")
		r.dotted(n, f, c.Path)
		out = append(out, c)
		r.allCaptured[key] = true
	})
	return out
}

func (r *reader) poll(n *yaml.Node, field string) *Poll {
	p := Poll{Interval: 200 * time.Millisecond, Timeout: time.Minute}
	texts := func(to *[]string) func(*yaml.Node, string) {
		return func(n *yaml.Node, f string) {
			r.each(n, f, func(n *yaml.Node, f string) { *to = append(*to, r.text(n, f)) })
		}
	}
	r.object(n, field, fields{
		"path": func(n *yaml.Node, f string) {
			p.Path = r.text(n, f)
			r.dotted(n, f, p.Path)
		},
		"until":    texts(&p.Until),
		"fail":     texts(&p.Fail),
		"interval": func(n *yaml.Node, f string) { p.Interval = r.duration(n, f, 10*time.Millisecond, time.Minute) },
		"timeout":  func(n *yaml.Node, f string) { p.Timeout = r.duration(n, f, 10*time.Millisecond, time.Hour) },
	}, "path", "until")
	return &p
}

func (r *reader) rules(n *yaml.Node, field string, suite bool) Rules {
	var out Rules
	known := fields{
		"ignore": func(n *yaml.Node, f string) {
			r.list(n, f, func(n *yaml.Node, f string) {
				p := r.text(n, f)
				r.dotted(n, f, p)
				out.Ignore = append(out.Ignore, p)
			})
		},
		"tolerance": func(n *yaml.Node, f string) {
			out.Tolerance = map[string]float64{}
			r.pairs(n, f, func(key string, n *yaml.Node, f string) {
				r.dotted(n, f, key)
				out.Tolerance[key] = r.number(n, f, 0, 1e12)
			})
		},
	}
	if suite {
		known["identifiers"] = func(n *yaml.Node, f string) {
			r.list(n, f, func(n *yaml.Node, f string) {
				name := r.text(n, f)
				if !r.allCaptured[name] {
					r.fail(n, f, "no step captures %q", name)
				}
				out.Identifiers = append(out.Identifiers, name)
			})
		}
	}
	r.object(n, field, known)
	return out
}
