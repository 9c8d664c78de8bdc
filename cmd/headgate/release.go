package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
)

func newReleaseCommand(a *app) *cobra.Command {
	c := group("release", "Run, watch and steer releases",
		newReleaseRunCommand(a), newReleaseListCommand(a), newReleaseShowCommand(a), newReleaseWatchCommand(a),
		newReleaseActCommand(a, "approve", "Approve a release, or its next tier, that waits for a person", (*client.Client).Approve),
		newReleaseActCommand(a, "abort", "Stop a release that runs; if users meet it, it is rolled back", (*client.Client).Abort),
		newReleaseOverrideCommand(a), newReleaseReportCommand(a))
	c.AddCommand(newSteerCommands(a)...)
	return c
}

const exitCodes = "Exit codes: 0 promoted, 1 error or aborted, 2 usage, 3 blocked by a gate, 4 rolled back, 5 inconclusive."

func newReleaseRunCommand(a *app) *cobra.Command {
	var n connection
	var o runOptions
	var file, output string
	var components []string
	c := &cobra.Command{
		Use:   "run",
		Short: "Build and test a version here, release it, and watch it to the end",
		Long: "Run the commands of headgate.yaml's stages build, test and reports where you are, and take what they find to\n" +
			"the server as a release. Then watch until the release has ended. Ctrl-C stops the watching, not the release.\n\n" + exitCodes,
		Example: "  headgate release run -f headgate.yaml --version v1.1.0\n" +
			"  headgate release run --version v1.1.0 --component model_config=mc-1:mc-2 --output json",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.version == "" {
				return usageError{errors.New("--version is required: which version is to be released?")}
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			for _, s := range components {
				change, err := parseChange(s)
				if err != nil {
					return err
				}
				o.changes = append(o.changes, change)
			}
			svc, err := config.Load(file)
			if err != nil {
				return err
			}
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			o.progress = a.newProgress(a.stdout, output == outputJSON)
			o.log = a.commandLog(o.progress)
			rel, err := a.runRelease(c.Context(), cl, svc, o)
			if errors.Is(err, &headgate.Error{Code: codeBuildFailed}) {
				a.printError(err)
				return exitCode(exitBlocked)
			}
			return a.finish(c.Context(), cl, rel, err, output)
		},
	}
	f := c.Flags()
	n.flags(f)
	f.StringVarP(&file, "file", "f", "headgate.yaml", "service description")
	f.StringVar(&o.version, "version", "", "version that is to be released (required)")
	f.StringVar(&o.digest, "digest", "", "sha256:… of what runs (default: the last line that the build command prints)")
	f.StringVar(&o.releaseID, "release-id", "", "id of the release, which makes the command repeatable (default: a new one)")
	f.StringArrayVar(&components, "component", nil, "component=from:to, a part that changes (repeatable)")
	f.StringVar(&o.stagingURL, "staging-url", "", "where the candidate answers in staging (default: targets.staging)")
	f.StringVar(&o.candidateURL, "candidate-url", "", "where the candidate answers users (default: targets.candidate)")
	f.StringVar(&o.source.Commit, "commit", "", "commit that was built")
	f.StringVar(&o.source.Author, "author", "", "who made the change")
	f.StringVar(&o.source.Link, "link", "", "link to the change or the job")
	f.BoolVar(&o.highRisk, "high-risk", false, "hold the release before users until a person approves it")
	outputFlag(f, &output)
	return c
}

// finish ends a command that watched a release.
func (a *app) finish(ctx context.Context, cl *client.Client, rel client.Release, err error, output string) error {
	if ctx.Err() != nil && rel.ID == "" {
		fmt.Fprintln(a.stderr, "headgate: stopped before there was a release to watch")
		return exitCode(exitError)
	}
	if ctx.Err() != nil && !rel.Done() {
		fmt.Fprintf(a.stderr, "headgate: stopped watching; release %s goes on without you\n"+
			"  watch it again:  headgate release watch %[1]s\n  stop it:         headgate release abort %[1]s --reason '…'\n", rel.ID)
		return exitCode(exitError)
	}
	if err != nil {
		return err
	}
	if output == outputText {
		fmt.Fprintf(a.stdout, "\n%s\n  page: %s/releases/%s\n", outcomeLine(rel.Release), cl.URL(), rel.ID)
	}
	if code := exitFor(rel.Release); code != exitPassed {
		return exitCode(code)
	}
	return nil
}

func newReleaseWatchCommand(a *app) *cobra.Command {
	var n connection
	var output string
	c := &cobra.Command{
		Use:   "watch RELEASE",
		Short: "Watch a release until it has ended",
		Long:  "Watch a release until it has ended. Ctrl-C stops the watching, not the release.\n\n" + exitCodes,
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			p := a.newProgress(a.stdout, output == outputJSON)
			rel, err := a.watch(c.Context(), cl, args[0], p)
			p.close()
			return a.finish(c.Context(), cl, rel, err, output)
		},
	}
	n.flags(c.Flags())
	outputFlag(c.Flags(), &output)
	return c
}

func newReleaseListCommand(a *app) *cobra.Command {
	var n connection
	var output, service string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the newest releases",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := ask(a, n, output, func(cl *client.Client) ([]headgate.Release, error) {
				return cl.Releases(c.Context(), service, limit)
			}, a.showReleases)
			return err
		},
	}
	f := c.Flags()
	n.flags(f)
	f.StringVar(&service, "service", "", "only this service's")
	f.IntVar(&limit, "limit", 20, "at most so many, up to 1000")
	outputFlag(f, &output)
	return c
}

func (a *app) showReleases(all []headgate.Release) error {
	if len(all) == 0 {
		fmt.Fprintln(a.stdout, "no releases yet; headgate release run starts one")
		return nil
	}
	rows := make([][]string, len(all))
	for i, r := range all {
		state := string(r.Outcome)
		if !r.Done() {
			state = "at " + string(r.Stage)
		}
		rows[i] = []string{r.ID, r.Service, r.Version, state, strings.Join(r.Reasons, ","), r.CreatedAt.Local().Format(time.DateTime)}
	}
	return a.table([]string{"RELEASE", "SERVICE", "VERSION", "STATE", "REASONS", "CREATED"}, rows)
}

func newReleaseShowCommand(a *app) *cobra.Command {
	var n connection
	var output string
	var routes bool
	c := &cobra.Command{
		Use:   "show RELEASE",
		Short: "Show a release: its stages, its verdicts and why",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if routes {
				_, err := ask(a, n, output, func(cl *client.Client) (client.RouteReport, error) {
					return cl.Routes(c.Context(), args[0])
				}, a.showRoutes)
				return err
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.Release, error) {
				return cl.Release(c.Context(), args[0])
			}, func(r client.Release) error { return showRelease(a.stdout, r, time.Now()) })
			return err
		},
	}
	n.flags(c.Flags())
	c.Flags().BoolVar(&routes, "routes", false, "show instead what each route does on candidate and stable, the worst first")
	outputFlag(c.Flags(), &output)
	return c
}

func showRelease(w io.Writer, r client.Release, now time.Time) error {
	for _, l := range liveLines(r, "", now) {
		fmt.Fprintln(w, l.text)
	}
	for _, ch := range r.Changes {
		fmt.Fprintf(w, "  %s: %s → %s\n", ch.Component, ch.From, ch.To)
	}
	fmt.Fprintf(w, "  digest %s\n", r.Digest)
	fmt.Fprintln(w, outcomeLine(r.Release))
	if r.Stage == headgate.StageCanary && !r.Done() {
		fmt.Fprintf(w, "headgate release pause|promote|abort %s --reason WHY acts on it; headgate release show %[1]s --routes says which endpoint is behind it\n", r.ID)
	}
	if r.Rollback != nil {
		fmt.Fprintln(w, strings.Join(rollbackLines(r), "\n"))
		fmt.Fprintf(w, "headgate errors --release %s says what failed\n", r.ID)
	}
	return nil
}

func newReleaseActCommand(a *app, name, short string, act func(*client.Client, context.Context, string, string) (client.Release, error)) *cobra.Command {
	var n connection
	var reason, output string
	c := &cobra.Command{
		Use:     name + " RELEASE --reason WHY",
		Short:   short,
		Example: "  headgate release " + name + " rel_3hk5… --reason 'agreed with the owner on call'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := needsReason(reason); err != nil {
				return err
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.Release, error) {
				return act(cl, c.Context(), args[0], reason)
			}, func(r client.Release) error {
				_, err := fmt.Fprintf(a.stdout, "%s: %s recorded; watch it with headgate release watch %[1]s\n", r.ID, name)
				return err
			})
			return err
		},
	}
	n.flags(c.Flags())
	reasonFlag(c.Flags(), &reason)
	outputFlag(c.Flags(), &output)
	return c
}

func newReleaseReportCommand(a *app) *cobra.Command {
	var n connection
	var format, lang, out, checkpoint string
	c := &cobra.Command{
		Use:   "report RELEASE",
		Short: "Write a release's report, or its evidence bundle",
		Long: "Write a release's report as a page (html), Markdown (md) or JSON (json), or all its evidence as one signed ZIP\n" +
			"file (bundle), which headgate evidence verify checks without the server.",
		Example: "  headgate release report rel_3hk5… --format html --out rel.html\n" +
			"  headgate release report rel_3hk5… --format bundle > rel.bundle.zip",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			write := func(w io.Writer) error { return cl.Report(c.Context(), args[0], format, lang, w) }
			switch format {
			case "html", "md", "json":
			case "bundle":
				if write, err = bundleWriter(c.Context(), cl, args[0], checkpoint); err != nil {
					return err
				}
			default:
				return usageError{errors.New("--format must be html, md, json or bundle")}
			}
			if lang != "en" && lang != "zh-CN" {
				return usageError{errors.New("--lang must be en or zh-CN")}
			}
			if checkpoint != "" && format != "bundle" {
				return usageError{errors.New("--checkpoint goes with --format bundle only")}
			}
			if out == "" {
				return write(a.stdout)
			}
			return writeFile(out, write)
		},
	}
	f := c.Flags()
	n.flags(f)
	f.StringVar(&format, "format", "md", "html, md, json or bundle")
	f.StringVar(&lang, "lang", "en", "language of html and md: en or zh-CN")
	f.StringVar(&out, "out", "", "file to write (default: standard output)")
	f.StringVar(&checkpoint, "checkpoint", "", "file with an earlier checkpoint that the recipient holds; the bundle proves that the log continues it")
	return c
}

// bundleWriter writes a release's bundle; with a checkpoint's file, one that
// continues it.
func bundleWriter(ctx context.Context, cl *client.Client, release, checkpoint string) (func(io.Writer) error, error) {
	if checkpoint == "" {
		return func(w io.Writer) error { return cl.Bundle(ctx, release, w) }, nil
	}
	earlier, err := os.ReadFile(checkpoint)
	if err != nil {
		return nil, headgate.Invalidf("the checkpoint cannot be read: %w", err)
	}
	return func(w io.Writer) error { return cl.BundleFrom(ctx, release, earlier, w) }, nil
}

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return headgate.Invalidf("%s cannot be written: %w", path, err)
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
