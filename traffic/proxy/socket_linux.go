package proxy

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// socket reads and writes a TCP connection without announcing each system call
// to Go's scheduler. It never blocks in one: as ever, it waits with the network
// poller, and deadlines and Close work. The announcement is for calls that may
// take long. When a busy kernel takes the processor from the thread in the
// middle of one of ours, the scheduler would take that for such a call, wake
// another thread to go on in its place, and look every 20 µs for more of them;
// that cost a sixth of the proxy's time.
//
// Unlike other connections it takes one reader and one writer at a time, which
// is what HTTP servers, clients and TLS are.
type socket struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is one call of Read or Write.
type transfer struct {
	buf   []byte
	n     int
	errno syscall.Errno
	step  func(fd uintptr) bool // does what can be done without waiting; false to wait
}

// direct returns c as a socket, or c itself when it is no TCP connection.
func direct(c net.Conn) net.Conn {
	tc, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return c
	}
	s := &socket{TCPConn: tc, raw: raw}
	s.in.step, s.out.step = s.in.read, s.out.write
	return s
}

func (t *transfer) read(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.buf))), uintptr(len(t.buf)))
		switch errno {
		case 0:
			t.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.errno = errno
			return true
		}
	}
}

func (t *transfer) write(fd uintptr) bool {
	for t.n < len(t.buf) {
		rest := t.buf[t.n:]
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
		switch errno {
		case 0:
			t.n += int(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.errno = errno
			return true
		}
	}
	return true
}

// Read implements [net.Conn].
func (s *socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := s.end("read", &s.in, s.raw.Read(s.in.begin(p)))
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write implements [net.Conn].
func (s *socket) Write(p []byte) (int, error) {
	return s.end("write", &s.out, s.raw.Write(s.out.begin(p)))
}

func (t *transfer) begin(p []byte) func(uintptr) bool {
	t.buf, t.n, t.errno = p, 0, 0
	return t.step
}

func (s *socket) end(op string, t *transfer, err error) (int, error) {
	t.buf = nil
	if err == nil && t.errno != 0 {
		err = &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, t.errno)}
	}
	return t.n, err
}
