package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/headgate/headgate"
)

// readyTimeout bounds how long a child process may take to serve, stopGrace
// how long it may take to stop before it is killed.
const (
	readyTimeout = 30 * time.Second
	stopGrace    = 5 * time.Second
)

// child is this program running as another process.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	// URL is what the process printed when it was ready.
	URL string
}

// startChild runs this program with args. What it says on stderr goes to a
// file in logs. With ready set it returns once the process printed "ready URL".
func startChild(ctx context.Context, logs, name string, ready bool, env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The process outlives ctx only until stop, which sends SIGTERM first.
	cmd := exec.Command(self, args...) //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = log
	dieWithParent(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	lines := make(chan string, 1)
	go func() {
		defer close(c.done)
		s := bufio.NewScanner(out)
		for s.Scan() {
			if url, ok := strings.CutPrefix(s.Text(), "ready "); ok {
				lines <- url
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // how it ended is in its log
	}()
	if !ready {
		return c, nil
	}
	return c, c.awaitReady(ctx, lines, log.Name())
}

func (c *child) awaitReady(ctx context.Context, lines <-chan string, log string) error {
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	var why string
	select {
	case url := <-lines:
		c.URL, _, _ = strings.Cut(url, " ")
		return nil
	case <-c.done:
		why = "ended"
	case <-timeout.C:
		why = "was not ready in time"
	case <-ctx.Done():
		why = "was not waited for"
	}
	c.stop()
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "%s %s: %s", c.name, why, lastLine(log))
}

// stop asks the process to end and kills it when it does not.
func (c *child) stop() {
	if c == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // already gone is fine
	select {
	case <-c.done:
	case <-time.After(stopGrace):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// lastLine is the last thing that a log says.
func lastLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return "its log is empty"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// The ports that freeAddrs tries lie below those that systems give to outgoing
// connections, so that none of the demo's own takes one before it is used.
const (
	firstPort = 15000
	ports     = 15000
)

// freeAddrs are n loopback addresses that nobody listened on just now.
func freeAddrs(n int) ([]string, error) {
	var out []string
	var open []net.Listener
	for tries := 0; len(out) < n; tries++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(ports)))
		if err != nil {
			if tries > 10*n+100 {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
			continue
		}
		open = append(open, ln)
		out = append(out, ln.Addr().String())
	}
	for _, ln := range open {
		if err := ln.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
