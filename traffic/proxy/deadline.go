package proxy

import (
	"net"
	"time"
)

// lazyConn moves its deadlines only when a read or write begins, and then only
// if the one wanted is earlier than the one in force, or later by slack: each
// request asks for seven, nearly all of which would only move on with the
// clock. A timeout may so come early by slack. Deadlines are set by who reads
// and writes; they do not end a call that waits.
type lazyConn struct {
	net.Conn
	slack       time.Duration
	read, write deadline
}

type deadline struct{ wanted, inForce time.Time }

// moves reports whether the deadline in force becomes the one wanted.
func (d *deadline) moves(slack time.Duration) bool {
	if late := d.wanted.Sub(d.inForce); late >= 0 && late < slack {
		return false
	}
	d.inForce = d.wanted
	return true
}

func (c *lazyConn) Read(p []byte) (int, error) {
	if c.read.moves(c.slack) {
		if err := c.Conn.SetReadDeadline(c.read.wanted); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

func (c *lazyConn) Write(p []byte) (int, error) {
	if c.write.moves(c.slack) {
		if err := c.Conn.SetWriteDeadline(c.write.wanted); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// SetReadDeadline implements [net.Conn].
func (c *lazyConn) SetReadDeadline(t time.Time) error {
	c.read.wanted = t
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (c *lazyConn) SetWriteDeadline(t time.Time) error {
	c.write.wanted = t
	return nil
}

// SetDeadline implements [net.Conn].
func (c *lazyConn) SetDeadline(t time.Time) error {
	c.read.wanted, c.write.wanted = t, t
	return nil
}
