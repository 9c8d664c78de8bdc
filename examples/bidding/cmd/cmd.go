// Package cmd is the command line of the reference service. The program
// examples/bidding/cmd/bidding runs it; another binary can mount it.
//
// It owns flags, process lifetime and composition, and no domain logic.
package cmd

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/httpapi"
	"github.com/headgate/headgate/examples/bidding/quality"
)

// Tenants are the demo's tenants. The last one is for staging: the dataset
// run and the replays use it, and no user traffic does.
var Tenants = []string{"acme", "borealis", "chengyuan", "dingxin", "staging"}

// Command returns the command tree "bidding": api, worker, serve, quality,
// isolation, selftest, package and tokens.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:           "bidding",
		Short:         "The reference service: multi-tenant evaluation of bids",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		processCommand("api", "Serve the HTTP API", true, false),
		processCommand("worker", "Work on queued jobs", false, true),
		processCommand("serve", "API and worker in one process", true, true),
		qualityCommand(), isolationCommand(), selftestCommand(), packageCommand(), tokensCommand(),
	)
	return root
}

func qualityCommand() *cobra.Command {
	var target, tokens, tenant, out string
	c := &cobra.Command{
		Use:   "quality",
		Short: "Run the labelled dataset and write the quality gate's request",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := client.ReadTokens(tokens)
			if err != nil {
				return err
			}
			if all[tenant] == "" {
				return fmt.Errorf("the token file has no tenant %q; name another with --tenant", tenant)
			}
			res, err := quality.Run(c.Context(), &client.Client{BaseURL: target, Token: all[tenant]})
			if err != nil {
				return err
			}
			return writeJSON(c.OutOrStdout(), out, res)
		},
	}
	c.Flags().StringVar(&target, "target", "", "base URL of the service")
	c.Flags().StringVar(&tokens, "tokens", "", "token file")
	c.Flags().StringVar(&tenant, "tenant", "staging", "tenant to run as")
	c.Flags().StringVar(&out, "out", "", "file to write; empty prints")
	require(c, "target", "tokens")
	return c
}

func isolationCommand() *cobra.Command {
	var target, tokens, out string
	var tenants []string
	c := &cobra.Command{
		Use:   "isolation",
		Short: "Probe that two tenants cannot see each other; write two figures of the security gate",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := client.ReadTokens(tokens)
			if err != nil {
				return err
			}
			if len(tenants) != 2 || all[tenants[0]] == "" || all[tenants[1]] == "" {
				return errors.New("--tenants needs two tenants of the token file")
			}
			res, err := quality.CheckIsolation(c.Context(), target, all, [2]string(tenants))
			if err != nil {
				return err
			}
			return writeJSON(c.OutOrStdout(), out, res)
		},
	}
	c.Flags().StringVar(&target, "target", "", "base URL of the service")
	c.Flags().StringVar(&tokens, "tokens", "", "token file")
	c.Flags().StringSliceVar(&tenants, "tenants", []string{"staging", "dingxin"}, "two tenants")
	c.Flags().StringVar(&out, "out", "", "file to write; empty prints")
	require(c, "target", "tokens")
	return c
}

func require(c *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			panic(err) // the flag is not declared: a mistake in this file
		}
	}
}

func writeJSON(stdout io.Writer, path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if path == "" {
		_, err = stdout.Write(data)
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func tokensCommand() *cobra.Command {
	var out string
	var tenants []string
	c := &cobra.Command{
		Use:   "tokens",
		Short: "Write a token file for the demo, readable by its owner only",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			tokens := map[string]string{}
			for _, t := range tenants {
				tokens[t] = "bid_" + rand.Text()
			}
			return client.WriteTokens(out, tokens)
		},
	}
	c.Flags().StringVar(&out, "out", "tokens.json", "file to write")
	c.Flags().StringSliceVar(&tenants, "tenants", Tenants, "tenants to make tokens for")
	return c
}

func packageCommand() *cobra.Command {
	var version, out string
	c := &cobra.Command{
		Use:   "package",
		Short: "Build the release artefact and print its digest",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := bidding.LoadVersion(version)
			if err != nil {
				return err
			}
			artefact, err := pack(v)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o750); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(out, "bidding-"+v.Version+".tar"), artefact, 0o600); err != nil {
				return err
			}
			sum := sha256.Sum256(artefact)
			_, err = fmt.Fprintln(c.OutOrStdout(), "sha256:"+hex.EncodeToString(sum[:]))
			return err
		},
	}
	c.Flags().StringVar(&version, "version-config", "v1.0.0", "shipped version's name or a version file")
	c.Flags().StringVar(&out, "out", "", "directory to write to")
	require(c, "out")
	return c
}

// pack makes a reproducible archive of what the version is made of: its
// configuration, contract and rules, and the digest of the running program.
func pack(v bidding.Version) ([]byte, error) {
	config, err := yaml.Marshal(v)
	if err != nil {
		return nil, err
	}
	program, err := programDigest()
	if err != nil {
		return nil, err
	}
	files := []struct {
		name string
		data []byte
	}{{"openapi.json", httpapi.OpenAPI}, {"program.sha256", []byte(program + "\n")}, {"version.yaml", config}}
	err = fs.WalkDir(bidding.RulePackFiles(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(bidding.RulePackFiles(), name)
		files = append(files, struct {
			name string
			data []byte
		}{name, data})
		return err
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		// Fixed times and modes: the digest depends on the content alone.
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func programDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func selftestCommand() *cobra.Command {
	var version string
	c := &cobra.Command{
		Use:   "selftest",
		Short: "Start the service on a temporary database and run one bid through it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
			defer cancel()
			v, err := bidding.LoadVersion(version)
			if err != nil {
				return err
			}
			return selftest(ctx, v, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&version, "version-config", "v1.0.0", "shipped version's name or a version file")
	return c
}
