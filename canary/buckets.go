package canary

import "math"

// Latency histograms have log-scale buckets shared by whoever counts and by
// the judge. Bucket 0 holds everything up to [MinLatency]; bucket i holds
// (MinLatency·1.05^(i−1), MinLatency·1.05^i]; the last one holds everything
// above and every request that timed out. Neighbours differ by 5 %, so that a
// practical margin of 5 % is a shift by exactly one bucket.
const (
	// MinLatency is the upper bound of bucket 0 in seconds.
	MinLatency = 0.0001
	// BucketGrowth is the ratio of two neighbouring bounds.
	BucketGrowth = 1.05
	// NumBuckets is the number of buckets; the last bound but one is 549 s.
	NumBuckets = 320
	// TimeoutBucket is where a request that never answered is counted.
	TimeoutBucket = NumBuckets - 1
)

var bucketBounds = func() (bounds [NumBuckets - 1]float64) {
	bound := MinLatency
	for i := range bounds {
		bounds[i] = bound
		bound *= BucketGrowth
	}
	return bounds
}()

// LatencyBuckets returns the upper bounds in seconds of all buckets but the
// last, which has none.
func LatencyBuckets() []float64 { return append([]float64(nil), bucketBounds[:]...) }

// BucketOf returns the bucket, 0 to NumBuckets−1, of a latency in seconds.
// Negative values fall into bucket 0 and NaN into the last one.
func BucketOf(seconds float64) int {
	if seconds <= MinLatency {
		return 0
	}
	if !(seconds <= bucketBounds[NumBuckets-2]) {
		return TimeoutBucket
	}
	// The logarithm is right up to one bucket; the bounds decide.
	i := min(int(math.Log(seconds/MinLatency)*(1/0.04879016416943205)), NumBuckets-2)
	for i > 0 && seconds <= bucketBounds[i-1] {
		i--
	}
	for seconds > bucketBounds[i] {
		i++
	}
	return i
}
