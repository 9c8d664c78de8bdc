package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/headgate/headgate"
)

// ReportFile says what a tool's report is.
type ReportFile struct {
	Gate headgate.Gate // quality, performance, security or cost
	Name string        // the file's name, for people
	// Format names the tool's format; empty means that the server recognises it.
	Format string
	// Columns maps a gate metric to what the tool calls it, where they differ.
	Columns map[string]string
}

// Added is a report as the server understood and kept it.
type Added struct {
	Gate  headgate.Gate `json:"gate"`
	Input struct {
		Name   string `json:"name"`
		Digest string `json:"digest"`
		Size   int64  `json:"size"`
		Format string `json:"format,omitempty"`
	} `json:"input"`
	// Facts hold the tool's own verdict, which blocks the gate unless its rules
	// accept it.
	Facts struct {
		Verdict headgate.Verdict `json:"verdict"`
		Reasons []string         `json:"reasons,omitempty"`
	} `json:"facts"`
}

// AddEvidence adds a tool's report, at most 64 MiB, to the inputs of a
// release's gate.
func (c *Client) AddEvidence(ctx context.Context, id string, f ReportFile, r io.Reader) (Added, error) {
	q := url.Values{"gate": {string(f.Gate)}, "name": {f.Name}}
	if f.Format != "" {
		q.Set("format", f.Format)
	}
	for metric, column := range f.Columns {
		q.Add("columns", metric+"="+column)
	}
	slices.Sort(q["columns"])
	return do[Added](ctx, c, call{method: http.MethodPost, path: releasePath(id, "/evidence"), query: q, raw: r, timeout: transferTimeout})
}

// GateRequest is what a gate judges. It needs an operator's credential.
type GateRequest struct {
	ReleaseID string         `json:"release_id,omitempty"`
	DatasetID string         `json:"dataset_id"`
	Metrics   map[string]any `json:"metrics"`
}

// GateResult is a gate's answer.
type GateResult struct {
	Gate         headgate.Gate    `json:"gate"`
	DatasetID    string           `json:"dataset_id"`
	Passed       bool             `json:"passed"`
	Verdict      headgate.Verdict `json:"verdict"`
	FailedChecks []string         `json:"failed_checks"`
	Thresholds   map[string]any   `json:"thresholds"`
	Values       map[string]any   `json:"values"`
	RulesDigest  string           `json:"rules_digest"`
}

// EvaluateGate judges one of the four gates on metrics that the caller gives.
func (c *Client) EvaluateGate(ctx context.Context, g headgate.Gate, r GateRequest) (GateResult, error) {
	path := "/api/v1/internal/" + url.PathEscape(string(g)) + "-gates/evaluate"
	return do[GateResult](ctx, c, call{method: http.MethodPost, path: path, body: r})
}

// Bundle writes all evidence of a release to w as one ZIP file.
func (c *Client) Bundle(ctx context.Context, id string, w io.Writer) error {
	return c.try(ctx, call{method: http.MethodGet, path: releasePath(id, "/bundle"), again: true, timeout: transferTimeout}, copyTo(w))
}

// Checkpoint returns the evidence log's signed size and root. Whoever keeps it
// can later prove that nothing before it was changed.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	err := c.try(ctx, call{method: http.MethodGet, path: "/api/v1/evidence/checkpoint", again: true}, copyTo(&b))
	return b.Bytes(), err
}
