package canary

import (
	"math"

	"github.com/headgate/headgate"
)

// Config holds every parameter of a judgement. It is frozen when a canary
// starts and stored with the release, so that a verdict can be recomputed.
// Fields that end in _s are seconds.
type Config struct {
	// Alpha bounds the probability that a candidate no worse than stable is
	// ever rolled back, however often one looks.
	Alpha float64 `json:"alpha" yaml:"alpha"`
	// Beta bounds the probability that a candidate at least MaxRatio times as
	// bad as stable ever passes.
	Beta float64 `json:"beta" yaml:"beta"`
	// MarginRatio is the odds ratio of errors that does not matter in practice,
	// and MarginAlpha bounds the probability of rolling such a candidate back.
	MarginRatio float64 `json:"margin_ratio" yaml:"margin_ratio"`
	MarginAlpha float64 `json:"margin_alpha" yaml:"margin_alpha"`
	// MaxRatio is the odds ratio of errors that must be ruled out for a pass.
	MaxRatio float64 `json:"max_ratio" yaml:"max_ratio"`
	// NegligibleErrorRate is an error rate that never fails a release.
	NegligibleErrorRate float64 `json:"negligible_error_rate" yaml:"negligible_error_rate"`
	// MinErrors is the number of candidate errors below which nothing is
	// throttled or rolled back for errors.
	MinErrors int64 `json:"min_errors" yaml:"min_errors"`

	// TickSeconds is the usual distance of two ticks; it stands in for the
	// length of the first.
	TickSeconds float64 `json:"tick_s" yaml:"tick_s"`
	// BlockSeconds and CapBlocks limit what one burst can do: the evidence of
	// one block counts at most 1/CapBlocks of the way to a rollback.
	BlockSeconds float64 `json:"block_s" yaml:"block_s"`
	CapBlocks    float64 `json:"cap_blocks" yaml:"cap_blocks"`
	// SuddenBlockSeconds and SuddenCapBlocks do the same for large ratios of
	// errors alone, which are to be stopped sooner.
	SuddenBlockSeconds float64 `json:"sudden_block_s" yaml:"sudden_block_s"`
	SuddenCapBlocks    float64 `json:"sudden_cap_blocks" yaml:"sudden_cap_blocks"`
	// Hazard is the part of the reserve that the first block sets on a
	// regression that starts just then; the n-th sets about 1/n.
	Hazard float64 `json:"hazard" yaml:"hazard"`
	// Tempering is the least divisor of evidence, ≥ 1. More is estimated from
	// the ticks, and better when they have stable_shards.
	Tempering float64 `json:"tempering" yaml:"tempering"`

	// Weights of the metrics' evidence in the combined one; they sum to 1.
	Weights Weights     `json:"weights" yaml:"weights"`
	Latency LatencyRule `json:"latency" yaml:"latency"`
	Cost    CostRule    `json:"cost" yaml:"cost"`

	// SLOErrorRate is the error rate the service promises to stay below.
	SLOErrorRate float64 `json:"slo_error_rate" yaml:"slo_error_rate"`
	// KillErrorRate rolls back whatever stable does, since a candidate can
	// hurt both arms through what they share. Zero is off.
	KillErrorRate float64 `json:"kill_error_rate" yaml:"kill_error_rate"`
	// ConsecutiveThreshold is the number of evaluations in a row at which a
	// breached contract metric fails the release.
	ConsecutiveThreshold int `json:"consecutive_threshold" yaml:"consecutive_threshold"`

	// MinDurationSeconds is the observed time before which nothing passes.
	MinDurationSeconds float64 `json:"min_duration_s" yaml:"min_duration_s"`
	// WarmUpSeconds after the candidate's first request are left out of
	// latency, never out of errors.
	WarmUpSeconds float64 `json:"warm_up_s" yaml:"warm_up_s"`
	// BrokenGraceSeconds is how long telemetry may stay broken before the
	// candidate is rolled back. Zero waits for a person.
	BrokenGraceSeconds float64      `json:"broken_grace_s" yaml:"broken_grace_s"`
	Throttle           ThrottleRule `json:"throttle" yaml:"throttle"`
	// SplitMargin is the odds ratio by which the split of requests may differ
	// from the expected share; more makes the analysis broken.
	SplitMargin float64 `json:"split_margin" yaml:"split_margin"`

	// Assignment says what is assigned to the candidate: requests inside each
	// tenant, or whole tenants.
	Assignment Assignment `json:"assignment" yaml:"assignment"`
	// Baseline holds each tenant's counts on stable over at least an hour before
	// the release. Only whole-tenant assignment needs it.
	Baseline map[string]Shard `json:"baseline,omitempty" yaml:"baseline,omitempty"`
}

// Assignment is the unit that is assigned to an arm.
type Assignment string

// Ways to assign traffic. Verdicts under [WholeTenants] rest on a model of
// what each tenant's error rate would have been and say so.
const (
	SplitRequests Assignment = "split"
	WholeTenants  Assignment = "whole_tenants"
)

// Weights of the metrics in the combined evidence.
type Weights struct {
	Errors  float64 `json:"errors" yaml:"errors"`
	Latency float64 `json:"latency" yaml:"latency"`
	Cost    float64 `json:"cost" yaml:"cost"`
}

// LatencyRule configures the comparison of latencies.
type LatencyRule struct {
	// Margin is the slowdown that does not matter in practice; it is rounded
	// up to whole buckets of 5 %.
	Margin float64 `json:"margin" yaml:"margin"`
	// FloorSeconds is a latency up to which all are alike, because nobody
	// notices: a cold cache that makes half a millisecond of a quarter is no
	// regression. Zero compares everything.
	FloorSeconds float64 `json:"floor_s" yaml:"floor_s"`
	// TailRatio is the odds ratio of requests above a frozen quantile that does
	// not matter in practice.
	TailRatio float64 `json:"tail_ratio" yaml:"tail_ratio"`
	// TailsSeconds are the p90, p99 and p99.9 of stable before the canary. When
	// empty they are taken from stable's first 2,000 requests of the canary.
	TailsSeconds []float64 `json:"tails_s,omitempty" yaml:"tails_s,omitempty"`
}

// CostRule configures the comparison of mean cost per task.
type CostRule struct {
	// Margin is the increase of mean cost that does not matter in practice.
	Margin float64 `json:"margin" yaml:"margin"`
	// Bound is the p99.5 of stable's cost before the canary, in the unit of the
	// ticks. When zero it is taken from stable's first 400 tasks of the canary.
	Bound float64 `json:"bound,omitempty" yaml:"bound,omitempty"`
}

// ThrottleRule configures the first tier of action: a smaller share while the
// evidence against the candidate is strong but not yet proof.
type ThrottleRule struct {
	// At and ReleaseBelow are levels of evidence.
	At           float64 `json:"at" yaml:"at"`
	ReleaseBelow float64 `json:"release_below" yaml:"release_below"`
	// FailuresPerSecond is what a throttled candidate may still fail.
	FailuresPerSecond float64 `json:"failures_per_s" yaml:"failures_per_s"`
	// WindowSeconds without evidence release a throttled candidate.
	WindowSeconds float64 `json:"window_s" yaml:"window_s"`
	// MinShare is the least share that is ever asked for.
	MinShare float64 `json:"min_share" yaml:"min_share"`
}

// DefaultConfig returns the parameters measured in docs/canary-math.md.
func DefaultConfig() Config {
	return Config{
		Alpha: 0.001, Beta: 0.05,
		MarginRatio: 1.1, MarginAlpha: 0.05, MaxRatio: 2,
		NegligibleErrorRate: 0.001, MinErrors: 3,
		TickSeconds: 2, BlockSeconds: 6, CapBlocks: 4.3, SuddenBlockSeconds: 2, SuddenCapBlocks: 4.7, Hazard: 1.0 / 60, Tempering: 1,
		Weights:      Weights{Errors: 0.7, Latency: 0.15, Cost: 0.15},
		Latency:      LatencyRule{Margin: 0.05, FloorSeconds: 0.005, TailRatio: 1.25},
		Cost:         CostRule{Margin: 0.05},
		SLOErrorRate: 0.01, KillErrorRate: 0.144, ConsecutiveThreshold: 2,
		MinDurationSeconds: 60, WarmUpSeconds: 10, BrokenGraceSeconds: 600,
		Throttle: ThrottleRule{
			At: 50, ReleaseBelow: 5, FailuresPerSecond: 1, WindowSeconds: 10, MinShare: 0.001,
		},
		SplitMargin: 3,
		Assignment:  SplitRequests,
	}
}

// Validate returns a CONFIG_INVALID error that names the first bad field.
func (c Config) Validate() error {
	checks := []struct {
		field string
		value float64
		ok    bool
		want  string
	}{
		{"alpha", c.Alpha, c.Alpha > 0 && c.Alpha <= 0.1, "above 0 and at most 0.1"},
		{"beta", c.Beta, c.Beta > 0 && c.Beta <= 0.5, "above 0 and at most 0.5"},
		{"margin_ratio", c.MarginRatio, c.MarginRatio >= 1 && c.MarginRatio <= 10, "between 1 and 10"},
		{"margin_alpha", c.MarginAlpha, c.MarginAlpha >= c.Alpha && c.MarginAlpha <= 0.1, "between alpha and 0.1"},
		{"max_ratio", c.MaxRatio, c.MaxRatio > c.MarginRatio && c.MaxRatio <= 100, "above margin_ratio and at most 100"},
		{"negligible_error_rate", c.NegligibleErrorRate, c.NegligibleErrorRate > 0 && c.NegligibleErrorRate < 0.5, "above 0 and below 0.5"},
		{"min_errors", float64(c.MinErrors), c.MinErrors >= 1, "at least 1"},
		{"tick_s", c.TickSeconds, c.TickSeconds > 0 && c.TickSeconds <= 3600, "above 0 and at most 3600"},
		{"block_s", c.BlockSeconds, c.BlockSeconds > 0 && c.BlockSeconds <= 3600, "above 0 and at most 3600"},
		{"cap_blocks", c.CapBlocks, c.CapBlocks >= 1 && c.CapBlocks <= 100, "between 1 and 100"},
		{"sudden_block_s", c.SuddenBlockSeconds, c.SuddenBlockSeconds > 0 && c.SuddenBlockSeconds <= c.BlockSeconds, "above 0 and at most block_s"},
		{"sudden_cap_blocks", c.SuddenCapBlocks, c.SuddenCapBlocks >= 1 && c.SuddenCapBlocks <= 100, "between 1 and 100"},
		{"hazard", c.Hazard, c.Hazard > 0 && c.Hazard < 1, "between 0 and 1"},
		{"tempering", c.Tempering, c.Tempering >= 1 && c.Tempering <= 100, "between 1 and 100"},
		{"weights.errors", c.Weights.Errors, c.Weights.Errors > 0, "above 0"},
		{"weights.latency", c.Weights.Latency, c.Weights.Latency >= 0, "at least 0"},
		{"weights.cost", c.Weights.Cost, c.Weights.Cost >= 0, "at least 0"},
		{"weights", c.Weights.sum(), math.Abs(c.Weights.sum()-1) < 1e-9, "1 in sum"},
		{"latency.margin", c.Latency.Margin, c.Latency.Margin >= 0 && c.Latency.Margin <= 10, "between 0 and 10"},
		{"latency.floor_s", c.Latency.FloorSeconds, c.Latency.FloorSeconds >= 0 && c.Latency.FloorSeconds <= 60, "between 0 and 60"},
		{"latency.tail_ratio", c.Latency.TailRatio, c.Latency.TailRatio >= 1 && c.Latency.TailRatio <= 100, "between 1 and 100"},
		{"cost.margin", c.Cost.Margin, c.Cost.Margin >= 0 && c.Cost.Margin <= 10, "between 0 and 10"},
		{"cost.bound", c.Cost.Bound, c.Cost.Bound >= 0 && !math.IsInf(c.Cost.Bound, 0), "at least 0"},
		{"slo_error_rate", c.SLOErrorRate, c.SLOErrorRate > 0 && c.SLOErrorRate < 1, "between 0 and 1"},
		{"kill_error_rate", c.KillErrorRate, c.KillErrorRate == 0 || (c.KillErrorRate >= c.SLOErrorRate && c.KillErrorRate <= 0.9), "0, or between slo_error_rate and 0.9"},
		{"consecutive_threshold", float64(c.ConsecutiveThreshold), c.ConsecutiveThreshold >= 1, "at least 1"},
		{"min_duration_s", c.MinDurationSeconds, c.MinDurationSeconds >= 0 && !math.IsInf(c.MinDurationSeconds, 0), "at least 0"},
		{"warm_up_s", c.WarmUpSeconds, c.WarmUpSeconds >= 0 && !math.IsInf(c.WarmUpSeconds, 0), "at least 0"},
		{"broken_grace_s", c.BrokenGraceSeconds, c.BrokenGraceSeconds >= 0 && !math.IsInf(c.BrokenGraceSeconds, 0), "at least 0"},
		{"throttle.at", c.Throttle.At, c.Throttle.At > 1 && !math.IsInf(c.Throttle.At, 0), "above 1"},
		{"throttle.release_below", c.Throttle.ReleaseBelow, c.Throttle.ReleaseBelow > 1 && c.Throttle.ReleaseBelow <= c.Throttle.At, "above 1 and at most throttle.at"},
		{"throttle.failures_per_s", c.Throttle.FailuresPerSecond, c.Throttle.FailuresPerSecond > 0 && !math.IsInf(c.Throttle.FailuresPerSecond, 0), "above 0"},
		{"throttle.window_s", c.Throttle.WindowSeconds, c.Throttle.WindowSeconds > 0 && !math.IsInf(c.Throttle.WindowSeconds, 0), "above 0"},
		{"throttle.min_share", c.Throttle.MinShare, c.Throttle.MinShare > 0 && c.Throttle.MinShare <= 1, "above 0 and at most 1"},
		{"split_margin", c.SplitMargin, c.SplitMargin >= 1 && c.SplitMargin <= 100, "between 1 and 100"},
	}
	for _, check := range checks {
		if !check.ok {
			return configError(check.field, check.value, check.want)
		}
	}
	return c.validateLists()
}

func (c Config) validateLists() error {
	if n := len(c.Latency.TailsSeconds); n != 0 && n != 3 {
		return configError("latency.tails_s", n, "empty, or the three values p90, p99 and p99.9")
	}
	for i, s := range c.Latency.TailsSeconds {
		if !(s > 0) || math.IsInf(s, 0) || (i > 0 && s < c.Latency.TailsSeconds[i-1]) {
			return configError("latency.tails_s", s, "positive and ascending")
		}
	}
	switch c.Assignment {
	case SplitRequests:
	case WholeTenants:
		if len(c.Baseline) == 0 {
			return configError("baseline", "empty", "each tenant's requests and errors before the release when whole tenants are assigned")
		}
	default:
		return configError("assignment", c.Assignment, "split or whole_tenants")
	}
	for tenant, b := range c.Baseline {
		if b.Requests < 0 || b.Errors < 0 || b.Errors > b.Requests || b.Requests > maxCount {
			return configError("baseline."+tenant, b, "counts with no more errors than requests")
		}
	}
	return nil
}

func (w Weights) sum() float64 { return w.Errors + w.Latency + w.Cost }

func configError(field string, value any, want string) error {
	return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
		"canary analysis: %s is %v; it must be %s", field, value, want).With("field", field)
}
