// Package backend asks external servers for what they have stored: one bounded
// question over HTTP, with errors that say what to do.
//
// It owns bounds and errors. It knows no server's language; the adapters do.
package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// MaxBody bounds one answer.
const MaxBody = 32 << 20

// Client asks one server.
type Client struct {
	what    string // "trace server"
	base    *url.URL
	http    http.Client
	timeout time.Duration
}

// New returns a client of the server at the base URL. what names it in errors.
// A nil transport is Go's default; authentication is the transport's business.
// A question takes at most the timeout, 0 meaning 10 s.
func New(what, base string, transport http.RoundTripper, timeout time.Duration) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the %s's address must be an http or https URL with a host", what)
	}
	return &Client{
		what: what, base: u, timeout: cmp.Or(timeout, 10*time.Second),
		http: http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // credentials go to the configured host only
		}},
	}, nil
}

// Get asks for a path below the base URL. found is false when the server
// answers 404.
func (c *Client) Get(ctx context.Context, path, accept string, params url.Values) (body []byte, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	u := c.base.JoinPath(path)
	u.RawQuery = params.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, false, fmt.Errorf("ask the %s: %w", c.what, err)
	}
	req.Header.Set("Accept", accept)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, false, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return nil, false, c.unreachable(ctx, err)
	case len(body) > MaxBody:
		return nil, false, headgate.Invalidf("the %s's answer is larger than %d MB; narrow the query", c.what, MaxBody>>20)
	case resp.StatusCode == http.StatusNotFound:
		return nil, false, nil
	case resp.StatusCode != http.StatusOK:
		return nil, false, c.refused(resp.StatusCode, body)
	}
	return body, true, nil
}

// Ask is [Client.Get] of a path that every such server has: 404 is an error.
func (c *Client) Ask(ctx context.Context, path, accept string, params url.Values) ([]byte, error) {
	body, found, err := c.Get(ctx, path, accept, params)
	if err == nil && !found {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"the %s at %s has no %s; check that its address is that of the query API", c.what, c.base.Host, path)
	}
	return body, err
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the %s at %s did not answer within %s; narrow the query or raise the timeout", c.what, c.base.Host, c.timeout).Wrap(err)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the %s at %s does not answer; check its address and that it runs", c.what, c.base.Host).Wrap(err)
}

func (c *Client) refused(status int, body []byte) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"the %s at %s refuses Headgate's credential (status %d); check what is configured for it", c.what, c.base.Host, status)
	case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the %s at %s cannot answer now (status %d); try again", c.what, c.base.Host, status)
	}
	return headgate.Invalidf("the %s at %s refuses the query (status %d): %s", c.what, c.base.Host, status, Excerpt(body))
}

// Excerpt is what of a server's own words is shown.
func Excerpt(body []byte) string {
	const most = 200
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(body[:min(len(body), most)]), "")), " ")
	if s == "" {
		return "no reason given"
	}
	return s
}

// Unreadable is the error for an answer that is not in the documented format.
func (c *Client) Unreadable(err error) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
		"the %s at %s answers in an unknown format; check that its address is that of the query API", c.what, c.base.Host).Wrap(err)
}
