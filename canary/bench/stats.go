package bench

import (
	"math"
	"slices"
	"strconv"

	"github.com/headgate/headgate/canary"
)

// clopperPearson returns exact bounds of a proportion; each is wrong with
// probability tail at most.
func clopperPearson(k, n int, tail float64) (lo, hi float64) {
	if n == 0 {
		return 0, 1
	}
	lo, hi = 0, 1
	if k > 0 {
		lo = solve(func(p float64) bool { return 1-binomialCDF(k-1, n, p) < tail })
	}
	if k < n {
		hi = solve(func(p float64) bool { return binomialCDF(k, n, p) > tail })
	}
	return lo, hi
}

// solve returns where a monotone condition stops to hold between 0 and 1.
func solve(holds func(float64) bool) float64 {
	lo, hi := 0.0, 1.0
	for range 60 {
		if mid := (lo + hi) / 2; holds(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

func binomialCDF(k, n int, p float64) float64 {
	if p <= 0 {
		return 1
	}
	if p >= 1 {
		return 0
	}
	var sum float64
	all, _ := math.Lgamma(float64(n + 1))
	for i := range k + 1 {
		a, _ := math.Lgamma(float64(i + 1))
		b, _ := math.Lgamma(float64(n - i + 1))
		sum += math.Exp(all - a - b + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return min(1, sum)
}

// median returns the middle value with a 95 % interval from order statistics.
func median(values []float64) (mid, lo, hi float64) {
	if len(values) == 0 {
		return -1, -1, -1
	}
	sorted := slices.Sorted(slices.Values(values))
	n := float64(len(sorted))
	half := 0.98 * math.Sqrt(n)
	pick := func(x float64) float64 { return sorted[max(0, min(len(sorted)-1, int(x)))] }
	return pick(n / 2), pick(math.Floor(n/2 - half)), pick(math.Ceil(n/2 + half))
}

// higher reports whether the lower bound of the Hodges-Lehmann estimate of x−y
// (Mann-Whitney, normal approximation with ties) exceeds a quarter of the
// estimate, as Kayenta's classifier asks.
func higher(x, y []float64, confidence float64) bool {
	n, m := len(x), len(y)
	if n < 4 || m < 4 {
		return false
	}
	differences := make([]float64, 0, n*m)
	for _, a := range x {
		for _, b := range y {
			differences = append(differences, a-b)
		}
	}
	slices.Sort(differences)
	z := math.Sqrt2 * math.Erfinv(confidence)
	sigma := math.Sqrt(float64(n*m) / 12 * (float64(n+m+1) - ties(x, y)))
	k := int(math.Floor(float64(n*m)/2 - z*sigma))
	if k < 0 {
		return false
	}
	estimate := (differences[(n*m-1)/2] + differences[n*m/2]) / 2
	return differences[k] > 0.25*math.Abs(estimate) && estimate > 0
}

// ties is the correction of Mann-Whitney's variance.
func ties(x, y []float64) float64 {
	all := slices.Sorted(slices.Values(append(slices.Clone(x), y...)))
	n := float64(len(all))
	var sum float64
	for i := 0; i < len(all); {
		k := i
		for k < len(all) && all[k] == all[i] {
			k++
		}
		t := float64(k - i)
		sum += t*t*t - t
		i = k
	}
	return sum / (n * (n - 1))
}

var bounds = canary.LatencyBuckets()

// quantileOf returns a quantile of a dense histogram in seconds.
func quantileOf(h []int64, q float64) float64 {
	var n, seen int64
	for _, c := range h {
		n += c
	}
	for i, c := range h {
		seen += c
		if c > 0 && float64(seen) >= q*float64(n) {
			return bounds[min(i, len(bounds)-1)]
		}
	}
	return 0
}

func meanOf(h []int64) float64 {
	var n, sum float64
	for i, c := range h {
		n += float64(c)
		sum += float64(c) * bounds[min(i, len(bounds)-1)]
	}
	return sum / max(n, 1)
}

func percent(share float64) string { return number(100*share) + " %" }

func number(x float64) string { return strconv.FormatFloat(x, 'g', 3, 64) }
