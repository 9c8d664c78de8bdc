// Package routertest is the conformance suite that every [rollout.Router]
// passes. It drives real traffic through the router under test; it never looks
// inside it.
package routertest

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

// Dead is a URL at which connections are refused. It is no port that was free a
// moment ago: another test might have it by now.
const Dead = "http://127.0.0.1:1"

// Service is the name of the service that the suite splits.
const Service = "bidding"

// Serve runs a proxy on a free port until the test ends, and returns its URL.
func Serve(t testing.TB, p interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
},
) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return "http://" + ln.Addr().String()
}

// Guarantee is something that a router may say it does not give. All others are
// every router's.
type Guarantee string

// What a router may lack.
const (
	Sticky   Guarantee = "keeping sessions where they are"
	Counting Guarantee = "counting requests, errors and latency"
	Failover Guarantee = "answering from stable while the candidate is dead"
)

// Setup is a router under test, all its traffic on the stable backend it was
// started with.
type Setup struct {
	Router rollout.Router
	// URL is where users' requests go.
	URL string
	// Lacks lists what the router's documentation says that it does not give;
	// these tests are skipped.
	Lacks []Guarantee
}

// Start starts a router whose splits all carry the lease ttl, and registers its
// cleanup with t.
type Start func(t *testing.T, stable rollout.Backend, ttl time.Duration) Setup

// Exercise runs the suite, each test on a router of its own. Margin is how late
// after its end a lease may still be seen.
func Exercise(t *testing.T, margin time.Duration, start Start) {
	t.Helper()
	for _, tc := range []struct {
		name string
		ttl  time.Duration
		run  func(*testing.T, *bench)
		// of names the guarantee that is tested, if a router may lack it.
		of Guarantee
	}{
		{"apply reads back and lists both backends", rollout.MaxTTL, testReadBack, ""},
		{"an older epoch is refused", rollout.MaxTTL, testStaleEpoch, ""},
		{"a bad split changes nothing", rollout.MaxTTL, testInvalid, ""},
		{"an unrenewed lease returns to stable", time.Second, testLeaseExpiry, ""},
		{"renewal keeps the share", time.Second, testRenewal, ""},
		{"sessions stay where they are", rollout.MaxTTL, testSticky, Sticky},
		{"the share is accurate", rollout.MaxTTL, testShare, ""},
		{"who is not admitted never meets candidate", rollout.MaxTTL, testNotAdmitted, ""},
		{"counts add up", rollout.MaxTTL, testCounts, Counting},
		{"a dead candidate costs no safe request", rollout.MaxTTL, testDeadCandidate, Failover},
		{"promotion and rollback lose no request", rollout.MaxTTL, testSwitch, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := &bench{t: t, margin: margin, ttl: tc.ttl}
			b.stable = b.backend("v1", nil)
			b.candidate = b.backend("v2", nil)
			b.Setup = start(t, b.stable, tc.ttl)
			b.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
			t.Cleanup(b.client.CloseIdleConnections)
			if slices.Contains(b.Lacks, tc.of) {
				t.Skipf("this router is documented as not %s", tc.of)
			}
			tc.run(t, b)
		})
	}
}

type bench struct {
	Setup
	t                 *testing.T
	margin, ttl       time.Duration
	stable, candidate rollout.Backend
	client            *http.Client
}

// backend starts a server that answers with its version, or with status.
func (b *bench) backend(version string, status *atomic.Int32) rollout.Backend {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if status != nil {
			w.WriteHeader(int(status.Load()))
		}
		_, _ = io.WriteString(w, version)
	}))
	b.t.Cleanup(srv.Close)
	return rollout.Backend{Version: version, URL: srv.URL}
}

func (b *bench) split(epoch int64, share float64) rollout.Split {
	return rollout.Split{
		Service: Service, Epoch: epoch, ReleaseID: "rel_1", Stable: b.stable, Candidate: b.candidate,
		Share: share, Tenants: []string{"acme"}, Salt: "rel_1", TTL: b.ttl,
	}
}

func (b *bench) apply(s rollout.Split) rollout.Status {
	b.t.Helper()
	st, err := b.Router.Apply(b.t.Context(), s)
	if err != nil {
		b.t.Fatalf("apply epoch %d: %v", s.Epoch, err)
	}
	return st
}

func (b *bench) status() rollout.Status {
	b.t.Helper()
	st, err := b.Router.Status(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

// send returns the version that answered, or an error.
func (b *bench) send(method, tenant, session string) (string, error) {
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.URL+"/x", strings.NewReader(map[bool]string{true: "body"}[method == "POST"]))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Tenant-Id", tenant)
	req.Header.Set("X-Session-Id", session)
	resp, err := b.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return string(body), err
}

func (b *bench) get(tenant, session string) string {
	b.t.Helper()
	version, err := b.send("GET", tenant, session)
	if err != nil {
		b.t.Fatalf("request of %s/%s: %v", tenant, session, err)
	}
	return version
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return headgate.AsError(err).Code
}

func testReadBack(t *testing.T, b *bench) {
	applied := b.apply(b.split(1, 0.25))
	for _, st := range []rollout.Status{applied, b.status()} {
		if st.Service != Service || st.Epoch != 1 || st.ReleaseID != "rel_1" || st.BootID == "" {
			t.Errorf("status %+v does not name the split", st)
		}
		if math.Abs(st.Share-0.25) > 0.005 {
			t.Errorf("share %v, want 0.25", st.Share)
		}
		if st.LeaseRemaining <= b.ttl/2 || st.LeaseRemaining > b.ttl {
			t.Errorf("lease remaining %s, want just under %s", st.LeaseRemaining, b.ttl)
		}
		if len(st.Backends) != 2 || st.Backends[0].Backend != b.stable || st.Backends[0].Arm != headgate.Stable ||
			st.Backends[1].Backend != b.candidate || st.Backends[1].Arm != headgate.Candidate {
			t.Errorf("backends %+v, want stable and candidate", st.Backends)
		}
	}
}

func testStaleEpoch(t *testing.T, b *bench) {
	b.apply(b.split(5, 0))
	for _, epoch := range []int64{1, 4} {
		if _, err := b.Router.Apply(t.Context(), b.split(epoch, 1)); code(err) != headgate.CodeStaleEpoch {
			t.Errorf("epoch %d after 5: %v, want STALE_EPOCH", epoch, err)
		}
	}
	if _, err := b.Router.Apply(t.Context(), b.split(5, 1)); code(err) != headgate.CodeStaleEpoch {
		t.Errorf("another split under epoch 5: %v, want STALE_EPOCH", err)
	}
	b.apply(b.split(5, 0))
	if st := b.status(); st.Epoch != 5 || st.Share != 0 {
		t.Errorf("status %+v after stale splits, want epoch 5 and share 0", st)
	}
	if v := b.get("acme", "s"); v != "v1" {
		t.Errorf("answered by %s, want v1", v)
	}
}

func testInvalid(t *testing.T, b *bench) {
	b.apply(b.split(1, 0))
	for name, change := range map[string]func(*rollout.Split){
		"NaN":           func(s *rollout.Split) { s.Share = math.NaN() },
		"above one":     func(s *rollout.Split) { s.Share = 1.01 },
		"negative":      func(s *rollout.Split) { s.Share = -0.1 },
		"no candidate":  func(s *rollout.Split) { s.Candidate = rollout.Backend{} },
		"other service": func(s *rollout.Split) { s.Service = "other" },
		"endless lease": func(s *rollout.Split) { s.TTL = 24 * time.Hour },
		"bad URL":       func(s *rollout.Split) { s.Candidate.URL = "ftp://x/" },
	} {
		s := b.split(2, 0.5)
		change(&s)
		if _, err := b.Router.Apply(t.Context(), s); code(err) != headgate.CodeValidation {
			t.Errorf("%s: %v, want REQ_VALIDATION_FAILED", name, err)
		}
	}
	if st := b.status(); st.Epoch != 1 || st.Share != 0 {
		t.Errorf("status %+v after bad splits, want epoch 1 and share 0", st)
	}
}

// lease gives the candidate all of acme's requests under ever higher epochs,
// until a request has met it in its lease: the machine may stall for longer. It
// returns when the lease began at the earliest and at the latest.
func (b *bench) lease(s *rollout.Split) (earliest, latest time.Time) {
	b.t.Helper()
	for range 30 {
		earliest = time.Now()
		b.apply(*s)
		latest = time.Now()
		v := b.get("acme", "s")
		if v == "v2" {
			return earliest, latest
		}
		if took := time.Since(earliest); took < s.TTL {
			b.t.Fatalf("answered by %s %s after apply, want v2", v, took)
		}
		s.Epoch++
	}
	b.t.Fatalf("no request was answered within %s of its split", s.TTL)
	return earliest, latest
}

func testLeaseExpiry(t *testing.T, b *bench) {
	s := b.split(1, 1)
	begin, applied := b.lease(&s)
	for v := "v2"; v == "v2"; {
		asked := time.Now()
		v = b.get("acme", "s")
		if v == "v1" && time.Since(begin) < s.TTL {
			t.Errorf("back on stable %s after apply, before the lease was over", time.Since(begin))
		}
		if v == "v2" && asked.Sub(applied) > s.TTL+b.margin {
			t.Fatalf("still on candidate %s after apply with a lease of %s", asked.Sub(applied), s.TTL)
		}
	}
	b.eventually(func() error {
		if st := b.status(); st.Share != 0 || st.LeaseRemaining != 0 {
			return fmt.Errorf("status %+v after the lease, want share 0 and no lease", st)
		}
		return nil
	})
	if _, err := b.Router.Apply(t.Context(), s); code(err) != rollout.CodeLeaseLapsed {
		t.Errorf("late renewal: %v, want LEASE_LAPSED", err)
	}
	if v := b.get("acme", "s"); v != "v1" {
		t.Errorf("answered by %s after a late renewal, want v1", v)
	}
	s.Epoch++
	b.lease(&s)
}

func testRenewal(t *testing.T, b *bench) {
	s := b.split(1, 1)
	renewed, _ := b.lease(&s)
	for first := renewed; time.Since(first) < s.TTL*3/2; {
		begin := time.Now()
		_, err := b.Router.Apply(t.Context(), s)
		if err == nil && b.get("acme", "s") == "v2" {
			renewed = begin
			continue
		}
		if time.Since(renewed) < s.TTL {
			t.Fatalf("renewed %s ago (%v), and not answered by v2", time.Since(renewed), err)
		}
		s.Epoch++ // the machine has stalled; from the start
		renewed, _ = b.lease(&s)
		first = renewed
	}
	// A controller that decides at every tick renews under ever higher epochs;
	// its users must not notice.
	var last atomic.Pointer[time.Time] // renewal that is done, as it began
	last.Store(&renewed)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 30 {
			s.Epoch++
			begin := time.Now()
			if _, err := b.Router.Apply(t.Context(), s); err != nil {
				t.Error(err)
				return
			}
			last.Store(&begin)
		}
	}()
	for {
		leased := *last.Load()
		if v, err := b.send("GET", "acme", "s"); err != nil || v != "v2" && time.Since(leased) < s.TTL {
			<-done
			t.Fatalf("answered by %q (%v) in the middle of a renewal, want v2", v, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func testSticky(t *testing.T, b *bench) {
	const sessions = 60
	before := make([]string, sessions)
	for step, share := range []float64{0.3, 0.3, 0.6, 1} {
		b.apply(b.split(int64(step+1), share))
		for i := range sessions {
			v := b.get("acme", fmt.Sprintf("session-%d", i))
			if again := b.get("acme", fmt.Sprintf("session-%d", i)); again != v {
				t.Fatalf("session %d met %s, then %s at share %v", i, v, again, share)
			}
			if before[i] == "v2" && v != "v2" {
				t.Errorf("session %d left the candidate as the share grew to %v", i, share)
			}
			if step == 1 && before[i] != v {
				t.Errorf("session %d moved although the share did not", i)
			}
			before[i] = v
		}
	}
	if strings.Contains(strings.Join(before, ""), "v1") {
		t.Error("a session stayed on stable at share 1")
	}
}

func testShare(t *testing.T, b *bench) {
	const share, sessions = 0.2, 1500
	b.apply(b.split(1, share))
	met := 0
	for i := range sessions {
		if b.get("acme", fmt.Sprintf("session-%d", i)) == "v2" {
			met++
		}
	}
	// Five standard deviations.
	if got := float64(met) / sessions; math.Abs(got-share) > 5*math.Sqrt(share*(1-share)/sessions) {
		t.Errorf("%.3f of sessions met the candidate, want %.3f", got, share)
	}
}

func testNotAdmitted(t *testing.T, b *bench) {
	b.apply(b.split(1, 1))
	for _, tenant := range []string{"globex", "ACME", "acme2", ""} {
		for i := range 20 {
			if v := b.get(tenant, fmt.Sprintf("s%d", i)); v != "v1" {
				t.Fatalf("tenant %q met %s, want v1", tenant, v)
			}
		}
	}
	everybody := b.split(2, 1)
	everybody.Tenants, everybody.AllTenants = nil, true
	b.apply(everybody)
	if v := b.get("globex", "s"); v != "v2" {
		t.Errorf("answered by %s with all tenants admitted, want v2", v)
	}
	nobody := b.split(3, 1)
	nobody.Tenants = nil
	b.apply(nobody)
	if v := b.get("acme", "s"); v != "v1" {
		t.Errorf("answered by %s with no tenant admitted, want v1", v)
	}
}

func testCounts(t *testing.T, b *bench) {
	var status atomic.Int32
	status.Store(http.StatusInternalServerError)
	b.candidate = b.backend("v2", &status)
	b.apply(b.split(1, 0.5))
	before, err := b.Router.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent, failed := uint64(0), uint64(0)
	for i := range 100 {
		method := []string{"GET", "POST"}[i%2]
		for _, tenant := range []string{"acme", "globex"} {
			sent++
			if _, err := b.send(method, tenant, fmt.Sprintf("s%d", i)); err != nil {
				failed++
			}
		}
	}
	if failed == 0 {
		t.Fatal("no session met the failing candidate")
	}
	b.eventually(func() error {
		now, err := b.Router.Counts(t.Context())
		if err != nil {
			return err
		}
		delta := now.Sub(before)
		stable, candidate := delta.Arm(headgate.Stable), delta.Arm(headgate.Candidate)
		if stable.Requests+candidate.Requests != sent || candidate.Requests != failed || candidate.Errors != failed || stable.Errors != 0 {
			return fmt.Errorf("stable %d/%d, candidate %d/%d errors/requests; sent %d, of which %d failed",
				stable.Errors, stable.Requests, candidate.Errors, candidate.Requests, sent, failed)
		}
		for _, cell := range delta.Cells {
			sum := uint64(0)
			for _, n := range cell.Latency {
				sum += n
			}
			if sum != cell.Requests {
				return fmt.Errorf("%s/%s: %d latencies of %d requests", cell.Arm, cell.Tenant, sum, cell.Requests)
			}
			if cell.Arm == headgate.Candidate && cell.Tenant != "acme" && cell.Requests > 0 {
				return fmt.Errorf("candidate requests of tenant %q", cell.Tenant)
			}
		}
		return nil
	})
}

func testDeadCandidate(t *testing.T, b *bench) {
	b.candidate = rollout.Backend{Version: "v2", URL: Dead}
	b.apply(b.split(1, 1))
	before, err := b.Router.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const sent = 50
	for i := range sent {
		if v := b.get("acme", fmt.Sprintf("s%d", i)); v != "v1" {
			t.Fatalf("answered by %s, want v1", v)
		}
	}
	b.eventually(func() error {
		now, err := b.Router.Counts(t.Context())
		if err != nil {
			return err
		}
		if c := now.Sub(before).Arm(headgate.Candidate); c.Requests != sent || c.Errors != sent {
			return fmt.Errorf("candidate has %d errors of %d requests, want %d of %d", c.Errors, c.Requests, sent, sent)
		}
		return nil
	})
}

// testSwitch moves all traffic to and fro under load and asks that no request
// fails and none meets the candidate after the switch was acknowledged.
func testSwitch(t *testing.T, b *bench) {
	b.apply(b.split(1, 1))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var generation atomic.Int64 // odd while all traffic is on stable
	errs := make(chan error, 4)
	for w := range 4 {
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				before := generation.Load()
				v, err := b.send([]string{"GET", "POST"}[i%2], "acme", fmt.Sprintf("w%d-%d", w, i))
				if err == nil && before%2 == 1 && generation.Load() == before && v != "v1" {
					err = fmt.Errorf("met %s after the switch to stable", v)
				}
				if err != nil && ctx.Err() == nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for epoch := int64(2); epoch < 22; epoch++ {
		toStable := epoch%2 == 0
		if !toStable {
			generation.Add(1)
		}
		b.apply(b.split(epoch, map[bool]float64{true: 0, false: 1}[toStable]))
		if toStable {
			generation.Add(1)
		}
		time.Sleep(20 * time.Millisecond) // let traffic flow under this split
	}
	stop()
	for range 4 {
		if err := <-errs; err != nil {
			t.Errorf("under switching: %v", err)
		}
	}
}

// eventually repeats check until it returns nil, for routers whose counters
// follow their answers.
func (b *bench) eventually(check func() error) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
