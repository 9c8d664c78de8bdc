package feedback

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// HTTPSource reads dead letters and reviews from a service's API.
type HTTPSource struct {
	// BaseURL is the service's root, without a trailing slash.
	BaseURL string
	// Credential returns the bearer token of a tenant.
	Credential func(tenantID string) string
	// Client sends the requests; nil means http.DefaultClient. A page has
	// 10 s.
	Client     *http.Client
	DeadLetter Listing
	Review     Listing
}

// Listing says how to read one list of the service. Paths into the answer are
// dotted. An empty Path means that the service has no such list.
type Listing struct {
	// Path of the URL, with its query.
	Path string
	// Items is where the array is, "" when the answer is the array.
	Items string
	// ID and Decision are where they are in an item.
	ID       string
	Decision string
	// Next is where the next page's cursor is, "" when there is one page.
	// CursorParam is the query parameter that takes it.
	Next        string
	CursorParam string
}

// DeadLetters returns the tenant's open dead-letter items.
func (s HTTPSource) DeadLetters(ctx context.Context, tenantID string) ([]Item, error) {
	return s.read(ctx, tenantID, s.DeadLetter)
}

// Reviews returns the tenant's reviews with their decisions.
func (s HTTPSource) Reviews(ctx context.Context, tenantID string) ([]Item, error) {
	return s.read(ctx, tenantID, s.Review)
}

// Bounds on what a service may answer.
const (
	maxPages     = 100
	maxPageBytes = 8 << 20
)

func (s HTTPSource) read(ctx context.Context, tenantID string, l Listing) ([]Item, error) {
	if l.Path == "" {
		return nil, nil
	}
	var out []Item
	cursor := ""
	for range maxPages {
		doc, err := s.page(ctx, tenantID, l, cursor)
		if err != nil {
			return nil, err
		}
		items, err := l.items(doc)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
		next := text(lookup(doc, l.Next))
		if l.Next == "" || next == "" || next == cursor {
			return out, nil
		}
		cursor = next
	}
	return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
		"the service's list at %s has more than %d pages; name the dlq_ids or close old items", l.Path, maxPages)
}

func (s HTTPSource) page(ctx context.Context, tenantID string, l Listing, cursor string) (any, error) {
	address, err := url.Parse(s.BaseURL + l.Path)
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
			"the list's address is not a URL; check the service's description").Wrap(err)
	}
	if cursor != "" {
		q := address.Query()
		q.Set(l.CursorParam, cursor)
		address.RawQuery = q.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	if token := s.Credential(tenantID); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, unavailable(l, "does not answer").Wrap(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, unavailable(l, "answers "+resp.Status)
	}
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxPageBytes))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, unavailable(l, "does not answer with JSON, or with more than 8 MiB of it").Wrap(err)
	}
	return doc, nil
}

const pageTimeout = 10 * time.Second

func unavailable(l Listing, what string) *headgate.Error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the service's list at %s %s; check the service and the tenant's credential", l.Path, what)
}

func (l Listing) items(doc any) ([]Item, error) {
	list, ok := lookup(doc, l.Items).([]any)
	if !ok {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
			"the service's list at %s has no array at %q; check the service's description", l.Path, l.Items)
	}
	out := make([]Item, 0, len(list))
	for _, v := range list {
		it := Item{ID: text(lookup(v, l.ID))}
		if it.ID == "" {
			return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassPermanent,
				"an item of the service's list at %s has no %q; check the service's description", l.Path, l.ID)
		}
		if l.Decision != "" {
			it.Decision = text(lookup(v, l.Decision))
		}
		var err error
		if it.Payload, err = json.Marshal(v); err != nil {
			return nil, err
		}
		out = append(out, it)
	}
	return out, nil
}

// lookup follows a dotted path of object members, "" being doc itself; nil
// when there is none.
func lookup(doc any, dotted string) any {
	if dotted == "" {
		return doc
	}
	for seg := range strings.SplitSeq(dotted, ".") {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		doc = m[seg]
	}
	return doc
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}
