package server

import (
	"context"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
)

// tenantItems is how many points, records and spans a second the credential of
// one tenant may send, so that one cannot drown the others.
const tenantItems = 50_000

// authenticateTelemetry checks who sends telemetry: anybody in development,
// else who may report results, for gates judge by telemetry too. A credential
// of one tenant writes that tenant's only; one of no tenant writes anybody's.
func (s *Server) authenticateTelemetry() func(context.Context, string) (string, error) {
	if s.o.Development {
		return nil
	}
	return func(ctx context.Context, bearer string) (string, error) {
		who, err := access.Verify(ctx, s.db, bearer, time.Now())
		if err == nil {
			err = who.May(access.Releaser)
		}
		if err != nil || len(who.Tenants) == 0 {
			return "", err
		}
		if len(who.Tenants) > 1 {
			return "", headgate.Errorf(headgate.CodeForbidden, headgate.ClassSecuritySensitive,
				"telemetry needs a credential of one tenant, or of none; this one has %d", len(who.Tenants))
		}
		return who.Tenants[0], nil
	}
}

// freshness is when metrics of a version last came from where users are, false
// when they have not since the start.
func (s *Server) freshness(service, version string) (time.Time, bool) {
	svc, err := s.plane.Service(service)
	if err != nil {
		return time.Time{}, false
	}
	return s.otlp.Freshness(service, version, svc.Environments.Production)
}
