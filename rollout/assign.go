package rollout

import (
	"github.com/cespare/xxhash/v2"

	"github.com/headgate/headgate"
)

// NumShards is into how many parts of equal size sessions are cut, to show how
// much such parts of stable differ when nothing is wrong.
const NumShards = 8

// Place is where a session stands among all sessions of a release. It depends
// on what it is made from alone, so it survives restarts and is the same on
// every router.
type Place uint64

// PlaceOf returns the place of a session.
func PlaceOf(salt, tenant, session string) Place {
	// Long enough for all but unusual keys to stay off the heap. The zero bytes
	// keep ("a", "bc") and ("ab", "c") apart.
	var buf [256]byte
	key := append(buf[:0], salt...)
	key = append(append(key, 0), tenant...)
	key = append(append(key, 0), session...)
	return Place(xxhash.Sum64(key))
}

// Arm returns the arm of the session. It is monotone in share: a session on the
// candidate stays there as share grows. A share that is NaN or not positive is
// stable, 1 and more is candidate.
func (p Place) Arm(share float64) headgate.Arm {
	const steps = 1 << 53 // a float64 holds these exactly
	if float64(p%steps)/steps < share {
		return headgate.Candidate
	}
	return headgate.Stable
}

// Shard returns the session's shard, below [NumShards]. It says nothing of the
// arm, so all shards of stable lose as much to a growing candidate.
func (p Place) Shard() int { return int(p >> 53 % NumShards) }

// Assign puts a session on an arm, see [Place.Arm].
func Assign(salt, tenant, session string, share float64) headgate.Arm {
	return PlaceOf(salt, tenant, session).Arm(share)
}
