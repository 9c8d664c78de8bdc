package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate/rollout"
)

// ejectAfter is how many connection failures in a row take a backend out until
// a health check finds it alive.
const ejectAfter = 3

// backend is one version's connections and health.
type backend struct {
	rollout.Backend
	scheme, host string
	fast         *fasthttp.HostClient
	http         *http.Transport
	grpc         *http.Transport

	healthy  atomic.Bool
	failures atomic.Int32

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// backend returns the one that cur already uses for b, or a new one. The
// backend's URL has been validated.
func (p *Proxy) backend(b rollout.Backend, cur *route) *backend {
	for _, known := range []*backend{cur.stable, cur.cand} {
		if known != nil && known.Backend == b {
			return known
		}
	}
	u, _ := url.Parse(b.URL)
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	be := &backend{Backend: b, scheme: u.Scheme, host: u.Host}
	be.healthy.Store(true)
	dialer := &net.Dialer{Timeout: p.cfg.ConnectTimeout, KeepAlive: 15 * time.Second}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return direct(c), nil
	}
	be.fast = &fasthttp.HostClient{
		Addr:  addr,
		IsTLS: u.Scheme == "https",
		Dial: func(addr string) (net.Conn, error) {
			c, err := dial(context.Background(), "tcp", addr)
			if err != nil {
				return nil, err
			}
			return &upstreamConn{
				lazyConn: lazyConn{Conn: c, slack: p.slack()}, idle: p.cfg.IdleTimeout, answers: p.cfg.ResponseHeaderTimeout,
				taken: func(now time.Time) bool { return p.route.Load().takes(be, now) },
			}, nil
		},
		MaxConns:            16384,
		MaxIdleConnDuration: 30 * time.Second,
		ReadBufferSize:      maxHeaderBytes,
	}
	be.http = &http.Transport{
		DialContext:           dial,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   p.cfg.ConnectTimeout,
		ResponseHeaderTimeout: p.cfg.ResponseHeaderTimeout,
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
	}
	// gRPC needs HTTP/2 to the backend, without TLS too.
	be.grpc = be.http.Clone()
	be.grpc.Protocols = new(http.Protocols)
	be.grpc.Protocols.SetHTTP2(true)
	be.grpc.Protocols.SetUnencryptedHTTP2(true)

	ctx, cancel := context.WithCancel(context.Background())
	be.stop = cancel
	be.stopped.Go(func() { be.watch(ctx, p.cfg) })
	return be
}

// retire ends the health checks and closes idle connections; requests in
// flight finish.
func (b *backend) retire() {
	b.stop()
	b.stopped.Wait()
	b.fast.CloseIdleConnections()
	b.http.CloseIdleConnections()
	b.grpc.CloseIdleConnections()
}

// reached tells apart a backend that answers from one that cannot be reached.
func (b *backend) reached(ok bool) {
	if ok {
		if b.failures.Load() != 0 {
			b.failures.Store(0)
		}
		return
	}
	if b.failures.Add(1) >= ejectAfter {
		b.healthy.Store(false)
	}
}

// watch checks the backend until ctx ends. Two failed checks in a row eject,
// one good check takes back.
func (b *backend) watch(ctx context.Context, cfg Config) {
	hc := &http.Client{
		Timeout:       max(cfg.HealthInterval, cfg.ConnectTimeout),
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ticker := time.NewTicker(cfg.HealthInterval)
	defer ticker.Stop()
	failed := 0
	for {
		switch ok := b.check(ctx, hc, cfg); {
		case ctx.Err() != nil:
			return
		case ok:
			failed = 0
			b.failures.Store(0)
			if !b.healthy.Swap(true) {
				cfg.Logger.Info("backend is healthy again", "version", b.Version, "url", b.URL)
			}
		default:
			if failed++; failed >= 2 && b.healthy.Swap(false) {
				cfg.Logger.Warn("backend is unhealthy", "version", b.Version, "url", b.URL)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (b *backend) check(ctx context.Context, hc *http.Client, cfg Config) bool {
	if cfg.HealthPath == "" {
		c, err := (&net.Dialer{Timeout: cfg.ConnectTimeout}).DialContext(ctx, "tcp", b.fast.Addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.scheme+"://"+b.host+cfg.HealthPath, nil)
	if err != nil {
		return false
	}
	resp, err := hc.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
	return resp.StatusCode < 500
}

// dialError marks a connection that never came to be: nothing was sent.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// errStale is a kept connection that the backend closed while it was idle,
// found out before anything was sent on it.
var errStale = errors.New("kept connection is closed")

// errWithdrawn is a request that was not sent because its backend lost its
// traffic after the request was decided.
var errWithdrawn = errors.New("the backend has no traffic any more")

// upstreamConn gives each read and write of a body its own deadline, so that a
// long stream lives as long as it moves.
type upstreamConn struct {
	lazyConn
	idle      time.Duration
	answers   time.Duration // how long an answer may be waited for
	lastWrite time.Time
	lastRead  time.Time
	writing   bool                 // in the middle of a request
	taken     func(time.Time) bool // whether the backend may be sent a request
	waits     func() error         // if set, called before a read that may wait
}

// LocalAddr leads to the connection itself: nothing but its addresses tells
// which one an answer came on.
func (c *upstreamConn) LocalAddr() net.Addr { return upstreamAddr{c} }

type upstreamAddr struct{ conn *upstreamConn }

// Network implements [net.Addr].
func (a upstreamAddr) Network() string { return a.conn.Conn.LocalAddr().Network() }

// String implements [net.Addr].
func (a upstreamAddr) String() string { return a.conn.Conn.LocalAddr().String() }

// staleAfter is how long a connection rests before it is checked; younger ones
// are not worth the system call.
const staleAfter = 100 * time.Millisecond

func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.writing {
		c.writing = false
		c.read.wanted = c.lastWrite.Add(c.answers)
	}
	if c.waits != nil {
		if err := c.waits(); err != nil {
			return 0, err
		}
	}
	n, err := c.lazyConn.Read(p)
	if err == nil {
		c.lastRead = time.Now()
		c.read.wanted = c.lastRead.Add(c.idle)
	}
	return n, err
}

func (c *upstreamConn) Write(p []byte) (int, error) {
	now := time.Now()
	if !c.lastRead.IsZero() {
		if now.Sub(c.lastRead) > staleAfter && closedByPeer(c.Conn) {
			return 0, errStale
		}
		c.lastRead = time.Time{}
	}
	if !c.writing {
		if !c.taken(now) {
			return 0, errWithdrawn
		}
		c.writing = true
	}
	c.lastWrite = now
	c.write.wanted = now.Add(c.idle)
	return c.lazyConn.Write(p)
}
