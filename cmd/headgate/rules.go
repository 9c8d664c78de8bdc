package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
)

func newRulesCommand(a *app) *cobra.Command {
	return group("rules", "Show, change and try the rules that gates judge by",
		newRulesShowCommand(a), newRulesListCommand(a), newRulesDiffCommand(a), newRulesProposeCommand(a),
		newRulesApproveCommand(a), newRulesBacktestCommand(a))
}

func newRulesShowCommand(a *app) *cobra.Command {
	var n connection
	var output, service string
	c := &cobra.Command{
		Use:     "show",
		Short:   "Show the rules in force",
		Long:    "Show the rules in force. With --output json that is a whole rule file, to change and to propose.",
		Example: "  headgate rules show --output json > rules.json",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cur, err := a.rulesInForce(c.Context(), n, service)
			if err != nil {
				return err
			}
			if output == outputJSON {
				_, err := fmt.Fprintf(a.stdout, "%s\n", cur.Rules)
				return err
			}
			return a.showRules(cur)
		},
	}
	n.flags(c.Flags())
	serviceFlag(c, &service)
	outputFlag(c.Flags(), &output)
	return c
}

// serviceFlag says whose rules a command is about.
func serviceFlag(c *cobra.Command, service *string) {
	c.Flags().StringVar(service, "service", "", "whose rules (default: those of every service without rules of its own)")
}

// rulesInForce asks the server for those by which a service is judged.
func (a *app) rulesInForce(ctx context.Context, n connection, service string) (client.RuleChange, error) {
	cl, err := a.connect(n)
	if err != nil {
		return client.RuleChange{}, err
	}
	all, err := cl.Rules(ctx)
	if err != nil {
		return client.RuleChange{}, err
	}
	i := slices.IndexFunc(all, func(r client.RuleChange) bool { return r.InForce && r.Service == service })
	if i < 0 {
		i = slices.IndexFunc(all, func(r client.RuleChange) bool { return r.InForce && r.Service == "" })
	}
	if i < 0 {
		return client.RuleChange{}, headgate.Errorf("RULES_NOT_FOUND", headgate.ClassBusinessRule, "the server has no rules in force")
	}
	return all[i], nil
}

func (a *app) showRules(r client.RuleChange) error {
	var doc struct {
		Thresholds  map[headgate.Gate]map[string]any   `json:"thresholds"`
		MinSamples  map[headgate.Gate]map[string]int64 `json:"min_samples"`
		Comparisons map[headgate.Gate]map[string]struct {
			Max        float64 `json:"max"`
			MinSamples int64   `json:"min_samples"`
			Floor      float64 `json:"floor_s"`
		} `json:"comparisons"`
		Accept map[headgate.Gate][]string `json:"accept_tool_codes"`
		Rules  []struct {
			Name string        `json:"name"`
			Gate headgate.Gate `json:"gate"`
			Expr string        `json:"expr"`
		} `json:"rules"`
	}
	if err := json.Unmarshal(r.Rules, &doc); err != nil {
		return headgate.Invalidf("the rules are not readable; is this client older than the server?").Wrap(err)
	}
	fmt.Fprintf(a.stdout, "version %d of %s: %s\n%s, in force since %s\n\n", r.Version, printable(r.Owner), printable(r.Reason), r.Digest,
		r.InForceAt.Local().Format(time.DateTime))
	var rows [][]string
	for _, g := range headgate.GateD() {
		for _, name := range sortedKeys(doc.Thresholds[g]) {
			metric := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_min"), "_max"), "_required")
			rows = append(rows, []string{string(g), name, figure(doc.Thresholds[g][name]), strconv.FormatInt(doc.MinSamples[g][metric], 10)})
		}
	}
	for _, g := range headgate.GateD() {
		for _, name := range sortedKeys(doc.Comparisons[g]) {
			c := doc.Comparisons[g][name]
			limit := figure(c.Max)
			if c.Floor > 0 {
				limit += fmt.Sprintf(", all below %s s alike", figure(c.Floor))
			}
			rows = append(rows, []string{string(g), name + "_max", limit, strconv.FormatInt(c.MinSamples, 10)})
		}
		for _, code := range doc.Accept[g] {
			rows = append(rows, []string{string(g), code, "ACCEPTED", ""})
		}
	}
	for _, own := range doc.Rules {
		rows = append(rows, []string{string(own.Gate), own.Name, own.Expr, ""})
	}
	return a.table([]string{"GATE", "RULE", "VALUE", "MIN SAMPLES"}, rows)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func newRulesListCommand(a *app) *cobra.Command {
	var n connection
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List every change of the rules, and what waits for an approval",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := ask(a, n, output, func(cl *client.Client) ([]client.RuleChange, error) { return cl.Rules(c.Context()) }, a.showRuleChanges)
			return err
		},
	}
	n.flags(c.Flags())
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) showRuleChanges(all []client.RuleChange) error {
	rows := make([][]string, len(all))
	for i, r := range all {
		state := "was in force"
		switch {
		case r.InForce:
			state = "in force"
		case r.InForceAt.IsZero():
			state = "waits for an approval"
		}
		rows[i] = []string{cmp.Or(r.Service, "all"), r.Digest, strconv.FormatInt(r.Version, 10), state, strconv.Itoa(len(r.Loosened)), r.ProposedBy, r.ApprovedBy,
			r.ProposedAt.Local().Format(time.DateTime), r.Reason}
	}
	return a.table([]string{"SERVICE", "DIGEST", "VERSION", "STATE", "LOOSENED", "PROPOSED BY", "APPROVED BY", "AT", "REASON"}, rows)
}

func newRulesDiffCommand(a *app) *cobra.Command {
	var n connection
	var output, service string
	c := &cobra.Command{
		Use:     "diff FILE",
		Short:   "Compare a rule file with the rules in force",
		Example: "  headgate rules diff rules.yaml",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			next, _, err := readRules(args[0])
			if err != nil {
				return err
			}
			cur, err := a.rulesInForce(c.Context(), n, service)
			if err != nil {
				return err
			}
			old, err := gate.ParseRules("rules in force", cur.Rules)
			if err != nil {
				return err
			}
			return a.showDiff(gate.Diff(old, next), output)
		},
	}
	n.flags(c.Flags())
	serviceFlag(c, &service)
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) showDiff(changes []gate.Change, output string) error {
	if output == outputJSON {
		if changes == nil {
			changes = []gate.Change{}
		}
		return writeJSON(a.stdout, changes)
	}
	if len(changes) == 0 {
		fmt.Fprintln(a.stdout, "no verdict would differ by these rules")
		return nil
	}
	loosened := 0
	rows := make([][]string, len(changes))
	for i, ch := range changes {
		way := "stricter"
		if ch.Looser {
			way = "LOOSER"
			loosened++
		}
		rows[i] = []string{way, string(ch.Gate), ch.Rule, ch.From, ch.To, ch.Why}
	}
	if err := a.table([]string{"", "GATE", "RULE", "FROM", "TO", "WHY"}, rows); err != nil {
		return err
	}
	if loosened > 0 {
		fmt.Fprintf(a.stdout, "\n%d loosened: somebody else has to approve what you propose\n", loosened)
		return nil
	}
	fmt.Fprintln(a.stdout, "\nnothing is loosened: proposed, these rules are in force at once")
	return nil
}

// readRules reads a rule file and checks it here, so that errors name its
// lines.
func readRules(path string) (gate.RuleSet, []byte, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return gate.RuleSet{}, nil, headgate.Invalidf("the rule file cannot be read: %w", err)
	}
	set, err := gate.ParseRules(path, src)
	return set, src, err
}

func newRulesProposeCommand(a *app) *cobra.Command {
	var n connection
	var output, service string
	c := &cobra.Command{
		Use:   "propose FILE",
		Short: "Put a rule file in force; one that loosens something waits for somebody else",
		Long: "Put a rule file in force. When it loosens something, it waits until somebody else approves it. What gates said\n" +
			"under other rules is stale from then on, also for releases that run.",
		Example: "  headgate rules propose rules.yaml",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			_, src, err := readRules(args[0])
			if err != nil {
				return err
			}
			_, err = ask(a, n, output, func(cl *client.Client) (client.RuleChange, error) {
				return cl.ProposeRules(c.Context(), service, src)
			}, a.showProposal)
			return err
		},
	}
	n.flags(c.Flags())
	serviceFlag(c, &service)
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) showProposal(r client.RuleChange) error {
	if !r.InForceAt.IsZero() {
		fmt.Fprintf(a.stdout, "%s is in force; what gates said under other rules is stale\n", r.Digest)
		return nil
	}
	for _, l := range r.Loosened {
		fmt.Fprintf(a.stdout, "loosens %s %s from %s to %s: %s\n", l.Gate, printable(l.Rule), printable(l.From), printable(l.To), l.Why)
	}
	fmt.Fprintf(a.stdout, "it waits for somebody other than %s:\n  headgate rules approve %s%s --reason '…'\n", printable(r.ProposedBy), r.Digest, ofService(r.Service))
	return nil
}

func ofService(name string) string {
	if name == "" {
		return ""
	}
	return " --service " + printable(name)
}

func newRulesApproveCommand(a *app) *cobra.Command {
	var n connection
	var reason, output, service string
	c := &cobra.Command{
		Use:     "approve DIGEST --reason WHY",
		Short:   "Put rules that somebody else proposed in force",
		Long:    "Put rules that somebody else proposed in force. The beginning of the digest is enough if it is no other's.",
		Example: "  headgate rules approve sha256:8c1f… --reason 'agreed in the tender review'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := needsReason(reason); err != nil {
				return err
			}
			_, err := ask(a, n, output, func(cl *client.Client) (client.RuleChange, error) {
				digest, err := waiting(c.Context(), cl, args[0])
				if err != nil {
					return client.RuleChange{}, err
				}
				return cl.ApproveRules(c.Context(), service, digest, reason)
			}, a.showProposal)
			return err
		},
	}
	n.flags(c.Flags())
	serviceFlag(c, &service)
	reasonFlag(c.Flags(), &reason)
	outputFlag(c.Flags(), &output)
	return c
}

// waiting finds the digest that begins as given.
func waiting(ctx context.Context, cl *client.Client, begin string) (string, error) {
	all, err := cl.Rules(ctx)
	if err != nil {
		return "", err
	}
	begin = strings.TrimSuffix(begin, "…")
	found := map[string]bool{}
	for _, r := range all {
		if strings.HasPrefix(r.Digest, begin) || strings.HasPrefix(strings.TrimPrefix(r.Digest, "sha256:"), begin) {
			found[r.Digest] = true
		}
	}
	if len(found) > 1 {
		return "", headgate.Invalidf("%s is the beginning of %d digests; give more of it", begin, len(found))
	}
	for digest := range found {
		return digest, nil
	}
	return begin, nil // the server says that there is none
}
