package rollback

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

func TestExecuteGoesBackInOrderAndLiftsTheFreeze(t *testing.T) {
	t.Parallel()
	w := newWorld()
	x := w.executor("bidding")
	r, err := x.Execute(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.sets, headgate.RollbackOrder()) {
		t.Errorf("order of execution %v, want %v", w.sets, headgate.RollbackOrder())
	}
	if !maps.Equal(w.versions, targets) {
		t.Errorf("versions in force %v, want %v", w.versions, targets)
	}
	if r.Frozen() || !strings.HasPrefix(r.Replay.JobID, "job_") {
		t.Errorf("frozen %v, job %q", r.Frozen(), r.Replay.JobID)
	}
	if got, want := w.kinds(), []string{"rollback_executed:pass", "rollback_replay_verified:pass"}; !slices.Equal(got, want) {
		t.Errorf("audit %v, want %v", got, want)
	}
	if _, frozen, _ := x.Frozen(t.Context()); frozen {
		t.Error("service is still frozen")
	}
	again, err := x.Resume(t.Context(), r.ID)
	if err != nil || len(w.sets) != 4 || len(w.jobs) != 1 || again.Replay.JobID != r.Replay.JobID {
		t.Errorf("a restored rollback was executed again: %v, %v, %v", err, w.sets, w.jobs)
	}
}

// Kill the process at every call of every port, before and after its effect,
// restart, and resume.
func TestResumeAfterACrashAnywhere(t *testing.T) {
	t.Parallel()
	dry := newWorld()
	if _, err := dry.executor("bidding").Execute(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= dry.calls; at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.crashAt = at
			req := request()
			req.ID = "rbk_fixed"
			died := func() (died bool) {
				defer func() { died = recover() != nil }()
				_, _ = w.executor("bidding").Execute(t.Context(), req)
				return false
			}()
			if !died {
				t.Fatal("the crash did not happen")
			}
			r, err := w.executor("bidding").Execute(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if r.Frozen() || !maps.Equal(w.versions, targets) {
				t.Errorf("frozen %v, versions %v", r.Frozen(), w.versions)
			}
			if !slices.Equal(w.sets, headgate.RollbackOrder()) {
				t.Errorf("switched %v: an effect was repeated, skipped or out of order", w.sets)
			}
			if len(slices.Compact(slices.Clone(w.jobs))) != 1 {
				t.Errorf("replay jobs %v, want one", w.jobs)
			}
			if got := w.kinds(); !slices.Equal(got, []string{"rollback_executed:pass", "rollback_replay_verified:pass"}) {
				t.Errorf("audit %v", got)
			}
			if len(w.order) != 1 {
				t.Errorf("%d rollbacks on record", len(w.order))
			}
		})
	}
}

func TestAStepThatCannotBeDoneIsEscalatedAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	refused := headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent, "hook says no")
	tests := []struct {
		name   string
		damage func(w *world)
		mend   func(w *world)
	}{
		{"refused", func(w *world) { w.setErr[headgate.RetrievalParams] = refused },
			func(w *world) { clear(w.setErr) }},
		{"fails every time", func(w *world) { w.setErr[headgate.RetrievalParams] = errors.New("secret cause") },
			func(w *world) { clear(w.setErr) }},
		{"reads back wrong", func(w *world) { w.stuck[headgate.RetrievalParams] = true },
			func(w *world) { clear(w.stuck) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				tt.damage(w)
				x := w.executor("bidding")
				r, err := x.Execute(t.Context(), request())
				if err != nil {
					t.Fatal(err)
				}
				if got := r.Escalated(); !slices.Equal(got, []headgate.Component{headgate.RetrievalParams}) {
					t.Errorf("escalated %v", got)
				}
				if w.versions[headgate.ReleaseVersion] != "v1" || w.versions[headgate.WorkflowVersion] != "w1" {
					t.Errorf("the rest did not go on: %v", w.versions)
				}
				if !r.Frozen() || r.Result(time.Now()).ServiceRestored {
					t.Error("restored although a component is not back")
				}
				want := []string{"rollback_step_escalated:fail", "rollback_executed:fail", "rollback_replay_verified:pass"}
				if got := w.kinds(); !slices.Equal(got, want) {
					t.Errorf("audit %v, want %v", got, want)
				}
				for _, e := range w.events {
					if strings.Contains(e.Message, "secret") {
						t.Errorf("cause shown: %s", e.Message)
					}
				}

				tt.mend(w)
				if r, err = x.Resume(t.Context(), r.ID); err != nil || r.Frozen() {
					t.Errorf("after the repair: frozen %v, %v", r.Frozen(), err)
				}
				if got := w.kinds()[3:]; !slices.Equal(got, []string{"rollback_executed:pass", "rollback_replay_verified:pass"}) {
					t.Errorf("audit after the repair %v", got)
				}
			})
		})
	}
}

func TestAFailedReplayKeepsTheFreezeUntilOnePasses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		replay func(string) (JobStatus, error)
	}{
		{"failed", func(string) (JobStatus, error) { return JobFailed, nil }},
		{"could not be run", func(string) (JobStatus, error) { return "", errors.New("no stable") }},
		{"still queued", func(string) (JobStatus, error) { return JobQueued, nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			good := w.replay
			w.replay = tt.replay
			x := w.executor("bidding")
			r, err := x.Execute(t.Context(), request())
			if err != nil {
				t.Fatal(err)
			}
			res := r.Result(time.Now())
			if res.ServiceRestored || res.ReplayVerification.Status != JobFailed {
				t.Errorf("restored %v, replay %v", res.ServiceRestored, res.ReplayVerification.Status)
			}
			if frozen, ok, _ := x.Frozen(t.Context()); !ok || frozen.ID != r.ID {
				t.Error("the freeze was lifted")
			}
			first := r.Replay.JobID
			w.replay = good
			r, err = x.Execute(t.Context(), request())
			if err != nil || r.Frozen() {
				t.Fatalf("a passing replay does not lift the freeze: %v", err)
			}
			if r.Replay.JobID == first || len(w.sets) != 4 {
				t.Errorf("job %s twice, or steps repeated: %v", first, w.sets)
			}
		})
	}
}

func TestElapsedAndDeadlineAreMeasuredFromTheTrigger(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		limit   time.Duration
		elapsed float64
		inTime  bool
	}{
		{"in time", 30 * time.Minute, 4, true},
		{"at the limit", 4 * time.Minute, 4, true},
		{"late", 3 * time.Minute, 4, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.replay = func(string) (JobStatus, error) {
					time.Sleep(3 * time.Minute)
					return JobSucceeded, nil
				}
				x := w.executor("bidding")
				x.cfg.Limit = tt.limit
				req := request()
				req.TriggeredAt = time.Now()
				time.Sleep(time.Minute) // between the trigger and the execution
				r, err := x.Execute(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour) // does not count
				res := r.Result(time.Now())
				if res.ElapsedMinutes != tt.elapsed || res.CompletedInTime != tt.inTime || !res.ServiceRestored {
					t.Errorf("%+v", res)
				}
				overdue := slices.Contains(w.kinds(), "rollback_deadline_exceeded:fail")
				if overdue == tt.inTime || r.Overdue == tt.inTime {
					t.Errorf("overdue event %v, recorded %v", overdue, r.Overdue)
				}
			})
		})
	}
}

// A replay that takes long does not keep the deadline's passing to itself.
func TestDeadlineThatPassesDuringTheReplayIsToldAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.replay = func(string) (JobStatus, error) {
			time.Sleep(5 * time.Minute)
			return JobSucceeded, nil
		}
		x := w.executor("bidding")
		x.cfg.Limit = time.Minute
		ended := make(chan Rollback)
		go func() {
			r, err := x.Execute(t.Context(), request())
			if err != nil {
				t.Error(err)
			}
			ended <- r
		}()
		time.Sleep(time.Minute + 10*time.Second)
		synctest.Wait()
		if !slices.Contains(w.kinds(), "rollback_deadline_exceeded:fail") {
			t.Errorf("ten seconds late: %v", w.kinds())
		}
		if r := <-ended; !r.Overdue || r.Frozen() {
			t.Errorf("%+v", r.Progress)
		}
		told := 0
		for _, kind := range w.kinds() {
			if kind == "rollback_deadline_exceeded:fail" {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}

func TestAHangingActuatorIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.delay = time.Hour
		began := time.Now()
		r, err := w.executor("bidding").Execute(t.Context(), request())
		if err != nil || len(r.Escalated()) != 4 {
			t.Fatalf("escalated %v, %v", r.Escalated(), err)
		}
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

func TestOnlyWhatChangedGoesBack(t *testing.T) {
	t.Parallel()
	w := newWorld()
	req := request()
	req.Targets = map[headgate.Component]string{headgate.ReleaseVersion: "v1"}
	r, err := w.executor("bidding").Execute(t.Context(), req)
	if err != nil || r.Frozen() {
		t.Fatalf("%v, frozen %v", err, r.Frozen())
	}
	if !slices.Equal(w.sets, []headgate.Component{headgate.ReleaseVersion}) || r.Steps[0].Status != StepUnchanged {
		t.Errorf("switched %v, steps %+v", w.sets, r.Steps)
	}
}

func TestMissingActuatorIsEscalated(t *testing.T) {
	t.Parallel()
	w := newWorld()
	x := w.executor("bidding")
	delete(x.cfg.Actuators, headgate.ModelConfig)
	r, err := x.Execute(t.Context(), request())
	if err != nil || !strings.Contains(r.Steps[0].Error, "no actuator") || w.versions[headgate.ReleaseVersion] != "v1" {
		t.Errorf("%v %+v %v", err, r.Steps[0], w.versions)
	}
}

// Traffic that is not on stable yet stays where it is while stable cannot carry
// it; the rest goes on, and asking again when it can finishes the rollback.
func TestTrafficDoesNotGoToAStableWithoutCapacity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.versions[headgate.ReleaseVersion] = "v2"
		w.capacity = func(context.Context) error {
			return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "connection refused")
		}
		x := w.executor("bidding")
		r, err := x.Execute(t.Context(), request())
		if err != nil || !r.Frozen() || w.versions[headgate.ReleaseVersion] != "v2" || w.versions[headgate.ModelConfig] != "m1" {
			t.Fatalf("%v, frozen %v, %v", err, r.Frozen(), w.versions)
		}
		if s := r.Steps[3]; s.Status != StepEscalated || !strings.Contains(s.Error, "connection refused") || !slices.Contains(w.kinds(), "rollback_step_escalated:fail") {
			t.Errorf("step %+v, audit %v", s, w.kinds())
		}
		w.capacity = func(context.Context) error { return nil }
		if r, err = x.Resume(t.Context(), r.ID); err != nil || r.Frozen() || w.versions[headgate.ReleaseVersion] != "v1" {
			t.Errorf("with capacity: %v, frozen %v, %v", err, r.Frozen(), w.versions)
		}
	})
}

// Two that ask at the same time get one rollback.
func TestConcurrentRequestsJoin(t *testing.T) {
	t.Parallel()
	w := newWorld()
	x := w.executor("bidding")
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			if _, err := x.Begin(t.Context(), request()); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if len(w.records) != 1 {
		t.Errorf("%d rollbacks of one release", len(w.records))
	}
}

func TestStableWithoutCapacityIsEscalatedAndKeepsTheTraffic(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		check func(context.Context) error
		says  string
	}{
		"short": {func(context.Context) error {
			return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "1 of 3 instances is healthy")
		}, "1 of 3"},
		"hangs": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.capacity = tt.check
				w.versions[headgate.ReleaseVersion] = "v1" // the stop-loss has brought it back
				began := time.Now()
				r, err := w.executor("bidding").Execute(t.Context(), request())
				if err != nil || r.Frozen() || w.versions[headgate.ReleaseVersion] != "v1" {
					t.Fatalf("%v, frozen %v, %v", err, r.Frozen(), w.versions)
				}
				if !strings.Contains(r.Steps[3].Warning, tt.says) || w.kinds()[0] != "rollback_step_escalated:fail" {
					t.Errorf("warning %q, audit %v", r.Steps[3].Warning, w.kinds())
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("traffic waited %s", took)
				}
			})
		})
	}
}

func TestAFullDiskDoesNotKeepTrafficOnTheBadVersion(t *testing.T) {
	t.Parallel()
	w := newWorld()
	x := w.executor("bidding")
	r, err := x.Begin(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	w.full = true
	if _, err := x.Resume(t.Context(), r.ID); !errors.Is(err, &headgate.Error{Code: headgate.CodeStorageFull}) {
		t.Errorf("error %v", err)
	}
	if !maps.Equal(w.versions, targets) {
		t.Errorf("versions %v", w.versions)
	}
	w.full = false
	if r, err = x.Resume(t.Context(), r.ID); err != nil || r.Frozen() {
		t.Errorf("after space was made: %v, frozen %v", err, r.Frozen())
	}
}

func TestCancelledContextStopsAndResumes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.setErr[headgate.WorkflowVersion] = errors.New("down")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		x := w.executor("bidding")
		r, err := x.Execute(ctx, request())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
		if w.versions[headgate.ReleaseVersion] != "" {
			t.Error("went on after the context ended")
		}
		clear(w.setErr)
		if r, err = x.Resume(t.Context(), r.ID); err != nil || r.Frozen() {
			t.Errorf("%v, frozen %v", err, r.Frozen())
		}
	})
}

// Two tenants' releases and two services do not touch each other.
func TestRollbacksAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.replay = func(string) (JobStatus, error) { return JobFailed, nil }
	a, b := request(), request()
	b.ReleaseID, b.TenantID = "rel_2", "globex"
	ra, errA := w.executor("bidding").Execute(t.Context(), a)
	rb, errB := w.executor("billing").Execute(t.Context(), b)
	if errA != nil || errB != nil || ra.ID == rb.ID {
		t.Fatalf("%v %v", errA, errB)
	}
	w.replay = func(string) (JobStatus, error) { return JobSucceeded, nil }
	if _, err := w.executor("billing").Resume(t.Context(), rb.ID); err != nil {
		t.Fatal(err)
	}
	if _, frozen, _ := w.executor("bidding").Frozen(t.Context()); !frozen {
		t.Error("the other service's replay lifted this one's freeze")
	}
	for _, e := range w.events {
		want := map[string]string{"rel_1": "acme", "rel_2": "globex"}[e.ReleaseID]
		if e.TenantID != want {
			t.Errorf("event of %s carries tenant %q", e.ReleaseID, e.TenantID)
		}
	}
}

func TestUnknownRollback(t *testing.T) {
	t.Parallel()
	_, err := newWorld().executor("bidding").Resume(t.Context(), "rbk_none")
	if !errors.Is(err, &headgate.Error{Code: headgate.CodeNotFound}) {
		t.Errorf("error %v", err)
	}
}
