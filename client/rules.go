package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/headgate/headgate"
)

// RuleChange is a rule set on its way into force, or once there.
type RuleChange struct {
	Seq     int64  `json:"seq"`
	Service string `json:"service,omitempty"` // empty for every service without rules of its own
	Digest  string `json:"digest"`
	Version int64  `json:"version"`
	Owner   string `json:"owner"`
	Reason  string `json:"reason"`
	Base    string `json:"base,omitempty"` // what was in force when it was proposed
	// Rules are the canonical document, which is a rule file as well.
	Rules      json.RawMessage `json:"rules"`
	Loosened   []RuleLoosened  `json:"loosened"`
	ProposedBy string          `json:"proposed_by"`
	ProposedAt time.Time       `json:"proposed_at"`
	ApprovedBy string          `json:"approved_by,omitempty"`
	InForceAt  time.Time       `json:"in_force_at,omitzero"` // zero while it waits
	InForce    bool            `json:"in_force"`
}

// RuleLoosened is one way in which rules became easier to pass.
type RuleLoosened struct {
	Gate headgate.Gate `json:"gate"`
	Rule string        `json:"rule"`
	From string        `json:"from"`
	To   string        `json:"to"`
	Why  string        `json:"why"`
}

// Rules returns every change of the rules, oldest first.
func (c *Client) Rules(ctx context.Context) ([]RuleChange, error) {
	return do[[]RuleChange](ctx, c, call{method: http.MethodGet, path: "/api/v1/rules", again: true})
}

// ProposeRules puts a rule file in force, or, when it loosens something, keeps
// it until somebody else approves. An empty service means every service without
// rules of its own.
func (c *Client) ProposeRules(ctx context.Context, service string, file []byte) (RuleChange, error) {
	return do[RuleChange](ctx, c, call{method: http.MethodPost, path: "/api/v1/rules", query: ofService(service), raw: bytes.NewReader(file)})
}

// ApproveRules puts rules that somebody else proposed in force.
func (c *Client) ApproveRules(ctx context.Context, service, digest, reason string) (RuleChange, error) {
	path := "/api/v1/rules/" + url.PathEscape(digest) + "/approve"
	return do[RuleChange](ctx, c, call{method: http.MethodPost, path: path, query: ofService(service), body: map[string]any{"reason": reason}})
}

func ofService(name string) url.Values {
	if name == "" {
		return nil
	}
	return url.Values{"service": {name}}
}

// Backtest is what a rule set would have done to past releases. Blocking is the
// positive outcome.
type Backtest struct {
	RulesDigest        string `json:"rules_digest"`
	BlockedBad         int    `json:"blocked_bad"`
	BlockedGood        int    `json:"blocked_good"`
	AdmittedBad        int    `json:"admitted_bad"`
	AdmittedGood       int    `json:"admitted_good"`
	BlockedUnobserved  int    `json:"blocked_unobserved"`
	AdmittedUnobserved int    `json:"admitted_unobserved"`
	Unusable           int    `json:"unusable"`
	Releases           []struct {
		ReleaseID string           `json:"release_id"`
		EndedAt   time.Time        `json:"ended_at"`
		Outcome   headgate.Outcome `json:"outcome"`
		Incidents int              `json:"incidents"`
		Would     string           `json:"would"` // blocked, admitted or unusable
		Truth     string           `json:"truth"` // bad, good or unobserved
		Changed   bool             `json:"changed"`
		Reasons   []string         `json:"reasons,omitempty"`
	} `json:"releases"`
}

// BacktestRules judges the releases of a time again under a rule file: those
// of a service, or all.
func (c *Client) BacktestRules(ctx context.Context, service string, file []byte, since time.Duration) (Backtest, error) {
	q := url.Values{"service": {service}, "since_s": {strconv.FormatFloat(since.Seconds(), 'f', -1, 64)}}
	return do[Backtest](ctx, c, call{method: http.MethodPost, path: "/api/v1/rules/backtest", query: q, raw: bytes.NewReader(file), timeout: transferTimeout})
}

// AlertBacktest is for which past releases alert thresholds would have alerted.
type AlertBacktest struct {
	AlertedBad        int `json:"alerted_bad"`
	AlertedGood       int `json:"alerted_good"`
	SilentBad         int `json:"silent_bad"`
	SilentGood        int `json:"silent_good"`
	AlertedUnobserved int `json:"alerted_unobserved"`
	SilentUnobserved  int `json:"silent_unobserved"`
	NoMetrics         int `json:"no_metrics"` // counted apart: retention has removed what would tell
	NeverMetUsers     int `json:"never_met_users"`
	Releases          []struct {
		ReleaseID string           `json:"release_id"`
		EndedAt   time.Time        `json:"ended_at"`
		Outcome   headgate.Outcome `json:"outcome"`
		Incidents int              `json:"incidents"`
		Truth     string           `json:"truth"` // bad, good or unobserved
		From      time.Time        `json:"from,omitzero"`
		To        time.Time        `json:"to,omitzero"`
		Gone      string           `json:"gone,omitempty"` // why the metrics do not tell
		// Unmeasured are the figures of the alerts of which there were no metrics.
		Unmeasured []string `json:"unmeasured,omitempty"`
		Would      string   `json:"would"` // alerted, silent, no_metrics or never_met_users
		Alerts     []struct {
			Alert    string    `json:"alert"`
			Severity string    `json:"severity"`
			FiredAt  time.Time `json:"fired_at"`
		} `json:"alerts"`
	} `json:"releases"`
}

// BacktestAlerts tries the alert thresholds of a file in the metric
// dictionary's format on the metrics of past releases: those of a service, or
// all.
func (c *Client) BacktestAlerts(ctx context.Context, service string, file []byte, since time.Duration) (AlertBacktest, error) {
	q := url.Values{"service": {service}, "since_s": {strconv.FormatFloat(since.Seconds(), 'f', -1, 64)}}
	return do[AlertBacktest](ctx, c, call{method: http.MethodPost, path: "/api/v1/alerts/backtest", query: q, raw: bytes.NewReader(file), timeout: transferTimeout})
}

// Override is a gate of a release that two people let pass for a time. It does
// nothing while ApprovedBy is empty.
type Override struct {
	ID          string        `json:"override_id"`
	ReleaseID   string        `json:"release_id"`
	Gate        headgate.Gate `json:"gate"`
	Reason      string        `json:"reason"`
	RequestedBy string        `json:"requested_by"`
	RequestedAt time.Time     `json:"requested_at"`
	ApprovedBy  string        `json:"approved_by,omitempty"`
	ApprovedAt  time.Time     `json:"approved_at,omitzero"`
	ExpiresAt   time.Time     `json:"expires_at"`
}

// Override asks to let a gate pass for a time, at most 24 hours, or agrees to
// what somebody else asked. Security and the replay cannot be overridden.
func (c *Client) Override(ctx context.Context, id string, g headgate.Gate, reason string, expires time.Duration) (Override, error) {
	body := map[string]any{"gate": g, "reason": reason, "expires_s": expires.Seconds()}
	return do[Override](ctx, c, call{method: http.MethodPost, path: releasePath(id, "/overrides"), body: body})
}

// Overrides returns a release's overrides, oldest first.
func (c *Client) Overrides(ctx context.Context, id string) ([]Override, error) {
	return do[[]Override](ctx, c, call{method: http.MethodGet, path: releasePath(id, "/overrides"), again: true})
}

// Evaluation is a gate's verdict on all that the server holds of a release.
type Evaluation struct {
	GateResult
	Checks []struct {
		Name      string           `json:"name"`
		Value     any              `json:"value"`
		Threshold any              `json:"threshold"`
		Op        string           `json:"op"`
		Unit      string           `json:"unit"`
		Samples   *int64           `json:"samples"`
		Source    string           `json:"source"`
		Verdict   headgate.Verdict `json:"verdict"`
		Detail    string           `json:"detail,omitempty"`
	} `json:"checks"`
	// EvidenceIndex is the signed statement's place in the evidence log.
	EvidenceIndex  int64  `json:"evidence_index"`
	EvidenceDigest string `json:"evidence_digest"`
}

// EvaluateRelease judges a gate on all reports that were added to a release
// and on telemetry as it is now.
func (c *Client) EvaluateRelease(ctx context.Context, id string, g headgate.Gate) (Evaluation, error) {
	return do[Evaluation](ctx, c, call{method: http.MethodPost, path: releasePath(id, "/gates/"+url.PathEscape(string(g))+"/evaluate")})
}

// BundleFrom writes all evidence of a release to w as one ZIP file that proves
// that the log continues a checkpoint which the recipient holds.
func (c *Client) BundleFrom(ctx context.Context, id string, checkpoint []byte, w io.Writer) error {
	k := call{method: http.MethodPost, path: releasePath(id, "/bundle"), raw: bytes.NewReader(checkpoint), contentType: "text/plain", timeout: transferTimeout}
	return c.try(ctx, k, copyTo(w))
}
