package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate"
)

// The slow path serves HTTP/2, gRPC and upgraded connections through
// net/http's ReverseProxy.

type decisionKey struct{}

func decisionOf(ctx context.Context) *decision {
	d, _ := ctx.Value(decisionKey{}).(*decision)
	return d
}

// serveHTTP2 decides and forwards a request that net/http has read.
func (p *Proxy) serveHTTP2(w http.ResponseWriter, r *http.Request) {
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	c := caller{
		tenant:       r.Header.Get(p.cfg.TenantHeader),
		session:      r.Header.Get(p.cfg.SessionHeader),
		tester:       r.Header.Get(TesterHeader),
		testerSecret: r.Header.Get(TesterSecretHeader),
		method:       []byte(r.Method),
		path:         []byte(r.URL.EscapedPath()),
	}
	if c.session == "" {
		c.session = r.Header.Get("Authorization")
	}
	if c.session == "" {
		c.session = ip
	}
	if r.ContentLength > p.cfg.MaxBodyBytes {
		writeRefusal(w, bodyRefusal(errBodyTooLarge))
		return
	}
	if !isGRPC(r.Header) { // a gRPC stream has no length; its messages are limited by the service
		r.Body = http.MaxBytesReader(w, r.Body, p.cfg.MaxBodyBytes)
	}
	d := p.decide(c)
	p.forward(w, r, &d)
}

func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, d *decision) {
	// What is not counted when ReverseProxy is through, the client gave up.
	defer d.tally.abandoned()
	p.reverse.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), decisionKey{}, d)))
}

func (p *Proxy) newReverseProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      roundTripper(p.roundTrip),
		ModifyResponse: p.countResponse,
		BufferPool:     &buffers{},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			d := decisionOf(r.Context())
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				d.tally.abandoned()
				writeRefusal(w, bodyRefusal(errBodyTooLarge))
				return
			}
			if r.Context().Err() != nil {
				d.tally.abandoned()
				return
			}
			d.tally.failed()
			answer := refusal{http.StatusBadGateway, headgate.CodeUnavailable, headgate.ClassTransient, "the service did not answer; try again shortly"}
			if isTimeout(err) {
				answer.status = http.StatusGatewayTimeout
			}
			w.Header().Set(RouteHeader, string(d.arm))
			writeRefusal(w, answer)
		},
	}
}

func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	for _, name := range p.dropped {
		r.Out.Header.Del(name)
	}
	if p.cfg.TrustForwarded {
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
	}
	r.SetXForwarded()
	if p.cfg.TrustForwarded {
		for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
			if prior := r.In.Header.Get(name); prior != "" {
				r.Out.Header.Set(name, prior)
			}
		}
	}
	if _, ok := r.Out.Header["User-Agent"]; !ok {
		r.Out.Header.Set("User-Agent", "")
	}
}

// buffers are those through which bodies are copied.
type buffers struct{ pool sync.Pool }

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

// Put implements [httputil.BufferPool].
func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *Proxy) roundTrip(r *http.Request) (*http.Response, error) {
	d := decisionOf(r.Context())
	p.confirm(d)
	resp, err := d.backend.roundTrip(r, d.arm)
	var refused *dialError
	if errors.As(err, &refused) && d.backend != d.route.stable {
		d.tally.failed()
		if isSafe(r.Method) && (r.Body == nil || r.ContentLength == 0) {
			d.arm, d.backend = headgate.Stable, d.route.stable
			resp, err = d.backend.roundTrip(r, d.arm)
		}
	}
	return resp, err
}

func (b *backend) roundTrip(r *http.Request, arm headgate.Arm) (*http.Response, error) {
	r.URL.Scheme, r.URL.Host = b.scheme, b.host
	r.Header.Set(RouteHeader, string(arm))
	transport := b.http
	if isGRPC(r.Header) {
		transport = b.grpc
	}
	resp, err := transport.RoundTrip(r)
	if err == nil || r.Context().Err() == nil {
		b.reached(err == nil || isTimeout(err))
	}
	return resp, err
}

func isGRPC(h http.Header) bool { return strings.HasPrefix(h.Get("Content-Type"), "application/grpc") }

// countResponse has the request counted when the answer's body has ended, or at
// once when it has no foreseeable end.
func (p *Proxy) countResponse(resp *http.Response) error {
	d := decisionOf(resp.Request.Context())
	resp.Header.Set(RouteHeader, string(d.arm))
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		d.tally.answered(resp.StatusCode)
	case strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream"):
		d.tally.answered(resp.StatusCode)
		body := resp.Body
		resp.Body = &endlessBody{ReadCloser: body, closing: p.closing, stop: context.AfterFunc(p.closing, func() { _ = body.Close() })}
	default:
		resp.Body = &countedBody{ReadCloser: resp.Body, resp: resp, d: d}
	}
	return nil
}

// endlessBody is an event stream, which ends when the proxy shuts down.
type endlessBody struct {
	io.ReadCloser
	closing context.Context
	stop    func() bool
}

func (b *endlessBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	if err != nil && b.closing.Err() != nil {
		err = io.EOF
	}
	return n, err
}

func (b *endlessBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

type countedBody struct {
	io.ReadCloser
	resp *http.Response
	d    *decision
}

func (b *countedBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	switch {
	case err == io.EOF && isGRPC(b.resp.Header) && grpcServerFault(b.resp):
		b.d.tally.answered(http.StatusInternalServerError)
	case err == io.EOF:
		b.d.tally.answered(b.resp.StatusCode)
	case err != nil && b.resp.Request.Context().Err() == nil:
		b.d.tally.failed()
	}
	return n, err
}

// grpcServerFault reports a status that says the server failed: unknown,
// deadline exceeded, internal, unavailable or data loss.
func grpcServerFault(resp *http.Response) bool {
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	switch status {
	case "2", "4", "13", "14", "15":
		return true
	}
	return false
}

func writeRefusal(w http.ResponseWriter, r refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	_, _ = w.Write(r.envelope())
}

func isUpgrade(h *fasthttp.RequestHeader) bool {
	return len(h.Peek(fasthttp.HeaderUpgrade)) > 0 &&
		strings.Contains(strings.ToLower(string(h.Peek(fasthttp.HeaderConnection))), "upgrade")
}

// upgrade hands the connection of an HTTP/1.1 upgrade request to the slow
// path, for good.
func (p *Proxy) upgrade(ctx *fasthttp.RequestCtx, d decision) {
	target, err := url.ParseRequestURI(string(ctx.RequestURI()))
	if err != nil || ctx.RequestBodyStream() != nil {
		d.tally.abandoned()
		refuse(ctx, refusal{http.StatusBadRequest, headgate.CodeValidation, headgate.ClassValidation, "an upgrade request needs a plain path and takes no body"})
		return
	}
	// The request outlives ctx, so nothing in it may point there.
	r := &http.Request{
		Method: string(ctx.Method()), URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Host: string(ctx.Host()), RemoteAddr: ctx.RemoteAddr().String(), Body: http.NoBody,
	}
	if tc := ctx.Conn().(*clientConn).tls; tc != nil {
		state := tc.ConnectionState()
		r.TLS = &state
	}
	for name, value := range ctx.Request.Header.All() {
		if k := string(name); k != fasthttp.HeaderHost {
			r.Header.Add(k, string(value))
		}
	}
	r = r.WithContext(p.killed)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		defer d.tally.abandoned()
		if !p.enter() {
			return
		}
		defer p.running.Done()
		w := &connWriter{conn: c, header: http.Header{}}
		p.forward(w, r, &d)
		w.finish()
	})
}

// connWriter is the ResponseWriter of one hijacked connection.
type connWriter struct {
	conn     net.Conn
	header   http.Header
	wrote    bool
	hijacked bool
}

func (w *connWriter) Header() http.Header { return w.header }

func (w *connWriter) WriteHeader(status int) {
	if w.wrote || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.wrote = true
	if status != http.StatusSwitchingProtocols {
		w.header.Set("Connection", "close")
	}
	_, _ = fmt.Fprintf(w.conn, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = w.header.Write(w.conn)
	_, _ = io.WriteString(w.conn, "\r\n")
}

func (w *connWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.conn.Write(b)
}

func (w *connWriter) Flush() {}

// Hijack implements [http.Hijacker] for ReverseProxy's upgrade.
func (w *connWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

func (w *connWriter) finish() {
	if !w.hijacked {
		w.WriteHeader(http.StatusBadGateway)
	}
}
