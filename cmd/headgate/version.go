package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo says which program this is.
type buildInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuildInfo() buildInfo {
	b := buildInfo{Version: version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b buildInfo) String() string {
	line := b.Version
	if b.Commit != "" {
		line += " commit " + b.Commit
	}
	if b.Modified {
		line += " (modified)"
	}
	return line + " " + b.Go + " " + b.Platform
}

func newVersionCommand(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version and what it was built from",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			b := readBuildInfo()
			if output == outputJSON {
				return writeJSON(a.stdout, b)
			}
			_, err := fmt.Fprintln(a.stdout, "headgate", b)
			return err
		},
	}
	outputFlag(c.Flags(), &output)
	return c
}
