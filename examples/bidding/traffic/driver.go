package traffic

import (
	"context"
	"errors"
	"sync"
)

// Driver is a traffic run whose counts can be taken while it goes on.
type Driver struct {
	opts Options

	mu    sync.Mutex
	stats Stats
}

// New checks opts and returns a driver that has not started.
func New(opts Options) (*Driver, error) {
	if opts.BaseURL == "" || len(opts.Tokens) == 0 {
		return nil, errors.New("traffic: BaseURL and at least one token are required")
	}
	return &Driver{opts: opts}, nil
}

// Run drives traffic until ctx ends.
func (d *Driver) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Take returns the counts since the last Take and starts new ones.
func (d *Driver) Take() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	d.stats = Stats{}
	return s
}
