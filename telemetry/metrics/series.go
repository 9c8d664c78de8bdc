package metrics

import (
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/headgate/headgate/telemetry"
)

var errTooManySeries = errors.New("the tenant has too many series; use fewer distinct attribute values")

// cardinality counts the active series of each tenant and refuses those
// beyond the limit. It is the TSDB's series life-cycle callback, so that
// replay and garbage collection are counted too.
type cardinality struct {
	limit int

	mu     sync.Mutex
	series map[string]int
}

func newCardinality(limit int) *cardinality {
	return &cardinality{limit: limit, series: make(map[string]int)}
}

func (c *cardinality) PreCreation(ls labels.Labels) error {
	tenant := ls.Get(telemetry.AttrTenant)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.series[tenant] >= c.limit {
		return fmt.Errorf("%w (limit %d)", errTooManySeries, c.limit)
	}
	return nil
}

func (c *cardinality) PostCreation(ls labels.Labels) {
	c.mu.Lock()
	c.series[ls.Get(telemetry.AttrTenant)]++
	c.mu.Unlock()
}

func (c *cardinality) PostDeletion(gone map[chunks.HeadSeriesRef]labels.Labels) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ls := range gone {
		tenant := ls.Get(telemetry.AttrTenant)
		if c.series[tenant]--; c.series[tenant] <= 0 {
			delete(c.series, tenant)
		}
	}
}

// exporter identifies who sends a series.
type exporter struct{ service, version, instance string }

func exporterOf(ls labels.Labels) exporter {
	return exporter{ls.Get("service_name"), ls.Get("service_version"), ls.Get("instance")}
}

// maxExporters bounds what exports remembers.
const maxExporters = 10_000

// exports remembers the time stamp of each exporter's latest export.
type exports struct {
	mu     sync.Mutex
	latest map[exporter]int64
}

// last returns zero for an exporter that is not known.
func (e *exports) last(x exporter) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.latest[x]
}

func (e *exports) record(batch map[exporter]int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == nil || len(e.latest)+len(batch) > maxExporters {
		e.latest = make(map[exporter]int64, len(batch))
	}
	for x, t := range batch {
		e.latest[x] = max(e.latest[x], t)
	}
}

// maxFamilies bounds what families remembers.
const maxFamilies = 10_000

// families remembers type, unit and help of the metric families.
type families struct {
	mu     sync.RWMutex
	byName map[string]metadata.Metadata
}

func (f *families) record(name string, m metadata.Metadata) {
	f.mu.RLock()
	known, ok := f.byName[name]
	full := len(f.byName) >= maxFamilies
	f.mu.RUnlock()
	if ok && known == m || !ok && full {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byName == nil {
		f.byName = make(map[string]metadata.Metadata)
	}
	f.byName[name] = m
}
