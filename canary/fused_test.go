package canary_test

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// Where a processor multiplies and adds in one step, Go may use that, and it
// rounds differently. float64(x*y) forbids it; this looks for a forgotten one.
func TestNoFusedMultiplyAdd(t *testing.T) {
	t.Parallel()
	if os.Getenv("HEADGATE_CI") == "" {
		t.Skip("compiles the standard library for another processor; set HEADGATE_CI=1 to run it")
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-S", ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	assembly, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, assembly)
	}
	if !regexp.MustCompile(`\bFMULD\b`).Match(assembly) {
		t.Fatal("the assembly has no multiplication at all")
	}
	fused := regexp.MustCompile(`\(([^()]*\.go:\d+)\)\s+FN?M(ADD|SUB)[DS]\b`)
	for _, at := range fused.FindAllSubmatch(assembly, 20) {
		t.Errorf("%s is fused; round the product with float64()", at[1])
	}
}
