package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
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

	// progress shows how it goes; nil shows nothing.
	progress progress
	// log takes what the commands print, each line with a prefix; nil drops it.
	log io.Writer
}

// progress shows how a release goes. Its methods are called one at a time.
type progress interface {
	// say tells what happens here, beside the release's own trail.
	say(message string)
	// event shows one line of the release's trail.
	event(e client.Event)
	// state shows how the release stands.
	state(r client.Release)
	// close leaves the display as it is to stay.
	close()
}

// runRelease runs a service's build, tests and reports here, takes them to the
// server as a release, and returns the release when it has ended, whatever
// its outcome. A release that could not be created, since its build failed
// without a digest, is exitCode(exitBlocked); when ctx ends first, the release
// goes on and the error is ctx's.
func (a *app) runRelease(ctx context.Context, c *client.Client, svc config.Service, o runOptions) (client.Release, error) {
	return client.Release{}, errors.ErrUnsupported
}

// watch follows a release from after on until it has ended.
func (a *app) watch(ctx context.Context, c *client.Client, id string, after int64, p progress) (client.Release, error) {
	return client.Release{}, errors.ErrUnsupported
}

var _ = time.Second
