package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/dataset"
)

// selftest runs one bid through a service of its own: upload, parse, evaluate,
// report, review, report.
func selftest(ctx context.Context, v bidding.Version, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "bidding-selftest-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	const token = "selftest-token-of-this-process"
	addr := make(chan string, 1)
	p := process{listen: "127.0.0.1:0", db: filepath.Join(dir, "bidding.db"), env: "staging", api: true, worker: true, ready: func(a string) { addr <- a }}
	done := make(chan error, 1)
	go func() { done <- p.start(ctx, v, map[string]string{"selftest": token}) }()
	var base string
	select {
	case base = <-addr:
	case err := <-done:
		return fmt.Errorf("the service did not start: %w", err)
	}
	err = oneBid(ctx, &client.Client{BaseURL: "http://" + base, Token: token}, out)
	stop()
	return errors.Join(err, <-done)
}

func oneBid(ctx context.Context, c *client.Client, out io.Writer) error {
	d, err := dataset.Load()
	if err != nil {
		return err
	}
	step := func(name string, do func() error) {
		if err != nil {
			return
		}
		if err = do(); err != nil {
			err = fmt.Errorf("selftest: %s: %w", name, err)
			return
		}
		_, err = fmt.Fprintln(out, "ok", name)
	}
	bid := d.Bids()[0]
	var q client.Queued
	var rep client.Report
	await := func(e error) error {
		if e != nil {
			return e
		}
		_, e = c.Await(ctx, q.JobID)
		return e
	}
	step("upload and parse", func() (e error) {
		q, e = c.Upload(ctx, d.Project, bid.Supplier, bid.DocType, bid.File, bid.Data)
		return await(e)
	})
	step("evaluate", func() (e error) {
		q, e = c.Evaluate(ctx, client.Evaluation{Project: d.Project, Supplier: bid.Supplier, RulePack: d.RulePackVersion, ForceHITL: true})
		return await(e)
	})
	evaluation := q.EvaluationID
	step("report waits for review", func() (e error) {
		rep, e = c.Report(ctx, evaluation)
		if e == nil && (!rep.NeedsHumanReview || rep.Interrupt == nil || rep.Score <= 0) {
			e = fmt.Errorf("status %s, score %g", rep.Status, rep.Score)
		}
		return e
	})
	step("resume", func() (e error) {
		q, e = c.Resume(ctx, evaluation, rep.Interrupt.ResumeToken, "approve", "selftest")
		return await(e)
	})
	step("report is complete", func() (e error) {
		rep, e = c.Report(ctx, evaluation)
		if e == nil && (rep.Status != "completed" || rep.NeedsHumanReview) {
			e = fmt.Errorf("status %s", rep.Status)
		}
		return e
	})
	return err
}
