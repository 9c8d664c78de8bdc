package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/httpapi"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/examples/bidding/worker"
	"github.com/headgate/headgate/instrument"
)

// stopLimit is how long open requests may take to end after SIGTERM, and
// telemetry to leave.
const stopLimit = 10 * time.Second

// process is what an api, worker or serve process runs.
type process struct {
	listen, db, version, env, otlp, tokens string
	api, worker                            bool
	// ready is told the API's address once it listens.
	ready func(addr string)
}

func processCommand(use, short string, api, work bool) *cobra.Command {
	p := process{api: api, worker: work}
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p.ready = func(addr string) { fmt.Fprintf(c.OutOrStdout(), "ready http://%s\n", addr) }
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return p.run(ctx)
	}}
	f := c.Flags()
	if api {
		f.StringVar(&p.listen, "listen", "127.0.0.1:8090", "address of the API")
	}
	f.StringVar(&p.db, "db", "bidding.db", "SQLite file that all processes share")
	f.StringVar(&p.version, "version-config", "v1.0.0", "shipped version's name or a version file")
	f.StringVar(&p.env, "env", "production", "staging or production")
	f.StringVar(&p.otlp, "otlp", "", "base URL of an OTLP/HTTP receiver; empty sends nothing")
	f.StringVar(&p.tokens, "tokens", "", "token file, see \"tokens\" (required)")
	return c
}

func (p process) run(ctx context.Context) (err error) {
	if p.env != "staging" && p.env != "production" {
		return fmt.Errorf("--env is staging or production, not %q", p.env)
	}
	if p.tokens == "" {
		return errors.New("--tokens is missing; make a file with: bidding tokens --out tokens.json")
	}
	tokens, err := client.ReadTokens(p.tokens)
	if err != nil {
		return err
	}
	version, err := bidding.LoadVersion(p.version)
	if err != nil {
		return err
	}
	return p.start(ctx, version, tokens)
}

// errCrash ends a process of a version that crashes.
var errCrash = errors.New("crashed, as its version's fault says")

func (p process) start(ctx context.Context, version bidding.Version, tokens map[string]string) (err error) {
	tel, err := instrument.Setup(ctx, instrument.Options{
		Service: "bidding", Version: version.Version, Environment: p.env, InstanceID: headgate.NewID("inst"),
		Endpoint: p.otlp, Logs: slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}),
	})
	if err != nil {
		return err
	}
	crash := make(<-chan time.Time)
	if version.Fault.Kind == bidding.FaultCrashLoop {
		crash = time.After(time.Duration(version.Fault.After))
	}
	defer func() {
		if errors.Is(err, errCrash) {
			return // a crash flushes nothing
		}
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if e := tel.Shutdown(flush); e != nil {
			tel.Logger.WarnContext(flush, "telemetry was lost at the end", slog.Any("error", e))
		}
	}()
	st, err := store.Open(ctx, p.db, tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done, parts := make(chan error, 2), 0
	wake := func() {}
	if p.worker {
		w, err := worker.New(worker.Options{Store: st, Telemetry: tel, Version: version, Tenants: slices.Sorted(maps.Keys(tokens))})
		if err != nil {
			return err
		}
		wake = w.Wake
		parts++
		go func() { done <- w.Run(ctx) }()
	}
	if p.api {
		api, err := httpapi.New(httpapi.Options{Store: st, Telemetry: tel, Version: version, Tokens: tokens, Queued: wake})
		if err == nil {
			var l net.Listener
			if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", p.listen); err == nil {
				p.ready(l.Addr().String())
				parts++
				go func() { done <- serveHTTP(ctx, l, api) }()
			} else {
				err = fmt.Errorf("--listen %s cannot be served; choose another address: %w", p.listen, err)
			}
		}
		if err != nil {
			stop()
			return errors.Join(err, drain(done, parts))
		}
	}
	select {
	case <-crash:
		return errCrash
	case err = <-done:
		stop()
		return errors.Join(err, drain(done, parts-1))
	}
}

func drain(done <-chan error, parts int) (err error) {
	for range parts {
		err = errors.Join(err, <-done)
	}
	return err
}

// serveHTTP answers until ctx ends, then lets open requests end.
func serveHTTP(ctx context.Context, l net.Listener, api *httpapi.API) error {
	srv := &http.Server{Handler: api, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	api.Drain()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	err := srv.Shutdown(end)
	if e := <-failed; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
