package canary

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestPortableArithmeticAgreesWithTheStandardLibrary(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100000 {
		x := math.Exp(rng.Float64()*1300 - 650)
		if got, want := ln(x), math.Log(x); math.Abs(got-want) > 4e-16*math.Abs(want)+1e-300 {
			t.Fatalf("ln(%g) = %v, want %v", x, got, want)
		}
		y := rng.Float64()*1380 - 690
		if got, want := exp(y), math.Exp(y); math.Abs(got-want) > 4e-16*want {
			t.Fatalf("exp(%g) = %v, want %v", y, got, want)
		}
	}
	for _, x := range []float64{1, 2, 0.5, math.E, 1e-300, 1e300, 1 + 1e-15} {
		if got, want := ln(x), math.Log(x); math.Abs(got-want) > 4e-16*math.Abs(want) {
			t.Errorf("ln(%g) = %v, want %v", x, got, want)
		}
	}
	if exp(0) != 1 || exp(-1e9) != 0 {
		t.Error("exp(0) must be 1 and exp of a large negative number 0")
	}
}

// An e-process that starts at 1 may not grow on average under its null, with
// caps, reserve and blocks in any order.
func TestMixtureIsFair(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 2))
	alternatives := logSpaced(1.4, 300, 16)
	const runs = 20000
	var sum float64
	for range runs {
		test := newOddsRatio(1, alternatives)
		m := newMixture(powerPrior(alternatives, -0.75), reserve, 1.0/60, 2)
		for tick := range 12 {
			var ec, es float64
			for range 3 { // errors, each on the candidate with its part of requests
				if rng.Float64() < 0.25 {
					ec++
				} else {
					es++
				}
			}
			test.add(10, 30, ec, es)
			m.add(test.scores, 1)
			test.clear()
			if tick%3 == 2 {
				m.endBlock()
			}
		}
		sum += m.value
	}
	if mean := sum / runs; mean > 1.05 {
		t.Errorf("mean value is %.3f; an e-process stays at 1 or below", mean)
	}
}

func TestLatencyRanksAreFair(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 3))
	cfg := DefaultConfig()
	cfg.Latency.Margin = 0
	const runs = 4000
	var sum float64
	for range runs {
		l := newLatencyTests(cfg)
		for range 10 {
			var c, s Histogram
			for b := range int64(6) {
				c = append(c, [2]int64{b, 0})
				s = append(s, [2]int64{b, 0})
			}
			for range 4 {
				c[rng.IntN(6)][1]++
			}
			for range 12 {
				s[rng.IntN(6)][1]++
			}
			l.compare(c, s, 4, 12)
			l.observe(1)
		}
		sum += l.ranks.bet.value
	}
	if mean := sum / runs; mean > 1.05 {
		t.Errorf("mean value is %.3f; an e-process stays at 1 or below", mean)
	}
}

func TestHistogramSum(t *testing.T) {
	t.Parallel()
	a := Histogram{{1, 2}, {5, 1}}
	b := Histogram{{0, 1}, {5, 4}, {9, 1}}
	got := a.plus(b)
	want := Histogram{{0, 1}, {1, 2}, {5, 5}, {9, 1}}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	if got.count() != 9 || got.above(4) != 6 {
		t.Errorf("count %d, above 4 %d", got.count(), got.above(4))
	}
}
