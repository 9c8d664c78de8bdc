package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/store/sqlite"
)

// check proves that a release ended with an outcome and that nothing was done
// twice or lost on the way, however often the control plane was killed.
func (p *plane) check(t *testing.T, id string, want headgate.Outcome) {
	t.Helper()
	p.verify(t, id)
	p.inspect(t, func(ctx context.Context, db *sqlite.DB) {
		rec, err := db.Release(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if rec.Outcome != want {
			t.Errorf("outcome %s %v, want %s", rec.Outcome, rec.Reasons, want)
		}
		kinds := p.checkTrail(ctx, t, db, rec)
		checkStages(ctx, t, db, rec, kinds)
		checkTicks(ctx, t, db, rec)
		state, err := db.Service(ctx, rec.Service)
		if err != nil {
			t.Fatal(err)
		}
		stable := rec.Plan.Stable
		if rec.Outcome == headgate.Promoted {
			stable = rollout.Backend{Version: rec.Version, URL: rec.CandidateURL}
			checkLearned(ctx, t, db, rec)
		} else {
			checkRolledBack(ctx, t, db, rec, kinds)
		}
		if state.HeldBy != "" || state.Stable != stable {
			t.Errorf("the service is held by %q and its stable is %v, want %v", state.HeldBy, state.Stable, stable)
		}
		if kinds["release_"+string(want)] != 1 {
			t.Errorf("the release ended %d times", kinds["release_"+string(want)])
		}
		p.checkSealed(ctx, t, db, id)
	})
	st, err := p.router.Status(t.Context())
	if err != nil || st.Share != 0 {
		t.Errorf("at the end the proxy has share %v, %v", st.Share, err)
	}
}

// checkTrail returns how often each kind of event occurs, and sees to it that
// no number is missing.
func (p *plane) checkTrail(ctx context.Context, t *testing.T, db *sqlite.DB, rec pipeline.Record) map[string]int {
	t.Helper()
	rows, err := db.Events(ctx, control.EventQuery{Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	var last int64
	for _, row := range rows {
		last = row.Seq
		if row.ReleaseID == rec.ID {
			kinds[row.Kind]++
			if row.Stage != "" {
				kinds[row.Kind+"/"+string(row.Stage)]++
			}
		}
	}
	if int(last) != len(rows) {
		t.Errorf("the audit trail has a hole: %d events up to number %d after %d kills", len(rows), last, p.kills)
	}
	if rows, err := db.Unsealed(ctx, 10); err != nil || len(rows) > 0 {
		t.Errorf("%d events are not in the evidence log, %v", len(rows), err)
	}
	return kinds
}

// checkStages sees to it that every stage up to the last began and ended once.
func checkStages(ctx context.Context, t *testing.T, db *sqlite.DB, rec pipeline.Record, kinds map[string]int) {
	t.Helper()
	runs, err := db.StageRuns(ctx, rec.ID)
	if err != nil {
		t.Fatal(err)
	}
	reached := headgate.Stages()
	if rec.StoppedAt != "" {
		reached = reached[:slices.Index(reached, rec.StoppedAt)+1]
	}
	if len(runs) != len(reached) {
		t.Errorf("%d stages ran, want %v", len(runs), reached)
	}
	for i, run := range runs {
		if i < len(reached) && (run.Stage != reached[i] || run.Attempt != 1 || run.EndedAt.IsZero()) {
			t.Errorf("stage %d is %+v, want %s once", i, run, reached[i])
		}
		for _, kind := range []string{"stage_started", "stage_finished"} {
			if n := kinds[kind+"/"+string(run.Stage)]; n != 1 {
				t.Errorf("%s: %d times %s", run.Stage, n, kind)
			}
		}
	}
	if n := kinds["gate_evaluated"]; n != len(headgate.GateD()) {
		t.Errorf("%d gates evaluated, want each of the four once", n)
	}
}

// checkTicks sees to it that the canary's log has every tick once.
func checkTicks(ctx context.Context, t *testing.T, db *sqlite.DB, rec pipeline.Record) {
	t.Helper()
	ticks, err := db.Ticks(ctx, rec.ID)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(ticks)) != rec.State.Ticks {
		t.Errorf("%d ticks are kept, the release counts %d", len(ticks), rec.State.Ticks)
	}
	for i, tick := range ticks {
		if tick.Seq != int64(i+1) || (i > 0 && !tick.Tick.Time.After(ticks[i-1].Tick.Time)) {
			t.Errorf("tick %d has number %d and time %s", i+1, tick.Seq, tick.Tick.Time)
		}
	}
}

// checkLearned sees to it that every tenant's dataset and strategy went on by
// one version.
func checkLearned(ctx context.Context, t *testing.T, db *sqlite.DB, rec pipeline.Record) {
	t.Helper()
	for _, tenant := range exampleTenants {
		scope := feedback.Scope{Service: rec.Service, TenantID: tenant}
		if v, ok, err := db.Dataset(ctx, scope); err != nil || !ok || v.Before != feedback.FirstDataset || v.After != "v1.0.1" {
			t.Errorf("%s: dataset %s → %s, %v, want one step to v1.0.1", tenant, v.Before, v.After, err)
		}
		if st, ok, err := db.Strategy(ctx, scope); err != nil || !ok || st.Version != "stg_v1" {
			t.Errorf("%s: strategy %s, %v, want stg_v1", tenant, st.Version, err)
		}
	}
}

// checkRolledBack sees to it that there was one rollback with every step done
// once.
func checkRolledBack(ctx context.Context, t *testing.T, db *sqlite.DB, rec pipeline.Record, kinds map[string]int) {
	t.Helper()
	all, err := db.Rollbacks(ctx, rec.ID)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d rollbacks, %v", len(all), err)
	}
	rb := all[0]
	if rb.Frozen() || len(rb.Escalated()) > 0 {
		t.Errorf("the rollback is not over: %+v", rb)
	}
	for _, s := range rb.Steps {
		if s.Status != rollback.StepUnchanged && (s.Status != rollback.StepDone || s.EndedAt.IsZero() || s.ReadBack != s.To) {
			t.Errorf("step %+v is not done and read back", s)
		}
	}
	for _, kind := range []string{"rollback_triggered", "traffic_on_stable", "rollback_executed", "rollback_replay_verified", "rollback_finished"} {
		if kinds[kind] != 1 {
			t.Errorf("%d times %s", kinds[kind], kind)
		}
	}
}

// checkSealed sees to it that the evidence log holds the release's trail in
// full, in order and each event once.
func (p *plane) checkSealed(ctx context.Context, t *testing.T, db *sqlite.DB, id string) {
	t.Helper()
	entries, err := db.EvidenceLog().Entries(ctx, evidence.EntryQuery{ReleaseID: id, PredicateType: evidence.TypeAuditEvent})
	if err != nil {
		t.Fatal(err)
	}
	var sealed []string
	for _, e := range entries {
		ev, err := eventIn(e.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, ev)
	}
	rows, err := db.Events(ctx, control.EventQuery{ReleaseID: id, Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	var trail []string
	for _, row := range rows {
		trail = append(trail, fmt.Sprint(row.Time.UnixMicro(), row.Kind, row.Stage, row.Message))
	}
	if !slices.Equal(sealed, trail) {
		t.Errorf("the evidence log and the audit trail differ\nlog:   %q\ntrail: %q", sealed, trail)
	}
}

func eventIn(envelope []byte) (string, error) {
	var dsse struct{ Payload string }
	if err := json.Unmarshal(envelope, &dsse); err != nil {
		return "", err
	}
	payload, err := base64.StdEncoding.DecodeString(dsse.Payload)
	var st struct{ Predicate headgate.Event }
	err = errors.Join(err, json.Unmarshal(payload, &st))
	ev := st.Predicate
	return fmt.Sprint(ev.Time.UnixMicro(), ev.Kind, ev.Stage, ev.Message), err
}
