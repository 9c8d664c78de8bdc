package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Credential is what the server tells of one, without its secret.
type Credential struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Person    string    `json:"person,omitempty"` // who holds it, empty when Name says it
	Role      string    `json:"role"`
	Tenants   []string  `json:"tenants"` // empty for all
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// NewToken describes a credential that is wanted. Empty Tenants confine it as
// the caller is confined; 0 for ExpiresS, in seconds, is for ever.
type NewToken struct {
	Name     string   `json:"name"`
	Person   string   `json:"person,omitempty"`
	Role     string   `json:"role"`
	Tenants  []string `json:"tenants,omitempty"`
	ExpiresS float64  `json:"expires_s,omitempty"`
}

// IssuedToken is a new credential with its token, which is shown this once.
type IssuedToken struct {
	Token string `json:"token"`
	Credential
}

// CreateToken makes a credential. It is for operators.
func (c *Client) CreateToken(ctx context.Context, n NewToken) (IssuedToken, error) {
	return do[IssuedToken](ctx, c, call{method: http.MethodPost, path: "/api/v1/tokens", body: n})
}

// Tokens returns the credentials that reach no further than the caller's,
// oldest first. It is for operators.
func (c *Client) Tokens(ctx context.Context) ([]Credential, error) {
	return do[[]Credential](ctx, c, call{method: http.MethodGet, path: "/api/v1/tokens", again: true})
}

// RevokeToken makes a credential worthless, at once. It is for operators.
func (c *Client) RevokeToken(ctx context.Context, id string) (Credential, error) {
	return do[Credential](ctx, c, call{method: http.MethodDelete, path: "/api/v1/tokens/" + url.PathEscape(id)})
}
