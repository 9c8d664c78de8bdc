package client

import (
	"context"
	"net/http"
	"time"
)

// Pause keeps a release from being promoted, and its share from rising, until
// it is resumed. It is judged on.
func (c *Client) Pause(ctx context.Context, id, reason string) (Release, error) {
	return c.steer(ctx, id, "/pause", map[string]any{"reason": reason})
}

// Resume lets a paused release go on.
func (c *Client) Resume(ctx context.Context, id, reason string) (Release, error) {
	return c.steer(ctx, id, "/resume", map[string]any{"reason": reason})
}

// Promote ends a canary in the candidate's favour; PROMOTION_REFUSED when
// something speaks against it.
func (c *Client) Promote(ctx context.Context, id, reason string) (Release, error) {
	return c.steer(ctx, id, "/promote", map[string]any{"reason": reason})
}

// SetShare sets a canary's share, above 0 to 1. The judge's limit stays below
// it.
func (c *Client) SetShare(ctx context.Context, id string, share float64, reason string) (Release, error) {
	return c.steer(ctx, id, "/share", map[string]any{"share": share, "reason": reason})
}

// Rollback takes a release back wherever it is, also after it was promoted, and
// returns when that has ended; RELEASE_NOT_IN_FORCE when users do not meet it.
func (c *Client) Rollback(ctx context.Context, id, reason string) (Release, error) {
	return do[Release](ctx, c, call{
		method: http.MethodPost, path: releasePath(id, "/rollback"), body: map[string]any{"reason": reason}, timeout: rollbackTimeout,
	})
}

// rollbackTimeout is longer than a rollback's replay may take.
const rollbackTimeout = 15 * time.Minute

func (c *Client) steer(ctx context.Context, id, what string, body map[string]any) (Release, error) {
	return do[Release](ctx, c, call{method: http.MethodPost, path: releasePath(id, what), body: body})
}
