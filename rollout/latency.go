package rollout

import "math"

// LatencyBounds returns the upper bounds, inclusive, of the latency buckets in
// seconds: from 0.5 ms to 65.5 s, four to each doubling. The last bucket, one
// more than there are bounds, is open.
func LatencyBounds() []float64 {
	bounds := make([]float64, 69)
	for i := range bounds {
		bounds[i] = 0.0005 * math.Exp2(float64(i)/4)
	}
	return bounds
}
