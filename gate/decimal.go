package gate

import (
	"math/big"
	"strconv"
)

// decimal returns f as the exact fraction of the shortest decimal that denotes
// it, which is the number a person wrote. Comparing these instead of binary
// floats keeps a boundary where the contract puts it: 1.08 against a baseline
// of 0.9 is a ratio of exactly 1.2 and passes, although 1.08/0.9 in floating
// point is 1.2000000000000002.
func decimal(f float64) *big.Rat {
	r, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	if !ok {
		// Only NaN and infinities have no fraction, and read refuses them.
		return new(big.Rat)
	}
	return r
}
