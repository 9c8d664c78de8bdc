package server

import (
	"context"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/control"
)

// alertMemory is how far back alerts are looked for that were open when the
// process ended.
const alertMemory = 24 * time.Hour

// notify tells people what they have to know at once, and that it is over.
func (s *Server) notify(ev headgate.Event) {
	s.observe(ev)
	s.alerts.Resolve(ev)
	if _, ok := alert.FromEvent(ev, alert.Service{}); !ok {
		return
	}
	if a, ok := alert.FromEvent(ev, s.alertService(ev)); ok {
		s.alerts.Notify(a)
	}
}

// reopenAlerts takes up the alerts that were open when the process ended.
func (s *Server) reopenAlerts(ctx context.Context) error {
	var trail []headgate.Event
	since := time.Now().Add(-alertMemory)
	for after := int64(0); ; {
		rows, err := s.db.Events(ctx, control.EventQuery{After: after, Limit: 1000})
		if err != nil {
			return err
		}
		for _, row := range rows {
			after = row.Seq
			if row.Time.After(since) {
				trail = append(trail, row.Event)
			}
		}
		if len(rows) < 1000 {
			break
		}
	}
	for _, a := range alert.Open(trail, s.alertService) {
		s.alerts.Notify(a)
	}
	return nil
}

// alertService is whom an event concerns and what changed last there.
func (s *Server) alertService(ev headgate.Event) alert.Service {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	name, change := ev.Service, alert.Change{}
	if rec, err := s.db.Release(ctx, ev.ReleaseID); err == nil {
		name, change = rec.Service, alert.Change{ReleaseID: rec.ID, Version: rec.Version}
	}
	svc, err := s.plane.Service(name)
	if err != nil {
		return alert.Service{Name: name, LatestChange: change}
	}
	if change.ReleaseID == "" {
		if newest, err := s.db.Releases(ctx, svc.Name, 1); err == nil && len(newest) == 1 {
			change = alert.Change{ReleaseID: newest[0].ID, Version: newest[0].Version}
		}
	}
	return alert.Service{Name: svc.Name, OnCall: svc.OnCall, Runbooks: svc.Runbooks, LatestChange: change}
}
