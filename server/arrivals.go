package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate/telemetry"
)

// maxArrivals bounds the versions of services that are remembered.
const maxArrivals = 10_000

// arrivals notes, on the way to the store, when metrics of each version of a
// service last came from each of its environments. A staging instance that goes
// on sending does not speak for one of the same version that users meet and
// that is silent.
type arrivals struct {
	telemetry.MetricSink
	mu   sync.Mutex
	last map[telemetry.Source]time.Time
}

// AppendMetrics implements [telemetry.MetricSink].
func (a *arrivals) AppendMetrics(ctx context.Context, tenant string, md pmetric.Metrics) (telemetry.Rejected, error) {
	var from []telemetry.Source
	for _, rm := range md.ResourceMetrics().All() {
		// What the receiver counts in a version's name is no sign of its life.
		if id, ok := rm.Resource().Attributes().Get("service.instance.id"); ok && strings.HasPrefix(id.AsString(), "headgate") {
			continue
		}
		s := telemetry.SourceOf(rm.Resource())
		from = append(from, telemetry.Source{Service: s.Service, Version: s.Version, Environment: s.Environment})
	}
	total := int64(md.DataPointCount())
	rejected, err := a.MetricSink.AppendMetrics(ctx, tenant, md)
	if err != nil || rejected.Count >= total {
		return rejected, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range from {
		if _, known := a.last[s]; known || len(a.last) < maxArrivals {
			a.last[s] = time.Now()
		}
	}
	return rejected, nil
}

// freshness is when metrics of a version last came from where users are, false
// when they have not since the start.
func (s *Server) freshness(service, version string) (time.Time, bool) {
	svc, err := s.plane.Service(service)
	if err != nil {
		return time.Time{}, false
	}
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	at, ok := s.arrivals.last[telemetry.Source{Service: service, Version: version, Environment: svc.Environments.Production}]
	return at, ok
}
