package server

import (
	"context"
	"time"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
)

// stories lets the control plane ask the event store.
type stories struct{ *events.Store }

// ErrorsOf implements [control.Stories].
func (s stories) ErrorsOf(ctx context.Context, service, version, tenant string, from, to time.Time) ([]telemetry.ErrorGroup, error) {
	return s.Errors(ctx, events.ErrorQuery{Service: service, Version: version, TenantID: tenant, From: from, To: to})
}
