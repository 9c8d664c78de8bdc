package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/report"
)

func newGateCommand(a *app) *cobra.Command {
	return group("gate", "Judge a candidate's measurements", newGateEvaluateCommand(a))
}

// reportFlags say how to read tools' reports.
type reportFlags struct {
	format  string
	columns []string
}

// declare adds the flags to a command.
func (r *reportFlags) declare(c *cobra.Command) {
	c.Flags().StringVar(&r.format, "format", "", "the tool's format: "+strings.Join(report.Formats(), ", ")+" (default: recognised)")
	c.Flags().StringArrayVar(&r.columns, "column", nil, "metric=name, what the tool calls a metric (repeatable)")
}

func (r *reportFlags) mapping() (map[string]string, error) {
	out := map[string]string{}
	for _, c := range r.columns {
		metric, name, ok := strings.Cut(c, "=")
		if !ok || metric == "" || name == "" {
			return nil, usageError{fmt.Errorf("--column %q must be metric=name, such as api_p95_s=http_req_duration", c)}
		}
		out[metric] = name
	}
	return out, nil
}

// gateNamed reads one of the four gates.
func gateNamed(name string) (headgate.Gate, error) {
	g := headgate.Gate(name)
	if !slices.Contains(headgate.GateD(), g) {
		return g, usageError{fmt.Errorf("%q is not a gate; use quality, performance, security or cost", name)}
	}
	return g, nil
}

func newGateEvaluateCommand(a *app) *cobra.Command {
	var n connection
	var reports reportFlags
	var release, dataset, rules, output string
	c := &cobra.Command{
		Use:   "evaluate GATE FILE…",
		Short: "Judge a gate on the reports of tools",
		Long: "Judge one gate (quality, performance, security, cost) on files that tools wrote.\n" +
			"Without --release it happens here, nothing is sent, and the exit code is the verdict. A metric that no file has is\n" +
			"insufficient. With --release the files become evidence of the release, and the server judges the gate on them, on\n" +
			"every other report that was added, and on telemetry. It prints where the signed verdict is.\n\n" +
			"Exit codes: 0 passed, 1 error, 2 usage, 3 failed, 5 insufficient or broken.",
		Example: "  headgate gate evaluate performance k6-summary.json\n" +
			"  headgate gate evaluate quality ragas.csv --release rel_3hk5…",
		Args: usage(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			g, err := gateNamed(args[0])
			if err != nil {
				return err
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			columns, err := reports.mapping()
			if err != nil {
				return err
			}
			if release == "" {
				return a.judge(g, args[1:], reports.format, columns, dataset, rules, output)
			}
			if rules != "" || dataset != "" {
				return usageError{errors.New("--rules and --dataset do not go with --release; the server has its own")}
			}
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			for _, path := range args[1:] {
				f := client.ReportFile{Gate: g, Name: filepath.Base(path), Format: reports.format, Columns: columns}
				if err := a.addEvidence(c.Context(), cl, release, f, path, output == outputText); err != nil {
					return err
				}
			}
			v, err := a.evaluateRelease(c.Context(), cl, release, g, output)
			if err != nil {
				return err
			}
			return exitForVerdict(v)
		},
	}
	f := c.Flags()
	n.flags(f)
	reports.declare(c)
	f.StringVar(&release, "release", "", "release that the files are evidence of")
	f.StringVar(&dataset, "dataset", "", "name of the dataset or run (default: what a file says, else the file's name)")
	f.StringVar(&rules, "rules", "", "rule file (default: the contract's rules)")
	outputFlag(f, &output)
	return c
}

// judge judges a gate on files, here.
func (a *app) judge(g headgate.Gate, files []string, format string, columns map[string]string, dataset, rulesFile, output string) error {
	rules := gate.DefaultRules()
	if rulesFile != "" {
		src, err := os.ReadFile(rulesFile)
		if err != nil {
			return headgate.Invalidf("the rule file cannot be read: %w", err)
		}
		if rules, err = gate.ParseRules(rulesFile, src); err != nil {
			return err
		}
	}
	var facts []report.Facts
	for _, path := range files {
		f, err := readReport(path, format, columns)
		if err != nil {
			return err
		}
		facts = append(facts, f)
	}
	in, err := report.Merge(g, dataset, facts...)
	if err != nil {
		return err
	}
	if len(in.Metrics) == 0 && !slices.ContainsFunc(in.Tools, func(t gate.ToolReport) bool { return t.Verdict == headgate.Fail }) {
		return headgate.Invalidf("none of the files has a metric of the %s gate; it judges %s (use --column where the tool calls them otherwise)",
			g, strings.Join(rules.Metrics(g), ", "))
	}
	in.DatasetID = cmp.Or(in.DatasetID, filepath.Base(files[0]))
	for _, name := range rules.Metrics(g) {
		if _, ok := in.Metrics[name]; !ok {
			none := int64(0)
			in.Origins[name] = gate.Origin{Samples: &none, Source: "in no file"}
		}
	}
	res, err := gate.Evaluate(rules, g, in)
	if err != nil {
		return err
	}
	if output == outputJSON {
		err = writeJSON(a.stdout, res)
	} else {
		err = a.showResult(res)
	}
	if err != nil {
		return err
	}
	return exitForVerdict(res.Verdict)
}

// exitForVerdict ends a command with the exit code of a gate's verdict.
func exitForVerdict(v headgate.Verdict) error {
	switch v {
	case headgate.Pass:
		return nil
	case headgate.Fail:
		return exitCode(exitBlocked)
	default:
		return exitCode(exitInconclusive)
	}
}

func readReport(path, format string, columns map[string]string) (report.Facts, error) {
	f, err := os.Open(path)
	if err != nil {
		return report.Facts{}, headgate.Invalidf("the report cannot be read: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, report.DefaultMaxBytes+1))
	if err != nil {
		return report.Facts{}, headgate.Invalidf("the report %s cannot be read: %w", path, err)
	}
	if format == "" {
		if format, err = report.Detect(bytes.NewReader(b)); err != nil {
			return report.Facts{}, in(path, err)
		}
	}
	facts, err := report.Parse(format, bytes.NewReader(b), report.Options{Columns: columns, Source: filepath.Base(path)})
	return facts, in(path, err)
}

// in says in which file something was wrong.
func in(path string, err error) error {
	if err == nil {
		return nil
	}
	e := *headgate.AsError(err)
	e.Message = path + ": " + e.Message
	return &e
}

func (a *app) showResult(r gate.Result) error {
	rows := make([][]string, len(r.Checks))
	for i, c := range r.Checks {
		samples := "–"
		if c.Samples != nil {
			samples = thousands(*c.Samples)
		}
		rows[i] = []string{string(c.Verdict), c.Name, figure(c.Value), want(c.Op, c.Threshold), c.Unit, samples, cmp.Or(c.Detail, c.Source)}
	}
	if err := a.table([]string{"VERDICT", "CHECK", "VALUE", "WANT", "UNIT", "SAMPLES", "SOURCE"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s gate on %s: %s\n", r.Gate, printable(r.DatasetID), r.Verdict)
	if len(r.FailedChecks) > 0 && err == nil {
		_, err = fmt.Fprintf(a.stdout, "  because: %s\n", strings.Join(r.FailedChecks, ", "))
	}
	return err
}

// want is what a check asks for, as people read it.
func want(op string, threshold any) string {
	switch {
	case op == "tool" && threshold == false:
		return "accepted"
	case op == "tool":
		return "must pass"
	}
	return op + " " + figure(threshold)
}

// figure is a value as people read it.
func figure(v any) string {
	switch x := v.(type) {
	case nil:
		return "–"
	case float64:
		return strconv.FormatFloat(x, 'g', 6, 64)
	}
	return fmt.Sprint(v)
}

// addEvidence uploads one file.
func (a *app) addEvidence(ctx context.Context, cl *client.Client, release string, f client.ReportFile, path string, say bool) error {
	file, err := os.Open(path)
	if err != nil {
		return headgate.Invalidf("the report cannot be read: %w", err)
	}
	defer file.Close()
	added, err := cl.AddEvidence(ctx, release, f, file)
	if err != nil || !say {
		return in(path, err)
	}
	_, err = fmt.Fprintf(a.stdout, "%s is evidence for the %s gate of %s: %s, %s\n", added.Input.Name, added.Gate, release, added.Input.Format, added.Input.Digest)
	if f := added.Facts; err == nil && f.Verdict != headgate.Pass && len(f.Reasons) > 0 {
		_, err = fmt.Fprintf(a.stdout, "  %s itself says %s: %s\n", added.Input.Name, f.Verdict, printable(strings.Join(f.Reasons, "; ")))
	}
	return err
}
