package replay

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/headgate/headgate"
)

// WaitHealthy asks url until it answers 2xx. After timeout it returns an
// UNAVAILABLE error that says what it saw last.
func WaitHealthy(ctx context.Context, url string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   2 * time.Second,
	}
	last := "no answer yet"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return headgate.Invalidf("health address is not a URL; check the service's description").Wrap(err)
		}
		resp, err := client.Do(req)
		switch {
		case err == nil:
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
			_ = resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				return nil
			}
			last = "status " + resp.Status
		case ctx.Err() == nil:
			last = "connection failed"
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
				"%s was not healthy within %s (last: %s); see the log of that instance", url, timeout, last).Wrap(err)
		}
	}
}

// pause waits for d or for ctx to end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
