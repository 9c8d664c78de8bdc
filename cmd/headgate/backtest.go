package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
)

func newRulesBacktestCommand(a *app) *cobra.Command {
	var n connection
	var rules, alerts, since, output, service string
	c := &cobra.Command{
		Use:   "backtest",
		Short: "Say what other rules, or alert thresholds, would have done to past releases",
		Long: "Say what other rules, or alert thresholds, would have done to past releases, and whether that would have been right.\n" +
			"Rules are judged on the figures that were recorded at the time, alerts on the metrics while users met a release, as far as retention has left them.",
		Example: "  headgate rules backtest --rules new.yaml --since 90d\n  headgate rules backtest --alerts alerts.yaml --since 14d",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			back, err := parseSince(since)
			if err != nil {
				return err
			}
			if (rules == "") == (alerts == "") {
				return usageError{fmt.Errorf("give one of --rules and --alerts, the file to try")}
			}
			if alerts != "" {
				return a.backtestAlerts(c, n, service, alerts, back, output)
			}
			_, src, err := readRules(rules)
			if err != nil {
				return err
			}
			_, err = ask(a, n, output, func(cl *client.Client) (client.Backtest, error) {
				return cl.BacktestRules(c.Context(), service, src, back)
			}, func(t client.Backtest) error { return a.showBacktest(t, since) })
			return err
		},
	}
	n.flags(c.Flags())
	serviceFlag(c, &service)
	c.Flags().StringVar(&rules, "rules", "", "rule file to try")
	c.Flags().StringVar(&alerts, "alerts", "", "alert thresholds to try, in the metric dictionary's format")
	c.Flags().StringVar(&since, "since", "90d", "how far back, such as 90d or 12h")
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) backtestAlerts(c *cobra.Command, n connection, service, path string, back time.Duration, output string) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return headgate.Invalidf("the alert file cannot be read: %w", err)
	}
	_, err = ask(a, n, output, func(cl *client.Client) (client.AlertBacktest, error) {
		return cl.BacktestAlerts(c.Context(), service, src, back)
	}, a.showAlertBacktest)
	return err
}

func (a *app) showAlertBacktest(t client.AlertBacktest) error {
	fmt.Fprintf(a.stdout, "%s\n\n", releases(len(t.Releases)))
	rows := [][]string{
		{"would have alerted", strconv.Itoa(t.AlertedBad), strconv.Itoa(t.AlertedGood), strconv.Itoa(t.AlertedUnobserved)},
		{"would have been silent", strconv.Itoa(t.SilentBad), strconv.Itoa(t.SilentGood), strconv.Itoa(t.SilentUnobserved)},
	}
	if err := a.table([]string{"", "ROLLED BACK", "GOOD", "UNDECIDED"}, rows); err != nil {
		return err
	}
	if t.NoMetrics > 0 {
		fmt.Fprintf(a.stdout, "%s no metrics that tell\n", have(t.NoMetrics))
	}
	if t.NeverMetUsers > 0 {
		fmt.Fprintf(a.stdout, "%s never met users\n", releases(t.NeverMetUsers))
	}
	rows = nil
	for _, r := range t.Releases {
		var why []string
		for _, f := range r.Alerts {
			why = append(why, fmt.Sprintf("%s (%s) at %s", printable(f.Alert), printable(f.Severity), f.FiredAt.Local().Format(time.DateTime)))
		}
		for _, figure := range r.Unmeasured {
			why = append(why, "no metrics of "+printable(figure))
		}
		if r.Gone != "" {
			why = []string{printable(r.Gone)}
		}
		rows = append(rows, []string{r.ReleaseID, string(r.Outcome), strings.ReplaceAll(r.Would, "_", " "), r.Truth, strings.Join(why, ", ")})
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return a.table([]string{"RELEASE", "OUTCOME", "WOULD HAVE", "AND WAS", "BECAUSE"}, rows)
}

func releases(n int) string {
	if n == 1 {
		return "1 release"
	}
	return fmt.Sprintf("%d releases", n)
}

func have(n int) string {
	if n == 1 {
		return releases(n) + " has"
	}
	return releases(n) + " have"
}

// parseSince reads a duration that may be in days.
func parseSince(s string) (time.Duration, error) {
	days, isDays := strings.CutSuffix(s, "d")
	d, err := time.ParseDuration(s)
	if isDays {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 || d > 10*366*24*time.Hour {
		return 0, usageError{fmt.Errorf("--since %q must be a time such as 90d or 12h, at most ten years", s)}
	}
	return d, nil
}

func (a *app) showBacktest(t client.Backtest, since string) error {
	rows := [][]string{
		{"would be blocked", strconv.Itoa(t.BlockedBad), strconv.Itoa(t.BlockedGood), strconv.Itoa(t.BlockedUnobserved)},
		{"would be admitted", strconv.Itoa(t.AdmittedBad), strconv.Itoa(t.AdmittedGood), strconv.Itoa(t.AdmittedUnobserved)},
	}
	fmt.Fprintf(a.stdout, "%s of the last %s under %s\n\n", releases(len(t.Releases)), since, t.RulesDigest)
	if err := a.table([]string{"", "ROLLED BACK", "GOOD", "NOT KNOWN"}, rows); err != nil {
		return err
	}
	if t.Unusable > 0 {
		fmt.Fprintf(a.stdout, "%s no complete record to judge\n", have(t.Unusable))
	}
	var changed [][]string
	for _, r := range t.Releases {
		if r.Changed {
			changed = append(changed, []string{r.ReleaseID, string(r.Outcome), r.Would, r.Truth, strings.Join(r.Reasons, ", ")})
		}
	}
	if len(changed) == 0 {
		fmt.Fprintln(a.stdout, "\nno release would have been decided otherwise")
		return nil
	}
	fmt.Fprintln(a.stdout)
	return a.table([]string{"RELEASE", "OUTCOME", "WOULD BE", "AND WAS", "BECAUSE"}, changed)
}
