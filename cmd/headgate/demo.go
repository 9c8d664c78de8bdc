package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/traffic"
)

func newDemoCommand(a *app) *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "Take three releases of a real service through the pipeline",
		Long: "Start control plane, proxy and the reference service, drive traffic of four tenants through the proxy, and release\n" +
			"three versions: a good one, one that a gate stops, and one that passes the gates and fails under real traffic.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return a.demo(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.keep, "keep", "", "folder to leave data, reports and bundles in")
	f.BoolVar(&o.exit, "exit", false, "end when the releases have ended, instead of serving until Ctrl-C")
	f.BoolVar(&o.json, "json", false, "print the table as JSON")
	f.Float64Var(&o.rps, "rps", 120, "user requests a second")
	return c
}

type demoOptions struct {
	keep       string
	exit, json bool
	rps        float64
}

// demoReleases are the versions that the demo releases, in order.
var demoReleases = []struct{ id, version, what string }{
	{"rel-good", "v1.1.0", "a good release"},
	{"rel-wrong-citation", "v1.2.0", "a release that cites wrong places"},
	{"rel-tenant-errors", "v1.3.0", "a release that fails for one tenant"},
}

// demoRow is one release in the demo's table.
type demoRow struct {
	ReleaseID string           `json:"release_id"`
	Outcome   headgate.Outcome `json:"outcome"`
	StoppedAt headgate.Stage   `json:"stopped_at"`
	Reasons   []string         `json:"reasons"`
	// DetectionS is from the first failed answer of the candidate to the
	// decision to roll back; RestoredS to the last answer of the candidate.
	DetectionS float64 `json:"detection_s"`
	RestoredS  float64 `json:"restored_s"`
	// FailedRequests are all that failed for users while the release ran.
	FailedRequests    int64 `json:"failed_requests"`
	CandidateRequests int64 `json:"candidate_requests"`
	// Why says in one paragraph what failed, and Trace is where an example can
	// be read while the demo runs.
	Why      string `json:"why,omitempty"`
	Trace    string `json:"trace,omitempty"`
	Evidence int    `json:"evidence"`
}

// demo is a running demonstration.
type demo struct {
	a       *app
	dir     string
	example *example
	plane   *child
	proxy   *child
	client  *client.Client
	service config.Service
	stable  string // the version that users meet
	driver  *traffic.Driver
	say     func(format string, args ...any)
}

func (a *app) demo(ctx context.Context, o demoOptions) (err error) {
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "headgate-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "headgate")); err == nil {
		return headgate.Invalidf("%s holds an earlier demo; name another folder with --keep, or remove it", dir)
	}
	d := &demo{a: a, dir: dir, stable: "v1.0.0", say: func(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }}
	defer d.stop()
	if err := d.start(ctx, o); err != nil {
		return err
	}
	trafficCtx, stopTraffic := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.driver.Run(trafficCtx) }()
	defer func() {
		stopTraffic()
		err = errors.Join(err, <-done)
	}()
	var rows []demoRow
	for _, r := range demoReleases {
		d.say("\n%s: %s", r.version, r.what)
		row, err := d.release(ctx, r.id, r.version)
		if err != nil {
			return fmt.Errorf("release %s: %w", r.id, err)
		}
		rows = append(rows, row)
	}
	if err := d.show(rows, o.json); err != nil {
		return err
	}
	d.next(rows, o)
	if o.exit {
		return nil
	}
	<-ctx.Done()
	return nil
}

// start brings up the service, the control plane and the proxy, each as a
// process of its own.
func (d *demo) start(ctx context.Context, o demoOptions) error {
	addrs, err := freeAddrs(5)
	if err != nil {
		return err
	}
	api, grpc, otlp, user, admin := addrs[0], addrs[1], addrs[2], addrs[3], addrs[4]
	d.example, err = d.a.startExample(ctx, exampleOptions{
		dir: filepath.Join(d.dir, "service"), otlp: "http://" + otlp,
		// A canary of minutes would make a demo of an hour.
		canary: []string{"ratio: 0.25", "duration: 20s", "max_duration: 60s"},
	})
	if err != nil {
		return err
	}
	if d.service, err = config.Load(d.example.description); err != nil {
		return err
	}
	logs, data := filepath.Join(d.dir, "logs"), filepath.Join(d.dir, "headgate")
	tokenFile := filepath.Join(d.dir, "proxy-token")
	if err := os.WriteFile(tokenFile, []byte(headgate.NewID("proxy")+"\n"), 0o600); err != nil {
		return err
	}
	d.proxy, err = startChild(ctx, logs, "proxy", true, nil, "proxy", "--service", d.example.description, "--listen", user,
		"--admin", admin, "--token-file", tokenFile, "--state", filepath.Join(d.dir, "proxy.json"))
	if err != nil {
		return err
	}
	d.plane, err = startChild(ctx, logs, "serve", true, nil, "serve", "--dev", "--evidence-mode", "verified", "--data", data,
		"--listen", api, "--otlp-grpc", grpc, "--otlp-http", otlp, "--service", d.example.description,
		"--proxy", "http://"+admin, "--proxy-token-file", tokenFile)
	if err != nil {
		return err
	}
	token, err := (config.SecretRef{File: filepath.Join(data, "dev-token")}).Read()
	if err != nil {
		return err
	}
	d.client = client.New(d.plane.URL, token, nil)
	d.say("control plane %s, proxy http://%s, service %s", d.plane.URL, user, d.example.api.URL)
	d.driver, err = traffic.New(traffic.Options{BaseURL: "http://" + user, Tokens: d.example.userTokens(), RPS: o.rps, Seed: 1})
	return err
}

func (d *demo) stop() {
	d.plane.stop()
	d.proxy.stop()
	if d.example != nil {
		d.example.stop()
	}
}

// release brings a version up in staging and beside production, and takes it
// through the pipeline.
func (d *demo) release(ctx context.Context, id, version string) (demoRow, error) {
	ex := d.example
	staging, err := ex.startStaging(ctx, version)
	if err != nil {
		return demoRow{}, err
	}
	defer staging.stop()
	addr, err := freeAddrs(1)
	if err != nil {
		return demoRow{}, err
	}
	api, worker, err := ex.startVersion(ctx, version, addr[0])
	if err != nil {
		return demoRow{}, err
	}
	retire := func() {
		worker.stop()
		api.stop()
	}
	diff, err := changes(d.stable, version)
	if err != nil {
		return demoRow{}, err
	}
	d.driver.Take()
	rel, err := d.a.runRelease(ctx, d.client, d.service, runOptions{
		releaseID: id, version: version, candidateURL: api.URL, stagingURL: staging.URL,
		changes: diff, progress: d.a.newProgress(d.a.stderr, false), log: nil,
	})
	if err != nil {
		retire()
		return demoRow{}, err
	}
	stats := d.driver.Take()
	if rel.Outcome == headgate.Promoted {
		// The old version leaves after the new one has all traffic.
		ex.stop()
		ex.api, ex.worker, d.stable = api, worker, version
	} else {
		retire()
	}
	// Only with its bundle is all that is known of a release in the log.
	if err := d.keepReport(ctx, id); err != nil {
		return demoRow{}, err
	}
	if rel, err = d.client.Release(ctx, id); err != nil {
		return demoRow{}, err
	}
	return d.row(ctx, rel, stats)
}

// changes are what differs between two of the demo's versions.
func changes(from, to string) ([]headgate.Change, error) {
	a, err := bidding.LoadVersion(from)
	if err != nil {
		return nil, err
	}
	b, err := bidding.LoadVersion(to)
	if err != nil {
		return nil, err
	}
	all := []headgate.Change{
		{Component: headgate.ModelConfig, From: a.ModelConfig.Name, To: b.ModelConfig.Name},
		{Component: headgate.RetrievalParams, From: a.RetrievalParams.Name, To: b.RetrievalParams.Name},
		{Component: headgate.WorkflowVersion, From: a.WorkflowVersion, To: b.WorkflowVersion},
		{Component: headgate.ReleaseVersion, From: a.Version, To: b.Version},
	}
	return slices.DeleteFunc(all, func(c headgate.Change) bool { return c.From == c.To }), nil
}

func (d *demo) row(ctx context.Context, rel client.Release, stats traffic.Stats) (demoRow, error) {
	row := demoRow{
		ReleaseID: rel.ID, Outcome: rel.Outcome, StoppedAt: rel.StoppedAt, Reasons: rel.Reasons,
		FailedRequests: stats.Failed, CandidateRequests: stats.ByRoute[string(headgate.Candidate)].Requests, Evidence: rel.Evidence,
	}
	arm := stats.ByRoute[string(headgate.Candidate)]
	if rel.Outcome != headgate.RolledBack || arm.FirstBad.IsZero() {
		return row, nil
	}
	events, err := d.client.Events(ctx, rel.ID, 0, 0)
	if err != nil {
		return row, err
	}
	for _, ev := range events {
		switch ev.Kind {
		case "rollback_triggered":
			row.DetectionS = ev.Time.Sub(arm.FirstBad).Seconds()
		case "rollback_explained":
			row.Why = ev.Message
			if id, _ := ev.Data["trace_id"].(string); id != "" {
				row.Trace = d.client.URL() + "/trace/" + url.PathEscape(id)
			}
		}
	}
	row.RestoredS = arm.Last.Sub(arm.FirstBad).Seconds()
	return row, nil
}

// keepReport saves a release's page and its evidence.
func (d *demo) keepReport(ctx context.Context, id string) error {
	write := func(name string, get func(f *os.File) error) error {
		f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(get(f), f.Close())
	}
	return errors.Join(
		write(id+".html", func(f *os.File) error { return d.client.Report(ctx, id, "html", "en", f) }),
		write(id+".bundle.zip", func(f *os.File) error { return d.client.Bundle(ctx, id, f) }),
	)
}

// show prints the table.
func (d *demo) show(rows []demoRow, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(d.a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"releases": rows})
	}
	cells := [][]string{}
	for _, r := range rows {
		why := strings.Join(r.Reasons, " ")
		if r.StoppedAt != "" {
			why = string(r.StoppedAt) + ": " + why
		}
		cells = append(cells, []string{
			r.ReleaseID, string(r.Outcome), why, demoSeconds(r.DetectionS), demoSeconds(r.RestoredS),
			fmt.Sprint(r.FailedRequests), fmt.Sprint(r.CandidateRequests), fmt.Sprint(r.Evidence),
		})
	}
	fmt.Fprintln(d.a.stdout)
	if err := d.a.table([]string{"release", "outcome", "why", "detected", "restored", "failed", "candidate", "evidence"}, cells); err != nil {
		return err
	}
	fmt.Fprint(d.a.stdout, "\ndetected: from the candidate's first failed answer to the decision; restored: to its last answer of any kind;\n"+
		"failed: requests of users; candidate: requests that it answered; evidence: signed statements\n")
	for _, r := range rows {
		if r.Why != "" {
			fmt.Fprintf(d.a.stdout, "\n%s: %s\n", r.ReleaseID, printable(r.Why))
		}
	}
	return nil
}

// next says what can be looked at now: the pages while the demo serves, and the
// files that are there.
func (d *demo) next(rows []demoRow, o demoOptions) {
	if !o.exit {
		d.say("\nLook at, while this runs (Ctrl-C ends it):")
		d.say("  each release, its gates and its canary   %s", d.plane.URL)
		for _, r := range rows {
			if r.Trace != "" {
				d.say("  the story of one request that failed     %s", r.Trace)
			}
		}
	}
	if o.exit && o.keep == "" {
		return
	}
	last := rows[len(rows)-1].ReleaseID
	if o.exit {
		d.say("\nReports and evidence are in %s", d.dir)
	}
	d.say("  check the evidence without the server    %s evidence verify %s", os.Args[0], filepath.Join(d.dir, last+".bundle.zip"))
}

func demoSeconds(s float64) string {
	if s == 0 {
		return "–"
	}
	return (time.Duration(s*1000) * time.Millisecond).Round(100 * time.Millisecond).String()
}
