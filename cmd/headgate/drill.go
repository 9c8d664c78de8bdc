package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
)

func newDrillCommand(a *app) *cobra.Command {
	return group("drill", "Rehearse what must work when it is needed", newDrillRollbackCommand(a), newDrillShowCommand(a))
}

func newDrillRollbackCommand(a *app) *cobra.Command {
	var n connection
	var service, reason, output string
	c := &cobra.Command{
		Use:   "rollback --service SERVICE",
		Short: "Rehearse a rollback on the live routers, without a user noticing",
		Long: "Rehearse a rollback from a canary's share to the replay against stable, on the live routers, with the actuators,\n" +
			"read-backs, capacity check and replay of a real one. The candidate is stable itself and every component is set to\n" +
			"the value that it has, so users notice nothing. It needs the service's traffic for as long as it takes.\n\n" +
			"Exit codes: 0 passed, 1 failed or error, 2 usage.",
		Example: "  headgate drill rollback --service bidding --reason 'before the autumn sale'",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if service == "" {
				return usageError{errors.New("--service is required: which service's rollback is rehearsed?")}
			}
			d, err := ask(a, n, output, func(cl *client.Client) (client.Drill, error) {
				return cl.DrillRollback(c.Context(), service, reason)
			}, a.showDrill)
			if err == nil && !d.Passed {
				return exitCode(exitError)
			}
			return err
		},
	}
	n.flags(c.Flags())
	c.Flags().StringVar(&service, "service", "", "service whose rollback is rehearsed (required)")
	c.Flags().StringVar(&reason, "reason", "a drill by hand", "why, for the audit log")
	outputFlag(c.Flags(), &output)
	return c
}

func newDrillShowCommand(a *app) *cobra.Command {
	var n connection
	var service, output string
	c := &cobra.Command{
		Use:   "show --service SERVICE",
		Short: "Show a service's last drills, and whether one is overdue",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if service == "" {
				return usageError{errors.New("--service is required: which service's drills?")}
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.Drills, error) {
				return cl.Drills(c.Context(), service)
			}, a.showDrills)
			return err
		},
	}
	n.flags(c.Flags())
	c.Flags().StringVar(&service, "service", "", "service (required)")
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) showDrills(all client.Drills) error {
	w := a.stdout
	switch {
	case all.Overdue != "":
		fmt.Fprintln(w, "OVERDUE: "+printable(all.Overdue))
	case all.EverySeconds > 0:
		fmt.Fprintf(w, "%s: one drill must pass every %s; none is overdue\n", all.Service, config.Interval(all.EverySeconds*float64(time.Second)))
	default:
		fmt.Fprintf(w, "%s: none is scheduled; rollback_drill.every in headgate.yaml does that\n", all.Service)
	}
	if all.Last == nil {
		return nil
	}
	err := a.showDrill(*all.Last)
	if p := all.LastPassed; err == nil && p != nil && p.ID != all.Last.ID {
		err = a.showDrill(*p)
	}
	return err
}

func (a *app) showDrill(d client.Drill) error {
	w := a.stdout
	verdict := "passed"
	if !d.Passed {
		verdict = "FAILED: " + printable(d.Failure)
	}
	if d.EndedAt.IsZero() {
		verdict = "runs"
	}
	fmt.Fprintf(w, "%s of %s, %s, by %s (%s): %s\n", d.ID, d.Service, d.StartedAt.Local().Format(time.DateTime), printable(d.Actor), printable(d.Reason), verdict)
	for _, m := range []struct {
		what string
		at   time.Time
	}{{"traffic back", d.TrafficBackAt}, {"completed", d.CompletedAt}, {"restored", d.RestoredAt}} {
		if !m.at.IsZero() {
			fmt.Fprintf(w, "  %-13s %8.3f s after the trigger\n", m.what, m.at.Sub(d.TriggeredAt).Seconds())
		}
	}
	for _, s := range d.Steps {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("  %-17s %-10s %s  %s", s.Component, s.Status, s.To, printable(s.Error)), " "))
	}
	return nil
}
