package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/server"
)

func newServeCommand(a *app) *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane",
		Long: "Run the control plane: HTTP API, telemetry receiver, pipeline and, unless --proxy names proxies of their own,\n" +
			"the embedded proxy. It prints one line, 'ready URL', when it serves.",
		Example: "  headgate serve --service headgate.yaml --data /var/lib/headgate\n" +
			"  headgate serve --dev --example --data ./dev",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			o.flags = given(c.Flags())
			return a.serve(c.Context(), o)
		},
	}
	f := c.Flags()
	addSettings(f)
	f.StringArrayVar(&o.services, "service", nil, "service description, headgate.yaml (repeatable)")
	f.StringVar(&o.settingsFile, "settings", "", "YAML file of settings")
	f.BoolVar(&o.dev, "dev", false, "development server: loopback only, x-internal-debug honoured, claims count as evidence, a free port for the proxy when its own is taken")
	f.BoolVar(&o.example, "example", false, "run the reference service behind the server (with --dev)")
	f.StringArrayVar(&o.proxies, "proxy", nil, "admin URL of a headgate proxy that runs as its own process (repeatable)")
	f.StringVar(&o.proxyTokenFile, "proxy-token-file", "", "file with the token for --proxy")
	f.BoolVar(&o.verbose, "verbose", false, "log everything")
	return c
}

// addSettings declares a flag for each setting of a server.
func addSettings(f *pflag.FlagSet) {
	for _, s := range config.DescribeSettings() {
		if !s.Client {
			f.String(s.Flag, "", fmt.Sprintf("%s (default %s, %s)", s.Help, cmp.Or(s.Default, "unset"), s.Variable))
		}
	}
}

// given returns the settings' flags that were set.
func given(f *pflag.FlagSet) map[string]string {
	out := map[string]string{}
	for _, s := range config.DescribeSettings() {
		if fl := f.Lookup(s.Flag); fl != nil && fl.Changed {
			out[s.Flag] = fl.Value.String()
		}
	}
	return out
}

type serveOptions struct {
	flags          map[string]string
	services       []string
	settingsFile   string
	dev, example   bool
	proxies        []string
	proxyTokenFile string
	verbose        bool
}

// serve runs a control plane until ctx ends.
func (a *app) serve(ctx context.Context, o serveOptions) error {
	if o.example && !o.dev {
		return usageError{fmt.Errorf("--example needs --dev")}
	}
	if o.dev {
		if _, ok := o.flags["evidence-mode"]; !ok {
			o.flags["evidence-mode"] = string(config.EvidenceDeclared)
		}
	}
	settings, err := config.LoadSettings(config.Sources{File: o.settingsFile, Environ: a.environ, Flags: o.flags})
	if err != nil {
		return err
	}
	if o.dev && byDefault(settings, "proxy_listen") {
		settings.ProxyListen = orFree(settings.ProxyListen)
	}
	so := server.Options{
		Settings: settings, Proxies: o.proxies, Development: o.dev, Forward: o.example, Version: version(), Logger: a.logger(o.verbose),
	}
	if o.proxyTokenFile != "" {
		if so.ProxyToken, err = (config.SecretRef{File: o.proxyTokenFile}).Read(); err != nil {
			return err
		}
	}
	if o.example {
		ex, err := a.startExample(ctx, exampleOptions{dir: filepath.Join(settings.DataDir, "example"), otlp: "http://" + settings.OTLPHTTP})
		if err != nil {
			return err
		}
		defer ex.stop()
		o.services = append(o.services, ex.description)
	}
	for _, path := range o.services {
		svc, err := config.Load(path)
		if err != nil {
			return err
		}
		so.Services = append(so.Services, svc)
	}
	if len(so.Services) == 0 {
		fmt.Fprintln(a.stderr, "no service is under control: nothing can be released until --service names a headgate.yaml")
	}
	return a.runServer(ctx, so)
}

// byDefault reports that nobody gave a setting.
func byDefault(s config.Settings, key string) bool {
	for _, v := range s.Values() {
		if v.Key == key {
			return v.Origin == "default"
		}
	}
	return false
}

// orFree is addr, or any free loopback address while somebody else listens
// there: several development servers on one machine need no more than an
// address for their API each.
func orFree(addr string) string {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = ln.Close() // nothing was accepted
	return addr
}

// runServer serves until ctx ends or a listener fails.
func (a *app) runServer(ctx context.Context, so server.Options) error {
	s, err := server.New(ctx, so)
	if err != nil {
		return err
	}
	err = s.Start(ctx)
	if err == nil && so.Development {
		err = devToken(ctx, s, so.Settings.DataDir)
	}
	if err == nil {
		if s.ProxyAddr() != "" {
			fmt.Fprintf(a.stderr, "proxy http://%s\n", s.ProxyAddr())
		}
		fmt.Fprintf(a.stdout, "ready %s\n", s.URL())
		select {
		case <-ctx.Done():
		case err = <-s.Failed():
		}
	}
	if serr := s.Stop(); err == nil {
		err = serr
	}
	return err
}

// devToken leaves an operator's token in the data folder, so that the client
// works against a development server without more ado.
func devToken(ctx context.Context, s *server.Server, dir string) error {
	path := filepath.Join(dir, "dev-token")
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) != "" {
		return nil
	}
	token, err := s.IssueToken(ctx, access.DevelopmentHolder, access.Operator, nil)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent, "the development token cannot be kept: %w", err)
	}
	return nil
}
