package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
)

const outputHTML = "html"

func newTraceCommand(a *app) *cobra.Command {
	var n connection
	var tenant, output string
	c := &cobra.Command{
		Use:   "trace ID",
		Short: "Show the story of one request, from API to database",
		Long: "Show the story of one request in order of time: spans, logs, job attempts and database events, with gaps and the\n" +
			"first error (▶) marked. ID is a trace id, a request id, a job id or an error code, whose latest occurrence is shown.\n\n" +
			"Exit codes: 0 found, 1 nothing is known of it, 2 usage.",
		Example: "  headgate trace req_3hk5…\n" +
			"  headgate trace 4bf92f3577b34da6a3ce929d0e0e4736 --output html > story.html",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if output != outputText && output != outputJSON && output != outputHTML {
				return usageError{errors.New("--output must be text, json or html")}
			}
			if strings.TrimSpace(args[0]) == "" {
				return usageError{errors.New("the id is empty; give a trace id, a request id, a job id or an error code")}
			}
			cl, err := a.connect(n)
			if err != nil {
				return err
			}
			raw, err := cl.Story(c.Context(), args[0], tenant)
			if err != nil {
				return err
			}
			return a.showStory(raw, args[0], output)
		},
	}
	f := c.Flags()
	n.flags(f)
	f.StringVar(&tenant, "tenant", "", "look at this tenant's only")
	f.StringVarP(&output, "output", "o", outputText, "text, json or html")
	return c
}

func (a *app) showStory(raw json.RawMessage, id, output string) error {
	var s control.Story
	if err := json.Unmarshal(raw, &s); err != nil {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"the server's timeline cannot be read; is it of the same version as this client?").Wrap(err)
	}
	var err error
	switch {
	case output == outputJSON:
		err = writeJSON(a.stdout, s)
	case len(s.Entries) == 0:
		return headgate.Errorf(headgate.CodeNotFound, headgate.ClassBusinessRule,
			"nothing is known of %q; it may not have arrived yet (try again in a few seconds), be older than the retention, or be another tenant's", printable(id))
	case output == outputHTML:
		err = s.WriteHTML(a.stdout, "en", "")
	default:
		fmt.Fprintf(a.stdout, "matched as %s\n", s.MatchedBy)
		err = s.WriteText(a.stdout)
	}
	if err == nil && len(s.Entries) == 0 {
		return exitCode(exitError)
	}
	return err
}
