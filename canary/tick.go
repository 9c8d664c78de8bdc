package canary

import (
	"fmt"
	"math"
	"time"

	"github.com/headgate/headgate"
)

// Tick is what the routers counted since the tick before: increments, never
// totals. It is one line of a tick log, see docs/tick-log.md.
type Tick struct {
	// Time is the end of the interval.
	Time time.Time `json:"time"`
	// Telemetry is empty when the counts can be trusted.
	Telemetry Telemetry `json:"telemetry,omitempty"`
	// ExpectedShare is the candidate's configured share of requests, 0 to 1, in
	// this interval. Zero leaves the split unchecked; that is right when
	// whole tenants are assigned.
	ExpectedShare float64 `json:"expected_share,omitempty"`
	// Strata are the counts per tenant. The order is free, a tenant occurs once.
	Strata []Stratum `json:"strata,omitempty"`
	// Checks are the contract's gate metrics evaluated at this tick, if any.
	Checks []Check `json:"checks,omitempty"`
}

// Telemetry says whether a tick's counts can be trusted.
type Telemetry string

// States of the telemetry. Counts of a tick that is not [Fresh] are ignored.
const (
	Fresh   Telemetry = ""
	Missing Telemetry = "missing"
	Stale   Telemetry = "stale"
)

// Stratum is one tenant's traffic on both arms. Comparisons are made inside a
// stratum and added up.
type Stratum struct {
	Tenant    string `json:"tenant,omitempty"`
	Stable    Counts `json:"stable"`
	Candidate Counts `json:"candidate"`
	// Shards cut the stable traffic into parts about as large as the
	// candidate's, in the way the candidate is cut out (by instance, or by hash
	// of the user). They show how much such parts differ when nothing is wrong.
	// Optional; their sums may not exceed Stable.
	Shards []Shard `json:"stable_shards,omitempty"`
}

// Shard is one part of the stable traffic of a tick.
type Shard struct {
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors"`
}

// Counts is what one arm did for one tenant in one tick.
type Counts struct {
	// Requests are user requests with an outcome; a retried request counts once.
	Requests int64 `json:"requests"`
	// Errors are server errors, timeouts and lost connections among them.
	Errors int64 `json:"errors"`
	// Latency is a sparse histogram: pairs of bucket and count in ascending
	// order of buckets, see [LatencyBuckets].
	Latency Histogram `json:"latency,omitempty"`
	// Costs are the costs of the tasks that reached the fixed age at which they
	// are scored, in any one unit, in order of their start.
	Costs []float64 `json:"costs,omitempty"`
}

// Histogram is a sparse list of (bucket, count).
type Histogram [][2]int64

// Check is one metric of a gate evaluated at a tick.
type Check struct {
	Gate       headgate.Gate `json:"gate"`
	MetricCode string        `json:"metric_code"`
	Breached   bool          `json:"breached"`
	// Undecided says that too little is known for either answer. It counts as no
	// breach and ends no row of them, and nothing passes before the metric's next
	// evaluation that is decided.
	Undecided bool `json:"undecided,omitempty"`
	// Dropped says that the rules ask for the metric no longer: what its last
	// evaluation said holds nothing back.
	Dropped bool `json:"dropped,omitempty"`
}

// maxCount keeps sums of counts exact in a float64.
const maxCount = 1 << 40

// validate returns why the tick contradicts itself, or nil.
func (t *Tick) validate() error {
	if t.Time.IsZero() {
		return fmt.Errorf("time is missing")
	}
	switch t.Telemetry {
	case Fresh, Missing, Stale:
	default:
		return fmt.Errorf("telemetry %q is not one of missing, stale or empty", t.Telemetry)
	}
	if !(t.ExpectedShare >= 0 && t.ExpectedShare <= 1) {
		return fmt.Errorf("expected_share %v is not between 0 and 1", t.ExpectedShare)
	}
	for i := range t.Strata {
		s := &t.Strata[i]
		if err := s.Stable.validate(); err != nil {
			return fmt.Errorf("tenant %q, stable: %w", s.Tenant, err)
		}
		if err := s.Candidate.validate(); err != nil {
			return fmt.Errorf("tenant %q, candidate: %w", s.Tenant, err)
		}
		if err := validateShards(s); err != nil {
			return fmt.Errorf("tenant %q: %w", s.Tenant, err)
		}
	}
	return nil
}

func (c *Counts) validate() error {
	if c.Requests < 0 || c.Requests > maxCount || c.Errors < 0 {
		return fmt.Errorf("requests %d and errors %d are not counts", c.Requests, c.Errors)
	}
	if c.Errors > c.Requests {
		return fmt.Errorf("%d errors in %d requests", c.Errors, c.Requests)
	}
	var n int64
	for i, b := range c.Latency {
		if b[0] < 0 || b[0] >= NumBuckets || b[1] < 0 || b[1] > maxCount {
			return fmt.Errorf("latency bucket %v is out of range", b)
		}
		if i > 0 && b[0] <= c.Latency[i-1][0] {
			return fmt.Errorf("latency bucket %d is out of order", b[0])
		}
		n += b[1]
	}
	if n > c.Requests {
		return fmt.Errorf("latencies of %d requests, but only %d requests", n, c.Requests)
	}
	for _, x := range c.Costs {
		if !(x >= 0) || math.IsInf(x, 1) {
			return fmt.Errorf("cost %v is not a finite positive number", x)
		}
	}
	return nil
}

func validateShards(s *Stratum) error {
	var requests, errors int64
	for _, sh := range s.Shards {
		if sh.Requests < 0 || sh.Errors < 0 || sh.Errors > sh.Requests || sh.Requests > maxCount {
			return fmt.Errorf("shard with %d errors in %d requests", sh.Errors, sh.Requests)
		}
		requests += sh.Requests
		errors += sh.Errors
	}
	if requests > s.Stable.Requests || errors > s.Stable.Errors {
		return fmt.Errorf("shards hold %d requests and %d errors, stable only %d and %d",
			requests, errors, s.Stable.Requests, s.Stable.Errors)
	}
	return nil
}
