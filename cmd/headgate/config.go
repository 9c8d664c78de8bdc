package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/server"
)

func newConfigCommand(a *app) *cobra.Command {
	return group("config", "Show settings, check a service description",
		newConfigShowCommand(a), newConfigCheckCommand(a), newConfigSchemaCommand(a), newConfigHAProxyCommand(a))
}

func newConfigHAProxyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "haproxy FILE",
		Short: "Write the configuration of a service's HAProxy",
		Long: "Write haproxy.cfg and two empty maps into router.haproxy.dir of a service description, and print where the first is.\n" +
			"Start HAProxy with it, as the user that the control plane runs as. One that runs already is not affected.",
		Example: "  haproxy -W -db -f \"$(headgate config haproxy headgate.yaml)\"",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			svc, err := config.Load(args[0])
			if err != nil {
				return err
			}
			r, err := server.HAProxy(svc)
			if err != nil {
				return err
			}
			file, err := r.Write()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, file)
			return err
		},
	}
}

func newConfigShowCommand(a *app) *cobra.Command {
	var file, output string
	var origin bool
	c := &cobra.Command{
		Use:     "show",
		Short:   "Show every setting of this process",
		Long:    "Show every setting as the environment and, if given, a settings file make it. Addresses that may hold a secret are masked.",
		Example: "  headgate config show --origin",
		Args:    usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			s, err := config.LoadSettings(config.Sources{File: file, Environ: a.environ})
			if err != nil {
				return err
			}
			return a.showSettings(s, origin, output)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "settings", "", "YAML file of settings")
	f.BoolVar(&origin, "origin", false, "say where each value came from")
	outputFlag(f, &output)
	return c
}

func (a *app) showSettings(s config.Settings, origin bool, output string) error {
	values := s.Values()
	if output == outputJSON {
		all := make(map[string]any, len(values))
		for _, v := range values {
			if all[v.Key] = v.Value; origin {
				all[v.Key] = map[string]string{"value": v.Value, "origin": v.Origin, "variable": v.Variable}
			}
		}
		return writeJSON(a.stdout, all)
	}
	headers := []string{"SETTING", "VALUE"}
	if origin {
		headers = append(headers, "ORIGIN", "VARIABLE")
	}
	rows := make([][]string, len(values))
	for i, v := range values {
		if rows[i] = []string{v.Key, cmp.Or(v.Value, "–")}; origin {
			rows[i] = append(rows[i], v.Origin, v.Variable)
		}
	}
	return a.table(headers, rows)
}

func newConfigCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a service description, headgate.yaml",
		Long:    "Check a service description. Each problem is one line with file, line and field; the exit code is then 1.",
		Example: "  headgate config check headgate.yaml",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := config.Load(args[0])
			var e *headgate.Error
			if errors.As(err, &e) && e.Details["problems"] != nil {
				fmt.Fprintln(a.stderr, e.Message) // lines as a compiler writes them
				return exitCode(exitError)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s: ok: service %s of %s, %d tenants, %d reports\n",
				args[0], s.Name, s.Owner, len(s.Tenants), len(s.Stages.Reports))
			if s.Router.GatewayAPI.Mode == config.GatewayWeights {
				fmt.Fprintln(a.stderr, weightsWarning)
			}
			return err
		},
	}
}

// weightsWarning is told wherever a Gateway's weights are put to use.
const weightsWarning = "router.gateway_api.mode weights is best effort: a Gateway has no lease, so a share ends only while a watchdog runs\n" +
	"and reaches the API server; sessions do not stay on one version, and nothing is counted, so no canary can be judged: none begins,\n" +
	"and a release ends before users meet it. Mode proxy has none of this."

func newConfigSchemaCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of headgate.yaml, for editors",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(config.Schema)
			return err
		},
	}
}
