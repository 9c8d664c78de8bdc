package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/server"
)

// behindHAProxy gives users of a real HAProxy a candidate and kills the control
// plane: HAProxy ends the share by itself, and no user meets an error.
func behindHAProxy(t *testing.T, w *world) {
	needs.Program(t, "haproxy", "haproxy")
	const id = "rel-haproxy"
	dir, err := os.MkdirTemp("", "haproxy") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := newPlane(t, w, goodVersion, planeOptions{canary: longCanary, rps: userRPS, haproxy: dir})
	p.toCanary(t, id, goodVersion)
	p.awaitTick(t, id)
	p.dies(t)
	p.noneFailed(t, time.Time{})
}

// startHAProxy starts HAProxy as the operator does.
func (p *plane) startHAProxy(t *testing.T) {
	t.Helper()
	write := launch(t, nil, "config", "haproxy", p.description)
	if code := write.wait(t); code != exitPassed {
		t.Fatalf("config haproxy ended with %d: %s", code, write.stderr.String())
	}
	file := strings.TrimSpace(write.stdout.String())
	run := launchCommand(t, nil, exec.Command(needs.Program(t, "haproxy", "haproxy"), "-db", "-f", file))
	svc, err := config.Load(p.description)
	if err != nil {
		t.Fatal(err)
	}
	r, err := server.HAProxy(svc)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "HAProxy", func() bool {
		if run.ended() {
			t.Fatalf("haproxy ended: %s", run.stderr.String())
		}
		_, err := r.Status(t.Context())
		return err == nil
	})
	p.router = r
}
