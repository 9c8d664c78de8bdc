package archtest_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/mod/modfile"
)

const repository = "../.."

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files returns the repository's files with one of the suffixes.
func files(t *testing.T, suffixes ...string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if slices.Contains(suffixes, filepath.Ext(path)) {
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)

func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(readFile(t, file), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, m[1])
			}
		}
	}
}

// In a translation these are in its language: comments, what stands beside a
// command in a second column, and quoted words.
var translated = regexp.MustCompile(`(^|\s+)#.*$|(\S)\s{2,}\S.*$|'[^']*'|"[^"]*"`)

// diagram is a block that is drawn, with words in the reader's language.
var diagram = regexp.MustCompile("(?s)```\n[^`]*[─-╿][^`]*```")

// outline is what a guide and its translation have in common: headings, rows of
// tables, and the lines of code.
func outline(text string) []string {
	var out []string
	code := false
	for line := range strings.Lines(diagram.ReplaceAllString(text, "")) {
		line = strings.TrimRight(line, "\n")
		hashes := strings.TrimLeft(line, "#")
		switch {
		case strings.HasPrefix(line, "```"):
			code = !code
			out = append(out, line)
		case code:
			line = translated.ReplaceAllString(line, "$2")
			if !strings.ContainsFunc(line, func(r rune) bool { return r > unicode.MaxASCII }) {
				out = append(out, line)
			}
		case strings.HasPrefix(hashes, " ") && hashes != line:
			out = append(out, line[:len(line)-len(hashes)]+" a heading")
		case strings.HasPrefix(line, "|"):
			out = append(out, "a row of a table")
		}
	}
	return out
}

func TestTranslationsKeepStep(t *testing.T) {
	t.Parallel()
	docs := filepath.Join(repository, "docs")
	twins := map[string]string{filepath.Join(repository, "README.zh-CN.md"): filepath.Join(repository, "README.md")}
	for _, file := range files(t, ".md") {
		if name, ok := strings.CutPrefix(file, filepath.Join(docs, "zh-CN")+"/"); ok {
			twins[file] = filepath.Join(docs, name)
		}
	}
	delete(twins, filepath.Join(docs, "zh-CN", "ARCHITECTURE.md")) // shorter, as it says itself
	for translation, original := range twins {
		got, want := outline(readFile(t, translation)), outline(readFile(t, original))
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Errorf("%s is not in step with %s: it has %q where the other has %q", translation, original, got[min(i, len(got)):min(i+2, len(got))], want[min(i, len(want)):min(i+2, len(want))])
				break
			}
		}
	}
}

var runbook = regexp.MustCompile(`docs/runbooks/[a-z0-9-]+\.md`)

func TestRunbooksThatAlertsNameExist(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, ".yaml", ".go") {
		for _, path := range runbook.FindAllString(readFile(t, file), -1) {
			if _, err := os.Stat(filepath.Join(repository, path)); err != nil {
				t.Errorf("%s names %s, which does not exist", file, path)
			}
		}
	}
}

var inBackticks = regexp.MustCompile("`([^`]+)`")

func TestDirectDependenciesAreExplained(t *testing.T) {
	t.Parallel()
	mod, err := modfile.Parse("go.mod", []byte(readFile(t, filepath.Join(repository, "go.mod"))), nil)
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for line := range strings.Lines(readFile(t, filepath.Join(repository, "docs/dependencies.md"))) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, m := range inBackticks.FindAllStringSubmatch(cell, -1) {
			explained = append(explained, m[1])
		}
	}
	covers := func(explained, required string) bool {
		return required == explained || strings.HasPrefix(required, explained+"/")
	}
	for _, r := range mod.Require {
		known := slices.ContainsFunc(explained, func(e string) bool { return covers(e, r.Mod.Path) })
		if !r.Indirect && !known {
			t.Errorf("docs/dependencies.md does not say what %s is for", r.Mod.Path)
		}
	}
	for _, e := range explained {
		if strings.Contains(e, ".") && strings.Contains(e, "/") && !strings.HasSuffix(e, ".go") &&
			!slices.ContainsFunc(mod.Require, func(r *modfile.Require) bool { return covers(e, r.Mod.Path) }) {
			t.Errorf("docs/dependencies.md explains %s, which go.mod does not require", e)
		}
	}
}

// The module of the comparisons takes its requirements over from this one.
func TestBenchFollowsGoMod(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-mod=readonly", "-test", "-deps", "./...")
	cmd.Dir = filepath.Join(repository, "bench")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("bench/go.mod is behind; run: cd bench && go mod tidy\n%v: %.500s", err, out)
	}
}
