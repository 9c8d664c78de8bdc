//go:build !linux

package proxy

import "net"

// direct is for Linux, where system calls may be made without their wrappers.
func direct(c net.Conn) net.Conn { return c }
