package bench

import "math"

// Kind says what is right in a scenario.
type Kind string

// Kinds of scenarios. In [Clean] and [Stress] both arms are equal, so that a
// rollback is false; in [Bad] the candidate is worse; in [Limit] it is exactly
// as bad as a pass must rule out, so that a pass is false; in [Good] both arms
// are equal and the time to a pass counts.
const (
	Clean  Kind = "clean"
	Stress Kind = "stress"
	Bad    Kind = "bad"
	Limit  Kind = "limit"
	Good   Kind = "good"
)

// Scenario is a kind of traffic with a candidate in it.
type Scenario struct {
	Name string
	What string
	Kind Kind
	// Unseen scenarios played no part in choosing any default.
	Unseen bool
	// Long scenarios are left out of quick benchmarks.
	Long bool

	Seconds float64
	RPS     float64
	// Share, Base and Load may vary with the time in seconds; nil is a constant
	// 10 %, 0.5 % and 1.
	Share, Base, Load func(t float64) float64
	// Ratio multiplies the candidate's error rate from Onset on; nil is 1.
	Ratio func(t float64) float64
	Onset float64

	// Hiccups of single pods: mean seconds between two and of one, and the
	// error rate in it.
	HiccupEvery, HiccupLasts, HiccupErrors float64
	// Cluster is the mean number of errors that come at once.
	Cluster float64
	// PodSpread is the standard deviation of the log of pods' error rates.
	PodSpread float64

	Tenants []Tenant
	// OneTenant limits the regression to one tenant; Whole assigns whole tenants.
	OneTenant string
	Whole     bool

	Latency *LatencyModel
	Cost    *CostModel

	stream uint64 // of random numbers
}

// Tenant has a part of the traffic and a multiple of the base error rate.
type Tenant struct {
	Name         string
	Weight, Dirt float64
	Whitelisted  bool
}

// LatencyModel is log-normal; a part of the requests is the tail, which the
// candidate may slow down more.
type LatencyModel struct {
	Median, Sigma        float64
	Slowdown             float64
	TailShare, TailTimes float64

	equal, slow *latencyTable
}

// CostModel is log-normal.
type CostModel struct {
	Median, Sigma, TasksPerRequest float64
	Increase                       float64
}

func (s *Scenario) share(t float64) float64 { return at(s.Share, t, 0.1) }
func (s *Scenario) base(t float64) float64  { return at(s.Base, t, 0.005) }
func (s *Scenario) load(t float64) float64  { return at(s.Load, t, 1) }
func (s *Scenario) ratio(t float64) float64 { return at(s.Ratio, t, 1) }

func at(f func(float64) float64, t, otherwise float64) float64 {
	if f == nil {
		return otherwise
	}
	return f(t)
}

// shards is the number of stable pods, each as large as the candidate.
func (s *Scenario) shards() int {
	if len(s.Tenants) > 1 {
		return 1
	}
	share := s.share(s.Seconds)
	return max(1, min(20, int(math.Round((1-share)/share))))
}

func constant(x float64) func(float64) float64 { return func(float64) float64 { return x } }

func between(from, to, inside, outside float64) func(float64) float64 {
	return func(t float64) float64 {
		if t >= from && t < to {
			return inside
		}
		return outside
	}
}

func steps(seconds float64, values ...float64) func(float64) float64 {
	return func(t float64) float64 {
		return values[max(0, min(len(values)-1, int(t/seconds*float64(len(values)))))]
	}
}

func line(from, to, seconds float64) func(float64) float64 {
	return func(t float64) float64 { return from + (to-from)*min(1, t/seconds) }
}

func wave(mean, amplitude, period float64) func(float64) float64 {
	return func(t float64) float64 { return mean * (1 + amplitude*math.Sin(2*math.Pi*t/period)) }
}

// Scenarios returns every scenario in the order of the report.
func Scenarios() []Scenario {
	list := append(equalArms(), worseCandidates()...)
	for i := range list {
		s := &list[i]
		s.stream = uint64(i + 1)
		if s.Seconds == 0 {
			s.Seconds = 600
		}
		if s.RPS == 0 {
			s.RPS = 200
		}
		if s.Tenants == nil {
			s.Tenants = []Tenant{{Name: "all", Weight: 1, Dirt: 1}}
		}
		if m := s.Latency; m != nil {
			m.equal, m.slow = m.table(1, 1), m.table(m.Slowdown, m.TailTimes)
		}
	}
	return list
}

func equalArms() []Scenario {
	return []Scenario{
		{Name: "200 rps", Kind: Clean, What: "steady traffic, 0.5 % errors on both arms"},
		{Name: "20 rps", Kind: Clean, RPS: 20, What: "less traffic"},
		{Name: "2 rps", Kind: Clean, RPS: 2, What: "hardly any traffic"},
		{Name: "shared incident", Kind: Clean, Base: between(200, 260, 0.05, 0.005), What: "both arms fail ten times as often for a minute"},
		{Name: "base 1.2 %", Kind: Clean, Long: true, Base: constant(0.012), What: "both arms above one percent"},
		{Name: "ramp with drift", Kind: Clean, Share: steps(600, 0.01, 0.05, 0.1, 0.25, 0.5), Base: line(0.004, 0.012, 600), What: "share 1 to 50 % while errors of both arms rise threefold"},
		{Name: "latency A/A", Kind: Clean, Latency: &LatencyModel{Median: 0.2, Sigma: 0.6, Slowdown: 1, TailTimes: 1}, What: "equal latencies are compared too"},
		{Name: "load wave", Kind: Clean, Unseen: true, Load: wave(1, 0.6, 120), Base: wave(0.005, 0.6, 97), What: "traffic and errors of both arms rise and fall"},
		{Name: "hardly any errors", Kind: Clean, Unseen: true, Base: constant(0.00005), What: "one error in 20,000 on both arms"},
		{Name: "half and half", Kind: Clean, Long: true, Unseen: true, Share: constant(0.5), What: "both arms get half"},
		{Name: "30 minutes", Kind: Clean, Long: true, Unseen: true, Seconds: 1800, RPS: 50, What: "a long canary at 50 rps"},
		{Name: "cost A/A", Kind: Clean, Long: true, Unseen: true, RPS: 50, Cost: &CostModel{Median: 0.02, Sigma: 1, TasksPerRequest: 0.2, Increase: 1}, What: "equal costs with a heavy tail are compared too"},
		{Name: "pod hiccups", Kind: Stress, HiccupEvery: 600, HiccupLasts: 4, HiccupErrors: 0.5, What: "each pod fails half its requests for 4 s every 10 minutes"},
		{Name: "clustered errors", Kind: Stress, Cluster: 4, What: "errors come four at a time"},
		{Name: "dirty tenants", Kind: Stress, Long: true, Tenants: tenants(10, false), What: "tenants' error rates differ twentyfold; requests are split inside each"},
		{Name: "whole tenants", Kind: Stress, Tenants: tenants(10, true), Whole: true, What: "the dirty tenants are the whitelisted ones"},
		{Name: "long hiccups", Kind: Stress, Long: true, HiccupEvery: 1800, HiccupLasts: 8, HiccupErrors: 0.3, What: "rarer, but twice as long"},
		{Name: "total hiccups", Kind: Stress, HiccupEvery: 1200, HiccupLasts: 3, HiccupErrors: 1, What: "each pod fails everything for 3 s every 20 minutes"},
		{Name: "hiccups and clusters", Kind: Stress, Unseen: true, HiccupEvery: 900, HiccupLasts: 3, HiccupErrors: 0.7, Cluster: 3, What: "both at once"},
		{Name: "bursty tenants", Kind: Stress, Tenants: tenants(10, false), Cluster: 5, Share: constant(0.2), What: "tenants' errors come five at a time, and no shards show it"},
		{Name: "hiccups, half", Kind: Stress, Share: constant(0.5), HiccupEvery: 600, HiccupLasts: 4, HiccupErrors: 0.5, What: "one pod on each side, so no shards show it"},
		{Name: "bursts on a third", Kind: Stress, RPS: 60, Share: constant(0.3), Cluster: 3, Base: constant(0.01), What: "errors come three at a time, at other traffic"},
		{Name: "hiccups on a third", Kind: Stress, Long: true, Unseen: true, RPS: 120, Share: constant(0.33), HiccupEvery: 400, HiccupLasts: 5, HiccupErrors: 0.4, What: "longer and more often, with two stable pods"},
		{Name: "large bursts", Kind: Stress, Unseen: true, Long: true, RPS: 300, Base: constant(0.004), Cluster: 8, What: "errors come eight at a time"},
		{Name: "bursts at 20 rps", Kind: Stress, Unseen: true, Long: true, RPS: 20, Share: constant(0.2), Base: constant(0.015), Cluster: 4, What: "errors come four at a time, one burst in 13 s"},
		{Name: "bursty tenants, half", Kind: Stress, Long: true, RPS: 80, Share: constant(0.5), Tenants: tenants(6, false), Cluster: 3, What: "fewer tenants, half of their requests"},
		{Name: "bursts on half", Kind: Stress, Unseen: true, Long: true, RPS: 50, Share: constant(0.5), Base: constant(0.008), Cluster: 4, What: "errors come four at a time on both halves of one tenant"},
		{Name: "hiccups and bursts, 40 %", Kind: Stress, Unseen: true, Long: true, RPS: 150, Share: constant(0.4), HiccupEvery: 500, HiccupLasts: 3, HiccupErrors: 0.8, Cluster: 2, What: "short, bad hiccups and errors in pairs"},
		{Name: "hiccups at 20 rps", Kind: Stress, Long: true, RPS: 20, HiccupEvery: 600, HiccupLasts: 4, HiccupErrors: 0.5, What: "the same at less traffic"},
	}
}

func tenants(n int, whitelist bool) []Tenant {
	list := make([]Tenant, n)
	for i := range list {
		list[i] = Tenant{Name: string(rune('a' + i)), Weight: 1 / float64(n), Dirt: 0.25}
		if i < 3 {
			list[i].Dirt = []float64{5, 2, 1}[i]
			list[i].Whitelisted = whitelist
		}
	}
	return list
}

func worseCandidates() []Scenario {
	body := func(slowdown float64) *LatencyModel {
		return &LatencyModel{Median: 0.2, Sigma: 0.6, Slowdown: slowdown, TailTimes: 1}
	}
	return []Scenario{
		{Name: "errors ×2", Kind: Bad, Ratio: constant(2)},
		{Name: "errors ×4", Kind: Bad, Ratio: constant(4)},
		{Name: "errors ×10", Kind: Bad, Ratio: constant(10)},
		{Name: "100 % errors", Kind: Bad, Ratio: constant(1e6)},
		{Name: "×4 from 300 s", Kind: Bad, Ratio: constant(4), Onset: 300, Seconds: 900},
		{Name: "×10 at 2 rps", Kind: Bad, RPS: 2, Ratio: constant(10)},
		{Name: "latency +20 %", Kind: Bad, Latency: body(1.2)},
		{Name: "×4 at 20 rps", Kind: Bad, RPS: 20, Ratio: constant(4)},
		{Name: "100 % at 20 rps", Kind: Bad, Unseen: true, RPS: 20, Ratio: constant(1e6)},
		{Name: "100 % from 300 s", Kind: Bad, Ratio: constant(1e6), Onset: 300, Seconds: 900},
		{Name: "×6 with hiccups", Kind: Bad, Ratio: constant(6), HiccupEvery: 600, HiccupLasts: 4, HiccupErrors: 0.5},
		{Name: "slow leak", Kind: Bad, Unseen: true, Ratio: line(1, 6, 300), What: "the ratio rises from 1 to 6 in 5 minutes"},
		{Name: "one tenant 50 %", Kind: Bad, Unseen: true, Tenants: tenants(10, false), OneTenant: "e", Ratio: constant(400), What: "one of ten tenants fails half the time"},
		{Name: "half and half ×2", Kind: Bad, Unseen: true, Share: constant(0.5), Ratio: constant(2)},
		{Name: "slow tail", Kind: Bad, Unseen: true, Latency: &LatencyModel{Median: 0.2, Sigma: 0.6, Slowdown: 1, TailShare: 0.02, TailTimes: 6}, What: "2 % of requests take six times as long"},
		{Name: "cost +30 %", Kind: Bad, RPS: 50, Cost: &CostModel{Median: 0.02, Sigma: 1, TasksPerRequest: 0.2, Increase: 1.3}},
		{Name: "cost +20 % at 200 rps", Kind: Bad, Unseen: true, Long: true, Cost: &CostModel{Median: 0.02, Sigma: 1, TasksPerRequest: 0.2, Increase: 1.2}},
		{Name: "×5 in bursts", Kind: Bad, Long: true, Ratio: constant(5), Cluster: 3},
		{Name: "100 % from 30 minutes", Kind: Bad, Unseen: true, Long: true, Ratio: constant(1e6), Onset: 1800, Seconds: 2400},
		{Name: "errors ×1.1", Kind: Bad, Ratio: constant(1.1), What: "a difference that does not matter: a rollback is not wanted"},
		{Name: "unequal pods", Kind: Bad, PodSpread: 0.25, What: "pods' error rates differ by a quarter for good (log-normal), the candidate's too: a rollback is not wanted"},
		{Name: "unequal pods, 1000 rps", Kind: Bad, Long: true, RPS: 1000, PodSpread: 0.1, What: "by a tenth, with more to see it by"},
		{Name: "unequal pods, 500 rps", Kind: Bad, Unseen: true, Long: true, RPS: 500, PodSpread: 0.15, What: "by fifteen percent"},
		{Name: "at the limit", Kind: Limit, Ratio: constant(2), What: "twice the errors: a pass is false"},
		{Name: "limit, half, 20 rps", Kind: Limit, Unseen: true, RPS: 20, Share: constant(0.5), Ratio: constant(2), What: "the same on half of little traffic"},
		{Name: "limit, few errors", Kind: Limit, Base: constant(0.002), Ratio: constant(2), What: "the same at 0.2 % errors"},
		{Name: "pass at 200 rps", Kind: Good, Seconds: 1800},
		{Name: "pass at 20 rps", Kind: Good, Long: true, RPS: 20, Seconds: 7200},
		{Name: "pass, no errors, 50 rps", Kind: Good, Unseen: true, RPS: 50, Base: constant(0), Seconds: 1800},
	}
}
