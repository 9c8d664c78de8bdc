// Package archtest keeps the shape of the program: who may import whom, and
// the few rules of style that a machine can see. Each rule gives its reason,
// so that a failure explains itself.
package archtest_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/headgate/headgate"

// A layer is a set of packages with the same duties. Paths are relative to the
// module, "" is its root, and a trailing /... takes the tree.
type layer struct {
	packages []string
	// may lists the packages of this module that the layer may import, beside
	// its own tree; nil is none.
	may []string
	// never lists imports from elsewhere that the layer must not have.
	never []string
	// why is shown when the layer's rule is broken.
	why string
}

var (
	judges = []string{"gate/...", "canary/...", "alert/..."}
	actors = []string{"rollout/...", "rollback/...", "replay/...", "incident/...", "feedback/...", "pipeline/..."}
	// ports are the packages that declare what adapters implement. The timeline
	// joins what it reads through telemetry's port; it stores nothing.
	ports = slices.Concat([]string{"", "access/...", "control/...", "dictionary/...", "evidence/...", "telemetry", "telemetry/timeline"}, judges, actors)
	// adapters touch the world: disks, networks, other people's formats.
	adapters = []string{"store/...", "traffic/...", "telemetry/...", "vitals/...", "api/...", "web/..."}
	// shared are what sibling adapters have in common: how a foreign server is
	// asked, and what the GenAI conventions call things. telemetry/verify, on the
	// other side, opens every store of its tree to check it.
	shared = []string{"telemetry/internal/...", "telemetry/genai"}
	world  = []string{"os", "os/exec", "net", "net/http", "database/sql", "log/slog"}
)

var layers = []layer{
	{
		packages: []string{""},
		never:    []string{"net/http", "os", "database/sql", "log/slog"},
		why:      "the root is the vocabulary: everything imports it, so it imports the standard library only and touches nothing",
	},
	{
		packages: []string{"dictionary/..."}, may: []string{""},
		why: "the dictionary says what a metric means; who measures and who judges build on it, never the other way round",
	},
	{
		packages: []string{"gate/...", "canary/...", "alert/..."}, may: []string{"", "dictionary/..."}, never: world,
		why: "a judge is a pure function of its inputs, so that every verdict can be recomputed from what was recorded: no I/O, no SQL, and no knowledge of who acts on it",
	},
	{
		packages: []string{"access/...", "config/..."}, may: []string{""},
		why: "who may ask and what people wrote are read by everything above and depend on the vocabulary alone",
	},
	{
		packages: []string{"rollout/...", "rollback/...", "replay/...", "incident/...", "feedback/..."},
		may:      slices.Concat([]string{"", "dictionary/..."}, judges),
		why:      "an actor follows a judge's verdict and declares the small ports it needs; it does not know other actors or any adapter",
	},
	{
		packages: []string{"pipeline/..."}, may: slices.Concat([]string{"", "dictionary/...", "rollout/..."}, judges),
		why: "the pipeline puts stages in order; it reaches what a stage does through its own ports",
	},
	{
		packages: []string{"evidence/..."}, may: slices.Concat([]string{"", "dictionary/..."}, judges),
		why: "evidence records and re-checks what judges said; it must be verifiable without any actor, store or server",
	},
	{
		packages: []string{"telemetry/..."}, may: []string{"", "dictionary/..."},
		why: "telemetry comes in and is stored; nothing of what is decided about it may flow back",
	},
	{
		packages: []string{"vitals/..."}, may: []string{"", "dictionary/...", "telemetry"},
		why: "the server's own figures go the way of everybody's telemetry; nothing that decides knows of them",
	},
	{
		packages: []string{"traffic/..."}, may: []string{"", "rollout/...", "canary/..."},
		why: "a router implements rollout's port and counts for the canary; it decides nothing",
	},
	{
		packages: []string{"store/..."}, may: ports,
		why: "a store implements the ports of those who need state; it imports inward, never another adapter",
	},
	{
		packages: []string{"control/..."}, may: slices.Concat(ports, []string{"config/..."}),
		why: "the control plane's use cases talk to the world through ports, so that they can be tested without it",
	},
	{
		packages: []string{"api/..."}, may: slices.Concat(ports, []string{"config/..."}),
		why: "HTTP is one way in; it translates and authorises, and reaches everything through ports",
	},
	{
		packages: []string{"client/..."}, may: []string{""},
		why: "the client is what other people's programs import; it must not drag the server in",
	},
	{
		packages: []string{"instrument/..."},
		why:      "a service imports this; it gets OpenTelemetry and nothing of Headgate",
	},
	{
		packages: []string{"web/..."},
		why:      "the embedded user interface is files",
	},
	{
		packages: []string{"examples/..."}, may: []string{"", "instrument/..."},
		why: "an example is somebody else's service: it may use what a service may use, and Headgate reaches it by HTTP, OTLP and headgate.yaml only",
	},
	{
		packages: []string{"server/..."}, may: slices.Concat(ports, adapters, []string{"config/..."}),
		why: "the server is where parts are put together; it knows no example and no command line",
	},
	{
		packages: []string{"cmd/..."}, may: slices.Concat(ports, adapters, []string{"config/...", "client/...", "server/...", "examples/..."}),
		why: "commands put everything together",
	},
	{packages: []string{"internal/..."}, may: []string{"..."}, why: "tests of the whole"},
}

type goPackage struct {
	ImportPath, Dir, Name string
	GoFiles, Imports      []string
}

func (p goPackage) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

var list = sync.OnceValues(func() ([]goPackage, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,GoFiles,Imports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
})

func packages(t *testing.T) []goPackage {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if len(all) == 0 {
		t.Fatal("go list found no packages")
	}
	return all
}

// within reports whether pattern takes p.
func within(p, pattern string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == tree || strings.HasPrefix(p, tree+"/")
	}
	return p == pattern || pattern == "..."
}

func anyWithin(p string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return within(p, pattern) })
}

func layerOf(p string) (layer, bool) {
	for _, l := range layers {
		if anyWithin(p, l.packages) {
			return l, true
		}
	}
	return layer{}, false
}

// top is the tree a package belongs to, within which it may import freely.
func top(p string) string {
	first, _, _ := strings.Cut(p, "/")
	return first
}

func TestImportsFollowTheFlow(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		l, ok := layerOf(p.path())
		if !ok {
			t.Errorf("%s belongs to no layer: say in internal/archtest what it may import, and why", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if broken := breaks(p.path(), l, imported); broken != "" {
				t.Errorf("%s imports %s, %s.\n\tReason of the rule: %s.", p.ImportPath, imported, broken, l.why)
			}
		}
	}
}

// breaks says how the import breaks l's rule, or nothing.
func breaks(p string, l layer, imported string) string {
	inside, ok := strings.CutPrefix(imported+"/", module+"/")
	if !ok {
		if slices.Contains(l.never, imported) {
			return "which touches the world"
		}
		if p == "" && strings.Contains(top(imported), ".") {
			return "which is not of the standard library"
		}
		return ""
	}
	inside = strings.TrimSuffix(inside, "/")
	if p != "" && top(inside) == top(p) {
		return sideways(p, inside)
	}
	if anyWithin(inside, l.may) {
		return ""
	}
	return "which its layer may not know"
}

// sideways keeps the adapters of one port apart: they share the port's
// package, not each other.
func sideways(p, imported string) string {
	if !anyWithin(p, adapters) || imported == top(imported) || p == top(p) {
		return ""
	}
	if strings.HasPrefix(imported, p+"/") || strings.HasPrefix(p, imported+"/") {
		return ""
	}
	if anyWithin(imported, shared) || p == "telemetry/verify" {
		return ""
	}
	return "a sibling adapter; share through " + top(p) + " or a port instead"
}

// The rules are only worth something if they refuse.
func TestRulesRefuse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, imports string
		ok            bool
	}{
		{"", "time", true},
		{"", "golang.org/x/sync/errgroup", false},
		{"", module + "/gate", false},
		{"gate", module, true},
		{"gate", module + "/dictionary", true},
		{"gate", "database/sql", false},
		{"gate/report", module + "/gate", true},
		{"gate/report", "os", false},
		{"canary", module + "/rollout", false},
		{"rollout", module + "/canary", true},
		{"rollout", module + "/traffic/proxy", false},
		{"rollback", module + "/rollout", false},
		{"pipeline", module + "/store/sqlite", false},
		{"telemetry/otlp", module + "/telemetry", true},
		{"telemetry/otlp", module + "/telemetry/metrics", false},
		{"traffic/proxy", module + "/rollout", true},
		{"traffic/proxy", module + "/traffic/haproxy", false},
		{"store/sqlite", module + "/pipeline", true},
		{"store/sqlite", module + "/telemetry/events", false},
		{"api", module + "/store/sqlite", false},
		{"client", module, true},
		{"client", module + "/api", false},
		{"instrument", module, false},
		{"server", module + "/examples/bidding", false},
		{"server", module + "/store/sqlite", true},
		{"cmd/headgate", module + "/examples/bidding/cmd", true},
		{"examples/bidding", module + "/server", false},
	} {
		l, ok := layerOf(tt.from)
		if !ok {
			t.Fatalf("no layer for %q", tt.from)
		}
		if broken := breaks(tt.from, l, tt.imports); (broken == "") != tt.ok {
			t.Errorf("%q importing %s: broken %q, want allowed = %v", tt.from, tt.imports, broken, tt.ok)
		}
	}
}
