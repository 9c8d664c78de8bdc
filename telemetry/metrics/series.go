package metrics

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/headgate/headgate/telemetry"
)

var errTooManySeries = errors.New("the tenant has too many series; use fewer distinct attribute values")

var errFull = errors.New("there are too many series in all; use fewer distinct attribute values and tenants")

// cardinality counts the active series of each tenant and of all, and refuses
// those beyond the limits. It is the TSDB's series life-cycle callback, so that
// replay and garbage collection are counted too.
type cardinality struct {
	limit int // of one tenant
	total int

	mu     sync.Mutex
	series map[string]int
	all    int
}

func newCardinality(limit, total int) *cardinality {
	return &cardinality{limit: limit, total: total, series: make(map[string]int)}
}

func (c *cardinality) PreCreation(ls labels.Labels) error {
	tenant := ls.Get(telemetry.AttrTenant)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.series[tenant] >= c.limit {
		return fmt.Errorf("%w (limit %d)", errTooManySeries, c.limit)
	}
	if c.all >= c.total {
		return fmt.Errorf("%w (limit %d)", errFull, c.total)
	}
	return nil
}

func (c *cardinality) PostCreation(ls labels.Labels) {
	c.mu.Lock()
	c.series[ls.Get(telemetry.AttrTenant)]++
	c.all++
	c.mu.Unlock()
}

func (c *cardinality) PostDeletion(gone map[chunks.HeadSeriesRef]labels.Labels) {
	for _, ls := range gone {
		c.deleted(ls.Get(telemetry.AttrTenant))
	}
}

func (c *cardinality) deleted(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.series[tenant]--; c.series[tenant] <= 0 {
		delete(c.series, tenant)
	}
}

// forgetAfter is how long a series counts as active after its last sample when
// nobody else says when it ends.
const forgetAfter = time.Hour

// written remembers which series of each tenant were written to a server of
// somebody else's.
type written struct {
	tenants *cardinality

	mu    sync.Mutex
	by    map[uint64]active
	swept time.Time
}

type active struct {
	tenant string
	last   time.Time
}

// knows reports whether the series with this hash is active.
func (w *written) knows(hash uint64, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.by[hash]
	if ok {
		a.last = now
		w.by[hash] = a
	}
	return ok
}

// add makes a series active, unless its tenant has too many.
func (w *written) add(hash uint64, ls labels.Labels, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.swept) > forgetAfter/4 {
		w.swept = now
		for h, a := range w.by {
			if now.Sub(a.last) > forgetAfter {
				w.remove(h)
			}
		}
	}
	if err := w.tenants.PreCreation(ls); err != nil {
		return err
	}
	w.tenants.PostCreation(ls)
	w.by[hash] = active{ls.Get(telemetry.AttrTenant), now}
	return nil
}

// forget undoes additions.
func (w *written) forget(hashes []uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range hashes {
		w.remove(h)
	}
}

func (w *written) remove(hash uint64) {
	if a, ok := w.by[hash]; ok {
		w.tenants.deleted(a.tenant)
		delete(w.by, hash)
	}
}

// exporter identifies who sends a series.
type exporter struct{ service, version, instance string }

func exporterOf(ls labels.Labels) exporter {
	return exporter{ls.Get("service_name"), ls.Get("service_version"), ls.Get("instance")}
}

// maxExporters bounds what exports remembers.
const maxExporters = 10_000

// exports remembers the time stamps of each exporter's first and latest
// export.
type exports struct {
	mu sync.Mutex
	by map[exporter]span
}

type span struct{ first, latest int64 }

// of returns zeros for an exporter that is not known.
func (e *exports) of(x exporter) (first, latest int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.by[x].first, e.by[x].latest
}

func (e *exports) record(batch map[exporter]int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.by == nil || len(e.by)+len(batch) > maxExporters {
		e.by = make(map[exporter]span, len(batch))
	}
	for x, t := range batch {
		known, ok := e.by[x]
		if !ok {
			known.first = t
		}
		known.latest = max(known.latest, t)
		e.by[x] = known
	}
}

// maxFamilies and maxTenantFamilies bound what families remembers of all
// tenants and of one.
const (
	maxFamilies       = 50_000
	maxTenantFamilies = 5_000
)

// families remembers type, unit and help of the metric families, as each tenant
// sent them: what one calls a metric and says of it is not another's to read.
type families struct {
	mu  sync.RWMutex
	of  map[string]map[string]metadata.Metadata // by tenant and name
	all int
}

func (f *families) record(tenant, name string, m metadata.Metadata) {
	f.mu.RLock()
	known, ok := f.of[tenant][name]
	full := f.all >= maxFamilies || len(f.of[tenant]) >= maxTenantFamilies
	f.mu.RUnlock()
	if ok && known == m || !ok && full {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = make(map[string]map[string]metadata.Metadata)
	}
	if f.of[tenant] == nil {
		f.of[tenant] = make(map[string]metadata.Metadata)
	}
	if _, ok := f.of[tenant][name]; !ok {
		f.all++
	}
	f.of[tenant][name] = m
}

// seen calls use for each family that the tenant has sent; "" stands for all
// tenants, in the order of their names.
func (f *families) seen(tenant string, use func(name string, m metadata.Metadata)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	tenants := []string{tenant}
	if tenant == "" {
		tenants = slices.Sorted(maps.Keys(f.of))
	}
	for _, t := range tenants {
		for name, m := range f.of[t] {
			use(name, m)
		}
	}
}
