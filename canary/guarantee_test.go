package canary_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// loose makes false alarms frequent enough to be counted in a short test.
func loose(c *canary.Config) {
	c.Alpha, c.MarginAlpha = 0.05, 0.05
	c.CapBlocks, c.SuddenCapBlocks = 1, 1
	c.KillErrorRate = 0
	c.NegligibleErrorRate = 1e-6
	c.MinDurationSeconds = 1e6
}

// falseAlarms is the part of equal canaries that are rolled back within ten
// minutes when a decision is made every look.
func falseAlarms(t *testing.T, runs int, look time.Duration, change func(*canary.Config)) float64 {
	failed := 0
	for seed := range runs {
		j := newJudge(t, change)
		tr := newTraffic(uint64(seed), 40, .2, .05, .05)
		tr.tick = look
		if d := until(j, tr, 10*time.Minute, headgate.Fail); d.Verdict == headgate.Fail {
			failed++
		}
	}
	return float64(failed) / float64(runs)
}

// Ville's inequality: looking at every tick, a good candidate is ever rolled
// back with probability alpha at most.
func TestFalseAlarmsStayBelowAlphaHoweverOftenOneLooks(t *testing.T) {
	t.Parallel()
	const runs = 400
	noise := 3 * math.Sqrt(.05*.95/runs)
	for _, look := range []time.Duration{time.Second, 2 * time.Second, 10 * time.Second} {
		rate := falseAlarms(t, runs, look, func(c *canary.Config) { loose(c); c.TickSeconds = look.Seconds() })
		t.Log(look, rate)
		if rate > .05+noise {
			t.Errorf("looking every %s: %.1f %% of good candidates rolled back, alpha is 5 %%", look, 100*rate)
		}
	}
}

func TestFalsePassesStayBelowBeta(t *testing.T) {
	t.Parallel()
	const runs = 400
	passed := 0
	for seed := range uint64(runs) {
		j := newJudge(t, func(c *canary.Config) { c.MinDurationSeconds = 0 })
		tr := newTraffic(seed, 100, .2, .01, .02)
		if d := until(j, tr, 10*time.Minute, headgate.Fail, headgate.Pass); d.Verdict == headgate.Pass {
			passed++
		}
	}
	if rate := float64(passed) / runs; rate > .05+3*math.Sqrt(.05*.95/runs) {
		t.Errorf("%.1f %% of candidates with twice the errors passed, beta is 5 %%", 100*rate)
	}
}

func TestEstimateIsTheMedianTimeToPass(t *testing.T) {
	t.Parallel()
	cases := []struct{ rps, share, errorRate float64 }{{200, .1, .005}, {50, .5, .01}, {100, .2, .02}, {100, .2, 0}}
	for _, c := range cases {
		cfg := canary.DefaultConfig()
		cfg.MinDurationSeconds = 0
		estimate, ok := canary.Estimate(cfg, c.rps, c.share, c.errorRate)
		if !ok {
			t.Fatalf("no estimate for %+v", c)
		}
		var times []float64
		for seed := range uint64(60) {
			j, err := canary.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			tr := newTraffic(seed, c.rps, c.share, c.errorRate, c.errorRate)
			until(j, tr, time.Hour, headgate.Pass, headgate.Fail)
			times = append(times, tr.elapsed().Seconds())
		}
		slices.Sort(times)
		median := times[len(times)/2]
		if ratio := estimate.Seconds() / median; ratio < .6 || ratio > 1.8 {
			t.Errorf("%+v: estimated %s, half had passed after %.0f s", c, estimate, median)
		}
	}
}

func TestEstimateSaysWhenThereIsNoTelling(t *testing.T) {
	t.Parallel()
	cfg := canary.DefaultConfig()
	for _, c := range [][3]float64{{0, .1, .01}, {-1, .1, .01}, {100, 0, .01}, {100, 1, .01}, {100, .1, 1}, {100, .1, -1},
		{math.NaN(), .1, .01}, {math.Inf(1), .1, .01}, {100, math.NaN(), .01}, {100, .1, math.NaN()}, {1e-6, .1, .005}} {
		if d, ok := canary.Estimate(cfg, c[0], c[1], c[2]); ok {
			t.Errorf("Estimate(%v) = %s", c, d)
		}
	}
	if d, ok := canary.Estimate(cfg, 1e6, .5, .1); !ok || d < time.Minute {
		t.Errorf("at huge traffic the minimum duration is the estimate, not %s", d)
	}
}

func TestConfigNamesTheBadField(t *testing.T) {
	t.Parallel()
	if err := canary.DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	cases := map[string]func(*canary.Config){
		"alpha":                  func(c *canary.Config) { c.Alpha = math.NaN() },
		"beta":                   func(c *canary.Config) { c.Beta = 0 },
		"margin_ratio":           func(c *canary.Config) { c.MarginRatio = 0.5 },
		"margin_alpha":           func(c *canary.Config) { c.MarginAlpha = 1e-9 },
		"max_ratio":              func(c *canary.Config) { c.MaxRatio = 1 },
		"negligible_error_rate":  func(c *canary.Config) { c.NegligibleErrorRate = 0 },
		"min_errors":             func(c *canary.Config) { c.MinErrors = 0 },
		"tick_s":                 func(c *canary.Config) { c.TickSeconds = 0 },
		"block_s":                func(c *canary.Config) { c.BlockSeconds = 0 },
		"sudden_block_s":         func(c *canary.Config) { c.SuddenBlockSeconds = 60 },
		"cap_blocks":             func(c *canary.Config) { c.CapBlocks = 0 },
		"hazard":                 func(c *canary.Config) { c.Hazard = 1 },
		"tempering":              func(c *canary.Config) { c.Tempering = 0.9 },
		"weights":                func(c *canary.Config) { c.Weights.Cost = 0.9 },
		"weights.errors":         func(c *canary.Config) { c.Weights.Errors = 0 },
		"latency.margin":         func(c *canary.Config) { c.Latency.Margin = -1 },
		"latency.tails_s":        func(c *canary.Config) { c.Latency.TailsSeconds = []float64{1} },
		"cost.bound":             func(c *canary.Config) { c.Cost.Bound = math.Inf(1) },
		"slo_error_rate":         func(c *canary.Config) { c.SLOErrorRate = 0 },
		"kill_error_rate":        func(c *canary.Config) { c.KillErrorRate = 0.001 },
		"consecutive_threshold":  func(c *canary.Config) { c.ConsecutiveThreshold = 0 },
		"min_duration_s":         func(c *canary.Config) { c.MinDurationSeconds = -1 },
		"broken_grace_s":         func(c *canary.Config) { c.BrokenGraceSeconds = math.NaN() },
		"throttle.at":            func(c *canary.Config) { c.Throttle.At = 1 },
		"throttle.release_below": func(c *canary.Config) { c.Throttle.ReleaseBelow = 100 },
		"split_margin":           func(c *canary.Config) { c.SplitMargin = 0 },
		"assignment":             func(c *canary.Config) { c.Assignment = "both" },
		"baseline":               func(c *canary.Config) { c.Assignment = canary.WholeTenants },
	}
	for field, spoil := range cases {
		cfg := canary.DefaultConfig()
		spoil(&cfg)
		_, err := canary.New(cfg)
		domain := headgate.AsError(err)
		if err == nil || domain.Code != headgate.CodeConfigInvalid || domain.Details["field"] != field {
			t.Errorf("%s: error is %v with field %v", field, err, domain.Details["field"])
		}
	}
}
