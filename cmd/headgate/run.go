package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
)

// runOptions say which release to run and where to show it.
type runOptions struct {
	version string
	// digest, if empty, is what the build command prints last.
	digest string
	// releaseID, if empty, is a new one.
	releaseID                string
	stagingURL, candidateURL string
	changes                  []headgate.Change
	source                   headgate.Source
	highRisk                 bool

	// progress shows how it goes and is closed at the end; nil shows nothing.
	progress progress
	// log takes what the commands print, each line with a prefix; nil drops it.
	log io.Writer
}

// codeBuildFailed is a release that was not created, since nothing was built.
const codeBuildFailed = "BUILD_FAILED"

// runRelease runs a service's build, tests and reports here, takes them to the
// server as a release, and returns the release when it has ended, whatever its
// outcome. When a build fails and its digest is not known, the error is
// BUILD_FAILED and there is no release. When ctx ends first, the error is
// ctx's and the release goes on.
func (a *app) runRelease(ctx context.Context, c *client.Client, svc config.Service, o runOptions) (client.Release, error) {
	if o.progress == nil {
		o.progress = silent{}
	}
	defer o.progress.close()
	if o.releaseID == "" {
		o.releaseID = headgate.NewID("rel")
	}
	if o.stagingURL == "" {
		o.stagingURL = svc.Targets.Staging.URL
	}
	if o.candidateURL == "" {
		o.candidateURL = svc.Targets.Candidate.URL
	}
	self, err := os.Executable()
	if err != nil {
		return client.Release{}, err
	}
	r := &run{app: a, client: c, svc: svc, o: o, self: self}
	build, err := r.build(ctx)
	if err != nil {
		return client.Release{}, err
	}
	rel, err := c.CreateRelease(ctx, client.CreateRequest{
		ID: o.releaseID, Service: svc.Name, Version: o.version, Digest: r.o.digest, Changes: o.changes, Source: o.source,
		StagingURL: o.stagingURL, CandidateURL: o.candidateURL, HighRisk: o.highRisk,
	})
	if err != nil {
		return client.Release{}, err
	}
	return r.follow(ctx, rel, build)
}

// run is one release on its way from here to the server.
type run struct {
	app    *app
	client *client.Client
	svc    config.Service
	o      runOptions
	self   string
}

// follow watches the release and does, meanwhile, what it waits for. When the
// release ends first, for example since its contract is broken, the rest of
// that is not done.
func (r *run) follow(ctx context.Context, rel client.Release, build result) (client.Release, error) {
	type watched struct {
		rel client.Release
		err error
	}
	todo, cancel := context.WithCancel(ctx)
	defer cancel()
	end := make(chan watched, 1)
	go func() {
		rel, err := r.app.watch(ctx, r.client, rel.ID, r.o.progress)
		cancel()
		end <- watched{rel, err}
	}()
	err := r.contribute(todo, build)
	if err != nil && todo.Err() == nil {
		// Without this job's part the release would wait until its deadline.
		reason := printable("the client's job failed: " + headgate.AsError(err).Message)
		if _, aerr := r.client.Abort(ctx, rel.ID, reason); aerr != nil && !ended(aerr) {
			cancelled := fmt.Errorf("release %s could not be aborted: %w", rel.ID, aerr)
			return rel, errors.Join(err, cancelled)
		}
	} else if err != nil {
		if ctx.Err() != nil {
			r.o.progress.say("what was not reported yet is missing now: the release waits for it until the stage's deadline")
		}
		err = nil
	}
	w := <-end
	return w.rel, errors.Join(err, w.err)
}

// ended reports that the server refused something since the release is over.
func ended(err error) bool { return errors.Is(err, &headgate.Error{Code: headgate.CodeReleaseDone}) }

// contribute reports the build, runs the tests and adds the reports.
func (r *run) contribute(ctx context.Context, build result) error {
	if err := r.report(ctx, headgate.StageBuild, build); err != nil || !build.ok {
		return err
	}
	test, err := r.command(ctx, string(headgate.StageTest), r.svc.Stages.Test)
	if err != nil {
		return err
	}
	if err := r.report(ctx, headgate.StageTest, test); err != nil || !test.ok {
		return err
	}
	for _, rep := range r.svc.Stages.Reports {
		if err := r.addReport(ctx, rep); err != nil {
			return err
		}
	}
	return nil
}

var digestLine = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// build runs the build command and learns the digest.
func (r *run) build(ctx context.Context) (result, error) {
	res, err := r.command(ctx, string(headgate.StageBuild), r.svc.Stages.Build)
	if err != nil {
		return res, err
	}
	if r.o.digest == "" && digestLine.MatchString(res.stdout) {
		r.o.digest = res.stdout
	}
	switch {
	case r.o.digest != "":
		return res, nil
	case !res.ok:
		return res, headgate.Errorf(codeBuildFailed, headgate.ClassBusinessRule,
			"the build failed: %s; no release was created, since nothing was built", res.why)
	case len(r.svc.Stages.Build.Run) == 0:
		return res, headgate.Invalidf("what is to be released? Give --digest sha256:…, or a build command in headgate.yaml whose last line is the digest")
	}
	return res, headgate.Invalidf("the build succeeded, but the last line that it printed is not a digest sha256:<64 hex digits>; print it, or give --digest")
}

// command runs a command of the description, if there is one.
func (r *run) command(ctx context.Context, name string, c config.Command) (result, error) {
	if len(c.Run) == 0 {
		return result{ok: true}, nil
	}
	cmd, err := r.prepare(name, c)
	if err != nil {
		return result{}, err
	}
	r.o.progress.say(printable(fmt.Sprintf("%s: running %s %s", name, filepath.Base(cmd.argv[0]), strings.Join(cmd.argv[1:], " "))))
	return cmd.run(ctx)
}

// values are what commands may refer to.
func (r *run) values() map[string]string {
	v := map[string]string{"headgate": r.self, "release_id": r.o.releaseID, "version": r.o.version}
	for name, value := range map[string]string{"digest": r.o.digest, "staging_url": r.o.stagingURL, "candidate_url": r.o.candidateURL} {
		if value != "" {
			v[name] = value
		}
	}
	return v
}

// report tells the server how a stage went here.
func (r *run) report(ctx context.Context, stage headgate.Stage, res result) error {
	verdict, summary := headgate.Pass, "nothing to do"
	switch {
	case !res.ok:
		verdict, summary = headgate.Fail, res.why
	case res.took > 0:
		summary = cmp.Or(res.stdout, "took "+seconds(res.took))
	}
	return r.repeat(ctx, func() error {
		_, err := r.client.ReportStage(ctx, r.o.releaseID, stage, verdict, printable(summary))
		return err
	})
}

// addReport makes a tool's report, if a command does, and adds it.
func (r *run) addReport(ctx context.Context, rep config.Report) error {
	name := control.ReportName(rep.File)
	before, _ := os.Stat(rep.File) // nil when there is none
	res, err := r.command(ctx, name, config.Command{Run: rep.Run, Timeout: rep.Timeout})
	if err != nil {
		return err
	}
	after, err := os.Stat(rep.File)
	switch {
	case err != nil && res.ok:
		return headgate.Invalidf("the %s gate needs the report %s, which is not there; make it first, or correct stages.reports", rep.Gate, rep.File)
	case err != nil:
		return headgate.Invalidf("the %s gate needs the report %s, but the command that makes it failed: %s", rep.Gate, name, res.why)
	case len(rep.Run) > 0 && before != nil && before.ModTime().Equal(after.ModTime()):
		return headgate.Invalidf("the %s gate needs the report %s, but the command did not write it; the file is an old one", rep.Gate, name)
	}
	// A scanner that has findings usually fails: its report says so, and the
	// gate decides.
	return r.repeat(ctx, func() error {
		f, err := os.Open(rep.File)
		if err != nil {
			return headgate.Invalidf("the report %s cannot be read: %w", rep.File, err)
		}
		defer f.Close()
		_, err = r.client.AddEvidence(ctx, r.o.releaseID, client.ReportFile{Gate: rep.Gate, Name: name, Format: rep.Format, Columns: rep.Columns}, f)
		return err
	})
}

// repeat does again, while the server is away, what is harmless to do twice: a
// stage's report and a file's are the same ones the second time.
func (r *run) repeat(ctx context.Context, do func() error) error {
	for until := time.Now().Add(maxAway); ; {
		err := do()
		if err == nil || ended(err) {
			return nil
		}
		if !headgate.AsError(err).Retryable || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollAgain):
		}
	}
}

const (
	// maxAway is how long a server may not answer before the client gives up.
	maxAway   = 5 * time.Minute
	pollAgain = 2 * time.Second
	// eventWait is how long to wait for an event before the figures are asked
	// for again.
	eventWait = 2 * time.Second
)

// watch follows a release until it has ended and returns it. A server that
// does not answer for a while, since it is restarted, is waited for.
func (a *app) watch(ctx context.Context, c *client.Client, id string, p progress) (client.Release, error) {
	w := watcher{client: c, id: id, progress: p}
	for {
		err := w.look(ctx)
		switch {
		case ctx.Err() != nil:
			return w.rel, ctx.Err()
		case err == nil && w.rel.Done():
			return w.rel, nil
		case err == nil:
			w.away = time.Time{}
			continue
		case !headgate.AsError(err).Retryable:
			return w.rel, err
		case w.away.IsZero():
			w.away = time.Now()
			p.say(headgate.AsError(err).Message + " Trying again for " + maxAway.String())
		case time.Since(w.away) > maxAway:
			return w.rel, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollAgain):
		}
	}
}

type watcher struct {
	client   *client.Client
	id       string
	progress progress
	after    int64
	rel      client.Release
	away     time.Time // since when the server does not answer
}

// look shows what is new. The trail is read once more after the release has
// ended, so that its end is not missed.
func (w *watcher) look(ctx context.Context) error {
	rel, err := w.client.Release(ctx, w.id)
	if err != nil {
		return err
	}
	wait := eventWait
	if rel.Done() {
		wait = 0
	}
	w.rel = rel
	w.progress.state(rel)
	for {
		events, err := w.client.Events(ctx, w.id, w.after, wait)
		if err != nil {
			return err
		}
		for _, e := range events {
			w.after = e.Seq
			w.progress.event(e)
		}
		if wait > 0 || len(events) == 0 {
			return nil
		}
	}
}

// exitFor is how a release's outcome is told to scripts.
func exitFor(r headgate.Release) int {
	codes := map[headgate.Outcome]int{
		headgate.Promoted: exitPassed, headgate.Blocked: exitBlocked, headgate.RolledBack: exitRolledBack, headgate.Inconclusive: exitInconclusive,
	}
	if code, ok := codes[r.Outcome]; ok {
		return code
	}
	return exitError
}

// parseChange reads component=from:to.
func parseChange(s string) (headgate.Change, error) {
	name, step, ok := strings.Cut(s, "=")
	from, to, ok2 := strings.Cut(step, ":")
	c := headgate.Change{Component: headgate.Component(name), From: from, To: to}
	if !ok || !ok2 || from == "" || to == "" || !slices.Contains(headgate.RollbackOrder(), c.Component) {
		return c, usageError{fmt.Errorf("--component %q must be component=from:to, with the component one of %v", s, headgate.RollbackOrder())}
	}
	return c, nil
}
