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
	var d xxhash.Digest
	d.Reset()
	// The digest never fails. The zero byte keeps ("a", "bc") and ("ab", "c")
	// apart.
	_, _ = d.WriteString(salt)
	_, _ = d.Write(separator)
	_, _ = d.WriteString(tenant)
	_, _ = d.Write(separator)
	_, _ = d.WriteString(session)
	const mantissa = 1 << 53
	if float64(d.Sum64()%mantissa)/mantissa < share {
		return headgate.Candidate
	}
	return headgate.Stable
}

var separator = []byte{0}
