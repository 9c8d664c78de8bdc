package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/traffic/routertest"
)

func h2cClient(t *testing.T) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	route := make(chan string, 10)
	answer := func(version string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			route <- r.Header.Get("X-Release-Route") + r.Header.Get("X-Forwarded-For")
			body, _ := io.ReadAll(r.Body)
			_, _ = io.WriteString(w, version+string(body))
		}
	}
	stable, candidate := serve(t, "v1", answer("v1")), serve(t, "v2", answer("v2"))
	p, url := start(t, proxy.Config{Stable: stable, MaxBodyBytes: 1000})
	c := h2cClient(t)
	resp, got := do(t, c, "POST", url, strings.NewReader("+body"), "X-Release-Route", "candidate")
	if resp.ProtoMajor != 2 || got != "v1+body" || resp.Header.Get("X-Release-Route") != "stable" || <-route != "stable127.0.0.1" {
		t.Errorf("%s %q %v", resp.Proto, got, resp.Header)
	}
	apply(t, p, allToCandidate(stable, candidate))
	if resp, got := do(t, c, "GET", url, nil); got != "v2" || resp.Header.Get("X-Release-Route") != "candidate" {
		t.Errorf("%q %v", got, resp.Header)
	}
	if resp, _ := do(t, c, "POST", url, strings.NewReader(strings.Repeat("x", 1001))); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit is answered %d", resp.StatusCode)
	}
	eventually(t, p, headgate.Stable, 1, 0)
	eventually(t, p, headgate.Candidate, 1, 0)
}

func TestHTTP2FallsBackFromADeadCandidate(t *testing.T) {
	t.Parallel()
	stable := serve(t, "v1", says("v1"))
	p, url := start(t, proxy.Config{Stable: stable, HealthInterval: time.Hour})
	apply(t, p, allToCandidate(stable, rollout.Backend{Version: "v2", URL: routertest.Dead}))
	if resp, got := do(t, h2cClient(t), "GET", url, nil); got != "v1" || resp.Header.Get("X-Release-Route") != "stable" {
		t.Errorf("%d %q", resp.StatusCode, got)
	}
	eventually(t, p, headgate.Candidate, 1, 1)
}

// tlsConfig borrows httptest's certificate, which is for example.com.
func tlsConfig(t *testing.T) (server, client *tls.Config) {
	srv := httptest.NewTLSServer(nil)
	t.Cleanup(srv.Close)
	client = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	return &tls.Config{Certificates: srv.TLS.Certificates, MinVersion: tls.VersionTLS12}, client
}

func TestTLS(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := tlsConfig(t)
	_, url := start(t, proxy.Config{TLS: serverTLS, Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	})})
	url = strings.Replace(url, "http:", "https:", 1)
	for _, major := range []int{1, 2} {
		tr := &http.Transport{TLSClientConfig: clientTLS, ForceAttemptHTTP2: major == 2}
		t.Cleanup(tr.CloseIdleConnections)
		resp, got := do(t, &http.Client{Transport: tr, Timeout: 30 * time.Second}, "GET", url, nil)
		if resp.ProtoMajor != major || got != "https" {
			t.Errorf("%s: the backend sees %q", resp.Proto, got)
		}
	}
}

func TestTLSBackend(t *testing.T) {
	t.Parallel()
	// The certificate is not trusted by the system, so the proxy must refuse.
	srv := httptest.NewTLSServer(says("secret"))
	t.Cleanup(srv.Close)
	p, url := start(t, proxy.Config{Stable: rollout.Backend{Version: "v1", URL: srv.URL}})
	if resp, got := do(t, newClient(t), "GET", url, nil); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("an untrusted backend is answered %d %q", resp.StatusCode, got)
	}
	eventually(t, p, headgate.Stable, 1, 1)
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	// A backend that upgrades to a protocol of echoed lines.
	stable := serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" || r.Header.Get("X-Release-Route") != "stable" {
			http.Error(w, "no upgrade", http.StatusUpgradeRequired)
			return
		}
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, brw)
	})
	p, url := start(t, proxy.Config{Stable: stable})
	dial := func(upgrade string) (net.Conn, *bufio.Reader, *http.Response) {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		// The first line is sent along with the request.
		_, _ = fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\nX-Release-Route: forged\r\n\r\nearly\n", upgrade)
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, br, resp
	}
	c, br, resp := dial("echo")
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Release-Route") != "stable" {
		t.Fatalf("answered %d %v", resp.StatusCode, resp.Header)
	}
	for _, line := range []string{"early\n", "late\n"} {
		if line == "late\n" {
			_, _ = io.WriteString(c, line)
		}
		if got, err := br.ReadString('\n'); got != line {
			t.Fatalf("got %q %v, want %q", got, err, line)
		}
	}
	_, _, refused := dial("other")
	body, _ := io.ReadAll(refused.Body)
	if refused.StatusCode != http.StatusUpgradeRequired || !strings.Contains(string(body), "no upgrade") {
		t.Errorf("a refused upgrade is answered %d %q", refused.StatusCode, body)
	}
	eventually(t, p, headgate.Stable, 2, 0)
	// Shutdown, in the cleanup, must not wait for the upgraded connection.
}

type healthServer struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (healthServer) Check(ctx context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if route := md.Get("x-release-route"); len(route) != 1 || route[0] != "stable" {
		return nil, status.Errorf(codes.FailedPrecondition, "route is %v", route)
	}
	if req.GetService() == "broken" {
		return nil, status.Error(codes.Internal, "broken")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (healthServer) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	for range 3 {
		if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
	}
	return nil
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, healthServer{})
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	p, url := start(t, proxy.Config{Stable: rollout.Backend{Version: "v1", URL: "http://" + ln.Addr().String()}})
	conn, err := grpc.NewClient(strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := grpc_health_v1.NewHealthClient(conn)
	if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "broken"}); status.Code(err) != codes.Internal {
		t.Errorf("got %v, want Internal", err)
	}
	stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	messages := 0
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
		messages++
	}
	if !errors.Is(err, io.EOF) || messages != 3 {
		t.Errorf("%d messages, then %v", messages, err)
	}
	eventually(t, p, headgate.Stable, 3, 1)
}

func TestHTTP2DisconnectCancelsTheBackend(t *testing.T) {
	t.Parallel()
	entered, gone := make(chan struct{}), make(chan struct{})
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(gone)
	})})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-entered
		cancel()
	}()
	if resp, err := h2cClient(t).Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("answered %d", resp.StatusCode)
	}
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("the backend never learns that the client is gone")
	}
	eventually(t, p, headgate.Stable, 1, 0)
}

func TestHTTP2DrainsAtShutdown(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	})})
	client := h2cClient(t)
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Get(url)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- p.Shutdown(t.Context()) }()
	await(t, "the proxy to accept nobody", func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("the request in flight got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// An event stream has no end of its own: a shutdown that waited for it would
// take its whole time and end in an error.
func TestHTTP2EventStreamEndsAtShutdown(t *testing.T) {
	t.Parallel()
	p, url := start(t, proxy.Config{Stable: serve(t, "v1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})})
	resp, err := h2cClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadFull(resp.Body, make([]byte, len("data: 1\n\n"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("the stream ended with %q, %v", rest, err)
	}
}
