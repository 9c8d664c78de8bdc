// Package contract judges whether a candidate's OpenAPI description keeps
// every promise of the stable one's.
//
// It owns the comparison of two documents. It never reads a file or follows a
// reference to one: what is compared is exactly the bytes given.
package contract

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oasdiff/oasdiff/checker"
	"github.com/oasdiff/oasdiff/diff"
	"github.com/oasdiff/oasdiff/load"

	"github.com/headgate/headgate"
)

// MaxBytes bounds each document.
const MaxBytes = 4 << 20

// Change is one difference that matters to a client.
type Change struct {
	// ID is oasdiff's stable rule id, for example "response-property-removed".
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
// in JSON or YAML. A document that is too large, is not OpenAPI or refers to
// another document is a REQ_VALIDATION_FAILED error that says which of the two
// it is. Changes are sorted by operation, id and message.
func Compare(stable, candidate []byte) (Result, error) {
	base, err := read("stable", stable)
	if err != nil {
		return Result{}, err
	}
	revision, err := read("candidate", candidate)
	if err != nil {
		return Result{}, err
	}
	report, sources, err := diff.GetWithOperationsSourcesMap(diff.NewConfig(), base, revision)
	if err != nil {
		return Result{}, headgate.Invalidf("the two OpenAPI documents cannot be compared; check both with a validator").Wrap(err)
	}
	out := Result{
		Breaking: []Change{}, Warnings: []Change{},
		StableVersion: base.GetVersion(), CandidateVersion: revision.GetVersion(),
	}
	english := checker.NewDefaultLocalizer()
	for _, c := range checker.CheckBackwardCompatibility(checker.NewConfig(checker.GetAllChecks()), report, sources) {
		change := Change{
			ID:        c.GetId(),
			Operation: strings.TrimSpace(c.GetOperation() + " " + c.GetPath()),
			Message:   c.GetUncolorizedText(english),
		}
		if c.GetLevel() >= checker.ERR {
			out.Breaking = append(out.Breaking, change)
		} else {
			out.Warnings = append(out.Warnings, change)
		}
	}
	slices.SortFunc(out.Breaking, compareChanges)
	slices.SortFunc(out.Warnings, compareChanges)
	return out, nil
}

func compareChanges(a, b Change) int {
	return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Message, b.Message))
}

func read(which string, data []byte) (*load.SpecInfo, error) {
	if len(data) > MaxBytes {
		return nil, headgate.Invalidf("the %s OpenAPI document is larger than %d bytes; leave examples out", which, MaxBytes)
	}
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = false
	info, err := load.NewSpecInfoFromData(loader, data, which)
	if err != nil {
		var external *load.ExternalRefError
		if errors.As(err, &external) || load.IsExternalRefDisallowed(err) || strings.Contains(err.Error(), "disallowed external reference") {
			return nil, headgate.Invalidf("the %s OpenAPI document refers to another document; bundle it into one", which).Wrap(err)
		}
		return nil, headgate.Invalidf("the %s OpenAPI document cannot be read; check it with a validator", which).Wrap(err)
	}
	if v := info.Spec.OpenAPI; !strings.HasPrefix(v, "3.") {
		return nil, headgate.Invalidf("the %s document is not OpenAPI 3.0 or 3.1; its openapi field must say so", which)
	}
	if info.Spec.Paths.Len() == 0 {
		return nil, headgate.Invalidf("the %s OpenAPI document describes no path; check that it is the service's", which)
	}
	return info, nil
}
