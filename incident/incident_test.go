package incident_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/incident"
)

var update = flag.Bool("update", false, "rewrite golden files")

const secret = "T0/B0/s3cret"

// receiver is a webhook that answers what its test says and keeps what it got.
type receiver struct {
	mu     sync.Mutex
	answer func(n int) (int, error) // of the n-th request, from 1
	got    []message
}

type message struct {
	at                time.Time
	Status, Version   string
	GroupLabels       map[string]string
	CommonAnnotations map[string]string
	Alerts            []struct {
		Status, Fingerprint string
		Labels, Annotations map[string]string
		StartsAt, EndsAt    time.Time
	}
}

// says is the message in short: status and alert names with the status of each.
func (m message) says() string {
	out := m.Status + ":"
	for _, a := range m.Alerts {
		out += " " + a.Labels["alertname"] + "/" + a.Labels["release_id"] + "=" + a.Status
		if a.Annotations["escalation"] != "" {
			out += "!"
		}
	}
	return out
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	m := message{at: time.Now()}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.got = append(r.got, m)
	n := len(r.got)
	r.mu.Unlock()
	code := http.StatusOK
	if r.answer != nil {
		if code, err = r.answer(n); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: code, Body: http.NoBody, Request: req}, req.Context().Err()
}

func (r *receiver) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, m := range r.got {
		out = append(out, m.says())
	}
	return out
}

func (r *receiver) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := r.said(); !slices.Equal(got, want) {
		t.Errorf("the receiver got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// start runs a notifier inside a bubble until the test ends or stop is called.
func start(t *testing.T, cfg incident.Config) (n *incident.Notifier, stop func()) {
	t.Helper()
	if cfg.Transport != nil {
		cfg.Webhook = "https://hooks.example.com/" + secret
	}
	n, err := incident.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return n, stop
}

func event(kind string, v headgate.Verdict, release string) headgate.Event {
	return headgate.Event{Time: time.Now(), Kind: kind, ReleaseID: release, Service: "bidding", Verdict: v, Message: "because"}
}

func raised(t *testing.T, ev headgate.Event) alert.Alert {
	t.Helper()
	a, ok := alert.FromEvent(ev, alert.Service{
		Name: "bidding", OnCall: "primary", LatestChange: alert.Change{ReleaseID: ev.ReleaseID, Version: "2.1.0"},
	})
	if !ok {
		t.Fatalf("%s raises nothing", ev.Kind)
	}
	return a
}

func overdueRollback(t *testing.T, release string) alert.Alert {
	t.Helper()
	return raised(t, event("rollback_deadline_exceeded", headgate.Fail, release))
}

func broken(t *testing.T, release string) alert.Alert {
	t.Helper()
	return raised(t, event("canary_verdict", headgate.Broken, release))
}

func TestAnAlertIsToldOnceAndSoIsItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(broken(t, "rel_1"))
		r.expect(t, "firing: telemetry_broken/rel_1=firing")

		time.Sleep(time.Minute)
		n.Notify(broken(t, "rel_1"))
		n.Resolve(event("canary_verdict", headgate.Broken, "rel_1"))
		r.expect(t, "firing: telemetry_broken/rel_1=firing")

		n.Resolve(event("canary_verdict", headgate.Pass, "rel_1"))
		r.expect(t, "firing: telemetry_broken/rel_1=firing", "resolved: telemetry_broken/rel_1=resolved")
		if end := r.got[1].Alerts[0].EndsAt; !end.Equal(time.Now()) {
			t.Errorf("ended at %s, want %s", end, time.Now())
		}
		time.Sleep(time.Hour)
		n.Resolve(event("canary_verdict", headgate.Pass, "rel_1"))
		n.Notify(broken(t, "rel_1"))
		r.expect(t, "firing: telemetry_broken/rel_1=firing", "resolved: telemetry_broken/rel_1=resolved", "firing: telemetry_broken/rel_1=firing")
		if c := n.Counts(); c != (incident.Counts{Repeated: 1, Delivered: 3}) {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestAlertsOfOneNameAreOneMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(broken(t, "rel_1"))
		synctest.Wait()
		n.Notify(broken(t, "rel_2"))
		synctest.Wait()
		n.Resolve(event("release_promoted", headgate.Pass, "rel_1"))
		synctest.Wait()
		n.Resolve(event("release_promoted", headgate.Pass, "rel_2"))
		r.expect(t,
			"firing: telemetry_broken/rel_1=firing",
			"firing: telemetry_broken/rel_1=firing telemetry_broken/rel_2=firing",
			"firing: telemetry_broken/rel_1=resolved telemetry_broken/rel_2=firing",
			"resolved: telemetry_broken/rel_2=resolved")
	})
}

// TestAnAlertThatIsOverAtOnceIsStillTold: a leak that blocks its release is
// found and over within one transaction.
func TestAnAlertThatIsOverAtOnceIsStillTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: failFor(20 * time.Second)}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(broken(t, "rel_1"))
		n.Resolve(event("release_aborted", headgate.Fail, "rel_1"))
		time.Sleep(5 * time.Minute)
		said := r.said()
		want := []string{"firing: telemetry_broken/rel_1=firing", "resolved: telemetry_broken/rel_1=resolved"}
		if len(said) < 4 || !slices.Equal(said[len(said)-2:], want) {
			t.Errorf("got %q", said)
		}
	})
}

func failFor(d time.Duration) func(int) (int, error) {
	end := time.Now().Add(d)
	return func(int) (int, error) {
		if time.Now().Before(end) {
			return http.StatusServiceUnavailable, nil
		}
		return http.StatusOK, nil
	}
}

func TestADeafReceiverIsTriedAgainLessAndLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refusals := []func() (int, error){
			func() (int, error) { return 0, errors.New("connection refused") },
			func() (int, error) { return http.StatusTooManyRequests, nil },
			func() (int, error) { return 0, context.DeadlineExceeded },
			func() (int, error) { return http.StatusBadGateway, nil },
		}
		r := &receiver{answer: func(i int) (int, error) { return refusals[i%len(refusals)]() }}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(broken(t, "rel_1"))
		time.Sleep(time.Hour)

		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.got) < 30 {
			t.Errorf("%d attempts in an hour", len(r.got))
		}
		var longest time.Duration
		for i, m := range r.got[1:] {
			longest = max(longest, m.at.Sub(r.got[i].at))
		}
		if first := r.got[1].at.Sub(r.got[0].at); first > time.Second || longest < 30*time.Second || longest > 2*time.Minute {
			t.Errorf("first wait %s, longest %s", first, longest)
		}
	})
}

func TestAReceiverThatRefusesIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusMovedPermanently, http.StatusUnauthorized, http.StatusNotFound} {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: func(int) (int, error) { return code, nil }}
			n, _ := start(t, incident.Config{Transport: r})
			n.Notify(broken(t, "rel_1"))
			time.Sleep(5 * time.Minute)
			r.expect(t, "firing: telemetry_broken/rel_1=firing")
			if c := n.Counts(); c.Refused != 1 || c.Failed != 0 {
				t.Errorf("%d: counts %+v", code, c)
			}
		})
	}
}

func TestPastItsDeadlineAnAlertIsToldOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(overdueRollback(t, "rel_1"))
		time.Sleep(4*time.Minute + 59*time.Second)
		r.expect(t, "firing: rollback_overdue/rel_1=firing")
		time.Sleep(time.Second)
		r.expect(t, "firing: rollback_overdue/rel_1=firing", "firing: rollback_overdue/rel_1=firing!")
		if s := r.got[1].Alerts[0].Annotations["summary"]; !strings.HasPrefix(s, "not over after 5 minutes") {
			t.Errorf("summary %q", s)
		}
		time.Sleep(24 * time.Hour)
		n.Resolve(event("rollback_finished", headgate.Pass, "rel_1"))
		r.expect(t, "firing: rollback_overdue/rel_1=firing", "firing: rollback_overdue/rel_1=firing!", "resolved: rollback_overdue/rel_1=resolved")
	})
}

func TestAnAlertThatIsOverInTimeIsNotEscalated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(overdueRollback(t, "rel_1"))
		time.Sleep(4 * time.Minute)
		n.Resolve(event("rollback_finished", headgate.Pass, "rel_1"))
		time.Sleep(time.Hour)
		r.expect(t, "firing: rollback_overdue/rel_1=firing", "resolved: rollback_overdue/rel_1=resolved")
	})
}

func TestTheMostSevereGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: failFor(time.Second)}
		n, _ := start(t, incident.Config{Transport: r})
		n.Notify(raised(t, event("release_inconclusive", headgate.Fail, "rel_1")))
		n.Notify(broken(t, "rel_1"))
		n.Notify(overdueRollback(t, "rel_1"))
		r.expect(t, "firing: rollback_overdue/rel_1=firing", "firing: telemetry_broken/rel_1=firing", "firing: release_inconclusive/rel_1=firing")
	})
}

// TestNobodyWaits: without Run, and full, the caller goes on.
func TestNobodyWaits(t *testing.T) {
	t.Parallel()
	n, err := incident.New(incident.Config{Webhook: "http://192.0.2.1/", Capacity: 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		n.Notify(broken(t, fmt.Sprintf("rel_%d", i)))
		n.Resolve(event("canary_verdict", headgate.Pass, fmt.Sprintf("rel_%d", i)))
	}
	if c := n.Counts(); c.Dropped != 990 {
		t.Errorf("counts %+v", c)
	}
}

// TestRoomComesBack: an end that was told makes room again.
func TestRoomComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, _ := start(t, incident.Config{Transport: &receiver{}, Capacity: 1})
		for i := range 20 {
			release := fmt.Sprintf("rel_%d", i)
			n.Notify(broken(t, release))
			n.Resolve(event("canary_verdict", headgate.Pass, release))
			synctest.Wait()
		}
		if c := n.Counts(); c.Dropped != 0 || c.Delivered != 40 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestOldAlertsMakeRoom: alerts that nobody ends do not keep new ones out.
func TestOldAlertsMakeRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		n, _ := start(t, incident.Config{Transport: r, Capacity: 2})
		n.Notify(overdueRollback(t, "rel_1"))
		time.Sleep(time.Minute)
		n.Notify(overdueRollback(t, "rel_2"))
		n.Notify(broken(t, "rel_3"))
		if c := n.Counts(); c.Dropped != 1 {
			t.Errorf("before the deadlines: counts %+v", c)
		}
		time.Sleep(10 * time.Minute)
		n.Notify(broken(t, "rel_3"))
		synctest.Wait()
		n.Resolve(event("rollback_finished", headgate.Pass, "rel_1")) // let go
		n.Resolve(event("rollback_finished", headgate.Pass, "rel_2"))
		synctest.Wait()
		said := r.said()
		want := []string{"firing: telemetry_broken/rel_3=firing", "resolved: rollback_overdue/rel_2=resolved"}
		if !slices.Equal(said[len(said)-2:], want) || n.Counts().Dropped != 1 {
			t.Errorf("got %q, counts %+v", said, n.Counts())
		}
	})
}

func TestWhatIsLeftIsSentBeforeTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: failFor(30 * time.Second)}
		n, stop := start(t, incident.Config{Transport: r})
		n.Notify(broken(t, "rel_1"))
		time.Sleep(35 * time.Second)
		before := len(r.said())
		n.Notify(broken(t, "rel_2")) // waits with rel_1 for the next attempt
		stop()
		said := r.said()
		if got := said[len(said)-1]; !strings.Contains(got, "rel_2=firing") || len(said) < before {
			t.Errorf("last said %q", got)
		}
	})
}

func TestTheEndIsNotHeldUpByADeafReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(int) (int, error) { return 0, errors.New("no route to host") }}
		n, stop := start(t, incident.Config{Transport: r})
		n.Notify(broken(t, "rel_1"))
		n.Notify(overdueRollback(t, "rel_1"))
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopping took %s", took)
		}
	})
}

func TestWithoutAWebhookAlertsAreLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n, stop := start(t, incident.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		n.Notify(overdueRollback(t, "rel_1"))
		time.Sleep(6 * time.Minute)
		n.Resolve(event("rollback_finished", headgate.Pass, "rel_1"))
		synctest.Wait()
		stop()
		for _, want := range []string{"level=WARN msg=alert ", "severity=P0", "on_call=primary", "runbook=docs/runbooks/", `level=ERROR msg="alert is past its deadline"`, `msg="alert is over"`} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, &log)
			}
		}
		if c := n.Counts(); c != (incident.Counts{}) {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestTheAddressIsInNoLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		answers := []func() (int, error){
			func() (int, error) { return 0, errors.New("connection refused") },
			func() (int, error) { return http.StatusInternalServerError, nil },
			func() (int, error) { return http.StatusForbidden, nil },
		}
		r := &receiver{answer: func(n int) (int, error) { return answers[min(n, len(answers))-1]() }}
		n, stop := start(t, incident.Config{Transport: r, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		n.Notify(broken(t, "rel_1"))
		time.Sleep(time.Minute)
		stop()
		if strings.Contains(log.String(), "s3cret") || !strings.Contains(log.String(), "receiver=hooks.example.com") {
			t.Errorf("log:\n%s", &log)
		}
		if !strings.Contains(log.String(), "connection refused") || !strings.Contains(log.String(), "answers 403") {
			t.Errorf("the log does not say why:\n%s", &log)
		}
	})
	for _, address := range []string{"ftp://hooks.example.com/" + secret, "hooks.example.com/" + secret, "https:///" + secret, "http://[::1/" + secret} {
		_, err := incident.New(incident.Config{Webhook: address})
		if !errors.Is(err, &headgate.Error{Code: headgate.CodeConfigInvalid}) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestPayload sends over real HTTP and compares with what is documented.
func TestPayload(t *testing.T) {
	t.Parallel()
	bodies := make(chan []byte, 10)
	moved := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed")
	}))
	defer moved.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/"+secret || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		bodies <- body
		http.Redirect(w, r, moved.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()

	n, err := incident.New(incident.Config{Webhook: server.URL + "/" + secret, ExternalURL: "https://headgate.example.com/"})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().UTC().Truncate(time.Second)
	for _, release := range []string{"rel_1", "rel_2"} {
		ev := event("rollback_triggered", headgate.Fail, release)
		ev.Time, ev.TenantID, ev.Data = at, "acme", map[string]any{"reasons": []string{"CANARY_ERRORS_WORSE"}}
		n.Notify(raised(t, ev))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	var body []byte
	select {
	case body = <-bodies:
	case <-time.After(time.Minute):
		t.Fatal("nothing arrived")
	}
	cancel()
	<-done

	var pretty bytes.Buffer
	if err := json.Indent(&pretty, body, "", "  "); err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer(
		at.Format(time.RFC3339), "<start>", at.Add(15*time.Minute).Format(time.RFC3339), "<deadline>",
	).Replace(pretty.String()) + "\n"
	const golden = "testdata/payload.json"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("payload:\n%s\nwant:\n%s", got, want)
	}
}
