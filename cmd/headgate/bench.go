package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
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
	var picture string
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
			write := r.WriteText
			if asJSON {
				write = r.WriteJSON
			}
			if err := write(a.stdout); err != nil {
				return err
			}
			if picture != "" {
				if err := writePicture(picture, r); err != nil {
					return err
				}
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
	f.StringVar(&picture, "svg", "", "also draw false rollbacks against failed requests into this file")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of all random numbers")
	f.StringArrayVar(&o.Only, "only", nil, "only this scenario; goals need all (repeatable)")
	return c
}

func writePicture(path string, r bench.Report) error {
	var svg bytes.Buffer
	if err := r.WriteSVG(&svg); err != nil {
		return err
	}
	if err := os.WriteFile(path, svg.Bytes(), 0o600); err != nil {
		return usageError{fmt.Errorf("--svg: %w", err)}
	}
	return nil
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
