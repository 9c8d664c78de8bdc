package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
)

func newReleaseOverrideCommand(a *app) *cobra.Command {
	var n connection
	var gateName, reason, output string
	var expires, wait time.Duration
	c := &cobra.Command{
		Use:   "override RELEASE --gate GATE --reason WHY --expires TIME",
		Short: "Let a gate of a release pass for a time; it takes two people",
		Long: "Let a gate of a release pass for a time, at most 24 hours. The first person asks; it counts once a second one gives\n" +
			"the same command. It stands in every report, in the audit log and in the release's signed evidence. Security and\n" +
			"the replay cannot be overridden.",
		Example: "  headgate release override rel_3hk5… --gate cost --reason 'the tender closes tonight' --expires 2h",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if gateName == "" || reason == "" || expires <= 0 {
				return usageError{errors.New("--gate, --reason and --expires are required")}
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.Override, error) {
				return whenThere(c.Context(), wait, func() (client.Override, error) {
					return cl.Override(c.Context(), args[0], headgate.Gate(gateName), reason, expires)
				})
			}, a.showOverride)
			return err
		},
	}
	n.flags(c.Flags())
	c.Flags().StringVar(&gateName, "gate", "", "quality, performance, cost, rollout, rollback or ops (required)")
	reasonFlag(c.Flags(), &reason)
	c.Flags().DurationVar(&expires, "expires", 0, "how long it lasts, at most 24h (required)")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for a release that has not begun; give it its id with release run --release-id")
	outputFlag(c.Flags(), &output)
	return c
}

// whenThere makes a request about a release until there is such a release, or
// for as long as wait.
func whenThere[T any](ctx context.Context, wait time.Duration, request func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		answer, err := request()
		if !errors.Is(err, &headgate.Error{Code: headgate.CodeReleaseNotFound}) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (a *app) showOverride(o client.Override) error {
	until := o.ExpiresAt.Local().Format(time.DateTime)
	if o.ApprovedBy == "" {
		fmt.Fprintf(a.stdout, "%s asks to let the %s gate of %s pass until %s\nit counts once somebody else gives the same command\n",
			printable(o.RequestedBy), o.Gate, o.ReleaseID, until)
		return nil
	}
	fmt.Fprintf(a.stdout, "OVERRIDDEN: the %s gate of %s passes until %s, by %s and %s\n", o.Gate, o.ReleaseID, until,
		printable(o.RequestedBy), printable(o.ApprovedBy))
	return nil
}

// evaluateRelease has the server judge a gate on all that it holds of a
// release, and ends with the verdict's exit code.
func (a *app) evaluateRelease(ctx context.Context, cl *client.Client, release string, g headgate.Gate, output string) (headgate.Verdict, error) {
	e, err := cl.EvaluateRelease(ctx, release, g)
	if err != nil {
		return "", err
	}
	if output == outputJSON {
		return e.Verdict, writeJSON(a.stdout, e)
	}
	rows := make([][]string, len(e.Checks))
	for i, c := range e.Checks {
		samples := "–"
		if c.Samples != nil {
			samples = thousands(*c.Samples)
		}
		source := c.Source
		if c.Detail != "" {
			source = c.Detail
		}
		rows[i] = []string{string(c.Verdict), c.Name, figure(c.Value), want(c.Op, c.Threshold), c.Unit, samples, source}
	}
	fmt.Fprintln(a.stdout)
	if err := a.table([]string{"VERDICT", "CHECK", "VALUE", "WANT", "UNIT", "SAMPLES", "SOURCE"}, rows); err != nil {
		return "", err
	}
	fmt.Fprintf(a.stdout, "\n%s gate of %s: %s\n", e.Gate, release, e.Verdict)
	if len(e.FailedChecks) > 0 {
		fmt.Fprintf(a.stdout, "  because: %s\n", strings.Join(e.FailedChecks, ", "))
	}
	fmt.Fprintf(a.stdout, "  evidence: log entry %d, %s\n  rules: %s\n", e.EvidenceIndex, e.EvidenceDigest, e.RulesDigest)
	return e.Verdict, nil
}
