// Package verify checks a data folder's telemetry stores as a whole.
//
// It owns the order: metrics first, whose lock says whether a server still
// runs on the folder. What damage is and how it is repaired, the stores know.
package verify

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/metrics"
)

// Dir reads everything in the stores below the data folder (metrics and
// events) and returns what is damaged, each with its place. With repair it
// mends what can be mended and says what that cost. It returns UNAVAILABLE
// while a server has the stores open, and NOT_FOUND when there are none.
func Dir(ctx context.Context, dir string, repair bool) ([]telemetry.Damage, error) {
	notFound := headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation,
		"%s holds no telemetry stores; give the server's data folder", dir)
	var found []telemetry.Damage
	absent := 0
	for _, s := range []struct {
		folder string
		verify func(context.Context, string, bool) ([]telemetry.Damage, error)
	}{{"metrics", metrics.Verify}, {"events", events.Verify}} {
		damages, err := s.verify(ctx, filepath.Join(dir, s.folder), repair)
		found = append(found, damages...)
		switch {
		case errors.Is(err, notFound):
			absent++
		case err != nil:
			return found, err
		}
	}
	if absent == 2 {
		return nil, notFound
	}
	return found, nil
}
