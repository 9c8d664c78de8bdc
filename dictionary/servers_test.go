package dictionary_test

import (
	"cmp"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/internal/needs"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/metrics"
)

// startServer runs a metric server until the test ends. args has %s for the
// address and the data folder in this order.
func startServer(t *testing.T, program, debianPackage string, args ...string) (r *metrics.Remote, base string) {
	t.Helper()
	path := needs.Program(t, program, debianPackage)
	addr := needs.Addrs(t, 1)[0]
	for i := range args {
		args[i] = strings.NewReplacer("ADDR", addr, "DIR", t.TempDir()).Replace(args[i])
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the kill is the expected end
	})
	var err error
	if r, err = metrics.NewRemote("http://"+addr, nil, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, _, err := r.Number(t.Context(), "vector(1)", time.Now()); err == nil {
			return r, "http://" + addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer", program)
		}
	}
}

func prometheus(t *testing.T) (*metrics.Remote, string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(config, []byte("global: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return startServer(t, "prometheus", "prometheus", "--config.file="+config, "--storage.tsdb.path=DIR",
		"--web.listen-address=ADDR", "--web.enable-remote-write-receiver", "--log.level=error")
}

func victoriaMetrics(t *testing.T) (*metrics.Remote, string) {
	t.Helper()
	return startServer(t, "victoria-metrics", "victoria-metrics", "-storageDataPath=DIR", "-httpListenAddr=ADDR",
		"-search.latencyOffset=1ms", "-loggerLevel=ERROR")
}

// perSecond are the figures that VictoriaMetrics has differently while a
// process is younger than the window: it divides by the time that the samples
// cover. Ratios and quantiles are the same; no gate asks for these.
var perSecond = []string{
	"api_request_rate", "control_decision_rate", "gate_evaluation_rate", "telemetry_received_rate", "telemetry_dropped_rate",
}

// flush lets VictoriaMetrics show what was written, for it remembers for ten
// seconds that it found nothing.
func flush(t *testing.T, base string) {
	t.Helper()
	res, err := http.Get(base + "/internal/force_flush")
	if err != nil || res.Body.Close() != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
}

// TestServersAnswerAsTheStoreDoes writes the same to the embedded store and to
// real servers, and asks all of them for every figure of the dictionary.
func TestServersAnswerAsTheStoreDoes(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) (*metrics.Remote, string){"prometheus": prometheus, "victoria-metrics": victoriaMetrics} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := load(t, "")
			remote, base := start(t)
			store, err := metrics.Open(t.TempDir(), metrics.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			// The service begins now: a server of somebody else's may know an older
			// one's series already, and then they do not begin at zero.
			first := time.UnixMilli(time.Now().UnixMilli()).Add(30 * time.Second)
			now := first.Add(15 * time.Second)
			for _, at := range []time.Time{first, now} {
				for tenant, version := range map[string]string{"acme": "v2", "globex": "v1"} {
					for what, to := range map[string]telemetry.MetricSink{"store": store, "server": remote} {
						if r, err := to.AppendMetrics(t.Context(), "", newService(t, d, tenant, version, at).reference("bea").md); err != nil || r.Count != 0 {
							t.Fatal(what, r, err)
						}
					}
				}
			}
			if name == "victoria-metrics" {
				flush(t, base)
			}
			const all = `count({service_name="bidding"})`
			written, _, err := store.Number(t.Context(), all, now)
			if err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
				if n, _, err := remote.Number(t.Context(), all, now); err == nil && n == written {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the server does not show what was written")
				}
			}
			for _, f := range d.Figures() {
				loose := name == "victoria-metrics" && slices.Contains(perSecond, f.Name)
				for what, scope := range map[string]dictionary.Scope{
					"tenant":  {Tenant: "acme"},
					"version": {Service: "bidding", Version: "v2", Environment: "staging", Window: time.Minute},
					"nobody":  {Tenant: "initech"},
				} {
					q, err := d.Query(f.Name, scope)
					if err != nil {
						t.Fatal(err)
					}
					same(t, f.Name+" by "+what, q, now, store, remote, loose)
				}
				q, err := d.QueryBy(f.Name, dictionary.Scope{Service: "bidding"}, "service_version", "tenant_id")
				if err != nil {
					t.Fatal(err)
				}
				same(t, f.Name+" per version", q, now, store, remote, loose)
			}
			if name == "prometheus" {
				recordThere(t, d, remote)
			}
		})
	}
}

// recordThere lets the server's figures be recorded by the dictionary's rules.
func recordThere(t *testing.T, d *dictionary.Dictionary, remote *metrics.Remote) {
	t.Helper()
	text, err := d.Rules()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.RunRules(text, time.Second, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	recorded := dictionary.RecordName("total_jobs") + `{service_name="bidding"}`
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if n, err := remote.Instant(t.Context(), recorded, time.Now()); err == nil && len(n) == 2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the rules record nothing there")
		}
	}
}

// A restart of Headgate does not let an alert on metrics that another server
// keeps begin anew, unless it had ended.
func TestAlertsKeepTheirClockInOtherServers(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) (*metrics.Remote, string){"prometheus": prometheus, "victoria-metrics": victoriaMetrics} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := load(t, "")
			remote, base := start(t)
			letters := func(n float64) {
				if _, err := remote.AppendMetrics(t.Context(), "", newService(t, d, "acme", "v1", time.Now()).number("bea.dlq.open", n, nil).md); err != nil {
					t.Fatal(err)
				}
			}
			letters(1)
			// run evaluates the rule until the alert fires, and with ends until it
			// has ended, and returns since when it fires. The clock is read at the
			// second evaluation; the wait is longer than a machine may stall before
			// it. VictoriaMetrics hides what is newer than a second.
			run := func(ends bool) (since time.Time) {
				if name == "victoria-metrics" {
					flush(t, base)
				}
				r, err := metrics.NewRemote(base, nil, 0)
				if err != nil {
					t.Fatal(err)
				}
				told := make(chan metrics.Alert, 1000)
				const text = "groups: [{name: g, rules: [{alert: A, expr: 'max(bea_dlq_open) > 0', for: 6s}]}]"
				if err := r.RunRules([]byte(text), 700*time.Millisecond, slog.New(slog.DiscardHandler), func(a metrics.Alert) { told <- a }); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				}()
				for deadline := time.After(time.Minute); ; {
					select {
					case a := <-told:
						if since = a.Fired; ends && a.Resolved.IsZero() {
							letters(0)
						} else {
							return since
						}
					case <-deadline:
						t.Fatal("the alert does not fire or end")
					}
				}
			}
			first := run(false)
			if again := run(true); again.Unix() != first.Unix() {
				t.Errorf("fires since %v after a restart, since %v before", again, first)
			}
			ended := time.Now()
			letters(2)
			if anew := run(false); anew.Before(ended.Truncate(time.Second)) {
				t.Errorf("fires since %v although it ended at %v", anew, ended)
			}
		})
	}
}

// same compares the answers of the store and the server to one query, at one
// time and over a range; loosely, only whether there is one.
func same(t *testing.T, what, query string, at time.Time, store *metrics.Store, server *metrics.Remote, loose bool) {
	t.Helper()
	want, err := store.Instant(t.Context(), query, at)
	if err != nil {
		t.Fatal(err)
	}
	got, err := server.Instant(t.Context(), query, at)
	if err != nil || len(got) != len(want) {
		t.Errorf("%s: %v, %v; want %v\n%s", what, got, err, want, query)
		return
	}
	byVersion := func(a, b metrics.Sample) int {
		return cmp.Compare(a.Labels["service_version"], b.Labels["service_version"])
	}
	slices.SortFunc(want, byVersion)
	slices.SortFunc(got, byVersion)
	for i := range want {
		if w, g := want[i], got[i]; !loose && math.Abs(g.Value-w.Value) > 1e-9*max(1, math.Abs(w.Value)) {
			t.Errorf("%s: %v; want %v\n%s", what, g, w, query)
		}
	}
	lines, err := store.Range(t.Context(), query, at, at, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if others, err := server.Range(t.Context(), query, at, at, time.Second); err != nil || len(others) != len(lines) {
		t.Errorf("range of %s: %d lines, want %d, %v", what, len(others), len(lines), err)
	}
}
