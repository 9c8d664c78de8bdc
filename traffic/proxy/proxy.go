// Package proxy is the embedded router: an HTTP reverse proxy that sends each
// request to the stable or the candidate version of one service, counts what
// became of it, and falls back to stable by itself when nobody renews the
// candidate's share.
//
// It owns the data path and its counts. It never decides a share, never
// persists one, and never needs its control plane to serve stable.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/headgate/headgate/rollout"
)

// Headers that the proxy reads and writes.
const (
	// RouteHeader carries the decision, "stable" or "candidate", to the service
	// and back to the client. One sent by a client is dropped.
	RouteHeader = "X-Release-Route"
	// TesterHeader with the value "candidate" asks for the candidate. It is
	// honoured while a lease runs, and only beside TesterSecretHeader with
	// [Config.TesterSecret]. Testers are not counted.
	TesterHeader       = "X-Release-Tester"
	TesterSecretHeader = "X-Release-Tester-Secret"
)

// DefaultAdminAddr is where the admin handler listens unless told otherwise.
const DefaultAdminAddr = "127.0.0.1:9901"

// Config configures a [Proxy]. Only Service and Stable are required; Stable
// not even that when the state file holds one.
type Config struct {
	Service string
	// Stable is served until the first Apply. A stable backend remembered in
	// StatePath goes before it.
	Stable rollout.Backend
	// StatePath is a file that remembers the stable backend and the highest
	// epoch across restarts. Empty remembers nothing.
	StatePath string

	TenantHeader  string // default X-Tenant-Id
	SessionHeader string // default X-Session-Id
	TesterSecret  string // empty turns testers off
	// TrustForwarded keeps incoming X-Forwarded-* headers and adds to them,
	// for a proxy behind another. Otherwise they are replaced.
	TrustForwarded bool

	MaxBodyBytes          int64         // default 100 MiB; a longer body is answered 413
	ConnectTimeout        time.Duration // default 2 s
	ResponseHeaderTimeout time.Duration // default 60 s; answered 504
	IdleTimeout           time.Duration // default 120 s; no byte from client or backend
	// HealthPath is asked for on each backend every HealthInterval; empty only
	// connects. An answer below 500 is healthy.
	HealthPath     string
	HealthInterval time.Duration // default 1 s
	// MaxTenants bounds the tenants that are counted apart, default 256. The
	// admitted tenants of a split always are.
	MaxTenants int
	// TLS, if set, is what Serve speaks to clients.
	TLS    *tls.Config
	Logger *slog.Logger // default discards
}

// Proxy is the embedded router. It implements [rollout.Router] in process;
// [NewClient] does so for a proxy in another process.
type Proxy struct {
	cfg Config
}

var _ rollout.Router = (*Proxy)(nil)

// New returns a proxy with all traffic on stable. Returns
// REQ_VALIDATION_FAILED for a bad configuration or an unreadable state file.
// Shutdown must be called even if Serve never was.
func New(cfg Config) (*Proxy, error) {
	return &Proxy{cfg: cfg}, nil
}

// Serve accepts connections until Shutdown, then returns nil. It may be called
// for several listeners.
func (p *Proxy) Serve(ln net.Listener) error { return errors.ErrUnsupported }

// Shutdown stops accepting, lets requests in flight finish until ctx ends, and
// stops everything the proxy started.
func (p *Proxy) Shutdown(ctx context.Context) error { return errors.ErrUnsupported }

// Admin returns the handler of the admin listener: PUT /route takes a
// [rollout.Split] and answers the [rollout.Status], GET /route and GET /counts
// answer Status and Counts, GET /healthz answers 204 without a token. An empty
// token refuses everybody.
func (p *Proxy) Admin(token string) http.Handler { return http.NotFoundHandler() }

// Apply implements [rollout.Router].
func (p *Proxy) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	return rollout.Status{}, errors.ErrUnsupported
}

// Status implements [rollout.Router].
func (p *Proxy) Status(ctx context.Context) (rollout.Status, error) {
	return rollout.Status{}, errors.ErrUnsupported
}

// Counts implements [rollout.Router].
func (p *Proxy) Counts(ctx context.Context) (rollout.Counts, error) {
	return rollout.Counts{}, errors.ErrUnsupported
}
