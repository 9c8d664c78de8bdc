//go:build unix

package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/server"
)

const benchClients = 64

// BenchmarkGateHTTP judges the performance gate over HTTP, without a release
// and so without a disk sync, beside a handler that only reads its body and
// answers. "steady" is 64 clients that ask 10 times a second each, as a busy
// day would; "flat out" is 64 that ask as fast as they are answered, where the
// time that a request takes is mostly the other 63.
func BenchmarkGateHTTP(b *testing.B) {
	st := settings(b.TempDir())
	st.OTLPHTTP = "127.0.0.1:0"
	s, err := server.New(b.Context(), server.Options{Settings: st, Version: "bench", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			b.Error(err)
		}
	}()
	token, err := s.IssueToken(b.Context(), "bench", access.Operator, nil)
	if err != nil {
		b.Fatal(err)
	}
	body, err := json.Marshal(passing("performance"))
	if err != nil {
		b.Fatal(err)
	}
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	defer bare.Close()
	gate := s.URL() + "/api/v1/internal/performance-gates/evaluate"
	for _, load := range []struct {
		name  string
		every time.Duration
	}{{"steady", 100 * time.Millisecond}, {"flat out", 0}} {
		b.Run(load.name, func(b *testing.B) {
			hammer(b, bare.URL, token, body, load.every, 4*benchClients) // warm up
			hammer(b, gate, token, body, load.every, 4*benchClients)
			b.ResetTimer()
			n := max(b.N, 20*benchClients) / benchClients * benchClients
			before := cpu(b)
			base := hammer(b, bare.URL, token, body, load.every, n)
			between := cpu(b)
			took := hammer(b, gate, token, body, load.every, n)
			// On a busy machine only processor time says what a request costs.
			b.ReportMetric((cpu(b)-2*between+before).Seconds()*1e6/float64(n), "cpu-us-over-bare")
			b.ReportMetric(ms(took, 0.5), "p50-ms")
			b.ReportMetric(ms(took, 0.99), "p99-ms")
			b.ReportMetric(ms(base, 0.99), "bare-p99-ms")
			b.ReportMetric(ms(took, 0.99)/ms(base, 0.99), "ratio")
		})
	}
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hammer asks n times from 64 clients and returns how long each took, sorted.
func hammer(b *testing.B, url, token string, body []byte, every time.Duration, n int) []time.Duration {
	b.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: benchClients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	all := make([][]time.Duration, benchClients)
	var wg sync.WaitGroup
	for c := range all {
		wg.Go(func() {
			time.Sleep(every * time.Duration(c) / benchClients) // not all at once
			for range n / benchClients {
				start := time.Now()
				if err := ask(client, url, token, body); err != nil {
					b.Error(err)
					return
				}
				took := time.Since(start)
				all[c] = append(all[c], took)
				time.Sleep(every - took)
			}
		})
	}
	wg.Wait()
	out := slices.Concat(all...)
	slices.Sort(out)
	return out
}

func ask(client *http.Client, url, token string, body []byte) error {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(res.Body)
		return errors.Join(err, fmt.Errorf("status %d: %.200s", res.StatusCode, answer))
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// ms is a quantile of sorted times.
func ms(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)].Seconds() * 1000
}
