package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
)

func newEvidenceCommand(a *app) *cobra.Command {
	return group("evidence", "Add evidence to a release, and verify what another server recorded",
		newEvidenceAddCommand(a), newEvidenceCheckpointCommand(a), newEvidenceVerifyCommand(a))
}

func newEvidenceAddCommand(a *app) *cobra.Command {
	var n connection
	var reports reportFlags
	var gateName, name, output string
	c := &cobra.Command{
		Use:   "add RELEASE FILE --gate GATE",
		Short: "Add a tool's report to the inputs of a release's gate",
		Long: "Add a tool's report to the inputs of a release's gate. The server then judges the gate on all reports that were\n" +
			"added and on telemetry, and prints where the signed verdict is. While reports are missing that is insufficient,\n" +
			"which is no error here.\n\nExit codes: 0 added, 1 error, 2 usage, 3 added and the gate failed.",
		Example: "  headgate evidence add rel_3hk5… trivy.sarif --gate security",
		Args:    usage(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			g, err := gateNamed(gateName)
			if err != nil {
				return err
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			columns, err := reports.mapping()
			if err != nil {
				return err
			}
			f := client.ReportFile{Gate: g, Name: cmp.Or(name, filepath.Base(args[1])), Format: reports.format, Columns: columns}
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			if err := a.addEvidence(c.Context(), cl, args[0], f, args[1], output == outputText); err != nil {
				return err
			}
			v, err := a.evaluateRelease(c.Context(), cl, args[0], g, output)
			if err == nil && v == headgate.Fail {
				err = exitCode(exitBlocked)
			}
			return err
		},
	}
	n.flags(c.Flags())
	reports.declare(c)
	c.Flags().StringVar(&gateName, "gate", "", "quality, performance, security or cost (required)")
	c.Flags().StringVar(&name, "name", "", "name of the report (default: the file's)")
	outputFlag(c.Flags(), &output)
	return c
}

func newEvidenceCheckpointCommand(a *app) *cobra.Command {
	var n connection
	c := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the evidence log's signed size and root, to keep elsewhere",
		Long: "Print the evidence log's signed size and root. Whoever keeps it where the server's administrators cannot write\n" +
			"can later prove, with evidence verify --checkpoint, that nothing before it was changed.",
		Example: "  headgate evidence checkpoint > kept.txt",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			b, err := cl.Checkpoint(c.Context())
			if err == nil {
				_, err = a.stdout.Write(b)
			}
			return err
		},
	}
	n.flags(c.Flags())
	return c
}

type verifyOptions struct {
	keys               []string
	checkpoint, output string
	maxAge             time.Duration
}

func newEvidenceVerifyCommand(a *app) *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "Verify a release's evidence, offline",
		Long: "Verify a bundle from headgate release report --format bundle: signatures, the log, that every gate was judged on what\n" +
			"its raw reports say, and that its and the canary's verdict follows from that. It needs no server and no network.\n\n" +
			"Exit codes: 0 all holds, 1 one line per finding, 2 usage. Notes on stderr are limits of the check, not faults.",
		Example: "  headgate evidence verify rel.bundle.zip --key 'ci.example.com+1a2b3c4d+AQ…' --checkpoint kept.txt",
		Args:    usage(cobra.ExactArgs(1)),
		RunE:    func(_ *cobra.Command, args []string) error { return a.verify(args[0], o) },
	}
	f := c.Flags()
	f.StringArrayVar(&o.keys, "key", nil, "public key, or file of keys, that reached you by another way than the bundle (repeatable)")
	f.StringVar(&o.checkpoint, "checkpoint", "", "file with an earlier checkpoint of the log, which this one must continue")
	f.DurationVar(&o.maxAge, "max-age", 0, "refuse gate decisions older than this, for example 720h")
	outputFlag(f, &o.output)
	return c
}

func (a *app) verify(path string, o verifyOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if o.maxAge < 0 {
		return usageError{fmt.Errorf("--max-age must not be negative")}
	}
	opts := evidence.VerifyOptions{Now: time.Now(), MaxAge: o.maxAge, Reevaluate: control.Reevaluate, Reread: control.Reread, ReplayCanary: control.ReplayCanary}
	var err error
	if opts.TrustedKeys, err = readKeys(o.keys); err != nil {
		return err
	}
	if o.checkpoint != "" {
		if opts.EarlierCheckpoint, err = os.ReadFile(o.checkpoint); err != nil {
			return headgate.Invalidf("the checkpoint cannot be read: %w", err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return headgate.Invalidf("the bundle cannot be read: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return headgate.Invalidf("the bundle cannot be read: %w", err)
	}
	v, err := evidence.Verify(f, info.Size(), opts)
	if err != nil {
		return err
	}
	return a.showVerification(v, o.output)
}

func (a *app) showVerification(v evidence.Verification, output string) error {
	for _, note := range v.Notes {
		fmt.Fprintln(a.stderr, "note:", note)
	}
	if output == outputJSON {
		if err := writeJSON(a.stdout, v); err != nil {
			return err
		}
	} else {
		for _, f := range v.Findings {
			fmt.Fprintln(a.stdout, printable(f.String()))
		}
		if v.OK() {
			fmt.Fprintf(a.stdout, "%s of %s holds: %d statements, %d files, log of %d entries, keys %s\n",
				printable(v.ReleaseID), printable(v.Digest), v.Statements, v.Blobs, v.Checkpoint.Size, strings.Join(v.Keys, " "))
		}
	}
	if !v.OK() {
		return exitCode(exitError)
	}
	return nil
}

// readKeys reads keys given as text or as files with one key per line.
func readKeys(given []string) ([]evidence.PublicKey, error) {
	var keys []evidence.PublicKey
	for _, text := range given {
		if b, err := os.ReadFile(text); err == nil {
			text = string(b)
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			k, err := evidence.ParsePublicKey(line)
			if err != nil {
				return nil, err
			}
			keys = append(keys, k)
		}
	}
	return keys, nil
}
