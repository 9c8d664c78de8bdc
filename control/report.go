package control

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"path"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/alert"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/evidence/report"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
)

// Report puts together all that is known of a release, for a page.
func (p *Plane) Report(ctx context.Context, who access.Identity, id string) (report.Release, error) {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return report.Release{}, err
	}
	out := report.Release{Release: rec.Release, GeneratedAt: p.o.Now().UTC(), Server: "headgate " + p.o.Version}
	if out.Stages, err = p.o.Store.StageRuns(ctx, id); err != nil {
		return out, err
	}
	rows, err := p.o.Store.Events(ctx, EventQuery{ReleaseID: id, TenantID: rec.TenantID, Limit: 10_000})
	if err != nil {
		return out, err
	}
	for _, row := range rows {
		out.Events = append(out.Events, row.Event)
	}
	out.Alerts = reportAlerts(out.Events, rec.Service)
	if err := p.reportEvidence(ctx, rec, &out); err != nil {
		return out, err
	}
	if out.Canary, err = p.reportCanary(ctx, rec); err != nil {
		return out, err
	}
	overrides, err := p.overrides(ctx, id)
	if err != nil {
		return out, err
	}
	for _, o := range overrides {
		if o.granted() {
			out.Overrides = append(out.Overrides, report.Override{Gate: o.Gate, Actors: o.actors(), Reason: o.Reason, ExpiresAt: o.ExpiresAt})
		}
	}
	if out.Readiness, err = p.reportReadiness(ctx, named{rec.ID, rec.TenantID}); err != nil {
		return out, err
	}
	if out.Rollback, err = p.reportRollback(ctx, rec); err != nil || out.Rollback == nil {
		return out, err
	}
	for _, ev := range out.Events {
		if ev.Kind == rollbackExplained {
			out.Rollback.Explanation = ev.Message
			out.Rollback.TraceID, _ = ev.Data["trace_id"].(string)
		}
	}
	if out.Canary == nil {
		return out, nil
	}
	for _, pt := range out.Canary.Points {
		if pt.CandidateErrors > 0 {
			out.Rollback.FirstBadAt = pt.Time
			break
		}
	}
	return out, nil
}

// reportAlerts are the alerts that a release's trail raised, when users left
// the candidate because of them, and what ended them.
func reportAlerts(trail []headgate.Event, service string) []report.Alert {
	var out []report.Alert
	var raised []alert.Alert // as out
	for _, ev := range trail {
		for i, a := range raised {
			switch {
			case !out[i].ResolvedAt.IsZero():
			case a.EndedBy(ev):
				out[i].ResolvedAt, out[i].Action = ev.Time, cmp.Or(ev.Message, ev.Kind)
			case ev.Kind == "traffic_on_stable" && out[i].ActedAt.IsZero():
				out[i].ActedAt = ev.Time
			}
		}
		a, ok := alert.FromEvent(ev, alert.Service{Name: service})
		told := func(b alert.Alert) bool { return b.Fingerprint == a.Fingerprint }
		if i := slices.IndexFunc(raised, told); !ok || i >= 0 && out[i].ResolvedAt.IsZero() {
			continue
		}
		raised = append(raised, a)
		out = append(out, report.Alert{Name: a.Name, Severity: string(a.Severity), Summary: a.Summary, FiredAt: a.StartedAt})
	}
	return out
}

// reportEvidence adds the statements of a release, and what the newest of them
// say about gates and replays.
func (p *Plane) reportEvidence(ctx context.Context, rec pipeline.Record, out *report.Release) error {
	entries, statements, err := p.statementsOf(ctx, rec.Release)
	if err != nil {
		return err
	}
	gates := map[headgate.Gate]report.Gate{}
	for i, e := range entries {
		st := statements[i]
		line := report.Evidence{Index: e.Index, Kind: path.Base(path.Dir(e.PredicateType)), Time: e.Time, Digest: e.Digest}
		switch e.PredicateType {
		case evidence.TypeGateDecision:
			var d evidence.GateDecision
			if err := json.Unmarshal(st.Predicate, &d); err != nil {
				return err
			}
			line.About, line.Verdict, line.Inputs = string(d.Gate), d.Verdict, files(d.Inputs)
			g := report.Gate{Gate: d.Gate, Verdict: d.Verdict, Time: d.Time, RulesDigest: d.Rules.Digest, Declared: d.Declared}
			for _, c := range d.Checks {
				g.Checks = append(g.Checks, report.Check(c))
			}
			gates[d.Gate] = g
		case evidence.TypeStageResult:
			var r evidence.StageResult
			if err := json.Unmarshal(st.Predicate, &r); err != nil {
				return err
			}
			line.About, line.Verdict, line.Inputs = string(r.Stage), r.Verdict, files(r.Inputs)
			p.reportReplay(ctx, r, out)
		case evidence.TypeCanaryVerdict:
			var c evidence.CanaryVerdict
			if err := json.Unmarshal(st.Predicate, &c); err != nil {
				return err
			}
			line.About, line.Verdict, line.Inputs = string(headgate.StageCanary), c.Verdict, files(c.Inputs)
		case evidence.TypeAuditEvent:
			var ev headgate.Event
			if err := json.Unmarshal(st.Predicate, &ev); err != nil {
				return err
			}
			line.About, line.Verdict = ev.Kind, ev.Verdict
		}
		out.Evidence = append(out.Evidence, line)
	}
	for _, g := range headgate.GateD() {
		if decision, ok := gates[g]; ok {
			out.Gates = append(out.Gates, decision)
		}
	}
	return nil
}

// reportReplay adds a replay, read from the run that its statement rests on.
func (p *Plane) reportReplay(ctx context.Context, r evidence.StageResult, out *report.Release) {
	for _, in := range r.Inputs {
		if r.Stage != headgate.StageReplay || in.Name != "replay.json" {
			continue
		}
		raw, err := p.o.Blobs.Get(ctx, in.Digest)
		if err != nil {
			continue
		}
		var run struct {
			ID       string `json:"replay_run_id"`
			Sessions []struct {
				Steps []struct {
					Outcome string `json:"outcome"`
				} `json:"steps"`
			} `json:"sessions"`
		}
		if json.Unmarshal(raw, &run) != nil {
			continue
		}
		line := report.Replay{
			RunID: run.ID, Time: r.Time, Sessions: len(run.Sessions), Passed: r.Verdict == headgate.Pass, Failures: r.Reasons,
			Purpose: "before release",
		}
		if out.StoppedAt != "" && len(out.Replays) > 0 {
			line.Purpose = "after rollback"
		}
		for _, s := range run.Sessions {
			line.Steps += len(s.Steps)
			for _, st := range s.Steps {
				if st.Outcome == "failed" {
					line.Failed++
				}
			}
		}
		out.Replays = append(out.Replays, line)
	}
}

func files(in []evidence.Input) []report.File {
	out := make([]report.File, 0, len(in))
	for _, f := range in {
		out = append(out, report.File{Name: f.Name, Digest: f.Digest, Size: f.Size})
	}
	return out
}

func (p *Plane) reportCanary(ctx context.Context, rec pipeline.Record) (*report.Canary, error) {
	rows, err := p.o.Store.Ticks(ctx, rec.ID)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	out := &report.Canary{Alpha: rec.Plan.Canary.Alpha}
	share := rec.Plan.Share // of the first tier
	for _, row := range rows {
		d := row.Decision
		if row.Tick.ExpectedShare > 0 {
			share = row.Tick.ExpectedShare // a person may have set another than the plan's
		}
		out.Points = append(out.Points, report.Point{
			Time: d.Time, Share: share, EValue: d.Evidence.Combined, Verdict: d.Verdict,
			StableRequests: d.Stable.Requests, StableErrors: d.Stable.Errors,
			CandidateRequests: d.Candidate.Requests, CandidateErrors: d.Candidate.Errors,
			StableP95S:    p95(row.Tick, func(s canary.Stratum) canary.Counts { return s.Stable }),
			CandidateP95S: p95(row.Tick, func(s canary.Stratum) canary.Counts { return s.Candidate }),
		})
		share = min(share, d.Share)
	}
	return out, nil
}

// p95 is the upper bound of the bucket in which a tick's 95th percentile lies,
// in seconds; 0 without requests.
func p95(t canary.Tick, arm func(canary.Stratum) canary.Counts) float64 {
	var sum [canary.NumBuckets]int64
	var n int64
	for _, s := range t.Strata {
		for _, b := range arm(s).Latency {
			sum[b[0]] += b[1]
			n += b[1]
		}
	}
	if n == 0 {
		return 0
	}
	var seen int64
	bounds := canary.LatencyBuckets()
	for i, c := range sum {
		if seen += c; seen*100 >= n*95 {
			return bounds[min(i, len(bounds)-1)]
		}
	}
	return bounds[len(bounds)-1]
}

func (p *Plane) reportReadiness(ctx context.Context, of named) (*report.Readiness, error) {
	docs, err := p.o.Store.Documents(ctx, assessmentKind, of.releaseID)
	docs = slices.DeleteFunc(docs, func(d Document) bool { return d.TenantID != of.tenant })
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	var a gate.Assessment
	if err := json.Unmarshal(docs[len(docs)-1].Body, &a); err != nil {
		return nil, err
	}
	out := &report.Readiness{
		AssessmentID: a.AssessmentID, DatasetVersion: a.DatasetVersion, Admitted: a.Admitted,
		ReplayPassed: a.ReplayPassed, FailedChecks: a.FailedChecks,
	}
	for _, b := range a.Basis {
		g := report.ReadinessGate{Gate: headgate.Gate(b.Check), Passed: b.Passed, Reason: b.Reason}
		if b.Evidence != nil {
			g.Evidence = b.Evidence.Digest
		}
		if b.Check == replayCheck {
			out.ReplayEvidence, out.ReplayReason = g.Evidence, g.Reason
			continue
		}
		out.Gates = append(out.Gates, g)
	}
	return out, nil
}

func (p *Plane) reportRollback(ctx context.Context, rec pipeline.Record) (*report.Rollback, error) {
	all, err := p.rollbacksOf(ctx, named{rec.ID, rec.TenantID})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	rb := all[len(all)-1]
	out := &report.Rollback{
		TriggerGate: rb.Gate, Reason: rb.Reason, TriggeredAt: rb.TriggeredAt, CompletedAt: rb.CompletedAt, RestoredAt: rb.RestoredAt,
		LimitS: rb.Deadline.Sub(rb.TriggeredAt).Seconds(), TrafficBackAt: trafficBackAt(rec, rb),
	}
	for _, s := range rb.Steps {
		out.Steps = append(out.Steps, report.Step{
			Component: s.Component, To: s.To, Status: string(s.Status), ReadBack: s.ReadBack, Error: s.Error,
			StartedAt: s.StartedAt, EndedAt: s.EndedAt,
		})
	}
	if rb.Replay != nil {
		out.ReplayJobID, out.ReplayStatus = rb.Replay.JobID, string(rb.Replay.Status)
	}
	return out, nil
}

// sealWait bounds how long a bundle waits for the audit trail.
const sealWait = 5 * time.Second

// Bundle writes all evidence of a release as one file.
func (p *Plane) Bundle(ctx context.Context, who access.Identity, id string, earlier []byte, w io.Writer) error {
	rec, err := p.release(ctx, who, id)
	if err != nil {
		return err
	}
	if err := p.awaitSeal(ctx, id); err != nil {
		return err
	}
	return evidence.WriteBundle(ctx, w, rec.Release, evidence.BundleOptions{Log: p.o.Log, Blobs: p.o.Blobs, EarlierCheckpoint: earlier})
}

// awaitSeal waits until the release's events are in the evidence log.
func (p *Plane) awaitSeal(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sealWait)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		rows, err := p.o.Store.Unsealed(ctx, 1)
		if ctx.Err() == nil && (err != nil || len(rows) == 0) {
			return err
		}
		p.Seal()
		select {
		case <-ctx.Done():
			return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
				"the audit trail is still entering the evidence log; ask for the bundle of %s again", id).Wrap(ctx.Err())
		case <-ticker.C:
		}
	}
}

// Checkpoint is the evidence log's signed size and root as they are now.
func (p *Plane) Checkpoint(ctx context.Context) ([]byte, error) { return p.o.Log.Checkpoint(ctx) }
