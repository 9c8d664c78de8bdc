// Package contract judges whether a candidate's OpenAPI description keeps
// every promise of the stable one's.
//
// It owns the comparison of two documents. It never reads a file or follows a
// reference to one: what is compared is exactly the bytes given.
package contract

import "errors"

// MaxBytes bounds each document.
const MaxBytes = 4 << 20

// Change is one difference that matters to a client.
type Change struct {
	// ID is oasdiff's stable rule id, for example "api-path-removed-without-deprecation".
	ID string `json:"id"`
	// Operation is the method and the path, for example "GET /api/v1/jobs/{id}".
	Operation string `json:"operation,omitempty"`
	Message   string `json:"message"`
}

// Result is what the comparison found.
type Result struct {
	// Breaking changes break a client that works today.
	Breaking []Change `json:"breaking"`
	// Warnings may break some clients.
	Warnings []Change `json:"warnings"`
	// StableVersion and CandidateVersion are the documents' info.version.
	StableVersion    string `json:"stable_version"`
	CandidateVersion string `json:"candidate_version"`
}

// Compare finds what breaks between stable and candidate, OpenAPI 3.0 or 3.1
// in JSON or YAML. References outside a document are an error.
func Compare(stable, candidate []byte) (Result, error) {
	return Result{}, errors.ErrUnsupported
}
