package replay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// caller sends a suite's requests to one target.
type caller struct {
	suite  Suite
	target Target
	base   string
	client *http.Client
	now    func() time.Time
}

func newCaller(s Suite, t Target) (*caller, error) {
	u, err := url.Parse(t.BaseURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, headgate.Invalidf("the target's address must be an http or https URL; check the service's description")
	}
	client := http.Client{}
	if t.Client != nil {
		client = *t.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &caller{suite: s, target: t, base: strings.TrimRight(t.BaseURL, "/"), client: &client, now: t.Now}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

func (c *caller) credential(tenant string) string {
	if c.target.Credential == nil {
		return ""
	}
	return c.target.Credential(tenant)
}

// answer is a response read to its end.
type answer struct {
	status      int
	contentType string
	body        []byte
	// doc is the decoded JSON, nil when the answer is not JSON.
	doc any
}

// send makes one request. claim is nil for the suite's own tenant header;
// otherwise it replaces it ("" removes it), and every other trace of the
// owner's identity is left out.
func (c *caller) send(ctx context.Context, step Step, token string, scope map[string]any, claim *string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, step.Timeout)
	defer cancel()
	req, err := c.request(ctx, step, scope)
	if err != nil {
		return answer{}, err
	}
	if claim != nil {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
		tenantHeader := cmp.Or(c.target.TenantHeader, "x-tenant-id")
		req.Header.Del(tenantHeader)
		if *claim != "" {
			req.Header.Set(tenantHeader, *claim)
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return answer{}, transportError(err, step.Timeout)
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{status: resp.StatusCode}
	a.contentType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxResponseBytes+1))
	if err != nil {
		return a, transportError(err, step.Timeout)
	}
	if len(a.body) > maxResponseBytes {
		return a, fmt.Errorf("the answer is larger than %d bytes", maxResponseBytes)
	}
	if a.contentType == "application/json" || strings.HasSuffix(a.contentType, "+json") {
		if a.doc, err = decode(a.body); err != nil {
			return a, fmt.Errorf("the answer says it is JSON and is not")
		}
	}
	return a, nil
}

func transportError(err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", timeout)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the address, which repeats the path
	}
	return fmt.Errorf("connection failed: %w", err)
}

func decode(body []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("trailing data")
	}
	return doc, nil
}

func (c *caller) request(ctx context.Context, step Step, scope map[string]any) (*http.Request, error) {
	target, err := expandPath(step.Path, scope)
	if err != nil {
		return nil, err
	}
	body, contentType, err := c.body(step, scope)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, step.Method, c.base+target, body)
	if err != nil {
		return nil, fmt.Errorf("the path is not valid once filled in")
	}
	for k, v := range c.target.Headers {
		req.Header.Set(k, v)
	}
	for k, v := range step.Headers {
		if v, err = expand(v, scope, nil); err != nil {
			return nil, err
		}
		req.Header.Set(k, v)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req, nil
}

func (c *caller) body(step Step, scope map[string]any) (io.Reader, string, error) {
	switch {
	case step.Body != nil:
		doc, err := expandValue(step.Body, scope)
		if err != nil {
			return nil, "", err
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return nil, "", fmt.Errorf("the body cannot be written as JSON: %w", err)
		}
		return bytes.NewReader(data), "application/json", nil
	case step.Multipart != nil:
		return c.form(*step.Multipart, scope)
	}
	return nil, "", nil
}

func (c *caller) form(m Multipart, scope map[string]any) (io.Reader, string, error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for _, f := range m.Fields {
		v, err := expand(f.Value, scope, nil)
		if err != nil {
			return nil, "", err
		}
		if err := w.WriteField(f.Name, v); err != nil {
			return nil, "", err
		}
	}
	for _, f := range m.Files {
		part, err := w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {multipart.FileContentDisposition(f.Field, path.Base(f.Path))},
			"Content-Type":        {f.Type},
		})
		if err != nil {
			return nil, "", err
		}
		if _, err := part.Write(c.suite.files[f.Path]); err != nil {
			return nil, "", err
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return &buf, w.FormDataContentType(), nil
}

// expand fills placeholders in; escape is applied to what is put in.
func expand(s string, scope map[string]any, escape func(string) string) (string, error) {
	var missing string
	out := placeholder.ReplaceAllStringFunc(s, func(m string) string {
		name := placeholder.FindStringSubmatch(m)[1]
		v, ok := scope[name]
		if !ok {
			missing = name
			return ""
		}
		if escape != nil {
			return escape(text(v))
		}
		return text(v)
	})
	if missing != "" {
		return "", fmt.Errorf("{{%s}} was not captured, because its step was skipped or had no such value", missing)
	}
	return out, nil
}

func expandPath(s string, scope map[string]any) (string, error) {
	p, query, has := strings.Cut(s, "?")
	p, err := expand(p, scope, url.PathEscape)
	if err != nil || !has {
		return p, err
	}
	query, err = expand(query, scope, url.QueryEscape)
	return p + "?" + query, err
}

// expandValue fills placeholders in a body. A text that is one placeholder
// and nothing else takes the value with its JSON type.
func expandValue(v any, scope map[string]any) (any, error) {
	var err error
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if out[k], err = expandValue(e, scope); err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			if out[i], err = expandValue(e, scope); err != nil {
				return nil, err
			}
		}
		return out, nil
	case string:
		if m := placeholder.FindStringSubmatch(v); m != nil && m[0] == v {
			if typed, ok := scope[m[1]]; ok {
				return typed, nil
			}
		}
		return expand(v, scope, nil)
	}
	return v, nil
}
