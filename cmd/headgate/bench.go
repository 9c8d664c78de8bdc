package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/canary/bench"
)

func newBenchCommand(a *app) *cobra.Command {
	return group("bench", "Measure Headgate", newBenchCanaryCommand(a))
}

func newBenchCanaryCommand(a *app) *cobra.Command {
	var o bench.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "canary",
		Short: "Compare the canary's judge with other detectors on simulated traffic",
		Long: "Compare the canary's judge with other detectors on simulated traffic: how often a good candidate is rolled back,\n" +
			"how soon a bad one is stopped, and how many requests fail until then. The seed alone decides the result.\n\n" +
			"Exit codes: 0 the goals are met, 1 one is not, 2 usage.",
		Example: "  headgate bench canary --quick",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkScenarios(o.Only); err != nil {
				return err
			}
			r, err := bench.Run(c.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = r.WriteJSON(a.stdout)
			} else {
				err = a.showBench(r)
			}
			if err != nil {
				return err
			}
			for _, g := range r.Goals {
				if !g.Met {
					return exitCode(exitError)
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Quick, "quick", false, "fewer runs: about half a minute on two cores")
	f.BoolVar(&asJSON, "json", false, "write the report as JSON")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of all random numbers")
	f.StringArrayVar(&o.Only, "only", nil, "only this scenario; goals need all (repeatable)")
	return c
}

func checkScenarios(only []string) error {
	var known []string
	for _, s := range bench.Scenarios() {
		known = append(known, s.Name)
	}
	for _, name := range only {
		if !slices.Contains(known, name) {
			return usageError{fmt.Errorf("--only %q is not a scenario; there are: %s", name, strings.Join(known, "; "))}
		}
	}
	return nil
}

func (a *app) showBench(r bench.Report) error {
	rows := make([][]string, len(r.Cells))
	for i, c := range r.Cells {
		detector := c.Detector
		if c.Setting != "" {
			detector += " (" + c.Setting + ")"
		}
		rows[i] = []string{
			c.Scenario, string(c.Kind), detector, strconv.Itoa(c.Runs),
			percent(c.RollbackRate), percent(c.RollbackLow) + " to " + percent(c.RollbackHigh), median(c.Detection), median(c.Failed),
		}
	}
	headers := []string{"SCENARIO", "KIND", "DETECTOR", "RUNS", "ROLLED BACK", "95 % INTERVAL", "AFTER S", "FAILED REQUESTS"}
	if err := a.table(headers, rows); err != nil {
		return err
	}
	goals := make([][]string, len(r.Goals))
	for i, g := range r.Goals {
		met := "missed"
		if g.Met {
			met = "met"
		}
		goals[i] = []string{met, g.Name, g.Target, strconv.FormatFloat(g.Measured, 'g', 4, 64)}
	}
	if len(goals) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return a.table([]string{"GOAL", "WHAT", "TARGET", "MEASURED"}, goals)
}

func median(m *bench.Median) string {
	if m == nil {
		return "–"
	}
	return strconv.FormatFloat(m.Value, 'f', 1, 64)
}
