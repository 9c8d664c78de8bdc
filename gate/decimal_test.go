package gate

import (
	"math"
	"math/big"
	"testing"
)

// Whatever way minus takes, it is the difference of the fractions, rounded
// once, and its sign is that of the floats themselves.
func FuzzMinus(f *testing.F) {
	for _, s := range [][2]float64{
		{1.5, 1.4}, {1.5, 1.5}, {0.01, 0.003}, {180, 171.31234567890123}, {0, 5e-324}, {0.7, 0.7000000000000001},
		{120, 0.012345678901234567}, {1 << 53, 1<<53 - 1}, {math.MaxFloat64, 5e-324}, {99999999999999990, 0.1}, {1e22, 1},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b float64) {
		if math.IsNaN(a-b) || math.IsInf(a-b, 0) {
			return
		}
		a, b = a+0, b+0
		exact := new(big.Rat).Sub(fraction(a), fraction(b))
		want, _ := exact.Float64()
		if got := minus(a, b); math.Float64bits(got) != math.Float64bits(want) {
			t.Errorf("%g - %g = %g, want %g", a, b, got, want)
		}
		if less := a < b; less != (exact.Sign() < 0) {
			t.Errorf("%g < %g is %t as floats, and not as decimals", a, b, less)
		}
	})
}
