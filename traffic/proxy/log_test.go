package proxy_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/traffic/proxy"
)

type lockedBuffer struct {
	sync.Mutex
	b bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.Lock()
	defer l.Unlock()
	return l.b.String()
}

// TestLogQuotesNobody: what a client or a service sent is in no log, however
// broken and however much is logged.
func TestLogQuotesNobody(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\x01\r\n\r\n")
		_ = c.Close()
	})
	var log lockedBuffer
	_, url := start(t, proxy.Config{Stable: stable, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	requests := []string{
		"GET /\r\nAuthorization: Bearer s3cret\r\n\r\n",
		"s3cret / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\x01\r\n\r\n",
		"GET  HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5s3cret\r\nhello\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n\r\n", // whose answer is broken
	}
	for _, raw := range requests {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, raw)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "backend did not answer") || !strings.Contains(log.String(), "connection ended"); {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is logged:\n%s", log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Errorf("the log quotes what was sent:\n%s", log.String())
	}
}
