package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/server"
)

func newWatchdogCommand(a *app) *cobra.Command {
	var service string
	var verbose bool
	c := &cobra.Command{
		Use:   "watchdog",
		Short: "Kubernetes weights only: put all traffic on stable when the control plane is gone",
		Long: "Watch the lease of a service whose Kubernetes HTTPRoute splits by weights, and give stable all weight when nobody renews it.\n" +
			"Run it apart from the control plane, which may die. It is best effort: it helps only while it runs and reaches the API server.\n" +
			"A service behind Headgate's proxies needs none.",
		Example: "  headgate watchdog --service headgate.yaml",
		Args:    usage(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return a.watchdog(c.Context(), service, verbose) },
	}
	f := c.Flags()
	f.StringVar(&service, "service", "", "service description, headgate.yaml (required)")
	f.BoolVar(&verbose, "verbose", false, "log everything")
	return c
}

func (a *app) watchdog(ctx context.Context, service string, verbose bool) error {
	if service == "" {
		return usageError{errors.New("--service is required")}
	}
	svc, err := config.Load(service)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stderr, weightsWarning)
	return server.Watchdog(ctx, svc, a.logger(verbose))
}
