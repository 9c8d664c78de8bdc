package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/headgate/headgate/config"
)

const (
	// maxOutputLine bounds a line of a command's output; a longer one is cut
	// into several.
	maxOutputLine = 8 << 10
	// killGrace is how long output may stay open after a command was killed.
	killGrace = 2 * time.Second
)

// command is an argument vector of the service description, ready to run.
type command struct {
	name    string // prefix of what it prints
	argv    []string
	dir     string
	environ []string
	timeout time.Duration
	log     io.Writer
}

// result is how a command ended. Only a context that ended is an error; all
// that the command did is a result.
type result struct {
	ok bool
	// why says why it is not ok.
	why string
	// stdout is the last line that the command printed there.
	stdout string
	took   time.Duration
}

// run runs the command without a shell. When the time is up, or ctx ends, it
// and all that it started are killed.
func (c command) run(ctx context.Context) (result, error) {
	start := time.Now()
	rctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cmd := exec.CommandContext(rctx, c.argv[0], c.argv[1:]...) //nolint:gosec // what the description's owner wrote, without a shell
	cmd.Dir, cmd.Env = c.dir, c.environ
	cmd.WaitDelay = killGrace
	inGroup(cmd)
	out := &commandOutput{w: c.log, prefix: c.name}
	stdout, stderr := &stream{commandOutput: out}, &stream{commandOutput: out}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	stdout.flush()
	stderr.flush()
	res := result{ok: err == nil, stdout: stdout.last, took: time.Since(start)}
	switch {
	case ctx.Err() != nil:
		return res, ctx.Err()
	case errors.Is(rctx.Err(), context.DeadlineExceeded):
		res.ok, res.why = false, fmt.Sprintf("%s took longer than %v and was stopped", c.argv[0], c.timeout)
	case err != nil && cmd.Process == nil:
		res.why = fmt.Sprintf("%s cannot be run: %v", c.argv[0], err)
	case err != nil:
		// Which of two streams spoke last cannot be told; errors belong on one.
		res.why = cmp.Or(stderr.last, stdout.last, fmt.Sprintf("%s ended with %v and printed nothing", c.argv[0], err))
	}
	return res, nil
}

// commandOutput is where both streams of a command go, line by line.
type commandOutput struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string
}

// stream is one of a command's streams.
type stream struct {
	*commandOutput
	partial []byte
	last    string
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partial = append(s.partial, p...)
	for {
		n := bytes.IndexByte(s.partial, '\n')
		if n < 0 && len(s.partial) < maxOutputLine {
			return len(p), nil
		}
		if n < 0 {
			n = len(s.partial) - 1
		}
		s.line(s.partial[:n+1])
		s.partial = s.partial[n+1:]
	}
}

func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.partial) > 0 {
		s.line(s.partial)
	}
	s.partial = nil
}

func (s *stream) line(b []byte) {
	text := strings.TrimRightFunc(strings.ToValidUTF8(string(b), "\uFFFD"), unicode.IsSpace)
	if plain := printable(text); plain != "" {
		s.last = plain
	}
	if s.w != nil {
		fmt.Fprintf(s.w, "%s | %s\n", s.prefix, text)
	}
}

// escapes are a terminal's escape sequences: colours, titles and the like.
var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)`)

// printable makes one safe line of text that somebody else wrote: no escape
// sequences, no control characters, and not too long.
func printable(s string) string {
	s = escapes.ReplaceAllString(s, "")
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s))
	if runes := []rune(s); len(runes) > maxSummary {
		return string(runes[:maxSummary-1]) + "…"
	}
	return s
}

// maxSummary is how much of a text the server keeps.
const maxSummary = 300

// commandEnviron is what commands get to see: not the client's credential.
func (a *app) commandEnviron() []string {
	return slices.DeleteFunc(slices.Clone(a.environ), func(line string) bool {
		return strings.HasPrefix(line, tokenVariable+"=")
	})
}

// prepare fills in a command of the description.
func (r *run) prepare(name string, c config.Command) (command, error) {
	argv, err := config.Expand(c.Run, r.values())
	if err != nil {
		return command{}, err
	}
	return command{
		name: name, argv: argv, dir: r.svc.Dir, environ: r.app.commandEnviron(), timeout: c.Timeout, log: r.o.log,
	}, nil
}
