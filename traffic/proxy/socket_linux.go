package proxy

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// socket reads and writes a TCP connection without announcing each system call
// to Go's scheduler. It never blocks in one: as ever, it waits with the network
// poller, and deadlines and Close work. The announcement is for calls that may
// take long. When a busy kernel takes the processor from the thread in the
// middle of one of ours, the scheduler would take that for such a call, wake
// another thread to go on in its place, and look every 20 µs for more of them;
// that cost a tenth of the proxy's time.
type socket struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is the call of Read or of Write that is under way.
type transfer struct {
	mu    sync.Mutex // callers may overlap: one is answered before its Write has returned
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
	n, err := s.do("read", &s.in, s.raw.Read, p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write implements [net.Conn].
func (s *socket) Write(p []byte) (int, error) {
	return s.do("write", &s.out, s.raw.Write, p)
}

func (s *socket) do(op string, t *transfer, await func(func(uintptr) bool) error, p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf, t.n, t.errno = p, 0, 0
	err := await(t.step)
	t.buf = nil
	if err == nil && t.errno != 0 {
		err = &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, t.errno)}
	}
	return t.n, err
}
