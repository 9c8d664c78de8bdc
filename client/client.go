// Package client is the Go client of Headgate's HTTP API.
//
// It owns the wire: the envelope, errors, timeouts and the retries of calls
// that may be repeated. It decides nothing and keeps no state; a [Client] is
// safe for concurrent use.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

const (
	callTimeout     = 30 * time.Second
	transferTimeout = 5 * time.Minute
	// maxAnswer bounds what is read of one JSON answer.
	maxAnswer = 64 << 20
	// maxError bounds what is read of an answer that is not ours.
	maxError = 64 << 10

	attempts     = 4
	firstBackoff = 200 * time.Millisecond
)

// Client talks to one Headgate server.
//
// Every method returns a *[headgate.Error]: the server's own, with the id
// under which the server's log has the request as the detail "request_id", or
// UNAVAILABLE when no server answered. Calls that change nothing, or change it
// once however often they are made, are tried up to four times on transient
// errors.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New returns a client of the server at baseURL, such as
// "http://127.0.0.1:8080". An empty token sends no credential. A nil hc is
// [http.DefaultClient]; its redirect policy is not used, since the API has no
// redirects and a token must not follow one.
func New(baseURL, token string, hc *http.Client) *Client {
	if hc == nil {
		hc = http.DefaultClient
	}
	c := *hc
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: strings.TrimRight(baseURL, "/"), token: token, http: &c}
}

// URL is the address of the server, without a slash at its end.
func (c *Client) URL() string { return c.base }

// call is one request. A body that is not nil is sent as JSON.
type call struct {
	method, path string
	query        url.Values
	body         any
	// raw, if set, is sent instead of body, once, as contentType or as bytes.
	raw         io.Reader
	contentType string
	again       bool // may be repeated
	timeout     time.Duration
}

// do makes a call and decodes the data of the envelope.
func do[T any](ctx context.Context, c *Client, k call) (T, error) {
	var envelope struct {
		Data T `json:"data"`
	}
	err := c.try(ctx, k, func(r io.Reader) error {
		if err := json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(&envelope); err != nil {
			return foreign(c.base, err)
		}
		return nil
	})
	return envelope.Data, err
}

// try makes a call, again if that can help, and hands the answer to read.
// Nothing is tried again once read has begun.
func (c *Client) try(ctx context.Context, k call, read func(io.Reader) error) error {
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, k, read)
		var e *headgate.Error
		if err == nil || !k.again || attempt == attempts || ctx.Err() != nil || !errors.As(err, &e) || !e.Retryable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(backoff/2 + rand.N(backoff)): //nolint:gosec // spreads clients, no secret
		}
		backoff *= 2
	}
}

func (c *Client) once(ctx context.Context, k call, read func(io.Reader) error) error {
	if k.timeout == 0 {
		k.timeout = callTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	req, err := c.request(ctx, k)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return c.failed(resp)
	}
	return read(resp.Body)
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	body, contentType := k.raw, cmp.Or(k.contentType, "application/octet-stream")
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return nil, headgate.Invalidf("the request cannot be written as JSON; are all its numbers finite?").Wrap(err)
		}
		body, contentType = bytes.NewReader(b), "application/json"
	}
	u, err := url.Parse(c.base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the server's address must be a URL such as http://127.0.0.1:8080")
	}
	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, headgate.Invalidf("the request cannot be made").Wrap(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// unreachable is the error for a call that got no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err // without the query, which the message does not need
	}
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"no answer from %s (%s); is headgate serve running there, and is the address right?", c.base, err).Wrap(err)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the request was given up").Wrap(ctx.Err())
}

// failed turns an answer that is not a success into the server's error.
func (c *Client) failed(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what was read decides
	var envelope struct {
		Error struct {
			Code      string         `json:"code"`
			Class     headgate.Class `json:"class"`
			Message   string         `json:"message"`
			Retryable bool           `json:"retryable"`
			Details   map[string]any `json:"details"`
		} `json:"error"`
		Meta struct {
			RequestID string `json:"request_id"`
		} `json:"meta"`
	}
	if json.Unmarshal(b, &envelope) == nil && envelope.Error.Code != "" {
		e := &headgate.Error{
			Code: envelope.Error.Code, Class: envelope.Error.Class, Message: envelope.Error.Message,
			Retryable: envelope.Error.Retryable, Details: envelope.Error.Details,
		}
		return e.With("request_id", envelope.Meta.RequestID)
	}
	switch resp.StatusCode {
	case http.StatusSeeOther:
		return headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive,
			"the server asks for a login; give a token from headgate token create")
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"%s answers with status %d; something before the server cannot reach it", c.base, resp.StatusCode)
	}
	return foreign(c.base, fmt.Errorf("status %d", resp.StatusCode))
}

func foreign(base string, cause error) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
		"what answers at %s is not a Headgate server; is the address right?", base).Wrap(cause)
}
