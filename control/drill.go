package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

// Drill is a rehearsal of a rollback under user traffic. Its candidate is
// stable itself, so that users notice nothing, whatever fails. A zero time has
// not come.
type Drill struct {
	ID      string `json:"drill_id"`
	Service string `json:"service"`
	Actor   string `json:"actor"`
	Reason  string `json:"reason"`
	// StartedAt is when the rehearsed canary asked for its share, TriggeredAt
	// when the router had confirmed it and the rollback began.
	StartedAt   time.Time `json:"started_at"`
	TriggeredAt time.Time `json:"triggered_at,omitzero"`
	// TrafficBackAt is when the router had no candidate any more, CompletedAt
	// when every component was read back, RestoredAt when the replay against
	// stable had passed.
	TrafficBackAt time.Time `json:"traffic_back_at,omitzero"`
	CompletedAt   time.Time `json:"completed_at,omitzero"`
	RestoredAt    time.Time `json:"restored_at,omitzero"`
	EndedAt       time.Time `json:"ended_at,omitzero"`
	// Passed: restored, and within the limit for rollbacks. Failure says why
	// not.
	Passed       bool            `json:"passed"`
	Failure      string          `json:"failure,omitempty"`
	LimitSeconds float64         `json:"limit_s"`
	Steps        []rollback.Step `json:"steps"`
	ReplayJobID  string          `json:"replay_job_id,omitempty"`
}

// Drills are a service's rehearsals of rollbacks.
type Drills struct {
	Service string `json:"service"`
	// EverySeconds is how often one has to pass, 0 for never.
	EverySeconds float64 `json:"every_s"`
	// Overdue, when set, says what the rollback gate finds missing.
	Overdue string `json:"overdue,omitempty"`
	// Last is the newest, LastPassed the newest that passed; nil for none.
	Last       *Drill `json:"last,omitempty"`
	LastPassed *Drill `json:"last_passed,omitempty"`
}

const (
	drillKind   = "rollback_drill"
	drillPrefix = "drill_"
	// drillRetry is how long after one that failed the next is tried.
	drillRetry = time.Hour
)

// Events of a drill. They name no release: there is none.
const (
	EventDrillStarted  = "rollback_drill_started"
	EventDrillFinished = "rollback_drill_finished"
)

// running is a drill that can be told to make way for a real rollback.
type running struct {
	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *running) begin(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel, r.done = cancel, make(chan struct{})
	return ctx
}

func (r *running) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel()
	close(r.done)
	r.cancel = nil
}

// stop cancels a drill and waits for its end.
func (r *running) stop(ctx context.Context) error {
	r.mu.Lock()
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// DrillRollback rehearses a rollback of a service, from a canary's share to the
// replay against stable, and returns it once it has ended. It takes the
// service's traffic as a release does: RELEASE_ACTIVE while one meets users or
// the service is frozen. A real rollback ends it; who asked for it may go.
func (p *Plane) DrillRollback(ctx context.Context, who access.Identity, service, reason string) (Drill, error) {
	return carry(ctx, p, func(ctx context.Context, told func(Drill, error)) { told(p.drill(ctx, who, service, reason)) })
}

// drill ends with ctx, too.
func (p *Plane) drill(ctx context.Context, who access.Identity, service, reason string) (Drill, error) {
	if err := giveReason(&reason); err != nil {
		return Drill{}, err
	}
	s, err := p.Service(service)
	if err != nil {
		return Drill{}, err
	}
	d := Drill{
		ID: headgate.NewID(strings.TrimSuffix(drillPrefix, "_")), Service: s.Name, Actor: who.Name, Reason: reason,
		StartedAt: p.o.Now().UTC(), LimitSeconds: float64(p.o.Settings.RollbackMaxMinutes) * 60, Steps: []rollback.Step{},
	}
	if err := p.o.Store.HoldService(ctx, s.Name, d.ID); err != nil {
		return Drill{}, err
	}
	ctx = s.drill.begin(ctx)
	defer s.drill.end()
	err = p.record(ctx, d.ID+"/started", headgate.Event{Kind: EventDrillStarted, Service: s.Name, Actor: who.Name, From: who.From, Reason: reason, Data: map[string]any{"drill_id": d.ID}})
	if err == nil {
		err = p.keepDrill(ctx, d)
	}
	if err == nil {
		err = p.rehearse(ctx, s, &d)
	}
	if err != nil && ctx.Err() != nil {
		err = interrupted("a real rollback, or the end of the server, ended the drill")
	}
	return d, p.endDrill(context.WithoutCancel(ctx), s, &d, who.From, err)
}

// interrupted is the failure of a drill that had to make way: it shows nothing
// about rollbacks.
func interrupted(why string) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "%s", why).Wrap(context.Canceled)
}

// rehearse gives a candidate that is stable itself a canary's share, and takes
// it back by the same executor, actuators, capacity check and replay as a real
// rollback.
func (p *Plane) rehearse(ctx context.Context, s *Service, d *Drill) error {
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil {
		return err
	}
	ro, err := rollout.NewPlan(d.ID, s.Rollout.TenantWhitelist, s.Rollout.EnabledProjectSizes, s.Rollout.HighRiskHITL)
	if err != nil {
		return err
	}
	first := s.tiers(ro)[0]
	split := rollout.Split{
		Service: s.Name, ReleaseID: d.ID, Stable: state.Stable, Candidate: state.Stable, Share: first.Share, Tenants: first.Tenants, Salt: d.ID,
	}
	if err := p.applySplit(ctx, s, split); err != nil {
		return err
	}
	d.TriggeredAt = p.o.Now().UTC()
	if err := p.applySplit(ctx, s, rollout.Split{Service: s.Name, ReleaseID: d.ID, Stable: state.Stable}); err != nil {
		return err
	}
	d.TrafficBackAt = p.o.Now().UTC()
	targets := map[headgate.Component]string{}
	for c, a := range p.actuators(s) {
		version, err := a.Read(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		targets[c] = version
	}
	book := &drillBook{}
	x := p.executor(s, book, book)
	rb, err := x.Execute(ctx, rollback.Request{ID: d.ID, ReleaseID: d.ID, Targets: targets, Actor: d.Actor, Reason: d.Reason, TriggeredAt: d.TriggeredAt})
	d.Steps, d.CompletedAt, d.RestoredAt = rb.Steps, rb.CompletedAt, rb.RestoredAt
	if rb.Replay != nil {
		d.ReplayJobID = rb.Replay.JobID
	}
	switch {
	case err != nil:
		return err
	case len(rb.Escalated()) > 0:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "not confirmed: %v", rb.Escalated())
	case rb.Frozen():
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the replay against stable has not passed; job %s says why", d.ReplayJobID)
	case !rb.Result(p.o.Now()).CompletedInTime:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "it took %s, longer than a rollback may", rb.Elapsed(p.o.Now()).Round(time.Second))
	}
	return nil
}

// applySplit carries a split out under the next epoch and reads it back.
func (p *Plane) applySplit(ctx context.Context, s *Service, split rollout.Split) error {
	st, err := s.Router.Status(ctx)
	if err != nil {
		return err
	}
	if split.Epoch, err = p.o.Store.NextEpoch(ctx, st.Epoch); err != nil {
		return err
	}
	if _, err := s.Router.Apply(ctx, split); err != nil {
		return err
	}
	st, err = s.Router.Status(ctx)
	if err == nil && (st.Epoch != split.Epoch || st.Share != split.Share) {
		err = headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the router answers share %.4g at epoch %d where %.4g at %d was set", st.Share, st.Epoch, split.Share, split.Epoch)
	}
	return err
}

// endDrill gives the traffic back and keeps what came of the drill.
func (p *Plane) endDrill(ctx context.Context, s *Service, d *Drill, from string, failure error) error {
	d.EndedAt, d.Passed = p.o.Now().UTC(), failure == nil
	verdict, message := passFail(d.Passed), fmt.Sprintf("restored %s after the trigger", d.RestoredAt.Sub(d.TriggeredAt).Round(time.Millisecond))
	if errors.Is(failure, context.Canceled) {
		verdict = headgate.Insufficient
	}
	if failure != nil {
		d.Failure = headgate.AsError(failure).Message
		message = d.Failure
		p.o.Logger.WarnContext(ctx, "rollback drill failed", slog.String("service", s.Name), slog.Any("error", failure))
		if state, err := p.o.Store.Service(ctx, s.Name); err == nil {
			// If the router cannot be told, the share's lease ends it.
			_ = p.applySplit(ctx, s, rollout.Split{Service: s.Name, ReleaseID: d.ID, Stable: state.Stable})
		}
	}
	if err := p.keepDrill(ctx, *d); err != nil {
		return err
	}
	if err := p.o.Store.ReleaseService(ctx, s.Name, d.ID); err != nil {
		return err
	}
	p.wake()
	return p.record(ctx, d.ID+"/finished", headgate.Event{
		Kind: EventDrillFinished, Service: s.Name, Actor: d.Actor, From: from, Reason: d.Reason, Verdict: verdict, Message: message,
		Data: map[string]any{
			"drill_id": d.ID, "triggered_at": d.TriggeredAt, "traffic_back_at": d.TrafficBackAt, "completed_at": d.CompletedAt,
			"restored_at": d.RestoredAt, "limit_s": d.LimitSeconds,
		},
	})
}

// keepDrill makes d the service's last one.
func (p *Plane) keepDrill(ctx context.Context, d Drill) error {
	all, err := p.drills(ctx, d.Service)
	if err != nil {
		return err
	}
	all.Service, all.Last = d.Service, &d
	if d.Passed {
		all.LastPassed = &d
	}
	return p.putDocument(ctx, drillKind, d.Service, "", "", all)
}

func (p *Plane) drills(ctx context.Context, service string) (Drills, error) {
	var all Drills
	doc, ok, err := p.o.Store.Document(ctx, drillKind, service)
	if err == nil && ok {
		err = json.Unmarshal(doc.Body, &all)
	}
	return all, err
}

// Drills returns a service's rehearsals of rollbacks.
func (p *Plane) Drills(ctx context.Context, service string) (Drills, error) {
	s, err := p.Service(service)
	if err != nil {
		return Drills{}, err
	}
	all, err := p.drills(ctx, s.Name)
	all.Service, all.EverySeconds = s.Name, s.RollbackDrill.Every.Duration().Seconds()
	all.Overdue = overdueDrill(s, all, p.o.Now())
	return all, err
}

// overdueDrill says why a rollback would not be known to work; empty if it is,
// or nobody asks.
func overdueDrill(s *Service, all Drills, now time.Time) string {
	every := s.RollbackDrill.Every
	switch {
	case every == 0:
		return ""
	case all.LastPassed == nil:
		return "no rollback drill has passed yet; run headgate drill rollback --service " + s.Name
	case now.Sub(all.LastPassed.EndedAt) > every.Duration():
		return fmt.Sprintf("the last rollback drill that passed was on %s, and one is due every %s; run headgate drill rollback --service %s",
			all.LastPassed.EndedAt.Format(time.DateOnly), every, s.Name)
	}
	return ""
}

// RunDueDrills runs the drills that are due by the services' descriptions:
// before the last one is overdue, and an hour after one that failed.
func (p *Plane) RunDueDrills(ctx context.Context) {
	for _, s := range p.Services() {
		if err := p.drillWhenDue(ctx, s); err != nil && ctx.Err() == nil {
			p.o.Logger.WarnContext(ctx, "a rollback drill that is due could not begin; it is tried again",
				slog.String("service", s.Name), slog.Any("error", err))
		}
	}
}

func (p *Plane) drillWhenDue(ctx context.Context, s *Service) error {
	every := s.RollbackDrill.Every.Duration()
	if every == 0 {
		return nil
	}
	all, err := p.drills(ctx, s.Name)
	if err != nil {
		return err
	}
	now := p.o.Now()
	if all.LastPassed != nil && now.Sub(all.LastPassed.EndedAt) < every-every/10 {
		return nil
	}
	if all.Last != nil && !all.Last.Passed && now.Sub(all.Last.StartedAt) < min(drillRetry, every) {
		return nil
	}
	_, err = p.drill(ctx, access.Identity{Name: "headgate"}, s.Name, "scheduled every "+s.RollbackDrill.Every.String())
	if err != nil && headgate.AsError(err).Code == headgate.CodeReleaseActive {
		return nil // after the release
	}
	return err
}

// forgetDrill gives back the traffic that a drill held when its process ended.
// The router's lease has ended its share.
func (p *Plane) forgetDrill(ctx context.Context, s *Service) error {
	state, err := p.o.Store.Service(ctx, s.Name)
	if err != nil || !strings.HasPrefix(state.HeldBy, drillPrefix) {
		return err
	}
	all, err := p.drills(ctx, s.Name)
	if err != nil {
		return err
	}
	d := Drill{ID: state.HeldBy, Service: s.Name, Actor: "headgate"}
	if all.Last != nil && all.Last.ID == d.ID {
		d = *all.Last
	}
	return p.endDrill(ctx, s, &d, "", interrupted("the process ended during the drill"))
}

// drillBook keeps a drill's rollback: the service's own records, its freeze and
// its alerts are about real ones.
type drillBook struct{ r rollback.Rollback }

// SaveIntent implements [rollback.Store].
func (b *drillBook) SaveIntent(_ context.Context, r rollback.Rollback) (rollback.Rollback, error) {
	b.r = r
	return r, nil
}

// UpdateStep implements [rollback.Store].
func (b *drillBook) UpdateStep(_ context.Context, _ string, s rollback.Step) error {
	for i := range b.r.Steps {
		if b.r.Steps[i].Component == s.Component {
			b.r.Steps[i] = s
		}
	}
	return nil
}

// UpdateProgress implements [rollback.Store].
func (b *drillBook) UpdateProgress(_ context.Context, _ string, p rollback.Progress) error {
	b.r.Progress = p
	return nil
}

// Get implements [rollback.Store].
func (b *drillBook) Get(context.Context, string) (rollback.Rollback, error) { return b.r, nil }

// Active implements [rollback.Store].
func (b *drillBook) Active(context.Context, string) ([]rollback.Rollback, error) { return nil, nil }

// Record implements [rollback.Audit]; the trail gets the drill's beginning and
// its end.
func (b *drillBook) Record(context.Context, string, headgate.Event) error { return nil }
