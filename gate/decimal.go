package gate

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
)

// A float64 stands for the shortest decimal that denotes it, which is the
// number a person wrote. Computing with these instead of binary floats keeps a
// boundary where the contract puts it: 1.08 against a baseline of 0.9 is a
// ratio of exactly 1.2 and passes, although 1.08/0.9 in floating point is
// 1.2000000000000002. To compare two of them takes no decimals: a smaller
// float has a smaller one.

// fraction returns the decimal of f as an exact fraction.
func fraction(f float64) *big.Rat {
	r, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	if !ok {
		// Only NaN and infinities have no fraction, and read refuses them.
		return new(big.Rat)
	}
	return r
}

// minus returns the exact difference of two decimals, rounded once.
func minus(a, b float64) float64 {
	x, xExp := digits(a)
	y, yExp := digits(b)
	exp := min(xExp, yExp)
	x, fits := shift(x, xExp-exp)
	y, fitsToo := shift(y, yExp-exp)
	if !fits || !fitsToo {
		f, _ := new(big.Rat).Sub(fraction(a), fraction(b)).Float64()
		return f
	}
	var buf [48]byte
	text := append(strconv.AppendInt(buf[:0], x-y, 10), 'e')
	f, _ := strconv.ParseFloat(string(strconv.AppendInt(text, int64(exp), 10)), 64) // out of range is infinite, as for a fraction
	return f
}

// digits returns the decimal of f as n × 10^exp, where n has at most 17 digits.
func digits(f float64) (n int64, exp int) {
	var buf [32]byte
	mantissa, e, _ := bytes.Cut(strconv.AppendFloat(buf[:0], f, 'e', -1, 64), []byte("e"))
	whole, part, _ := bytes.Cut(mantissa, []byte("."))
	exp, _ = strconv.Atoi(string(e)) // both are numbers, see AppendFloat
	n, _ = strconv.ParseInt(string(whole)+string(part), 10, 64)
	return n, exp - len(part)
}

// shift returns n × 10^places; false when that, or its difference from another
// such, may not fit.
func shift(n int64, places int) (int64, bool) {
	for ; places > 0 && n != 0; places-- {
		if n > math.MaxInt64/20 || n < -math.MaxInt64/20 {
			return 0, false
		}
		n *= 10
	}
	return n, true
}
