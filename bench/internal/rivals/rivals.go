//go:build unix

// Package rivals runs Headgate and other people's programs side by side for a
// benchmark: it starts them, loads them in turn, so that a busy machine is busy
// for all, and compares. What it starts ends with the benchmark.
package rivals

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"
)

const (
	rounds = 4
	// Seconds is how long a slice of load is.
	Seconds = "2"
	// Connections are kept open by the load generator.
	Connections = "64"
)

// Need skips the benchmark when a program is missing, and says how to get it.
func Need(b *testing.B, program, how string) {
	b.Helper()
	if _, err := exec.LookPath(program); err != nil {
		b.Skipf("%s is not installed; get it with: %s", program, how)
	}
}

// Run starts a program until the benchmark ends, with env added to this
// process's environment.
func Run(b *testing.B, env []string, name string, args ...string) {
	b.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		stop := time.AfterFunc(2*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		stop.Stop()
		if b.Failed() {
			b.Logf("%s says: %s", name, log.String())
		}
	})
}

// Addresses are free ones that no outgoing connection takes first.
func Addresses(b *testing.B, n int) []string {
	b.Helper()
	var out []string
	for range 1000 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err != nil {
			continue
		}
		defer ln.Close()
		if out = append(out, ln.Addr().String()); len(out) == n {
			return out
		}
	}
	b.Fatal("no free ports")
	return nil
}

// Await waits until somebody listens on each address.
func Await(b *testing.B, addrs ...string) {
	b.Helper()
	for _, addr := range addrs {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
				break
			}
			if time.Now().After(deadline) {
				b.Fatalf("nobody listens on %s: %v", addr, err)
			}
		}
	}
}

// Result is one slice of load.
type Result struct {
	Rate float64 // requests a second
	P99  float64 // milliseconds; 0 when the generator does not tell
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkP99    = regexp.MustCompile(`99%\s+([0-9.]+)(us|ms|s)`)
	wrkFailed = regexp.MustCompile(`(?m)^\s*(Non-2xx.*|Socket errors.*)$`)
)

// Wrk loads an address with wrk for a slice; args end with the address. An
// answer that is no 2xx or 3xx ends the benchmark.
func Wrk(b *testing.B, args ...string) Result {
	b.Helper()
	out := Output(b, "wrk", append([]string{"-t1", "-c" + Connections, "-d" + Seconds, "--latency"}, args...)...)
	if failed := wrkFailed.FindString(out); failed != "" {
		b.Fatalf("%s: %s", args[len(args)-1], failed)
	}
	p99 := wrkP99.FindStringSubmatch(out)
	if p99 == nil {
		b.Fatalf("wrk says %s", out)
	}
	return Result{Number(b, wrkRate, out), float(b, p99[1]) * map[string]float64{"us": 0.001, "ms": 1, "s": 1000}[p99[2]]}
}

// Output runs a program that ends, within a minute, and returns what it
// printed.
func Output(b *testing.B, name string, args ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v %s", name, err, out)
	}
	return string(out)
}

// Number is what re finds in text.
func Number(b *testing.B, re *regexp.Regexp, text string) float64 {
	b.Helper()
	found := re.FindStringSubmatch(text)
	if found == nil {
		b.Fatalf("no %s in %s", re, text)
	}
	return float(b, found[1])
}

func float(b *testing.B, text string) float64 {
	b.Helper()
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// Compare loads Headgate and its rivals in turn, by name and address, and
// reports their rates, and Headgate's rate and p99 as multiples of each
// rival's.
func Compare(b *testing.B, addrs map[string]string, load func(addr string) Result) {
	b.Helper()
	sums := map[string]Result{}
	for range rounds {
		for name, addr := range addrs {
			r := load(addr)
			sums[name] = Result{sums[name].Rate + r.Rate, sums[name].P99 + r.P99}
		}
	}
	mine := sums["headgate"]
	for name, sum := range sums {
		b.ReportMetric(sum.Rate/rounds, name+"-req/s")
		if name == "headgate" {
			continue
		}
		b.ReportMetric(mine.Rate/sum.Rate, "x-"+name)
		if sum.P99 > 0 {
			b.ReportMetric(mine.P99/sum.P99, "p99-x-"+name)
		}
	}
}
