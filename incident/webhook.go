package incident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// payload is Alertmanager's webhook message, version "4"; see
// https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
type payload struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []payloadAlert    `json:"alerts"`
}

type payloadAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"` // zero while it fires
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

const (
	statusFiring   = "firing"
	statusResolved = "resolved"
)

func (l *letter) payload(externalURL string) payload {
	externalURL = strings.TrimSuffix(externalURL, "/")
	key := l.group.key
	p := payload{
		Version: "4", Status: statusResolved, Receiver: "headgate", ExternalURL: externalURL,
		GroupKey:    fmt.Sprintf("{}:{alertname=%q, service=%q}", key.name, key.service),
		GroupLabels: map[string]string{"alertname": key.name, "service": key.service},
	}
	for _, ln := range l.lines {
		a := ln.payload(externalURL)
		if a.Status == statusFiring {
			p.Status = statusFiring
		}
		p.Alerts = append(p.Alerts, a)
	}
	p.CommonLabels, p.CommonAnnotations = maps.Clone(p.Alerts[0].Labels), maps.Clone(p.Alerts[0].Annotations)
	for _, a := range p.Alerts[1:] {
		keepCommon(p.CommonLabels, a.Labels)
		keepCommon(p.CommonAnnotations, a.Annotations)
	}
	return p
}

func (ln line) payload(externalURL string) payloadAlert {
	a := ln.alert
	out := payloadAlert{
		Status: statusFiring, StartsAt: a.StartedAt.UTC(), Fingerprint: a.Fingerprint,
		Labels: filled(map[string]string{
			"alertname": a.Name, "severity": string(a.Severity), "service": a.Service,
			"tenant_id": a.TenantID, "release_id": a.ReleaseID,
		}),
		Annotations: filled(map[string]string{
			"summary": a.Summary, "runbook_url": a.Runbook, "on_call": a.OnCall,
			"latest_change":         strings.TrimSpace(a.LatestChange.ReleaseID + " " + a.LatestChange.Version),
			"latest_change_version": a.LatestChange.Version,
			"deadline":              a.Deadline.UTC().Format(time.RFC3339),
			"demand":                fmt.Sprintf("%s within %s", a.Severity.Demand(), minutes(a.Severity.Limit())),
		}),
	}
	if externalURL != "" {
		out.GeneratorURL = externalURL + "/"
		if a.ReleaseID != "" {
			out.GeneratorURL += "releases/" + url.PathEscape(a.ReleaseID)
		}
	}
	switch ln.said {
	case resolved:
		out.Status, out.EndsAt = statusResolved, ln.endedAt.UTC()
	case late:
		out.Annotations["escalation"] = "past its deadline"
		out.Annotations["summary"] = fmt.Sprintf("not over after %s, call the next person: %s", minutes(a.Severity.Limit()), a.Summary)
	case nothing, firing:
	}
	return out
}

func minutes(d time.Duration) string { return fmt.Sprintf("%.0f minutes", d.Minutes()) }

// filled leaves out what is empty: in Prometheus an empty label is no label.
func filled(m map[string]string) map[string]string {
	maps.DeleteFunc(m, func(_, v string) bool { return v == "" })
	return m
}

func keepCommon(common, other map[string]string) {
	maps.DeleteFunc(common, func(k, v string) bool { return other[k] != v })
}

// send posts a letter, if there is a webhook. Its error never holds the
// webhook's address.
func (n *Notifier) send(ctx context.Context, l *letter) error {
	if n.cfg.Webhook == "" {
		return nil
	}
	body, err := json.Marshal(l.payload(n.cfg.ExternalURL))
	if err != nil {
		return refusedf("the alert cannot be written as JSON: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.cfg.Webhook, bytes.NewReader(body))
	if err != nil {
		return refusedf("the address of the webhook is not one")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "headgate")
	resp, err := n.client.Do(req)
	if err != nil {
		var named *url.Error // quotes the address
		if errors.As(err, &named) {
			err = named.Err
		}
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the webhook does not answer: %w", err)
	}
	defer resp.Body.Close()
	// Read, so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooManyRequests:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the webhook answers %d", code)
	default:
		return refusedf("the webhook answers %d", code)
	}
}

func refusedf(format string, args ...any) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent, format, args...)
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return delivered
	case headgate.AsError(err).Retryable:
		return failed
	default:
		return refused
	}
}
