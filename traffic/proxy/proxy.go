// Package proxy is the embedded router: an HTTP reverse proxy that sends each
// request to the stable or the candidate version of one service, counts what
// became of it, and falls back to stable by itself when nobody renews the
// candidate's share.
//
// It owns the data path and its counts. It never decides a share, never
// persists one, and never needs its control plane to serve stable.
package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate"
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

	MaxBodyBytes int64 // default 100 MiB; a longer body is answered 413
	// Over HTTP/1 the last two may come early by a sixteenth of the shorter.
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

// maxHeaderBytes bounds the header of a request and of an answer.
const maxHeaderBytes = 32 << 10

// Proxy is the embedded router. It implements [rollout.Router] in process;
// [NewClient] does so for a proxy in another process.
type Proxy struct {
	cfg      Config
	bootID   string
	route    atomic.Pointer[route]
	counters *counters
	dropped  []string // request headers

	tls          *tls.Config
	http1, http2 *handoff
	fast         *fasthttp.Server
	slow         *http.Server
	reverse      *httputil.ReverseProxy

	closing context.Context // ends when Shutdown begins
	close   context.CancelFunc
	killed  context.Context // ends when Shutdown has waited enough
	kill    context.CancelFunc

	applying sync.Mutex // serialises changes of the route
	entering sync.Mutex // keeps enter and the beginning of Shutdown apart
	running  sync.WaitGroup
}

var _ rollout.Router = (*Proxy)(nil)

// New returns a proxy with all traffic on stable. Returns
// REQ_VALIDATION_FAILED for a bad configuration or an unreadable state file.
// Shutdown must be called even if Serve never was.
func New(cfg Config) (*Proxy, error) {
	cfg.TenantHeader = cmp.Or(cfg.TenantHeader, "X-Tenant-Id")
	cfg.SessionHeader = cmp.Or(cfg.SessionHeader, "X-Session-Id")
	cfg.MaxBodyBytes = cmp.Or(cfg.MaxBodyBytes, 100<<20)
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 2*time.Second)
	cfg.ResponseHeaderTimeout = cmp.Or(cfg.ResponseHeaderTimeout, time.Minute)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 2*time.Minute)
	cfg.HealthInterval = cmp.Or(cfg.HealthInterval, time.Second)
	cfg.MaxTenants = cmp.Or(cfg.MaxTenants, 256)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.HealthPath != "" && !strings.HasPrefix(cfg.HealthPath, "/") {
		return nil, headgate.Invalidf("proxy: the health path must begin with a slash")
	}
	st, err := recall(cfg.StatePath)
	if err != nil {
		return nil, err
	}
	if st.Stable.URL == "" {
		st = state{Service: cfg.Service, Stable: cfg.Stable}
	}
	if st.Service != cfg.Service {
		return nil, headgate.Invalidf("proxy: the state file belongs to service %q, not %q; give each service its own", st.Service, cfg.Service)
	}
	if err := (rollout.Split{Service: cfg.Service, Epoch: 1, Stable: st.Stable}).Validate(); err != nil {
		return nil, err
	}
	p := &Proxy{
		cfg: cfg, bootID: headgate.NewID("boot"), counters: newCounters(cfg.MaxTenants),
		dropped: dropped(cfg.TrustForwarded), http1: newHandoff(), http2: newHandoff(),
	}
	p.closing, p.close = context.WithCancel(context.Background())
	p.killed, p.kill = context.WithCancel(context.Background())
	first := &route{split: rollout.Split{Stable: st.Stable}, epoch: st.Epoch}
	first.stable = p.backend(st.Stable, first)
	p.route.Store(first)
	p.start()
	return p, nil
}

// slack is how early a timeout may come, so that it need not be set anew for
// each request.
func (p *Proxy) slack() time.Duration {
	return min(clientTimeout, p.cfg.ResponseHeaderTimeout, p.cfg.IdleTimeout) / 16
}

func (p *Proxy) start() {
	if p.cfg.TLS != nil {
		p.tls = p.cfg.TLS.Clone()
		p.tls.NextProtos = []string{"h2", "http/1.1"}
	}
	p.fast = &fasthttp.Server{
		Handler:                      p.serveHTTP1,
		ErrorHandler:                 unreadable,
		ReadBufferSize:               maxHeaderBytes,
		WriteBufferSize:              8 << 10, // fasthttp's chunks of 4 KiB with their frame, in one write
		ReadTimeout:                  clientTimeout,
		IdleTimeout:                  p.cfg.IdleTimeout,
		MaxRequestBodySize:           bufferedBody,
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		CloseOnShutdown:              true,
		LazyRequestTime:              true,
		Logger:                       connectionLog{p.cfg.Logger},
	}
	p.reverse = p.newReverseProxy()
	p.slow = &http.Server{
		Handler:           http.HandlerFunc(p.serveHTTP2),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: clientTimeout,
		IdleTimeout:       p.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(p.cfg.Logger.Handler(), slog.LevelDebug),
	}
	p.slow.Protocols.SetHTTP2(true)
	p.slow.Protocols.SetUnencryptedHTTP2(true)
	p.running.Go(func() { _ = p.fast.Serve(p.http1) })
	p.running.Go(func() { _ = p.slow.Serve(p.http2) })
}

// Serve accepts connections until Shutdown, then returns nil. It may be called
// for several listeners.
func (p *Proxy) Serve(ln net.Listener) error {
	if !p.enter() {
		return ln.Close()
	}
	defer p.running.Done()
	stop := context.AfterFunc(p.closing, func() { _ = ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		switch {
		case p.closing.Err() != nil:
			if c != nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED):
			p.cfg.Logger.Error("cannot accept a connection; raise the limit of open files", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-p.closing.Done():
			}
		case err != nil:
			return err
		case p.enter():
			go func() {
				defer p.running.Done()
				p.classify(c)
			}()
		default:
			_ = c.Close()
		}
	}
}

// enter registers a goroutine that Shutdown has to wait for, unless it has
// begun.
func (p *Proxy) enter() bool {
	p.entering.Lock()
	defer p.entering.Unlock()
	if p.closing.Err() != nil {
		return false
	}
	p.running.Add(1)
	return true
}

// Shutdown stops accepting, lets requests in flight finish until ctx ends, and
// stops everything the proxy started. Upgraded connections, which have no end
// of their own, are cut once the rest has finished. Returns ctx's error if
// requests were still in flight; those end with the process.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.entering.Lock()
	p.close()
	p.entering.Unlock()
	_ = p.http1.Close()
	_ = p.http2.Close()
	slow := make(chan error, 1)
	go func() { slow <- p.slow.Shutdown(ctx) }()
	err := errors.Join(p.fast.ShutdownWithContext(ctx), <-slow)
	p.kill()
	p.running.Wait()
	p.applying.Lock()
	defer p.applying.Unlock()
	r := p.route.Load()
	r.stable.retire()
	if r.cand != nil {
		r.cand.retire()
	}
	return err
}

// Apply implements [rollout.Router].
func (p *Proxy) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	if err := s.Validate(); err != nil {
		return rollout.Status{}, err
	}
	if s.Service != p.cfg.Service {
		return rollout.Status{}, headgate.Invalidf("this proxy serves %q, not %q", p.cfg.Service, s.Service)
	}
	p.applying.Lock()
	defer p.applying.Unlock()
	// A caller that no longer waits has gone on to something else.
	if err := errors.Join(ctx.Err(), p.closing.Err()); err != nil {
		return rollout.Status{}, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the split was not applied in time; apply it again").Wrap(err)
	}
	r, err := p.install(s)
	if err != nil {
		return rollout.Status{}, err
	}
	return p.status(r), nil
}

// Status implements [rollout.Router].
func (p *Proxy) Status(context.Context) (rollout.Status, error) {
	return p.status(p.route.Load()), nil
}

func (p *Proxy) status(r *route) rollout.Status {
	st := rollout.Status{
		Service: p.cfg.Service, Epoch: r.epoch, ReleaseID: r.split.ReleaseID, BootID: p.bootID,
		Backends: []rollout.BackendStatus{{Backend: r.stable.Backend, Arm: headgate.Stable, Healthy: r.stable.healthy.Load()}},
	}
	if r.cand != nil {
		st.Backends = append(st.Backends, rollout.BackendStatus{Backend: r.cand.Backend, Arm: headgate.Candidate, Healthy: r.cand.healthy.Load()})
	}
	if now := time.Now(); r.leased(now) {
		st.Share, st.LeaseRemaining = r.split.Share, r.until.Sub(now)
	}
	return st
}

// Counts implements [rollout.Router].
func (p *Proxy) Counts(context.Context) (rollout.Counts, error) {
	return p.counters.read(time.Now().UTC().Round(0), p.bootID, false), nil
}

// Routes is Counts with each route in cells of its own: at most 64 routes and
// 4,096 pairs of tenant and route, the rest under [rollout.OtherRoutes]. Routes
// are learnt from what the service answers.
func (p *Proxy) Routes(context.Context) (rollout.Counts, error) {
	return p.counters.read(time.Now().UTC().Round(0), p.bootID, true), nil
}
