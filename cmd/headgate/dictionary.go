package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/dictionary"
)

// definitions are where the figures come from.
type definitions struct {
	namespace string
	dirs      []string
}

func newDictionaryCommand(a *app) *cobra.Command {
	var d definitions
	c := group("dictionary", "Look figures up: what each number means and how it is asked for",
		newDictionaryListCommand(a, &d), newDictionaryShowCommand(a, &d), newDictionaryCheckCommand(a, &d), newDictionaryExportCommand(a, &d))
	f := c.PersistentFlags()
	f.StringVar(&d.namespace, "namespace", "", "prefix of the metric names (OBS_METRICS_NAMESPACE, default bea)")
	f.StringArrayVar(&d.dirs, "dir", nil, "folder with more definitions and OpenSLO files, *.yaml (repeatable; HEADGATE_DICTIONARY)")
	return c
}

// sources returns the namespace and the extra definitions.
func (d *definitions) sources(a *app) (string, []fs.FS, error) {
	s, err := config.LoadSettings(config.Sources{Environ: a.environ})
	if err != nil {
		return "", nil, err
	}
	dirs := d.dirs
	if len(dirs) == 0 && s.Dictionary != "" {
		dirs = []string{s.Dictionary}
	}
	var extra []fs.FS
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return "", nil, headgate.Invalidf("the dictionary %s is not a folder", dir)
		}
		extra = append(extra, os.DirFS(dir))
	}
	return cmp.Or(d.namespace, s.MetricsNamespace), extra, nil
}

func (d *definitions) load(a *app) (*dictionary.Dictionary, error) {
	namespace, extra, err := d.sources(a)
	if err != nil {
		return nil, err
	}
	return dictionary.Load(namespace, extra...)
}

func newDictionaryListCommand(a *app, d *definitions) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List every figure",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			dict, err := d.load(a)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, f := range dict.Figures() {
				rows = append(rows, []string{f.Group, f.Name, f.Unit, f.Owner, f.Brief})
			}
			return a.table([]string{"GROUP", "FIGURE", "UNIT", "OWNER", "WHAT IT IS"}, rows)
		},
	}
}

func newDictionaryShowCommand(a *app, d *definitions) *cobra.Command {
	return &cobra.Command{
		Use:     "show FIGURE",
		Short:   "Show one figure with its queries",
		Example: "  headgate dictionary show api_p95_s",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			dict, err := d.load(a)
			if err != nil {
				return err
			}
			text, err := dict.Describe(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, strings.TrimRight(text, "\n"))
			return err
		},
	}
}

func newDictionaryCheckCommand(a *app, d *definitions) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the definitions, one line per finding",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			namespace, extra, err := d.sources(a)
			if err != nil {
				return err
			}
			found := dictionary.Check(namespace, extra...)
			for _, line := range found {
				fmt.Fprintln(a.stderr, line)
			}
			if len(found) > 0 {
				return exitCode(exitError)
			}
			_, err = fmt.Fprintln(a.stdout, "the definitions are well-formed")
			return err
		},
	}
}

func newDictionaryExportCommand(a *app, d *definitions) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "export docs|rules|dashboards",
		Short: "Write documentation, Prometheus rules or Grafana dashboards",
		Example: "  headgate dictionary export rules --out headgate-rules.yaml\n" +
			"  headgate dictionary export dashboards --out dashboards/",
		Args: usage(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)), ValidArgs: []string{"docs", "rules", "dashboards"},
		RunE: func(_ *cobra.Command, args []string) error {
			dict, err := d.load(a)
			if err != nil {
				return err
			}
			if args[0] == "dashboards" {
				return writeDashboards(dict, out)
			}
			text := []byte(dict.Markdown())
			if args[0] == "rules" {
				if text, err = dict.Rules(); err != nil {
					return err
				}
			}
			write := func(w io.Writer) error {
				_, err := w.Write(text)
				return err
			}
			if out == "" {
				return write(a.stdout)
			}
			return writeFile(out, write)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write, or the folder for dashboards (default: standard output)")
	return c
}

func writeDashboards(dict *dictionary.Dictionary, dir string) error {
	if dir == "" {
		return usageError{errors.New("dashboards are several files; give --out FOLDER")}
	}
	boards, err := dict.Dashboards()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return headgate.Invalidf("the folder cannot be made: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(boards)) {
		err := writeFile(filepath.Join(dir, name), func(w io.Writer) error {
			_, err := w.Write(boards[name])
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
