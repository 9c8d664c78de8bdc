package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Drill is a rehearsal of a rollback. A zero time has not come.
type Drill struct {
	ID      string `json:"drill_id"`
	Service string `json:"service"`
	Actor   string `json:"actor"`
	Reason  string `json:"reason"`
	// TriggeredAt is when the rehearsed canary had its share and the rollback
	// began, TrafficBackAt when the router had no candidate any more,
	// CompletedAt when every component was read back, and RestoredAt when the
	// replay against stable had passed.
	StartedAt     time.Time `json:"started_at"`
	TriggeredAt   time.Time `json:"triggered_at,omitzero"`
	TrafficBackAt time.Time `json:"traffic_back_at,omitzero"`
	CompletedAt   time.Time `json:"completed_at,omitzero"`
	RestoredAt    time.Time `json:"restored_at,omitzero"`
	EndedAt       time.Time `json:"ended_at,omitzero"`
	// Passed: restored within the limit. Failure says why not.
	Passed       bool           `json:"passed"`
	Failure      string         `json:"failure,omitempty"`
	LimitSeconds float64        `json:"limit_s"`
	Steps        []RollbackStep `json:"steps"`
	ReplayJobID  string         `json:"replay_job_id,omitempty"`
}

// Drills are a service's rehearsals of rollbacks.
type Drills struct {
	Service string `json:"service"`
	// EverySeconds is how often one has to pass, 0 for never.
	EverySeconds float64 `json:"every_s"`
	// Overdue, when set, says what the rollback gate finds missing.
	Overdue    string `json:"overdue,omitempty"`
	Last       *Drill `json:"last,omitempty"`
	LastPassed *Drill `json:"last_passed,omitempty"`
}

func drillPath(service string) string {
	return "/api/v1/services/" + url.PathEscape(service) + "/rollback-drills"
}

// DrillRollback rehearses a rollback of a service and returns when that has
// ended; RELEASE_ACTIVE while a release meets its users.
func (c *Client) DrillRollback(ctx context.Context, service, reason string) (Drill, error) {
	return do[Drill](ctx, c, call{
		method: http.MethodPost, path: drillPath(service), body: map[string]any{"reason": reason}, timeout: rollbackTimeout,
	})
}

// Drills returns a service's last rehearsals of rollbacks.
func (c *Client) Drills(ctx context.Context, service string) (Drills, error) {
	return do[Drills](ctx, c, call{method: http.MethodGet, path: drillPath(service), again: true})
}
