package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
)

// tokenVariable may hold the token itself; there is no such flag, since other
// users of the machine see a process's flags.
const tokenVariable = "HEADGATE_TOKEN"

// connection is where the server is and how to persuade it.
type connection struct{ url, tokenFile string }

func (n *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&n.url, "url", "", "address of the server (HEADGATE_URL, default "+config.DefaultSettings().URL+")")
	f.StringVar(&n.tokenFile, "token-file", "", "file that holds the token (HEADGATE_TOKEN_FILE; or the token itself in "+tokenVariable+")")
}

// connect returns a client of the server that flags and environment name.
func (a *app) connect(n connection) (*client.Client, error) {
	flags := map[string]string{}
	if n.url != "" {
		flags["url"] = n.url
	}
	if n.tokenFile != "" {
		flags["token-file"] = n.tokenFile
	}
	s, err := config.LoadSettings(config.Sources{Environ: a.environ, Flags: flags})
	if err != nil {
		return nil, err
	}
	token := a.getenv(tokenVariable)
	if s.TokenFile != "" && (token == "" || n.tokenFile != "") {
		if token, err = (config.SecretRef{File: s.TokenFile}).Read(); err != nil {
			return nil, err
		}
	}
	return client.New(s.URL, token, &http.Client{Transport: http.DefaultTransport}), nil
}

// ask sends one request to the server that n names, and prints the answer: as
// JSON where output says so, else by text.
func ask[T any](a *app, n connection, output string, request func(*client.Client) (T, error), text func(T) error) (T, error) {
	var answer T
	if err := checkOutput(output); err != nil {
		return answer, err
	}
	cl, err := a.connect(n)
	if err != nil {
		return answer, err
	}
	if answer, err = request(cl); err != nil {
		return answer, err
	}
	if output == outputJSON {
		return answer, writeJSON(a.stdout, answer)
	}
	return answer, text(answer)
}

// group is a command that only holds others.
func group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: onlyCommands,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(subcommands...)
	return c
}

// onlyCommands refuses an argument that is not one of the commands, with the
// one that was meant.
func onlyCommands(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %q?", err, near[0])
	}
	return usageError{err}
}

// reasonFlag declares --reason; check it with needsReason.
func reasonFlag(f *pflag.FlagSet, reason *string) {
	f.StringVar(reason, "reason", "", "why, for the audit log (required)")
}

func needsReason(reason string) error {
	if reason == "" {
		return usageError{errors.New("--reason is required; it is kept in the audit log")}
	}
	return nil
}

// outputFlag declares --output; check it with checkOutput.
func outputFlag(f *pflag.FlagSet, output *string) {
	f.StringVarP(output, "output", "o", outputText, "text or json")
}

func checkOutput(output string) error {
	if output != outputText && output != outputJSON {
		return usageError{errors.New("--output must be text or json")}
	}
	return nil
}
