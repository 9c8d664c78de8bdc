package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
)

func newProxyCommand(a *app) *cobra.Command {
	var o proxyOptions
	c := &cobra.Command{
		Use:   "proxy",
		Short: "Run the proxy as a process of its own",
		Long: "Run the proxy in front of a service's stable and candidate instances. It follows the control plane through its\n" +
			"admin listener, and puts all traffic on stable by itself when the control plane stops renewing the candidate's share.",
		Example: "  headgate proxy --service headgate.yaml --listen 127.0.0.1:8081 --admin 127.0.0.1:9901 --token-file admin.token --state proxy.json",
		Args:    usage(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return a.proxy(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.service, "service", "", "service description, headgate.yaml (required)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8081", "address for users")
	f.StringVar(&o.admin, "admin", proxy.DefaultAdminAddr, "address for the control plane")
	f.StringVar(&o.tokenFile, "token-file", "", "file with the control plane's token (required)")
	f.StringVar(&o.state, "state", "", "file that remembers where stable is across restarts")
	f.StringVar(&o.cert, "tls-cert", "", "certificate for users")
	f.StringVar(&o.key, "tls-key", "", "key of the certificate")
	f.BoolVar(&o.verbose, "verbose", false, "log everything")
	return c
}

type proxyOptions struct {
	service, listen, admin, tokenFile, state, cert, key string
	verbose                                             bool
}

// drain is how long requests in flight may take to end at a stop.
const drain = 10 * time.Second

func (a *app) proxy(ctx context.Context, o proxyOptions) error {
	if o.service == "" || o.tokenFile == "" {
		return usageError{errors.New("--service and --token-file are required")}
	}
	svc, err := config.Load(o.service)
	if err != nil {
		return err
	}
	token, err := (config.SecretRef{File: o.tokenFile}).Read()
	if err != nil {
		return err
	}
	cfg := proxy.Config{
		Service: svc.Name, Stable: rollout.Backend{Version: svc.Targets.Stable.Version, URL: svc.Targets.Stable.URL},
		StatePath: o.state, TenantHeader: svc.TenantHeader, SessionHeader: svc.SessionHeader,
		HealthPath: svc.Targets.HealthPath, Logger: a.logger(o.verbose),
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the TLS certificate cannot be used: %w", err)
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	return a.runProxy(ctx, p, token, o)
}

func (a *app) runProxy(ctx context.Context, p *proxy.Proxy, token string, o proxyOptions) error {
	stop := func() error {
		sctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		return p.Shutdown(sctx)
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return errors.Join(inUse(o.listen, "--listen", err), stop())
	}
	adminLn, err := net.Listen("tcp", o.admin)
	if err != nil {
		return errors.Join(inUse(o.admin, "--admin", err), ln.Close(), stop())
	}
	admin := &http.Server{Handler: p.Admin(token), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- p.Serve(ln) }()
	go func() { failed <- admin.Serve(adminLn) }()
	fmt.Fprintf(a.stdout, "ready http://%s admin http://%s\n", ln.Addr(), adminLn.Addr())
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	err = errors.Join(err, admin.Close())
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	if cut := stop(); errors.Is(cut, context.DeadlineExceeded) {
		fmt.Fprintf(a.stderr, "headgate: requests were still in flight after %s and were cut off\n", drain)
	} else {
		err = errors.Join(err, cut)
	}
	return err
}

func inUse(addr, flag string, err error) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"cannot listen on %s: the address is in use or not this machine's; choose another with %s", addr, flag).Wrap(err)
}
