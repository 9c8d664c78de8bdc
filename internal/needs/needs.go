// Package needs finds the foreign programs that tests run against, and ports
// for them. It owns two promises: where CI says that everything is installed, a
// missing program fails the test instead of skipping it, and a port given to
// one test is given to no other. Only tests import it.
package needs

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// ci is set by .ci/run, which installs every program that a test needs.
const ci = "HEADGATE_CI"

// Program returns the path of a program that a Debian package has. Without it,
// the test is skipped with a line that says how to get it, or fails in CI.
func Program(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv(ci) != "":
		t.Fatalf("%s is not installed; add %s:%s to .ci/run", name, debian, name)
	default:
		t.Skipf("%s is not installed; get it with: apt-get install -y %s", name, debian)
	}
	return path
}

// Addrs returns n loopback addresses for processes to listen on by TCP until the
// test ends, each as often as it likes. They lie below the ports that kernels
// take for outgoing connections and for port 0, and the UDP port of the same
// number is held meanwhile, so that no test of any package gets one a second
// time.
func Addrs(t testing.TB, n int) []string {
	t.Helper()
	// A child being started meanwhile would hold the listeners below after they
	// are closed, until it runs its program.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var out []string
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000))
		held, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		free, err := net.Listen("tcp", addr)
		if err != nil {
			_ = held.Close()
			continue
		}
		_ = free.Close() // nobody has connected
		t.Cleanup(func() { _ = held.Close() })
		if out = append(out, addr); len(out) == n {
			return out
		}
	}
	t.Fatal("no free ports")
	return nil
}
