package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/client"
)

func newErrorsCommand(a *app) *cobra.Command {
	var n connection
	var release, output string
	var since time.Duration
	c := &cobra.Command{
		Use:   "errors --release RELEASE",
		Short: "Show what fails more on a release than on stable",
		Long: "Show the error codes, endpoints, tenants and patterns of error logs that are new or more frequent per request on a\n" +
			"release's candidate than on stable where users are, each with one example for headgate trace. What failed without an error code has –.\n" +
			"Finding some is not an error: the exit code is 0.",
		Example: "  headgate errors --release rel_3hk5… --since 10m",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case release == "":
				return usageError{errors.New("--release is required")}
			case since < 0 || since != 0 && since < time.Second:
				return usageError{errors.New("--since must be at least 1s, for example 10m")}
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.ErrorReport, error) {
				return cl.Errors(c.Context(), release, since)
			}, a.showErrors)
			return err
		},
	}
	f := c.Flags()
	n.flags(f)
	f.StringVar(&release, "release", "", "the release (required)")
	f.DurationVar(&since, "since", 0, "how far to look back (default: to the start of the canary)")
	outputFlag(f, &output)
	return c
}

func (a *app) showErrors(rep client.ErrorReport) error {
	if len(rep.Changes) == 0 {
		_, err := fmt.Fprintf(a.stdout, "nothing fails more on %s than on stable since %s\n", printable(rep.ReleaseID), rep.From.Local().Format(time.DateTime))
		return err
	}
	fmt.Fprintf(a.stdout, "%s\n\n", printable(rep.Reason))
	rows := make([][]string, len(rep.Changes))
	for i, ch := range rep.Changes {
		stable := "never"
		if !ch.New {
			stable = fmt.Sprintf("%.1f", ch.StableCount)
		}
		rows[i] = []string{cmp.Or(ch.Code, "–"), ch.Name, ch.TenantID, fmt.Sprint(ch.Count), stable, ch.TraceID}
	}
	if err := a.table([]string{"ERROR", "WHERE", "TENANT", "CANDIDATE", "STABLE (SCALED)", "EXAMPLE TRACE"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout, "\nheadgate trace shows one of them")
	return err
}
