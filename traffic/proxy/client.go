package proxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

const maxAnswerBytes = 64 << 20

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
	hc = cmp.Or(hc, &http.Client{Timeout: 2 * time.Second})
	return &Client{base: strings.TrimSuffix(adminURL, "/"), token: token, http: hc}
}

// Apply implements [rollout.Router].
func (c *Client) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return rollout.Status{}, headgate.Invalidf("split: share must be a number").Wrap(err)
	}
	var st rollout.Status
	if err := c.call(ctx, http.MethodPut, "/route", body, &st); err != nil {
		return rollout.Status{}, err
	}
	if st.Epoch != s.Epoch || st.Share > s.Share {
		return st, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the proxy reads back epoch %d and share %v instead of %d and %v; read its status again", st.Epoch, st.Share, s.Epoch, s.Share)
	}
	return st, nil
}

// Status implements [rollout.Router].
func (c *Client) Status(ctx context.Context) (rollout.Status, error) {
	var st rollout.Status
	err := c.call(ctx, http.MethodGet, "/route", nil, &st)
	return st, err
}

// Counts implements [rollout.Router].
func (c *Client) Counts(ctx context.Context) (rollout.Counts, error) {
	var counts rollout.Counts
	err := c.call(ctx, http.MethodGet, "/counts", nil, &counts)
	return counts, err
}

// Routes is [Proxy.Routes].
func (c *Client) Routes(ctx context.Context) (rollout.Counts, error) {
	var counts rollout.Counts
	err := c.call(ctx, http.MethodGet, "/counts?by=route", nil, &counts)
	return counts, err
}

func (c *Client) call(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the proxy's admin address is no URL").Wrap(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		return unreachable(req, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return unreachable(req, err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, out); err != nil {
			return unreachable(req, err)
		}
		return nil
	}
	var answer struct {
		Error wireError `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Error.Code == "" {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the proxy's admin address answered %d; check that it is a proxy's", resp.StatusCode)
	}
	e := answer.Error
	return &headgate.Error{Code: e.Code, Class: e.Class, Message: e.Message, Retryable: e.Retryable, Details: e.Details}
}

func unreachable(req *http.Request, cause error) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the proxy's admin address %s does not answer; check that the proxy runs and is reachable", req.URL.Host).Wrap(cause)
}
