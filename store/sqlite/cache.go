package sqlite

import "sync"

// cache keeps answers of the database until one of them changes. Its values
// are shared: nobody changes what it returns.
type cache[V any] struct {
	mu sync.RWMutex
	// changes counts the calls of forget: an answer from before one is not kept.
	changes int
	kept    map[string]V
}

// get returns what is kept, or asks and keeps what was found.
func (c *cache[V]) get(key string, ask func() (V, bool, error)) (V, bool, error) {
	c.mu.RLock()
	v, ok := c.kept[key]
	before := c.changes
	c.mu.RUnlock()
	if ok {
		return v, true, nil
	}
	v, ok, err := ask()
	if err != nil || !ok {
		return v, ok, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == before {
		if c.kept == nil {
			c.kept = map[string]V{}
		}
		c.kept[key] = v
	}
	return v, true, nil
}

// forget is called after every write, also after one that may have failed.
func (c *cache[V]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	clear(c.kept)
}
