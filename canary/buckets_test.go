package canary_test

import (
	"math"
	"testing"

	"github.com/headgate/headgate/canary"
)

func TestBucketOfAgreesWithTheBounds(t *testing.T) {
	t.Parallel()
	bounds := canary.LatencyBuckets()
	if len(bounds) != canary.NumBuckets-1 {
		t.Fatalf("%d bounds for %d buckets", len(bounds), canary.NumBuckets)
	}
	for i, b := range bounds {
		if got := canary.BucketOf(b); got != i {
			t.Fatalf("BucketOf(%v) = %d, want %d: bounds belong to their bucket", b, got, i)
		}
		if got := canary.BucketOf(math.Nextafter(b, math.Inf(1))); got != i+1 {
			t.Fatalf("just above %v is bucket %d, want %d", b, got, i+1)
		}
	}
	for seconds, want := range map[float64]int{0: 0, -1: 0, 1e9: canary.TimeoutBucket, math.Inf(1): canary.TimeoutBucket} {
		if got := canary.BucketOf(seconds); got != want {
			t.Errorf("BucketOf(%v) = %d, want %d", seconds, got, want)
		}
	}
	if got := canary.BucketOf(math.NaN()); got != canary.TimeoutBucket {
		t.Errorf("BucketOf(NaN) = %d, want the last bucket", got)
	}
}
