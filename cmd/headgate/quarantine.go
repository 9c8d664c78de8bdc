package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/client"
)

func newQuarantineCommand(a *app) *cobra.Command {
	return group("quarantine", "See and release builds that were rolled back", newQuarantineListCommand(a), newQuarantineReleaseCommand(a))
}

func newQuarantineListCommand(a *app) *cobra.Command {
	var n connection
	var service, output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the builds that were rolled back and are not released again",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := ask(a, n, output, func(cl *client.Client) ([]client.Quarantined, error) {
				return cl.Quarantine(c.Context(), service)
			}, a.showQuarantine)
			return err
		},
	}
	n.flags(c.Flags())
	c.Flags().StringVar(&service, "service", "", "only this service's")
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) showQuarantine(all []client.Quarantined) error {
	if len(all) == 0 {
		fmt.Fprintln(a.stdout, "nothing is in quarantine")
		return nil
	}
	rows := make([][]string, len(all))
	for i, q := range all {
		asked := "nobody"
		if q.RequestedBy != "" {
			asked = printable(q.RequestedBy + ": " + q.Reason)
		}
		rows[i] = []string{q.Digest, q.Service, q.Version, q.ReleaseID, q.At.Local().Format(time.DateTime), asked}
	}
	return a.table([]string{"DIGEST", "SERVICE", "VERSION", "ROLLED BACK AS", "SINCE", "ASKED TO RELEASE IT"}, rows)
}

func newQuarantineReleaseCommand(a *app) *cobra.Command {
	var n connection
	var service, reason, output string
	c := &cobra.Command{
		Use:   "release DIGEST --reason WHY",
		Short: "Let a build that was rolled back be released again; it takes two people",
		Long: "Let a build that was rolled back be released again. The first person asks; it counts once a second one gives the\n" +
			"same command. It then goes through every stage like any other build.",
		Example: "  headgate quarantine release sha256:9f86… --reason 'the database was down, not the build'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := needsReason(reason); err != nil {
				return err
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.Quarantined, error) {
				return cl.ReleaseQuarantine(c.Context(), service, args[0], reason)
			}, func(q client.Quarantined) error {
				if q.ReleasedBy == "" {
					fmt.Fprintf(a.stdout, "%s asks to release %s of %s\nit counts once somebody else gives the same command\n", printable(q.RequestedBy), q.Digest, q.Service)
				} else {
					fmt.Fprintf(a.stdout, "RELEASED: %s of %s may be released again, by %s and %s\n", q.Digest, q.Service, printable(q.RequestedBy), printable(q.ReleasedBy))
				}
				return nil
			})
			return err
		},
	}
	n.flags(c.Flags())
	reasonFlag(c.Flags(), &reason)
	c.Flags().StringVar(&service, "service", "", "service (default: the only one for which the digest is in quarantine)")
	outputFlag(c.Flags(), &output)
	return c
}
