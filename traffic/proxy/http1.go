package proxy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate"
)

// bufferedBody is the longest request body that is read before it is sent on,
// so that it can be sent again when a kept connection turns out closed.
const bufferedBody = 64 << 10

// shortBody is the longest answer's body that is passed on in one piece. What
// fits into fasthttp's buffer would not reach the client earlier in pieces.
const shortBody = 4 << 10

// serveHTTP1 is the fast path: every HTTP/1.x request but upgrades.
func (p *Proxy) serveHTTP1(ctx *fasthttp.RequestCtx) {
	defer func() {
		if r := recover(); r != nil {
			p.cfg.Logger.Error("proxy panicked on a request", "panic", r)
			refuse(ctx, refusal{fasthttp.StatusInternalServerError, headgate.CodeInternal, headgate.ClassPermanent, "the proxy failed on this request; its log has the cause"})
		}
	}()
	h := &ctx.Request.Header
	if r, ok := p.unacceptable(h); ok {
		refuse(ctx, r)
		return
	}
	conn := ctx.Conn().(*clientConn)
	c := caller{
		tenant:       string(h.Peek(p.cfg.TenantHeader)),
		session:      string(h.Peek(p.cfg.SessionHeader)),
		tester:       string(h.Peek(TesterHeader)),
		testerSecret: string(h.Peek(TesterSecretHeader)),
		method:       h.Method(),
		path:         ctx.URI().PathOriginal(),
	}
	if c.session == "" {
		c.session = string(h.Peek(fasthttp.HeaderAuthorization))
	}
	if c.session == "" {
		c.session = conn.ip
	}
	d := p.decide(c)
	if isUpgrade(h) {
		p.upgrade(ctx, d)
		return
	}
	p.prepare(h, conn)
	body, err := p.takeBody(ctx)
	if err != nil {
		d.tally.abandoned()
		refuse(ctx, bodyRefusal(err))
		return
	}
	resp := fasthttp.AcquireResponse()
	resp.StreamBody = true
	resp.Header.SetNoDefaultContentType(true)
	if err := p.exchange(&ctx.Request, resp, &d, body); err != nil {
		fasthttp.ReleaseResponse(resp)
		p.answerFailure(ctx, &d, body, err)
		return
	}
	if err := p.answer(ctx, resp, &d); err != nil {
		p.answerFailure(ctx, &d, nil, err)
	}
}

// unacceptable refuses what two HTTP parsers could read in two ways. Repeated
// or malformed lengths and codings are already refused by fasthttp.
func (p *Proxy) unacceptable(h *fasthttp.RequestHeader) (refusal, bool) {
	if h.IsConnect() {
		return refusal{fasthttp.StatusMethodNotAllowed, headgate.CodeMethodNotAllowed, headgate.ClassValidation, "CONNECT is not served here"}, true
	}
	if h.ContentLength() > 0 && int64(h.ContentLength()) > p.cfg.MaxBodyBytes {
		return bodyRefusal(errBodyTooLarge), true
	}
	for _, name := range h.PeekTrailerKeys() {
		if p.sets(string(name)) {
			return refusal{
				fasthttp.StatusBadRequest, headgate.CodeValidation, headgate.ClassSecuritySensitive,
				"a header field that the proxy reads or sets cannot be sent as a trailer; send it in the header or not at all",
			}, true
		}
	}
	length, coding := false, false
	for line := range bytes.Lines(h.RawHeaders()) {
		switch {
		case !bytes.HasSuffix(line, []byte("\r\n")):
			return bareLF, true
		case hasFold(line, "content-length:"):
			length = true
		case hasFold(line, "transfer-encoding:"):
			coding = true
			if h.ContentLength() != -1 {
				return ambiguous, true
			}
		}
	}
	return ambiguous, length && coding
}

var ambiguous = refusal{
	fasthttp.StatusBadRequest, headgate.CodeValidation, headgate.ClassSecuritySensitive,
	"the length of the request body is ambiguous; send either Content-Length or Transfer-Encoding: chunked",
}

// A line that ends in LF alone is one line to some and a part of one to others.
var bareLF = refusal{
	fasthttp.StatusBadRequest, headgate.CodeValidation, headgate.ClassSecuritySensitive,
	"a line of the request's header does not end in CR LF; end all of them so",
}

func hasFold(line []byte, prefix string) bool {
	return len(line) >= len(prefix) && line[0]|0x20 == prefix[0] && strings.EqualFold(string(line[:len(prefix)]), prefix)
}

// hopByHop headers concern one connection and are never passed on.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Transfer-Encoding", "Upgrade",
}

// dropped returns the request headers that the proxy consumes or sets itself.
func dropped(trustForwarded bool) []string {
	names := []string{TesterHeader, TesterSecretHeader, RouteHeader, "Expect"}
	if !trustForwarded {
		names = append(names, "Forwarded", "X-Real-Ip")
	}
	return names
}

// prepare turns the client's header into the one for the backend, all but the
// route.
func (p *Proxy) prepare(h *fasthttp.RequestHeader, conn *clientConn) {
	for _, value := range h.PeekAll(fasthttp.HeaderConnection) {
		for name := range strings.SplitSeq(string(value), ",") {
			if name = strings.TrimSpace(name); !p.keep(name) {
				h.Del(name)
			}
		}
	}
	chunked := h.ContentLength() == -1
	for _, name := range present(h.All(), p.dropped) {
		if name != fasthttp.HeaderTransferEncoding || !chunked {
			h.Del(name)
		}
	}
	h.ResetConnectionClose()
	forwardedFor, proto, host := conn.ip, conn.proto(), h.Host()
	if p.cfg.TrustForwarded {
		if prior := h.Peek(fasthttp.HeaderXForwardedFor); len(prior) > 0 {
			forwardedFor = string(prior) + ", " + conn.ip
		}
		if prior := h.Peek(fasthttp.HeaderXForwardedProto); len(prior) > 0 {
			proto = string(prior)
		}
		if prior := h.Peek(fasthttp.HeaderXForwardedHost); len(prior) > 0 {
			host = prior
		}
	}
	h.SetCanonical([]byte(fasthttp.HeaderXForwardedFor), []byte(forwardedFor))
	h.SetCanonical([]byte(fasthttp.HeaderXForwardedProto), []byte(proto))
	h.SetCanonical([]byte(fasthttp.HeaderXForwardedHost), host)
}

// present returns those of the hop-by-hop headers and of others that occur in
// header.
func present(header iter.Seq2[[]byte, []byte], others []string) []string {
	var found []string
	for key := range header {
		is := func(name string) bool { return string(key) == name }
		if i := slices.IndexFunc(hopByHop, is); i >= 0 {
			found = append(found, hopByHop[i])
		} else if i := slices.IndexFunc(others, is); i >= 0 {
			found = append(found, others[i])
		}
	}
	return found
}

// keep reports headers that a client may not take away by naming them in
// Connection: they say where the body ends and what the decision was made from.
func (p *Proxy) keep(name string) bool {
	for _, kept := range []string{"Content-Length", "Transfer-Encoding", "Host", p.cfg.TenantHeader, p.cfg.SessionHeader, "Authorization"} {
		if strings.EqualFold(name, kept) {
			return true
		}
	}
	return false
}

// sets reports headers that mean something to the proxy. A client that names one
// a trailer would move the proxy's own value out of the header.
func (p *Proxy) sets(name string) bool {
	is := func(other string) bool { return strings.EqualFold(name, other) }
	return p.keep(name) || slices.ContainsFunc(hopByHop, is) || slices.ContainsFunc(p.dropped, is) ||
		len(name) > len("X-Forwarded-") && strings.EqualFold(name[:len("X-Forwarded-")], "X-Forwarded-")
}

// exchange sends the request and reads the answer's header. It tries again
// only where the request cannot have taken effect twice.
func (p *Proxy) exchange(req *fasthttp.Request, resp *fasthttp.Response, d *decision, body *requestBody) error {
	safe := isSafe(string(req.Header.Method())) && body == nil
	req.URI().DisablePathNormalizing = true
	for attempt := 0; ; attempt++ {
		// A request without a body was decided just now, and is checked once
		// more when it is written.
		if attempt > 0 || !safe {
			p.confirm(d)
		}
		req.Header.SetCanonical([]byte(RouteHeader), []byte(d.arm))
		// HostClient.Do would only try again on its own account.
		_, err := fasthttp.DefaultTransport.RoundTrip(d.backend.fast, req, resp)
		if err == nil {
			d.backend.reached(true)
			return nil
		}
		if body != nil && (body.err != nil || body.started) {
			return err
		}
		var refused *dialError
		switch {
		case errors.Is(err, errWithdrawn) && attempt < 4:
			continue
		case errors.Is(err, errStale) && attempt < 2:
			d.backend.fast.CloseIdleConnections()
			continue
		case errors.As(err, &refused):
			d.backend.reached(false)
			d.tally.failed()
			if safe && d.backend != d.route.stable {
				d.arm, d.backend = headgate.Stable, d.route.stable
				continue
			}
		case isTimeout(err):
		default:
			d.backend.reached(false)
			if safe && attempt == 0 {
				continue
			}
		}
		return err
	}
}

func isSafe(method string) bool {
	return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "TRACE"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// answer passes the backend's answer on. The request is counted when its body
// has ended, or at once when the body is an endless stream. Fails when a short
// body does not arrive.
func (p *Proxy) answer(ctx *fasthttp.RequestCtx, resp *fasthttp.Response, d *decision) error {
	out, conn, from := &ctx.Response, ctx.Conn().(*clientConn), resp.LocalAddr().(upstreamAddr).conn
	conn.write.wanted = from.lastRead.Add(conn.idle)
	resp.Header.CopyTo(&out.Header)
	chunked := resp.Header.ContentLength() == -1
	for _, name := range present(resp.Header.All(), nil) {
		if name != fasthttp.HeaderTransferEncoding || !chunked {
			out.Header.Del(name)
		}
	}
	out.Header.ResetConnectionClose()
	out.Header.SetCanonical([]byte(RouteHeader), []byte(d.arm))
	if resp.BodyStream() == nil {
		d.tally.answered(resp.StatusCode())
		fasthttp.ReleaseResponse(resp)
		return nil
	}
	size := resp.Header.ContentLength()
	endless := bytes.HasPrefix(resp.Header.ContentType(), []byte("text/event-stream"))
	if endless {
		d.tally.answered(resp.StatusCode())
	}
	if !endless && size >= 0 && size <= shortBody {
		defer fasthttp.ReleaseResponse(resp)
		data := slices.Grow(conn.short[:0], size)[:size]
		conn.short = data
		_, err := io.ReadFull(resp.BodyStream(), data)
		if err = cmp.Or(err, resp.CloseBodyStream()); err != nil {
			return err
		}
		d.tally.answered(resp.StatusCode())
		out.SetBodyRaw(data)
		return nil
	}
	body := &responseBody{
		stream: resp.BodyStream(), resp: resp, out: &out.Header, tally: d.tally, status: resp.StatusCode(),
		conn: conn,
	}
	if endless {
		p.watch(body)
	}
	if out.ImmediateHeaderFlush = size < 0; size < 0 {
		body.gather(from)
	}
	out.SetBodyStream(body, size)
	return nil
}

// watch ends an endless stream that nobody reads any more, or that the proxy
// no longer serves. Its backend may be silent for long, so writing would not
// show either in time.
func (p *Proxy) watch(b *responseBody) {
	b.closed = make(chan struct{})
	if !p.enter() {
		b.interrupt()
		return
	}
	go func() {
		defer p.running.Done()
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-b.closed:
				return
			case <-p.closing.Done():
				b.interrupt()
				return
			case <-ticker.C:
				if closedByPeer(b.conn.socket) {
					b.interrupt()
					return
				}
			}
		}
	}()
}

func (p *Proxy) answerFailure(ctx *fasthttp.RequestCtx, d *decision, body *requestBody, err error) {
	if body != nil && body.err != nil {
		d.tally.abandoned()
		refuse(ctx, bodyRefusal(body.err))
		return
	}
	d.tally.failed()
	r := refusal{fasthttp.StatusBadGateway, headgate.CodeUnavailable, headgate.ClassTransient, "the service did not answer; try again shortly"}
	if isTimeout(err) {
		r.status, r.message = fasthttp.StatusGatewayTimeout, "the service took too long to answer; try again later"
	}
	p.cfg.Logger.Debug("backend did not answer", "arm", d.arm, "version", d.backend.Version, "err", unquoted(err))
	refuse(ctx, r)
	ctx.Response.Header.Set(RouteHeader, string(d.arm))
}

// takeBody reads a short body and leaves a long one to be streamed: then, and
// only then, the result is not nil.
func (p *Proxy) takeBody(ctx *fasthttp.RequestCtx) (*requestBody, error) {
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return nil, nil
	}
	body := &requestBody{stream: stream, conn: ctx.Conn().(*clientConn), left: p.cfg.MaxBodyBytes}
	size := ctx.Request.Header.ContentLength()
	if size < 0 || size > bufferedBody {
		ctx.Request.SetBodyStream(body, size)
		return body, nil
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, err
	}
	ctx.Request.SetBodyRaw(data)
	return nil, nil
}

var errBodyTooLarge = errors.New("request body exceeds the limit")

// requestBody streams a client's body, remembers whether the client spoilt it,
// and lets it take as long as it moves.
type requestBody struct {
	stream  io.Reader
	conn    *clientConn
	left    int64
	started bool
	err     error
}

func (b *requestBody) Read(buf []byte) (int, error) {
	b.started = true
	b.conn.read.wanted = time.Now().Add(b.conn.idle)
	n, err := b.stream.Read(buf)
	if b.left -= int64(n); b.left < 0 {
		err = errBodyTooLarge
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// responseBody streams a backend's body and counts the request at its end.
type responseBody struct {
	stream io.Reader
	resp   *fasthttp.Response
	out    *fasthttp.ResponseHeader
	tally  tally
	status int
	conn   *clientConn

	from *upstreamConn // of a body that is gathered
	gone bool          // the client

	closed      chan struct{} // for a watched stream
	interrupted atomic.Bool
}

// gather holds the pieces of the answer that have arrived together, and passes
// them on in one call as soon as the next one has to be waited for.
func (b *responseBody) gather(from *upstreamConn) {
	b.from, b.conn.holding = from, true
	from.waits = func() error {
		err := b.conn.flush()
		b.gone = err != nil
		return err
	}
}

// interrupt ends the stream, also in the middle of a Read.
func (b *responseBody) interrupt() {
	b.interrupted.Store(true)
	if s, ok := b.stream.(fasthttp.ReadCloserWithError); ok {
		_ = s.CloseWithError(io.ErrClosedPipe)
	}
}

func (b *responseBody) Read(buf []byte) (int, error) {
	n, err := b.stream.Read(buf)
	switch {
	case err != nil && b.interrupted.Load():
		err = io.EOF
	case errors.Is(err, io.EOF):
		b.tally.answered(b.status)
		for _, key := range b.resp.Header.PeekTrailerKeys() {
			b.out.SetBytesKV(key, b.resp.Header.PeekBytes(key))
		}
	case err != nil && !b.gone:
		b.tally.failed()
		_ = b.conn.flush() // what came before
	}
	b.conn.write.wanted = time.Now().Add(b.conn.idle)
	return n, err
}

// Close is called once, also when the client went away in mid-body.
func (b *responseBody) Close() error {
	b.tally.answered(b.status)
	if b.closed != nil {
		close(b.closed)
	}
	if b.from != nil {
		b.from.waits, b.conn.holding = nil, false
	}
	err := b.resp.CloseBodyStream()
	fasthttp.ReleaseResponse(b.resp)
	return err
}

// refusal is an answer of the proxy's own.
type refusal struct {
	status  int
	code    string
	class   headgate.Class
	message string
}

// envelope is the body of the refusal, in the contract's form.
func (r refusal) envelope() []byte {
	data, _ := json.Marshal(map[string]any{"success": false, "error": map[string]any{
		"code": r.code, "message": r.message, "class": r.class, "retryable": r.class == headgate.ClassTransient,
	}})
	return data
}

func bodyRefusal(err error) refusal {
	switch {
	case errors.Is(err, errBodyTooLarge):
		return refusal{fasthttp.StatusRequestEntityTooLarge, headgate.CodeBodyTooLarge, headgate.ClassValidation, "the request body is too large; send a smaller one"}
	case isTimeout(err):
		return refusal{fasthttp.StatusRequestTimeout, headgate.CodeValidation, headgate.ClassTransient, "the request body did not arrive in time; send it again"}
	}
	return refusal{fasthttp.StatusBadRequest, headgate.CodeValidation, headgate.ClassValidation, "the request body is malformed or cut short; check its length and chunks"}
}

// refuse answers and closes the connection: what is left on it may not be the
// start of a request.
func refuse(ctx *fasthttp.RequestCtx, r refusal) {
	ctx.Response.Reset()
	ctx.Response.SetStatusCode(r.status)
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBodyRaw(r.envelope())
	conn := ctx.Conn().(*clientConn)
	conn.write.wanted = time.Now().Add(conn.idle)
	if r.status != fasthttp.StatusBadGateway && r.status != fasthttp.StatusGatewayTimeout {
		ctx.SetConnectionClose()
	}
}

// unreadable answers what could not be parsed as a request.
func unreadable(ctx *fasthttp.RequestCtx, err error) {
	r := bodyRefusal(err)
	if errors.Is(err, errBareLF) {
		refuse(ctx, bareLF)
		return
	}
	var small *fasthttp.ErrSmallBuffer
	if errors.As(err, &small) {
		r.status, r.message = fasthttp.StatusRequestHeaderFieldsTooLarge, "the request header is too large; send fewer or shorter header fields"
	} else if r.status == fasthttp.StatusBadRequest {
		r.message = "the request is malformed; check its header and body framing"
	}
	refuse(ctx, r)
}
