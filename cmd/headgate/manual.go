package main

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/client"
)

// newSteerCommands are the ways to steer a canary by hand.
func newSteerCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newReleaseActCommand(a, "pause", "Keep a canary from being promoted until it is resumed; it is judged on", (*client.Client).Pause),
		newReleaseActCommand(a, "resume", "Let a paused release go on", (*client.Client).Resume),
		newReleaseActCommand(a, "promote", "End a canary that nothing speaks against in the candidate's favour", (*client.Client).Promote),
		newReleaseShareCommand(a),
	}
}

func newReleaseShareCommand(a *app) *cobra.Command {
	var share float64
	c := newReleaseActCommand(a, "share", "Set a canary's share, below its judge's limit",
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
