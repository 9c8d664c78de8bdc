package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// connected returns both ends of a connection, the first as the proxy uses it.
func connected(t *testing.T) (mine, peer net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if peer, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if mine, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mine.Close(); _ = peer.Close() })
	return direct(mine), peer
}

func TestSocketWaitsForItsPeer(t *testing.T) {
	t.Parallel()
	mine, peer := connected(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than the kernel buffers
	go func() { _, _ = io.Copy(peer, peer) }()
	wrote := make(chan error, 1)
	go func() {
		_, err := mine.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(mine, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("what came back differs from what was sent, err %v", err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
	if n, err := mine.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("after its peer closed it reads %d bytes, %v", n, err)
	}
}

func TestSocketEndsItsWait(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end  func(mine, peer net.Conn) error
		want func(error) bool
	}{
		"deadline": {func(mine, _ net.Conn) error { return mine.SetReadDeadline(time.Unix(1, 0)) }, isTimeout},
		"closed":   {func(mine, _ net.Conn) error { return mine.Close() }, func(err error) bool { return errors.Is(err, net.ErrClosed) }},
		"reset": {func(_, peer net.Conn) error {
			return errors.Join(peer.(*net.TCPConn).SetLinger(0), peer.Close())
		}, func(err error) bool {
			var op *net.OpError
			return errors.As(err, &op) && op.Op == "read" && !op.Timeout()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine, peer := connected(t)
			ended := make(chan error, 1)
			go func() {
				_, err := mine.Read(make([]byte, 1))
				ended <- err
			}()
			if err := tc.end(mine, peer); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if !tc.want(err) {
					t.Fatalf("the read ends with %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("the read goes on")
			}
		})
	}
}

func TestSocketTakesSeveralWriters(t *testing.T) {
	t.Parallel()
	mine, peer := connected(t)
	const writers, each = 8, 1000
	done := make(chan error, writers)
	for i := range writers {
		go func() {
			line := bytes.Repeat([]byte{byte('a' + i)}, 1+i)
			for range each {
				if n, err := mine.Write(append(line, '\n')); err != nil || n != len(line)+1 {
					done <- fmt.Errorf("wrote %d of %d bytes, %w", n, len(line)+1, err)
					return
				}
			}
			done <- nil
		}()
	}
	lines := bufio.NewScanner(peer)
	for range writers * each {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		line := lines.Bytes()
		if len(line) == 0 || len(line) != int(line[0]-'a')+1 || bytes.Count(line, line[:1]) != len(line) {
			t.Fatalf("two writes are mixed in %q", line)
		}
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
