package httpapi

import (
	"encoding/json"
	"sync"
)

// cachedReports bounds the cache; a report has about 10 kB.
const cachedReports = 2048

type cacheKey struct{ tenant, evaluation string }

// cache holds finished reports. When it is full, an arbitrary one makes room:
// reads of a report cluster right after it is finished, so age says little.
type cache struct {
	mu    sync.RWMutex
	items map[cacheKey]json.RawMessage
}

func (c *cache) get(k cacheKey) (json.RawMessage, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.items[k]
	return v, ok
}

func (c *cache) put(k cacheKey, v json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.items) >= cachedReports {
		for old := range c.items {
			delete(c.items, old)
			break
		}
	}
	c.items[k] = v
}
