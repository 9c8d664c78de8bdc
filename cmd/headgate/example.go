package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/examples/bidding"
	biddingclient "github.com/headgate/headgate/examples/bidding/client"
	biddingcmd "github.com/headgate/headgate/examples/bidding/cmd"
)

// newExampleCommand mounts the reference service, so that the demo and the
// development server need nothing but this binary. Headgate itself reaches the
// service only as a process of its own.
func newExampleCommand(*app) *cobra.Command {
	c := &cobra.Command{Use: "example", Short: "Run the reference service's processes", Hidden: true}
	c.AddCommand(biddingcmd.Command())
	return c
}

// exampleTenants are the reference service's tenants; the last one is the
// replay's own and sends no traffic.
var exampleTenants = biddingcmd.Tenants

type exampleOptions struct {
	// dir takes the database, tokens, logs and the service description.
	dir string
	// otlp is the base URL of the telemetry receiver.
	otlp string
	// stable, staging and candidate are the addresses of the instances; empty
	// picks free ones.
	stable, staging, candidate string
	// canary is put into the description's canary section, as YAML lines.
	canary []string
}

// example is the reference service in production: an API and a worker of the
// stable version, and the description by which Headgate knows it.
type example struct {
	exampleOptions
	description string
	tokens      map[string]string
	api, worker *child
}

// startExample lays the folder out and starts the stable version.
func (a *app) startExample(ctx context.Context, o exampleOptions) (*example, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	o.dir = dir
	free, err := freeAddrs(3)
	if err != nil {
		return nil, err
	}
	for i, addr := range []*string{&o.stable, &o.staging, &o.candidate} {
		if *addr == "" {
			*addr = free[i]
		}
	}
	ex := &example{exampleOptions: o, description: filepath.Join(dir, "headgate.yaml")}
	if err := ex.layOut(); err != nil {
		return nil, err
	}
	ex.api, ex.worker, err = ex.startVersion(ctx, "v1.0.0", o.stable)
	if err != nil {
		return nil, err
	}
	return ex, nil
}

// layOut writes the description, the replay suite, the reports and a token for
// each tenant. What is there already stays.
func (e *example) layOut() error {
	if err := os.MkdirAll(filepath.Join(e.dir, "tokens"), 0o700); err != nil {
		return err
	}
	err := fs.WalkDir(bidding.Description, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(bidding.Description, name)
		if err != nil {
			return err
		}
		if name == "headgate.yaml" {
			content = e.localise(content)
		}
		path := filepath.Join(e.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil {
		return err
	}
	return e.makeTokens()
}

// localise puts this machine's addresses into the description.
func (e *example) localise(yaml []byte) []byte {
	for i, addr := range []string{e.stable, e.staging, e.candidate} {
		yaml = bytes.ReplaceAll(yaml, fmt.Appendf(nil, "http://127.0.0.1:%d", 9001+i), []byte("http://"+addr))
	}
	for _, line := range e.canary {
		yaml = bytes.Replace(yaml, []byte("\ncanary:\n"), []byte("\ncanary:\n  "+line+"\n"), 1)
	}
	return yaml
}

func (e *example) makeTokens() (err error) {
	path := filepath.Join(e.dir, "tokens.json")
	if _, err := os.Stat(path); err == nil {
		e.tokens, err = biddingclient.ReadTokens(path)
		return err
	}
	e.tokens = map[string]string{}
	for _, tenant := range exampleTenants {
		e.tokens[tenant] = "bid_" + rand.Text()
		if err := os.WriteFile(filepath.Join(e.dir, "tokens", tenant), []byte(e.tokens[tenant]+"\n"), 0o600); err != nil {
			return err
		}
	}
	return biddingclient.WriteTokens(path, e.tokens)
}

// startVersion starts an API and a worker of a version on the production
// database.
func (e *example) startVersion(ctx context.Context, version, addr string) (api, worker *child, err error) {
	common := e.flags(version, "production", "production.db")
	api, err = startChild(ctx, e.logs(), "api-"+version, true, nil, append([]string{"example", "bidding", "api", "--listen", addr}, common...)...)
	if err != nil {
		return nil, nil, err
	}
	worker, err = startChild(ctx, e.logs(), "worker-"+version, false, nil, append([]string{"example", "bidding", "worker"}, common...)...)
	if err != nil {
		api.stop()
		return nil, nil, err
	}
	return api, worker, nil
}

// startStaging starts a version on a database of its own.
func (e *example) startStaging(ctx context.Context, version string) (*child, error) {
	args := append([]string{"example", "bidding", "serve", "--listen", e.staging}, e.flags(version, "staging", "staging-"+version+".db")...)
	return startChild(ctx, e.logs(), "staging-"+version, true, nil, args...)
}

func (e *example) flags(version, env, db string) []string {
	return []string{
		"--version-config", version, "--env", env, "--db", filepath.Join(e.dir, db),
		"--tokens", filepath.Join(e.dir, "tokens.json"), "--otlp", e.otlp,
	}
}

func (e *example) logs() string { return filepath.Join(e.dir, "logs") }

func (e *example) stop() {
	e.worker.stop()
	e.api.stop()
}

// userTokens are the tokens of the tenants that send traffic.
func (e *example) userTokens() map[string]string {
	out := map[string]string{}
	for _, t := range exampleTenants[:len(exampleTenants)-1] {
		out[t] = e.tokens[t]
	}
	return out
}
