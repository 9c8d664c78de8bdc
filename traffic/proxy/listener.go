package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// clientTimeout is how long a client may take for its TLS handshake and for
// the header of a request.
const clientTimeout = 30 * time.Second

var http2Preface = []byte("PRI * HTTP/2.0")

// maxHeld bounds what waits to be written in one call. It holds what fasthttp
// writes at once.
const maxHeld = 16 << 10

// errBareLF is a header whose last lines end in LF alone. fasthttp would wait
// for more of it.
var errBareLF = errors.New("the header ends in LF instead of CR LF")

// peekedConn is a connection whose first bytes have been looked at.
type peekedConn struct {
	net.Conn
	head []byte // read already, to be read again
	err  error  // what comes after it, if not the rest
}

func (c *peekedConn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(b)
}

// clientConn is an accepted connection that speaks HTTP/1.
type clientConn struct {
	lazyConn
	socket  net.Conn // below TLS
	tls     *tls.Conn
	ip      string
	idle    time.Duration
	holding bool // whether more is about to be written
	held    []byte
	short   []byte // the last short answer's body
}

func (c *clientConn) Write(b []byte) (int, error) {
	if !c.holding && len(c.held) == 0 {
		return c.lazyConn.Write(b)
	}
	if len(c.held)+len(b) > maxHeld {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	c.held = append(c.held, b...)
	if c.holding && len(c.held) <= maxHeld {
		return len(b), nil
	}
	return len(b), c.flush()
}

// flush writes what is held.
func (c *clientConn) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.lazyConn.Write(c.held)
	c.held = c.held[:0]
	return err
}

func (c *clientConn) proto() string {
	if c.tls != nil {
		return "https"
	}
	return "http"
}

// classify finds out what a new connection speaks and hands it to the server
// for it.
func (p *Proxy) classify(c net.Conn) {
	c = direct(c)
	unblock := context.AfterFunc(p.closing, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer unblock()
	ip, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		ip = c.RemoteAddr().String()
	}
	if err := c.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
		_ = c.Close()
		return
	}
	cc := &clientConn{socket: c, ip: ip, idle: p.cfg.IdleTimeout}
	peeked := &peekedConn{Conn: c}
	if p.tls != nil {
		tc := tls.Server(c, p.tls)
		if err := tc.HandshakeContext(p.closing); err != nil {
			_ = c.Close()
			return
		}
		if tc.ConnectionState().NegotiatedProtocol == "h2" {
			p.http2.give(tc)
			return
		}
		peeked.Conn, cc.tls = tc, tc
	}
	head := make([]byte, 0, 512)
	for {
		n, err := peeked.Conn.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil {
			_ = c.Close()
			return
		}
		if len(head) >= len(http2Preface) || !bytes.HasPrefix(http2Preface, head) {
			break
		}
	}
	peeked.head = head
	if !unblock() {
		_ = c.Close()
		return
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		_ = c.Close()
		return
	}
	if bytes.HasPrefix(head, http2Preface) {
		p.http2.give(peeked)
		return
	}
	if !bytes.Contains(head, []byte("\r\n\r\n")) && (bytes.Contains(head, []byte("\n\n")) || bytes.Contains(head, []byte("\n\r\n"))) {
		peeked.err = errBareLF
	}
	cc.lazyConn = lazyConn{Conn: peeked, slack: p.slack()}
	p.http1.give(cc)
}

// handoff is a listener that is given its connections.
type handoff struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *handoff) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}

// Accept implements [net.Listener].
func (l *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *handoff) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener]. The address is that of no socket.
func (l *handoff) Addr() net.Addr { return &net.TCPAddr{} }
