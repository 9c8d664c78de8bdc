// Command headgate is the release control plane: the server, the proxy, and
// the client for a person or a CI job.
//
// It owns flags, output and exit codes. What a command does is done by the
// packages that it calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/headgate/headgate"
)

// Exit codes. Scripts depend on them.
const (
	exitPassed       = 0
	exitError        = 1
	exitUsage        = 2
	exitBlocked      = 3
	exitRolledBack   = 4
	exitInconclusive = 5
)

// app is what commands share: where they read, write and look things up.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
}

// exitCode ends the program with a code and without a message, when the
// command has already said everything.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	klog.SetSlogLogger(a.logger(false)) // client-go's log; there is one for the whole process
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes a command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
		return exitPassed
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(a.stderr, "headgate: %v\nSee '%s --help'.\n", err, cmd.CommandPath())
		return exitUsage
	}
	a.printError(err)
	return exitError
}

// printError says what went wrong and what to do, with the code that programs
// and documentation use.
func (a *app) printError(err error) {
	var e *headgate.Error
	if errors.As(err, &e) {
		where := e.Code
		if id, ok := e.Details["request_id"].(string); ok && id != "" {
			where += ", request " + id
		}
		fmt.Fprintf(a.stderr, "headgate: %s [%s]\n", e.Message, where)
		if e.Code == headgate.CodeUnauthorized {
			fmt.Fprintln(a.stderr, "Commands take the token from --token-file, HEADGATE_TOKEN_FILE or HEADGATE_TOKEN; a development server's is DATA/dev-token.")
		}
		return
	}
	fmt.Fprintf(a.stderr, "headgate: %v\n", err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "headgate",
		Short: "No evidence, no release",
		Long: "Headgate watches a service, judges each release on evidence, moves traffic to it step by step,\nrolls it back by itself, and leaves a signed record that anyone can verify.\n\n" +
			"To see it work: headgate demo. For a service of your own: headgate config check headgate.yaml, headgate serve,\n" +
			"headgate release run. When a release hurts users now: headgate release list, headgate release abort.",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		Args:          onlyCommands,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.Version = readBuildInfo().String()
	root.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServeCommand(a), newProxyCommand(a), newWatchdogCommand(a), newExampleCommand(a), newDemoCommand(a),
		newReleaseCommand(a), newDrillCommand(a), newQuarantineCommand(a), newGateCommand(a), newRulesCommand(a), newEvidenceCommand(a), newCanaryCommand(a), newConfigCommand(a),
		newTokenCommand(a), newDictionaryCommand(a), newTraceCommand(a), newErrorsCommand(a), newStoreCommand(a), newKeysCommand(a), newBenchCommand(a), newVersionCommand(a))
	return root
}

// usage makes a wrong number of arguments a usage error.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		err := check(c, args)
		switch {
		case err == nil:
			return nil
		case len(args) == 0:
			err = errors.New("an argument is missing")
		case cobra.OnlyValidArgs(c, args) == nil:
			err = fmt.Errorf("wrong number of arguments (%d)", len(args))
		}
		return usageError{fmt.Errorf("%w; usage: %s", err, c.UseLine())}
	}
}

// logger writes warnings and errors, or everything with verbose, to stderr.
func (a *app) logger(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// version is the module's version as the Go tool built it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
