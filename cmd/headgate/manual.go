package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/client"
)

// newSteerCommands are the ways to steer a canary by hand.
func newSteerCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newReleaseActCommand(a, "pause", "Keep a canary from being promoted until it is resumed; judging goes on, and a failure still rolls back", (*client.Client).Pause),
		newReleaseActCommand(a, "resume", "End a pause; a canary that passed meanwhile is promoted", (*client.Client).Resume),
		newReleaseActCommand(a, "promote", "Promote a canary now, before it has proved enough; refused when anything speaks against it", (*client.Client).Promote),
		newReleaseShareCommand(a),
		newReleaseRollbackCommand(a),
	}
}

func newReleaseRollbackCommand(a *app) *cobra.Command {
	var n connection
	var reason, output string
	c := &cobra.Command{
		Use:   "rollback RELEASE --reason WHY",
		Short: "Take a release back wherever it is, also after it was promoted",
		Long: "Take a release back wherever it is, and wait for the end: component by component in the fixed order, then a replay\n" +
			"against stable. A promoted release goes back to what was stable before it; its digest goes into quarantine and the\n" +
			"service is frozen until the replay has passed. A rollback that runs already is joined.\n\n" +
			"Exit codes: 0 restored, 1 not restored or error, 2 usage.",
		Example: "  headgate release rollback rel_3hk5… --reason 'customers report wrong totals'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := needsReason(reason); err != nil {
				return err
			}
			r, err := ask(a, n, output, func(cl *client.Client) (client.Release, error) {
				return cl.Rollback(c.Context(), args[0], reason)
			}, func(r client.Release) error {
				_, err := fmt.Fprintln(a.stdout, strings.Join(rollbackLines(r), "\n"))
				return err
			})
			if rb := r.Rollback; err == nil && rb != nil && rb.RestoredAt.IsZero() {
				return exitCode(exitError)
			}
			return err
		},
	}
	n.flags(c.Flags())
	reasonFlag(c.Flags(), &reason)
	outputFlag(c.Flags(), &output)
	return c
}

// rollbackLines say how far a release has been taken back.
func rollbackLines(r client.Release) []string {
	rb := r.Rollback
	if rb == nil {
		return []string{outcomeLine(r.Release)}
	}
	var out []string
	for _, s := range rb.Steps {
		line := fmt.Sprintf("  %-17s %-10s %s", s.Component, s.Status, s.To)
		if s.Error != "" {
			line += "  " + printable(s.Error)
		}
		out = append(out, strings.TrimRight(line, " "))
	}
	head := fmt.Sprintf("%s: NOT restored; the service stays frozen, see docs/runbooks/rollback-failed-replay.md", r.ID)
	if !rb.RestoredAt.IsZero() {
		head = fmt.Sprintf("%s: taken back and restored in %s", r.ID, seconds(rb.RestoredAt.Sub(rb.TriggeredAt)))
	}
	return append([]string{head}, out...)
}

func newReleaseShareCommand(a *app) *cobra.Command {
	var share float64
	c := newReleaseActCommand(a, "share", "Set a canary's share of traffic; a limit that the judge set still holds",
		func(cl *client.Client, ctx context.Context, id, reason string) (client.Release, error) {
			return cl.SetShare(ctx, id, share, reason)
		})
	c.Use = "share RELEASE SHARE --reason WHY"
	c.Example = "  headgate release share rel_3hk5… 25% --reason 'agreed with the owner on call'"
	c.Args = usage(cobra.ExactArgs(2))
	act := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		var err error
		if share, err = parseShare(args[1]); err != nil {
			return usageError{err}
		}
		return act(c, args)
	}
	return c
}

// parseShare reads a share such as 0.25 or 25%.
func parseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v > 0 && v <= 1) {
		return 0, errors.New("the share must be above 0 and at most 1 (or 100%), such as 0.25 or 25%")
	}
	return v, nil
}
