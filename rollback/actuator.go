package rollback

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// FlagStore keeps the values that applications read their configuration from.
// A flag that was never set is "".
type FlagStore interface {
	SetFlag(ctx context.Context, key, value string) error
	Flag(ctx context.Context, key string) (string, error)
}

// Flag is the actuator of a component whose version is a flag's value. The
// flag's key is the service's name, a slash and the component.
type Flag struct {
	Service string
	Store   FlagStore
}

// Set writes the flag.
func (f Flag) Set(ctx context.Context, c headgate.Component, version string) error {
	return f.Store.SetFlag(ctx, f.key(c), version)
}

// Read returns the flag's value.
func (f Flag) Read(ctx context.Context, c headgate.Component) (string, error) {
	return f.Store.Flag(ctx, f.key(c))
}

func (f Flag) key(c headgate.Component) string { return f.Service + "/" + string(c) }

// Hook is the actuator of a component that the service itself switches. Set
// sends PUT {"component", "version"}; Read sends GET and takes "version" from
// the answer, at the top or under "data". Status 408, 429 and 5xx and a failed
// connection are worth another attempt, which the executor makes with backoff;
// any other refusal is final.
type Hook struct {
	// URL may hold {component}.
	URL string
	// Header is sent with each request, for example a credential.
	Header http.Header
	// Client sends the requests; nil means http.DefaultClient.
	Client *http.Client
	// Timeout bounds one request; 0 means 5 s.
	Timeout time.Duration
}

// Set asks the service to switch.
func (h Hook) Set(ctx context.Context, c headgate.Component, version string) error {
	body, err := json.Marshal(map[string]string{"component": string(c), "version": version})
	if err != nil {
		return err
	}
	_, err = h.do(ctx, http.MethodPut, c, body)
	return err
}

// Read asks the service what it runs.
func (h Hook) Read(ctx context.Context, c headgate.Component) (string, error) {
	data, err := h.do(ctx, http.MethodGet, c, nil)
	if err != nil {
		return "", err
	}
	var answer struct {
		Version string `json:"version"`
		Data    struct {
			Version string `json:"version"`
		} `json:"data"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return "", headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"the %s hook answers no JSON with a version; check its address", c).Wrap(err)
	}
	return cmp.Or(answer.Version, answer.Data.Version), nil
}

// maxHookBytes bounds an answer.
const maxHookBytes = 64 << 10

func (h Hook) do(ctx context.Context, method string, c headgate.Component, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(h.Timeout, 5*time.Second))
	defer cancel()
	address := strings.ReplaceAll(h.URL, "{component}", url.PathEscape(string(c)))
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
			"the %s hook's address is not a URL; check the service's description", c).Wrap(err)
	}
	for k, values := range h.Header {
		req.Header[k] = values
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := h.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the %s hook does not answer; check that it runs and its address", c).Wrap(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxHookBytes))
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the %s hook's answer broke off", c).Wrap(err)
	}
	if resp.StatusCode/100 == 2 {
		return data, nil
	}
	class := headgate.ClassPermanent
	if again := resp.StatusCode; again >= 500 || again == http.StatusTooManyRequests || again == http.StatusRequestTimeout {
		class = headgate.ClassTransient
	}
	return nil, headgate.Errorf(headgate.CodeUnavailable, class, "the %s hook answered %s to %s", c, resp.Status, method)
}
