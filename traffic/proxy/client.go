package proxy

import (
	"context"
	"errors"
	"net/http"

	"github.com/headgate/headgate/rollout"
)

// Client is a [rollout.Router] for a proxy in another process.
type Client struct {
	base  string
	token string
	http  *http.Client
}

var _ rollout.Router = (*Client)(nil)

// NewClient returns a client of the admin listener at adminURL. A nil hc is
// one with a timeout of 2 s.
func NewClient(adminURL, token string, hc *http.Client) *Client {
	return &Client{base: adminURL, token: token, http: hc}
}

// Apply implements [rollout.Router].
func (c *Client) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	return rollout.Status{}, errors.ErrUnsupported
}

// Status implements [rollout.Router].
func (c *Client) Status(ctx context.Context) (rollout.Status, error) {
	return rollout.Status{}, errors.ErrUnsupported
}

// Counts implements [rollout.Router].
func (c *Client) Counts(ctx context.Context) (rollout.Counts, error) {
	return rollout.Counts{}, errors.ErrUnsupported
}
