package proxy

import (
	"testing"
	"time"

	"github.com/headgate/headgate/rollout"
)

// BenchmarkDecide measures what one request costs beside its transport: the
// decision, finding its counters and counting it.
func BenchmarkDecide(b *testing.B) {
	p, err := New(Config{Service: "shop", Stable: rollout.Backend{Version: "v1", URL: "http://127.0.0.1:9"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Shutdown(b.Context()) })
	s := rollout.Split{
		Service: "shop", Epoch: 1, Stable: rollout.Backend{Version: "v1", URL: "http://127.0.0.1:9"},
		Candidate: rollout.Backend{Version: "v2", URL: "http://127.0.0.1:10"},
		Share:     0.1, Tenants: []string{"acme-industries"}, Salt: "rel_7h3k2m4n5p6q7r8s", TTL: 5 * time.Minute,
	}
	if _, err := p.Apply(b.Context(), s); err != nil {
		b.Fatal(err)
	}
	c := caller{tenant: "acme-industries", session: "session-0123456789abcdef", method: []byte("GET"), path: []byte("/api/v1/jobs/17")}
	b.ReportAllocs()
	for b.Loop() {
		d := p.decide(c)
		d.tally.answered(200)
	}
}
