package canary_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// traffic makes ticks of two arms with fixed rates of requests and errors for
// each of some tenants.
type traffic struct {
	rng            *rand.Rand
	rps, share     float64
	stable, canary float64 // error rates
	tick           time.Duration
	now            time.Time
	// change may alter the tick made.
	change func(*canary.Tick)
}

func newTraffic(seed uint64, rps, share, stable, candidate float64) *traffic {
	return &traffic{rng: rand.New(rand.NewPCG(seed, 1)), rps: rps, share: share, stable: stable, canary: candidate,
		tick: 2 * time.Second, now: start}
}

func (tr *traffic) arm(rps, errorRate float64) canary.Counts {
	c := canary.Counts{Requests: poisson(tr.rng, rps*tr.tick.Seconds())}
	for range c.Requests {
		if tr.rng.Float64() < errorRate {
			c.Errors++
		}
	}
	return c
}

func (tr *traffic) next() canary.Tick {
	tr.now = tr.now.Add(tr.tick)
	t := canary.Tick{Time: tr.now, ExpectedShare: tr.share, Strata: []canary.Stratum{{
		Tenant: "t1", Stable: tr.arm(tr.rps*(1-tr.share), tr.stable), Candidate: tr.arm(tr.rps*tr.share, tr.canary),
	}}}
	if tr.change != nil {
		tr.change(&t)
	}
	return t
}

func (tr *traffic) elapsed() time.Duration { return tr.now.Sub(start) }

func poisson(rng *rand.Rand, mean float64) int64 {
	var n int64
	for ; mean > 500; mean -= 500 {
		n += poisson(rng, 500)
	}
	limit, product := math.Exp(-mean), rng.Float64()
	for product > limit {
		product *= rng.Float64()
		n++
	}
	return n
}

func newJudge(t testing.TB, change func(*canary.Config)) *canary.Judge {
	t.Helper()
	cfg := canary.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	j, err := canary.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// until observes ticks until the verdict is one of those given, or gives up.
func until(j *canary.Judge, tr *traffic, limit time.Duration, verdicts ...headgate.Verdict) canary.Decision {
	var d canary.Decision
	for tr.elapsed() < limit {
		d = j.Observe(tr.next())
		if slices.Contains(verdicts, d.Verdict) {
			return d
		}
	}
	return d
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	breach := func(tick *canary.Tick) {
		tick.Checks = []canary.Check{{Gate: headgate.GatePerformance, MetricCode: "API_P95_EXCEEDED", Breached: true}}
	}
	latencies := func(slowdown float64) func(*canary.Tick) {
		rng := rand.New(rand.NewPCG(5, 5))
		return func(tick *canary.Tick) {
			s := &tick.Strata[0]
			s.Stable.Latency = sampleLatency(rng, s.Stable.Requests, 1)
			s.Candidate.Latency = sampleLatency(rng, s.Candidate.Requests, slowdown)
		}
	}
	costs := func(increase float64) func(*canary.Tick) {
		rng := rand.New(rand.NewPCG(6, 6))
		return func(tick *canary.Tick) {
			for range 20 {
				tick.Strata[0].Stable.Costs = append(tick.Strata[0].Stable.Costs, 0.01*(0.5+rng.Float64()))
			}
			for range 4 {
				tick.Strata[0].Candidate.Costs = append(tick.Strata[0].Candidate.Costs, 0.01*increase*(0.5+rng.Float64()))
			}
		}
	}
	cases := []struct {
		name    string
		traffic *traffic
		change  func(*canary.Tick)
		config  func(*canary.Config)
		limit   time.Duration
		verdict headgate.Verdict
		action  canary.Action
		code    string
		reason  string // part of it
	}{
		{name: "errors", traffic: newTraffic(1, 200, .1, .005, .05), limit: time.Minute,
			verdict: headgate.Fail, action: canary.Rollback, code: canary.CodeErrorsWorse, reason: "fails more often"},
		{name: "no worse", traffic: newTraffic(2, 400, .3, .01, .01), limit: 10 * time.Minute,
			verdict: headgate.Pass, action: canary.Promote, code: canary.CodeNoWorse, reason: "no more often than stable"},
		{name: "no errors anywhere", traffic: newTraffic(3, 100, .2, 0, 0), limit: 2 * time.Minute,
			verdict: headgate.Pass, action: canary.Promote, code: canary.CodeBelowSLO, reason: "below the objective"},
		{name: "too little", traffic: newTraffic(4, 2, .1, .005, .005), limit: 5 * time.Minute,
			verdict: headgate.Insufficient, action: canary.Hold, code: canary.CodeMoreData, reason: "at this traffic it takes about"},
		{name: "minimum duration", traffic: newTraffic(5, 400, .3, 0, 0), limit: 50 * time.Second,
			verdict: headgate.Insufficient, action: canary.Hold, code: canary.CodeMinDuration, reason: "1m0s"},
		{name: "no candidate traffic", traffic: newTraffic(6, 100, 0, .01, 0), limit: time.Minute,
			verdict: headgate.Insufficient, action: canary.Hold, code: canary.CodeNoTraffic, reason: "reached the candidate"},
		{name: "no stable traffic", traffic: newTraffic(6, 100, 1, 0, .001), limit: time.Minute,
			verdict: headgate.Insufficient, action: canary.Hold, code: canary.CodeNoStable, reason: "nothing to compare"},
		{name: "both arms down", traffic: newTraffic(7, 100, .1, .6, .6), limit: time.Minute,
			verdict: headgate.Fail, action: canary.Rollback, code: canary.CodeSLOExceeded, reason: "what they share"},
		{name: "kill switch off", traffic: newTraffic(7, 100, .1, .6, .6), limit: time.Minute,
			config:  func(c *canary.Config) { c.KillErrorRate = 0; c.MinDurationSeconds = 600 },
			verdict: headgate.Insufficient, action: canary.Hold, code: canary.CodeMinDuration},
		{name: "consecutive breaches", traffic: newTraffic(8, 100, .1, .005, .005), change: breach, limit: 4 * time.Second,
			verdict: headgate.Fail, action: canary.Rollback, code: canary.CodeConsecutive, reason: "API_P95_EXCEEDED was in breach 2 times in a row"},
		{name: "one breach", traffic: newTraffic(8, 100, .1, .005, .005), change: breach, limit: 2 * time.Second,
			verdict: headgate.Insufficient, action: canary.Hold, code: canary.CodeConsecutive, reason: "next evaluation decides"},
		{name: "telemetry missing", traffic: newTraffic(9, 100, .1, 0, 0), change: func(t *canary.Tick) { t.Telemetry = canary.Missing }, limit: time.Minute,
			verdict: headgate.Broken, action: canary.Alert, code: canary.CodeTelemetryMissing},
		{name: "telemetry stale", traffic: newTraffic(9, 100, .1, 0, 0), change: func(t *canary.Tick) { t.Telemetry = canary.Stale }, limit: time.Minute,
			verdict: headgate.Broken, action: canary.Alert, code: canary.CodeTelemetryStale},
		{name: "telemetry missing for too long", traffic: newTraffic(9, 100, .1, 0, 0), change: func(t *canary.Tick) { t.Telemetry = canary.Missing }, limit: 11 * time.Minute,
			verdict: headgate.Broken, action: canary.Rollback, code: canary.CodeBrokenTooLong},
		{name: "split mismatch", traffic: newTraffic(10, 100, .1, 0, 0), change: func(t *canary.Tick) { t.ExpectedShare = .5 }, limit: 2 * time.Minute,
			verdict: headgate.Broken, action: canary.Alert, code: canary.CodeSplitMismatch, reason: "configured share"},
		{name: "slower", traffic: newTraffic(11, 200, .1, .005, .005), change: latencies(1.3), limit: 3 * time.Minute,
			config:  func(c *canary.Config) { c.MinDurationSeconds = 600 },
			verdict: headgate.Fail, action: canary.Rollback, code: canary.CodeLatencyWorse, reason: "slower than stable"},
		{name: "slower within the margin", traffic: newTraffic(12, 200, .1, .005, .005), change: latencies(1.04), limit: 3 * time.Minute,
			config:  func(c *canary.Config) { c.MinDurationSeconds = 600 },
			verdict: headgate.Insufficient, action: canary.Hold},
		{name: "dearer", traffic: newTraffic(13, 100, .1, .005, .005), change: costs(1.4), limit: 5 * time.Minute,
			config:  func(c *canary.Config) { c.MinDurationSeconds = 600 },
			verdict: headgate.Fail, action: canary.Rollback, code: canary.CodeCostWorse, reason: "costs more"},
		{name: "dearer within the margin", traffic: newTraffic(13, 100, .1, .005, .005), change: costs(1.04), limit: 5 * time.Minute,
			config:  func(c *canary.Config) { c.MinDurationSeconds = 600 },
			verdict: headgate.Insufficient, action: canary.Hold},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j := newJudge(t, c.config)
			tr := c.traffic
			tr.change = c.change
			d := until(j, tr, c.limit, headgate.Fail, headgate.Pass)
			if d.Verdict != c.verdict || d.Action != c.action {
				t.Fatalf("got %s/%s (%v: %s), want %s/%s", d.Verdict, d.Action, d.Reasons, d.Reason, c.verdict, c.action)
			}
			if c.code != "" && !slices.Contains(d.Reasons, c.code) {
				t.Errorf("reasons %v lack %s", d.Reasons, c.code)
			}
			if !strings.Contains(d.Reason, c.reason) {
				t.Errorf("reason %q lacks %q", d.Reason, c.reason)
			}
			if !strings.HasSuffix(d.Reason, ".") {
				t.Errorf("reason %q is not a sentence", d.Reason)
			}
			if (d.Verdict == headgate.Fail) != (d.Share == 0 && d.Action == canary.Rollback && d.Verdict == headgate.Fail) {
				t.Errorf("a failed candidate gets share %v", d.Share)
			}
		})
	}
}

func sampleLatency(rng *rand.Rand, n int64, slowdown float64) canary.Histogram {
	counts := map[int]int64{}
	for range n {
		counts[canary.BucketOf(0.2*slowdown*math.Exp(0.5*rng.NormFloat64()))]++
	}
	var h canary.Histogram
	for b := range canary.NumBuckets {
		if counts[b] > 0 {
			h = append(h, [2]int64{int64(b), counts[b]})
		}
	}
	return h
}

// A candidate twice as slow as stable is no regression while both are faster
// than anybody notices, and is one above that.
func TestNobodyNoticesLatenciesBelowTheFloor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name              string
		stable, candidate float64 // seconds
		want              headgate.Verdict
	}{
		{"cold cache", 0.0005, 0.001, headgate.Pass},
		{"slow", 0.02, 0.04, headgate.Fail},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(7, 200, 0.3, 0.005, 0.005)
			j := newJudge(t, func(c *canary.Config) { c.WarmUpSeconds = 0 })
			var d canary.Decision
			for tr.elapsed() < 20*time.Minute && (d.Verdict == "" || d.Verdict == headgate.Insufficient) {
				tick := tr.next()
				for i := range tick.Strata {
					s := &tick.Strata[i]
					s.Stable.Latency = canary.Histogram{{int64(canary.BucketOf(tc.stable)), s.Stable.Requests}}
					s.Candidate.Latency = canary.Histogram{{int64(canary.BucketOf(tc.candidate)), s.Candidate.Requests}}
				}
				d = j.Observe(tick)
			}
			if d.Verdict != tc.want {
				t.Errorf("verdict %s (%s), want %s", d.Verdict, d.Reason, tc.want)
			}
		})
	}
}

// A check of which too little is known holds what would pass, and no more than
// that: a later evaluation decides.
func TestAnUndecidedCheckHoldsThePass(t *testing.T) {
	t.Parallel()
	j := newJudge(t, nil)
	tr := newTraffic(3, 100, .2, 0, 0)
	check := canary.Check{Gate: headgate.GatePerformance, MetricCode: "API_P95_RATIO_HIGH", Undecided: true}
	var d canary.Decision
	for tr.elapsed() < 2*time.Minute {
		tick := tr.next()
		tick.Checks = []canary.Check{check}
		d = j.Observe(tick)
	}
	if d.Verdict != headgate.Insufficient || d.Action != canary.Hold || !slices.Contains(d.Reasons, canary.CodeCheckUndecided) || !strings.Contains(d.Reason, "API_P95_RATIO_HIGH") {
		t.Fatalf("undecided: %+v", d)
	}
	if d = j.Observe(tr.next()); d.Verdict != headgate.Insufficient {
		t.Errorf("not evaluated since: %+v", d)
	}
	tick := tr.next()
	check.Undecided = false
	tick.Checks = []canary.Check{check}
	if d = j.Observe(tick); d.Verdict != headgate.Pass {
		t.Errorf("decided: %+v", d)
	}
}

// What the rules ask for no longer holds nothing back.
func TestADroppedCheckHoldsNothing(t *testing.T) {
	t.Parallel()
	for _, check := range []canary.Check{{Undecided: true}, {Breached: true}} {
		check.Gate, check.MetricCode = headgate.GatePerformance, "API_P95_RATIO_HIGH"
		j := newJudge(t, nil)
		tr := newTraffic(3, 100, .2, 0, 0)
		tick := tr.next()
		tick.Checks = []canary.Check{check}
		d := j.Observe(tick)
		if len(d.Undecided)+len(d.Breaches) != 1 {
			t.Fatalf("%+v: %+v", check, d)
		}
		for tr.elapsed() < 2*time.Minute {
			d = j.Observe(tr.next())
		}
		if d.Verdict != headgate.Insufficient {
			t.Fatalf("%+v: %+v", check, d)
		}
		tick = tr.next()
		tick.Checks = []canary.Check{{Gate: check.Gate, MetricCode: check.MetricCode, Dropped: true}}
		if d = j.Observe(tick); d.Verdict != headgate.Pass {
			t.Errorf("%+v dropped: %+v", check, d)
		}
	}
}

func TestFailedStaysFailed(t *testing.T) {
	t.Parallel()
	j := newJudge(t, nil)
	tr := newTraffic(1, 200, .1, .005, 1)
	d := until(j, tr, time.Minute, headgate.Fail)
	if d.Verdict != headgate.Fail || d.ElapsedSeconds > 20 {
		t.Fatalf("100 %% errors: %+v", d)
	}
	tr.canary = 0
	later := until(j, tr, 5*time.Minute, headgate.Pass)
	if later.Verdict != headgate.Fail || later.Reason != d.Reason || !later.Time.After(d.Time) {
		t.Fatalf("after the fault is gone: %+v", later)
	}
}

func TestThrottleThenRelease(t *testing.T) {
	t.Parallel()
	j := newJudge(t, nil)
	tr := newTraffic(3, 200, .1, .005, .005)
	for range 15 {
		j.Observe(tr.next())
	}
	tr.canary = .6
	hiccup := j.Observe(tr.next())
	if hiccup.Action != canary.Throttle || hiccup.Verdict != headgate.Insufficient {
		t.Fatalf("first bad tick: %+v", hiccup)
	}
	if hiccup.Share > 0.02 || hiccup.Share <= 0 {
		t.Errorf("share %v lets more than about one request a second fail", hiccup.Share)
	}
	tr.canary, tr.share = .005, hiccup.Share
	var actions []canary.Action
	for range 60 {
		d := j.Observe(tr.next())
		actions = append(actions, d.Action)
		if d.Action == canary.Release {
			if d.Share != 1 {
				t.Errorf("released, but the limit is %v", d.Share)
			}
			return
		}
	}
	t.Fatalf("never released: %v", actions)
}

// Sticky users do not follow a share of half a percent; that is no mismatch.
func TestThrottledShareIsNotCheckedForItsSplit(t *testing.T) {
	t.Parallel()
	j := newJudge(t, nil)
	tr := newTraffic(8, 200, .1, .005, .7)
	tr.change = func(tick *canary.Tick) {
		if tr.elapsed() > 2*time.Second {
			tick.ExpectedShare = 0.007
			tick.Strata[0].Candidate = tr.arm(8, .02) // four times its share, and errors go on
		}
	}
	for range 30 {
		if d := j.Observe(tr.next()); d.Verdict == headgate.Broken {
			t.Fatalf("%s: %s", d.Verdict, d.Reason)
		}
	}
}

func TestLateRegressionAfterAPass(t *testing.T) {
	t.Parallel()
	j := newJudge(t, nil)
	tr := newTraffic(4, 400, .2, .01, .01)
	if d := until(j, tr, 20*time.Minute, headgate.Pass); d.Verdict != headgate.Pass {
		t.Fatalf("no pass: %+v", d)
	}
	tr.canary = .2
	bad := tr.elapsed()
	d := until(j, tr, time.Hour, headgate.Fail)
	if d.Verdict != headgate.Fail || tr.elapsed()-bad > 40*time.Second {
		t.Fatalf("verdict %s %s after the regression began", d.Verdict, tr.elapsed()-bad)
	}
}

func TestContradictingTicksBreakTheVerdict(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*canary.Tick){
		"NaN cost":              func(t *canary.Tick) { t.Strata[0].Candidate.Costs = []float64{math.NaN()} },
		"infinite cost":         func(t *canary.Tick) { t.Strata[0].Stable.Costs = []float64{math.Inf(1)} },
		"negative cost":         func(t *canary.Tick) { t.Strata[0].Stable.Costs = []float64{-1} },
		"NaN share":             func(t *canary.Tick) { t.ExpectedShare = math.NaN() },
		"share above one":       func(t *canary.Tick) { t.ExpectedShare = 1.5 },
		"negative requests":     func(t *canary.Tick) { t.Strata[0].Candidate.Requests = -1 },
		"negative errors":       func(t *canary.Tick) { t.Strata[0].Candidate.Errors = -1 },
		"more errors":           func(t *canary.Tick) { t.Strata[0].Stable.Errors = t.Strata[0].Stable.Requests + 1 },
		"huge requests":         func(t *canary.Tick) { t.Strata[0].Stable.Requests = math.MaxInt64 },
		"unknown telemetry":     func(t *canary.Tick) { t.Telemetry = "fine" },
		"bucket out of range":   func(t *canary.Tick) { t.Strata[0].Stable.Latency = canary.Histogram{{canary.NumBuckets, 1}} },
		"buckets out of order":  func(t *canary.Tick) { t.Strata[0].Stable.Latency = canary.Histogram{{5, 1}, {5, 1}} },
		"negative bucket count": func(t *canary.Tick) { t.Strata[0].Stable.Latency = canary.Histogram{{5, -1}} },
		"more latencies":        func(t *canary.Tick) { t.Strata[0].Candidate.Latency = canary.Histogram{{5, 1 << 30}} },
		"more in shards":        func(t *canary.Tick) { t.Strata[0].Shards = []canary.Shard{{Requests: 1 << 30}} },
		"no time":               func(t *canary.Tick) { t.Time = time.Time{} },
		"same time":             func(t *canary.Tick) { t.Time = t.Time.Add(-2 * time.Second) },
		"back in time":          func(t *canary.Tick) { t.Time = t.Time.Add(-time.Hour) },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Everything else is ready for a pass.
			j := newJudge(t, nil)
			tr := newTraffic(2, 400, .3, 0, 0)
			if d := until(j, tr, 3*time.Minute, headgate.Pass); d.Verdict != headgate.Pass {
				t.Fatalf("no pass: %+v", d)
			}
			before := tr.next()
			if d := j.Observe(before); d.Verdict != headgate.Pass {
				t.Fatalf("pass did not last: %+v", d)
			}
			bad := tr.next()
			spoil(&bad)
			d := j.Observe(bad)
			if d.Verdict != headgate.Broken || d.Action != canary.Alert {
				t.Fatalf("got %s/%s: %s", d.Verdict, d.Action, d.Reason)
			}
			if d := j.Observe(tr.next()); d.Verdict != headgate.Pass {
				t.Errorf("a good tick after it gives %s: %s", d.Verdict, d.Reason)
			}
		})
	}
}

func TestGapsAreNotObservedTime(t *testing.T) {
	t.Parallel()
	j := newJudge(t, func(c *canary.Config) { c.MinDurationSeconds = 300 })
	tr := newTraffic(2, 400, .3, 0, 0)
	j.Observe(tr.next())
	tr.now = tr.now.Add(time.Hour)
	if d := j.Observe(tr.next()); d.Verdict == headgate.Pass || d.ElapsedSeconds > 20 {
		t.Fatalf("an hour without ticks counts as %v s: %s", d.ElapsedSeconds, d.Verdict)
	}
}

func TestWarmUpLeavesOutLatencyButNotErrors(t *testing.T) {
	t.Parallel()
	slow := func(tr *traffic) {
		tr.change = func(tick *canary.Tick) {
			s := &tick.Strata[0]
			s.Stable.Latency = canary.Histogram{{100, s.Stable.Requests}}
			s.Candidate.Latency = canary.Histogram{{200, s.Candidate.Requests}}
		}
	}
	long := func(c *canary.Config) { c.WarmUpSeconds, c.MinDurationSeconds = 120, 600 }
	tr := newTraffic(5, 200, .1, .005, .005)
	slow(tr)
	if d := until(newJudge(t, long), tr, 2*time.Minute, headgate.Fail); d.Verdict == headgate.Fail {
		t.Errorf("failed for latency in the warm-up: %s", d.Reason)
	}
	tr = newTraffic(5, 200, .1, .005, .5)
	if d := until(newJudge(t, long), tr, 2*time.Minute, headgate.Fail); d.Verdict != headgate.Fail {
		t.Errorf("errors in the warm-up were left out: %s", d.Reason)
	}
}

func TestObserveDoesNotKeepTheTick(t *testing.T) {
	t.Parallel()
	run := func(spoil bool) canary.Decision {
		j := newJudge(t, func(c *canary.Config) { c.WarmUpSeconds = 0 })
		tr := newTraffic(6, 2, .1, .1, .1) // strata stay open over several ticks
		var d canary.Decision
		for range 300 {
			tick := tr.next()
			s := &tick.Strata[0]
			s.Stable.Latency = canary.Histogram{{100, s.Stable.Requests}}
			s.Candidate.Latency = canary.Histogram{{110, s.Candidate.Requests}}
			s.Stable.Costs, s.Candidate.Costs = []float64{1, 2}, []float64{1}
			d = j.Observe(tick)
			if spoil {
				s.Stable.Latency[0] = [2]int64{300, 99}
				s.Candidate.Latency[0] = [2]int64{0, 99}
				s.Stable.Costs[0], s.Candidate.Costs[0] = 1e9, 1e9
			}
		}
		return d
	}
	if a, b := run(false), run(true); a.Evidence != b.Evidence {
		t.Errorf("changing a tick after Observe changed the verdict:\n%+v\n%+v", a.Evidence, b.Evidence)
	}
}
