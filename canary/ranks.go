package canary

// rankTest bets against "the candidate's values, shortened by a margin, are no
// larger than stable's", whatever their distribution.
type rankTest struct {
	shift   int64 // margin in buckets
	floor   int64 // bucket up to which values are alike
	lambdas []float64
	norms   []float64 // ln(sinh(λ/2)/(λ/2))
	scores  []float64
	bet     *mixture
}

func newRankTest(margin float64, floor int64, hazard, limit float64) *rankTest {
	r := &rankTest{floor: floor, lambdas: logSpaced(0.03, 6, 16)}
	for bound := 1.0; bound < 1+margin-1e-9; bound *= BucketGrowth {
		r.shift++
	}
	for _, lambda := range r.lambdas {
		r.norms = append(r.norms, ln((exp(lambda/2)-exp(-lambda/2))/lambda))
	}
	r.scores = make([]float64, len(r.lambdas))
	r.bet = newMixture(powerPrior(r.lambdas, 0), reserve, hazard, limit)
	return r
}

// add adds λS − n·ln(sinh(λ/2)/(λ/2)), where S sums the midranks of the
// smaller arm, scaled to (−½, ½), in the pooled sample (Hoeffding 1963:
// sampling without replacement is no more spread than with).
func (r *rankTest) add(candidate, stable Histogram, nc, ns int64) {
	total := float64(nc + ns)
	var sum, below float64
	for i, k := 0, 0; i < len(candidate) || k < len(stable); {
		var c, s int64
		bucket := int64(NumBuckets)
		if i < len(candidate) {
			bucket = r.shortened(candidate[i][0])
		}
		if k < len(stable) {
			bucket = min(bucket, max(r.floor, stable[k][0]))
		}
		for k < len(stable) && max(r.floor, stable[k][0]) == bucket {
			s += stable[k][1]
			k++
		}
		for i < len(candidate) && r.shortened(candidate[i][0]) == bucket {
			c += candidate[i][1]
			i++
		}
		both := float64(c + s)
		midrank := (below+float64(0.5*both))/total - 0.5
		below += both
		if nc <= ns {
			sum += float64(float64(c) * midrank)
		} else {
			sum -= float64(float64(s) * midrank)
		}
	}
	n := float64(min(nc, ns))
	for i, lambda := range r.lambdas {
		r.scores[i] += float64(lambda*sum) - float64(n*r.norms[i])
	}
}

// shortened is the candidate's bucket less the margin, at least the floor. A
// timeout stays one.
func (r *rankTest) shortened(bucket int64) int64 {
	if bucket == TimeoutBucket {
		return bucket
	}
	return max(r.floor, bucket-r.shift)
}

func (r *rankTest) observe(phi float64) {
	r.bet.add(r.scores, phi)
	clear(r.scores)
}
