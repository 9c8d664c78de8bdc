package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
)

const (
	maxFileLines     = 600
	maxFunctionLines = 100
)

// vague names say where code was put, not what it does.
var vague = []string{"util", "utils", "common", "helper", "helpers", "manager", "types", "models", "misc", "base"}

func TestStyle(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if slices.Contains(vague, p.Name) {
			t.Errorf("package %s: the name says nothing; name it for what it owns", p.ImportPath)
		}
		judge := anyWithin(p.path(), judges)
		for _, file := range p.GoFiles {
			checkFile(t, filepath.Join(p.Dir, file), judge)
		}
	}
}

func checkFile(t *testing.T, path string, judge bool) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	if n := fset.File(file.Pos()).LineCount(); n > maxFileLines {
		t.Errorf("%s has %d lines, more than %d: is it one room, or several?", path, n, maxFileLines)
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; lines > maxFunctionLines {
			t.Errorf("%s: %s has %d lines, more than %d", fset.Position(f.Pos()), f.Name.Name, lines, maxFunctionLines)
		}
		if f.Name.Name == "init" && f.Recv == nil {
			t.Errorf("%s: init runs for everyone who imports the package; call it where it is needed", fset.Position(f.Pos()))
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, _ := s.X.(*ast.Ident)
		switch {
		case x == nil:
		case x.Name == "context" && s.Sel.Name == "TODO":
			t.Errorf("%s: context.TODO: decide whose context this is", fset.Position(s.Pos()))
		case judge && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker", "Tick"}, s.Sel.Name):
			t.Errorf("%s: time.%s: a judge takes the time as an input, so that its verdict can be recomputed", fset.Position(s.Pos()), s.Sel.Name)
		}
		return true
	})
}
