package rollout

import (
	"github.com/cespare/xxhash/v2"

	"github.com/headgate/headgate"
)

// Assign puts a session on an arm. The answer depends on its arguments alone,
// so it survives restarts and is the same on every router that uses it. It is
// monotone in share: a session on the candidate stays there as share grows. A
// share that is NaN or not positive is stable, 1 and more is candidate.
func Assign(salt, tenant, session string, share float64) headgate.Arm {
	// Long enough for all but unusual keys to stay off the heap. The zero bytes
	// keep ("a", "bc") and ("ab", "c") apart.
	var buf [256]byte
	key := append(buf[:0], salt...)
	key = append(append(key, 0), tenant...)
	key = append(append(key, 0), session...)
	const steps = 1 << 53 // a float64 holds these exactly
	if float64(xxhash.Sum64(key)%steps)/steps < share {
		return headgate.Candidate
	}
	return headgate.Stable
}
