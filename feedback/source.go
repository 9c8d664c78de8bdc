package feedback

import (
	"context"
	"errors"
	"net/http"
)

// HTTPSource reads dead letters and reviews from a service's API.
type HTTPSource struct {
	// BaseURL is the service's root, without a trailing slash.
	BaseURL string
	// Credential returns the bearer token of a tenant.
	Credential func(tenantID string) string
	// Client sends the requests; nil means one with a timeout of 10 s.
	Client      *http.Client
	DeadLetter  Listing
	ReviewItems Listing
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
	return nil, errors.ErrUnsupported
}

// Reviews returns the tenant's reviews with their decisions.
func (s HTTPSource) Reviews(ctx context.Context, tenantID string) ([]Item, error) {
	return nil, errors.ErrUnsupported
}
