//go:build unix

package main

import (
	"errors"
	"flag"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	// The scenarios wait for leases, ticks and traffic most of the time.
	_ = flag.Set("test.parallel", strconv.Itoa(max(3, runtime.GOMAXPROCS(0)))) // -parallel overrides it
	testscript.Main(m, map[string]func(){"headgate": main})
}

// The command line, as a stranger meets it.
func TestScripts(t *testing.T) {
	t.Parallel()
	url := newFakeServer(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCodeIs},
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			e.Setenv("HEADGATE_URL", url)
			e.Setenv("HEADGATE_TOKEN", "hg_secret.token")
			return nil
		},
	})
}

// exitCodeIs runs a command and fails unless it ends with the code:
// exitcode 3 headgate …
func exitCodeIs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND…")
	}
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%v ended with exit code %d, want %s", args[1:], got, args[0])
	}
}
