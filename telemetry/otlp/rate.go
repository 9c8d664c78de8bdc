package otlp

import (
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// burst is how many seconds' worth a tenant may send at once.
const burst = 10

// rates limits the items per second of each tenant with a credential. The zero
// value does not limit.
type rates struct {
	perSecond float64

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// CodeRateLimited is the error code of a tenant that sends too much.
const CodeRateLimited = "TELEMETRY_RATE_LIMITED"

var errTooFast = headgate.Errorf(CodeRateLimited, headgate.ClassTransient,
	"the tenant sends more telemetry than its limit allows; send the batch again after the delay, or sample more")

// take takes n items from the tenant's bucket. A bucket may go into debt for
// one batch, so that a batch larger than the bucket is not stuck for ever.
func (r *rates) take(tenant string, n int64, now time.Time) error {
	if r.perSecond <= 0 || tenant == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	full := r.perSecond * burst
	if r.buckets == nil || len(r.buckets) > maxSources {
		r.buckets = make(map[string]bucket)
	}
	b, known := r.buckets[tenant]
	if !known {
		b = bucket{left: full, at: now}
	}
	b.left = min(full, b.left+now.Sub(b.at).Seconds()*r.perSecond)
	b.at = now
	err := error(errTooFast)
	if b.left > 0 {
		b.left -= float64(n)
		err = nil
	}
	r.buckets[tenant] = b
	return err
}
