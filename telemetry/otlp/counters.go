package otlp

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate/telemetry"
)

// maxSources bounds what is remembered per sender. Hits of senders beyond it
// are counted under an empty source, never lost.
const maxSources = 10_000

// version is a version of a service where it runs: a staging instance that goes
// on sending does not speak for one of the same version that users meet and
// that is silent.
type version struct{ service, version, environment string }

type found struct {
	signal string
	source telemetry.Source
}

type searched struct {
	telemetry.Search
	since time.Time
}

// counters is what the receiver tells about itself.
type counters struct {
	mu        sync.Mutex
	since     time.Time
	received  map[string]int64
	dropped   map[string]int64
	lastSeen  map[version]time.Time
	redaction map[found]searched
	unkept    bool // redaction says more than the metric store has
}

func (c *counters) start(now time.Time) {
	c.since = now
	c.received = make(map[string]int64)
	c.dropped = make(map[string]int64)
	c.lastSeen = make(map[version]time.Time)
	c.redaction = make(map[found]searched)
}

func (c *counters) stored(signal string, total int64, rejected telemetry.Rejected, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received[signal] += total
	switch {
	case err != nil:
		c.dropped[signal+"/store_failed"] += total
	case rejected.Count > 0:
		c.dropped[signal+"/refused"] += rejected.Count
	}
}

// turnedAway counts a whole request that was not looked into.
func (c *counters) turnedAway(signal, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped[signal+"/"+reason]++
}

func (c *counters) fresh(seen []version, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range seen {
		if _, known := c.lastSeen[v]; known || len(c.lastSeen) < maxSources {
			c.lastSeen[v] = now
		}
	}
}

func (c *counters) redacted(signal string, in map[telemetry.Source]telemetry.Search, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for source, s := range in {
		k := found{signal, source}
		if _, known := c.redaction[k]; !known && len(c.redaction) >= maxSources {
			k.source = telemetry.Source{}
		}
		h, known := c.redaction[k]
		if !known {
			// Just before the first hit, so that the counter starts at zero.
			h.since = now.Add(-time.Second)
		}
		c.unkept = c.unkept || !known || s.Hits > 0
		h.Items, h.Hits = h.Items+s.Items, h.Hits+s.Hits
		c.redaction[k] = h
	}
}

// versions lists the service versions that a batch carries points of.
func versions(md pmetric.Metrics) []version {
	out := make([]version, 0, 1)
	for _, rm := range md.ResourceMetrics().All() {
		s := telemetry.SourceOf(rm.Resource())
		out = append(out, version{s.Service, s.Version, s.Environment})
	}
	return out
}

// Freshness returns when metrics of the service's version last arrived from an
// environment, and whether they ever did since this process started.
func (r *Receiver) Freshness(service, v, environment string) (time.Time, bool) {
	r.counters.mu.Lock()
	defer r.counters.mu.Unlock()
	t, ok := r.counters.lastSeen[version{service, v, environment}]
	return t, ok
}

// Stats are the receiver's counters since start.
type Stats struct {
	Received map[string]int64 // items by signal, refused ones included
	// Dropped counts by "signal/reason": items for refused and store_failed,
	// whole requests for busy, rate_limited,
	// unauthenticated and malformed.
	Dropped map[string]int64
}

// Stats returns a snapshot of the counters.
func (r *Receiver) Stats() Stats {
	r.counters.mu.Lock()
	defer r.counters.mu.Unlock()
	return Stats{Received: maps.Clone(r.counters.received), Dropped: maps.Clone(r.counters.dropped)}
}

// report writes the counters into the metric store until ctx ends, and once
// more then.
func (r *Receiver) report(ctx context.Context, every time.Duration) {
	if r.Metrics == nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			done = true
		}
		write, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		r.counters.changed()
		err := r.keepHits(write)
		now := r.Now()
		for _, own := range []pmetric.Metrics{r.counters.metrics(now), r.GenAI.Export(now)} {
			_, e := r.Metrics.AppendMetrics(write, "", own)
			err = errors.Join(err, e)
		}
		if err != nil {
			r.Logger.Warn("cannot store the receiver's own counters", "error", err)
		}
		cancel()
	}
}

// keepHits writes the redaction counters into the metric store unless it has
// them already. A batch is acknowledged after it, so that a gate which asks how
// many secrets a version's logs had is not told too little by a server that was
// killed since. Batches that wait for each other are kept by one write.
func (r *Receiver) keepHits(ctx context.Context) error {
	if r.Metrics == nil {
		return nil
	}
	r.keeping.Lock()
	defer r.keeping.Unlock()
	if !r.counters.haveChanged() {
		return nil
	}
	now := r.Now().Truncate(time.Millisecond)
	if !now.After(r.kept) { // the metric store has one value a millisecond
		time.Sleep(time.Millisecond)
		now = r.kept.Add(time.Millisecond)
	}
	r.kept = now
	if _, err := r.Metrics.AppendMetrics(ctx, "", r.counters.hits(now)); err != nil {
		r.counters.changed()
		return err
	}
	return nil
}

// changed makes the next keepHits write.
func (c *counters) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unkept = true
}

func (c *counters) haveChanged() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unkept
}

// metrics renders what was received and dropped in OTLP.
func (c *counters) metrics(now time.Time) pmetric.Metrics {
	c.mu.Lock()
	defer c.mu.Unlock()
	md := pmetric.NewMetrics()
	own := resource(md, telemetry.Source{Service: "headgate"})
	received := sum(own, "headgate.telemetry.received", "{item}", "Items received, by signal")
	for signal, n := range c.received {
		point(received, n, c.since, now).PutStr("signal", signal)
	}
	dropped := sum(own, "headgate.telemetry.dropped", "{item}", "Items or requests dropped, by signal and reason")
	for key, n := range c.dropped {
		point(dropped, n, c.since, now).PutStr("reason", key)
	}
	return md
}

// hits renders the redaction counters in OTLP, to be kept. They are attributed
// to the service that sent the secrets, so that its gates can ask for them.
func (c *counters) hits(now time.Time) pmetric.Metrics {
	c.mu.Lock()
	defer c.mu.Unlock()
	md := pmetric.NewMetrics()
	c.unkept = false
	for k, h := range c.redaction {
		s := resource(md, k.source)
		for _, a := range []pcommon.Map{
			point(sum(s, "headgate.redaction.hits", "{hit}", "Secrets removed from what a service sent"), h.Hits, h.since, now),
			point(sum(s, "headgate.redaction.searched", "{item}", "Log records and spans searched for secrets"), h.Items, h.since, now),
		} {
			a.PutStr("signal", k.signal)
			if k.source.Tenant != "" {
				a.PutStr(telemetry.AttrTenant, k.source.Tenant)
			}
		}
	}
	return md
}

func resource(md pmetric.Metrics, s telemetry.Source) pmetric.ScopeMetrics {
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr("service.name", s.Service)
	a.PutStr("service.version", s.Version)
	a.PutStr("deployment.environment.name", s.Environment)
	a.PutStr("service.instance.id", "headgate")
	return rm.ScopeMetrics().AppendEmpty()
}

func sum(sm pmetric.ScopeMetrics, name, unit, help string) pmetric.Sum {
	m := sm.Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	m.SetDescription(help)
	s := m.SetEmptySum()
	s.SetIsMonotonic(true)
	s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	return s
}

func point(s pmetric.Sum, n int64, since, now time.Time) pcommon.Map {
	dp := s.DataPoints().AppendEmpty()
	dp.SetIntValue(n)
	dp.SetStartTimestamp(pcommon.NewTimestampFromTime(since))
	dp.SetTimestamp(pcommon.NewTimestampFromTime(now))
	return dp.Attributes()
}
