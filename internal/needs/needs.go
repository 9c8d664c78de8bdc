// Package needs finds the foreign programs that tests run against. It owns one
// promise: where CI says that everything is installed, a missing program fails
// the test instead of skipping it. Only tests import it.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// ci is set by .ci/run, which installs every program that a test needs.
const ci = "HEADGATE_CI"

// Program returns the path of a program that a Debian package has. Without it,
// the test is skipped with a line that says how to get it, or fails in CI.
func Program(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv(ci) != "":
		t.Fatalf("%s is not installed; add %s:%s to .ci/run", name, debian, name)
	default:
		t.Skipf("%s is not installed; get it with: apt-get install -y %s", name, debian)
	}
	return path
}
