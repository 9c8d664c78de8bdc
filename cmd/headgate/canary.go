package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/evidence"
)

func newCanaryCommand(a *app) *cobra.Command {
	return group("canary", "Look at a canary's analysis again", newCanaryReplayCommand(a), newCanaryTicksCommand(a))
}

func newCanaryReplayCommand(a *app) *cobra.Command {
	var config, output string
	c := &cobra.Command{
		Use:   "replay TICKS",
		Short: "Judge a recorded tick log again",
		Long: "Judge a recorded tick log (one JSON object per line) again, under the recorded configuration or under another one.\n" +
			"The same ticks give the same decisions on any machine.",
		Example: "  headgate canary replay ticks.jsonl --config analysis.yaml",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cfg, err := canaryConfig(config)
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return headgate.Invalidf("the tick log cannot be read: %w", err)
			}
			defer f.Close()
			count := 0
			for d, err := range canary.Replay(f, cfg) {
				if err != nil {
					return in(args[0], err)
				}
				count++
				if err := a.showDecision(d, output); err != nil {
					return err
				}
			}
			if count == 0 {
				return headgate.Invalidf("%s holds no ticks", args[0])
			}
			return nil
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration of the analysis, YAML or JSON; what it leaves out is the default")
	outputFlag(c.Flags(), &output)
	return c
}

// canaryConfig reads a configuration over the defaults.
func canaryConfig(path string) (canary.Config, error) {
	cfg := canary.DefaultConfig()
	if path == "" {
		return cfg, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return cfg, headgate.Invalidf("the configuration cannot be read: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(b, &cfg, yaml.Strict()); err != nil {
		return cfg, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "%s: %s", path, yaml.FormatError(err, false, false))
	}
	return cfg, in(path, cfg.Validate())
}

func (a *app) showDecision(d canary.Decision, output string) error {
	if output == outputJSON {
		return writeJSON(a.stdout, d)
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %-12s %-8s  at most %-7s  evidence %-9.3g  candidate %d/%d failed, stable %d/%d  %s [%s]\n",
		d.Time.UTC().Format(time.RFC3339), d.Verdict, d.Action, percent(d.Share), d.Evidence.Combined,
		d.Candidate.Errors, d.Candidate.Requests, d.Stable.Errors, d.Stable.Requests, d.Reason, strings.Join(d.Reasons, ", "))
	return err
}

func newCanaryTicksCommand(a *app) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "ticks BUNDLE",
		Short: "Take the tick logs and their configurations out of a release's bundle",
		Long: "Write the tick log and the frozen configuration of each verdict in a release's bundle, in order: one for each tier\n" +
			"of the canary. A bundle that does not hold is refused; headgate evidence verify says why.",
		Example: "  headgate release report rel_3hk5… --format bundle --out rel.zip\n" +
			"  headgate canary ticks rel.zip",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			n := 0
			write := func(v evidence.CanaryVerdict, ticks []byte) (headgate.Verdict, error) {
				n++
				log := filepath.Join(out, fmt.Sprintf("%s-%d.jsonl", filepath.Base(v.ReleaseID), n))
				config := strings.TrimSuffix(log, ".jsonl") + ".yaml"
				for name, content := range map[string][]byte{log: ticks, config: append(bytes.Clone(v.Config), '\n')} {
					if err := writeFile(name, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
						return "", err
					}
				}
				_, err := fmt.Fprintf(a.stdout, "%s, judge it again with: headgate canary replay %s --config %s\n", v.Verdict, log, config)
				return v.Verdict, err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return headgate.Invalidf("the bundle cannot be read: %w", err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			result, err := evidence.Verify(f, info.Size(), evidence.VerifyOptions{ReplayCanary: write})
			switch {
			case err != nil:
				return err
			case !result.OK():
				return headgate.Invalidf("%s: %s", args[0], result.Findings[0])
			case n == 0:
				return headgate.Invalidf("%s holds no canary: the release did not get so far", args[0])
			}
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", ".", "folder to write into")
	return c
}
