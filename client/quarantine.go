package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Quarantined is a digest that was rolled back and is not released again until
// two people agree to it. It is out once ReleasedBy is set.
type Quarantined struct {
	Service     string    `json:"service"`
	Digest      string    `json:"digest"`
	ReleaseID   string    `json:"release_id"`
	TenantID    string    `json:"tenant_id,omitempty"`
	Version     string    `json:"version"`
	At          time.Time `json:"at"`
	RequestedBy string    `json:"requested_by,omitempty"`
	RequestedAt time.Time `json:"requested_at,omitzero"`
	Reason      string    `json:"reason,omitempty"`
	ReleasedBy  string    `json:"released_by,omitempty"`
}

// Quarantine returns the digests in quarantine, oldest first, of one service
// or, when that is empty, of all.
func (c *Client) Quarantine(ctx context.Context, service string) ([]Quarantined, error) {
	q := url.Values{}
	if service != "" {
		q.Set("service", service)
	}
	return do[[]Quarantined](ctx, c, call{method: http.MethodGet, path: "/api/v1/quarantine", query: q, again: true})
}

// ReleaseQuarantine asks to release a digest, or releases the one that somebody
// else asked for. The service may be empty where that leaves no doubt.
func (c *Client) ReleaseQuarantine(ctx context.Context, service, digest, reason string) (Quarantined, error) {
	body := map[string]any{"service": service, "reason": reason}
	return do[Quarantined](ctx, c, call{method: http.MethodPost, path: "/api/v1/quarantine/" + url.PathEscape(digest) + "/release", body: body})
}
