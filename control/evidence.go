package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
)

// maxBlob bounds an evidence file, in bytes: it is held in memory, and a bundle
// must hold it. A day's tick log of a canary has tens of MiB.
const maxBlob = 512 << 20

// heldKind is the document that names the latest evidence of one check of a
// release: a gate, or "replay".
const heldKind = "held_evidence"

// held is the latest evidence of one check.
type held struct {
	Index   int64            `json:"index"`
	Digest  string           `json:"digest"`
	Summary evidence.Summary `json:"summary"`
}

// named is the release that a plan, evidence or a rollback is about. Under an id
// that only requests name, each tenant has one of its own, and keeps it when
// another tenant makes a release of that id later.
type named struct{ releaseID, tenant string }

// identity is the release as evidence knows it. A release that was never
// created here has no service and no digest of what runs; its tenant and id
// stand in, so that its evidence can never pass for a real release's, nor for
// another tenant's.
func (p *Plane) identity(ctx context.Context, of named) (headgate.Release, error) {
	r, err := p.o.Store.Release(ctx, of.releaseID)
	if err == nil && r.TenantID == of.tenant {
		return r.Release, nil
	}
	if err != nil && headgate.AsError(err).Code != headgate.CodeReleaseNotFound {
		return headgate.Release{}, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "undeclared release %q of %q", of.releaseID, of.tenant))
	return headgate.Release{ID: of.releaseID, TenantID: of.tenant, Digest: "sha256:" + hex.EncodeToString(sum[:])}, nil
}

// heldID names the document of a check's evidence.
func heldID(rel headgate.Release, check string) string {
	if rel.Service == "" {
		return fmt.Sprintf("%q/%s/%s", rel.TenantID, rel.ID, check)
	}
	return rel.ID + "/" + check
}

// state signs a predicate about a release, logs it, and keeps it as the latest
// evidence of a check.
func (p *Plane) state(ctx context.Context, of named, check string, sum evidence.Summary, pred evidence.Predicate) (held, error) {
	rel, err := p.identity(ctx, of)
	if err != nil {
		return held{}, err
	}
	st, err := evidence.About(rel, pred)
	if err != nil {
		return held{}, err
	}
	rec, err := p.o.Log.Append(ctx, st)
	if err != nil {
		return held{}, err
	}
	sum.ReleaseDigest = rel.Digest
	h := held{Index: rec.Index, Digest: rec.Digest, Summary: sum}
	return h, p.putDocument(ctx, heldKind, heldID(rel, check), rel.ID, rel.TenantID, h)
}

// holds returns the latest evidence of a check, false when there is none.
func (p *Plane) holds(ctx context.Context, rel headgate.Release, check string) (held, bool, error) {
	var h held
	d, ok, err := p.o.Store.Document(ctx, heldKind, heldID(rel, check))
	if err == nil && ok {
		err = json.Unmarshal(d.Body, &h)
	}
	return h, ok, err
}

// blob stores v as JSON and returns it as an input of a statement.
func (p *Plane) blob(ctx context.Context, name, format string, v any) (evidence.Input, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return evidence.Input{}, err
	}
	return p.rawBlob(ctx, name, format, p.tool(), b)
}

func (p *Plane) rawBlob(ctx context.Context, name, format string, tool evidence.Tool, b []byte) (evidence.Input, error) {
	if len(b) > maxBlob {
		return evidence.Input{}, headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassValidation,
			"%s has %d MiB, an evidence file may have %d; send a summary", name, len(b)>>20, maxBlob>>20)
	}
	digest, err := p.o.Blobs.Put(ctx, b)
	err = outage(err)
	return evidence.Input{Name: name, Digest: digest, Size: int64(len(b)), Format: format, Tool: tool}, err
}

// outage marks what is wrong with one of the server's own stores for now: the
// release is not to blame.
func outage(err error) error {
	if err != nil && headgate.AsError(err).Class == headgate.ClassTransient {
		return fmt.Errorf("%w: %w", pipeline.ErrOutage, err)
	}
	return err
}

// judged is a gate's result with what it rests on.
type judged struct {
	rules  gate.RuleSet
	in     gate.Input
	inputs []evidence.Input
	// measured is false for figures that a request told.
	measured bool
}

// stateGate makes a gate's result evidence of a release.
func (p *Plane) stateGate(ctx context.Context, of named, j judged, res gate.Result) (held, error) {
	request, err := json.Marshal(j.in)
	if err != nil {
		return held{}, err
	}
	rules, err := p.rawBlob(ctx, "rules.json", gate.Format, p.tool(), j.rules.Canonical())
	if err != nil {
		return held{}, err
	}
	now := p.o.Now().UTC()
	d := evidence.GateDecision{
		ReleaseID: of.releaseID, Time: now, Gate: res.Gate, DatasetID: j.in.DatasetID, Request: request,
		Rules:      evidence.RuleSet{Digest: rules.Digest, Owner: j.rules.Owner(), Reason: j.rules.Reason()},
		Thresholds: res.Thresholds, Values: res.Values, FailedChecks: res.FailedChecks,
		Verdict: res.Verdict, Inputs: j.inputs, MadeBy: p.tool(),
	}
	for _, c := range res.Checks {
		d.Checks = append(d.Checks, evidence.Check(c))
	}
	sum := evidence.Summary{Time: now, RulesDigest: j.rules.Digest(), Verdict: res.Verdict, Measured: j.measured}
	return p.state(ctx, of, string(res.Gate), sum, d)
}

// Seal makes the sealer look at the audit trail now. It never blocks.
func (p *Plane) Seal() {
	select {
	case p.sealing <- struct{}{}:
	default:
	}
}

// RunSealer brings the audit trail into the evidence log until ctx ends. An
// event enters exactly once, in order, also after a crash; whoever is notified
// of it may miss it in a crash, and finds it in the trail.
func (p *Plane) RunSealer(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if err := p.SealPending(ctx); err != nil && ctx.Err() == nil {
			p.o.Logger.ErrorContext(ctx, "the audit trail could not enter the evidence log; it is tried again", slog.Any("error", err), slog.Any("cause", headgate.AsError(err).Unwrap()))
		}
		select {
		case <-ctx.Done():
			return
		case <-p.sealing:
		case <-ticker.C:
		}
	}
}

// SealPending brings what is in the audit trail now into the evidence log.
func (p *Plane) SealPending(ctx context.Context) error {
	for {
		rows, err := p.o.Store.Unsealed(ctx, 100)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			if err := p.sealEvent(ctx, row); err != nil {
				return err
			}
			p.o.Notify(row.Event)
		}
	}
}

// sealEvent logs an event, and with it the results that it announces. One that
// no statement can hold enters shortened, with the digest of all of it: it must
// not keep what comes after it out of the log, and from those who have to know.
func (p *Plane) sealEvent(ctx context.Context, row EventRow) error {
	more, err := p.announced(ctx, row.Event)
	if err == nil {
		err = p.logEvent(ctx, row.Seq, row.Event, more...)
	}
	if err == nil || headgate.AsError(err).Class != headgate.ClassValidation {
		return err
	}
	p.o.Logger.ErrorContext(ctx, "an event does not fit into the evidence log; it enters shortened, without the results that it announces",
		slog.Int64("seq", row.Seq), slog.String("kind", row.Kind), slog.Any("error", err))
	whole, err := p.blob(ctx, "event.json", "headgate-event", row.Event)
	if err != nil {
		return err
	}
	short := row.Event
	short.Message, short.Reason = shorten(short.Message), shorten(short.Reason)
	short.Data = map[string]any{"whole_event": whole.Digest}
	return p.logEvent(ctx, row.Seq, short)
}

// logEvent logs an event together with more about its release.
func (p *Plane) logEvent(ctx context.Context, seq int64, ev headgate.Event, more ...evidence.Predicate) error {
	if ev.ReleaseID == "" {
		st, err := evidence.AboutServer(ev)
		if err != nil {
			return err
		}
		return p.o.Log.AppendEvent(ctx, seq, st)
	}
	rel, err := p.identity(ctx, named{ev.ReleaseID, ev.TenantID})
	if err != nil {
		return err
	}
	var statements []evidence.Statement
	for _, pred := range append([]evidence.Predicate{evidence.AuditEvent{Event: ev}}, more...) {
		st, err := evidence.About(rel, pred)
		if err != nil {
			return err
		}
		statements = append(statements, st)
	}
	return p.o.Log.AppendEvent(ctx, seq, statements...)
}

// announced are the results whose end an event tells.
func (p *Plane) announced(ctx context.Context, ev headgate.Event) ([]evidence.Predicate, error) {
	var out []evidence.Predicate
	switch ev.Kind {
	case pipeline.EventTierPassed, pipeline.EventTenantEvicted:
		verdict, ok, err := p.canaryVerdict(ctx, ev)
		if ok {
			out = append(out, verdict)
		}
		return out, err
	case "stage_finished":
		runs, err := p.o.Store.StageRuns(ctx, ev.ReleaseID)
		if err != nil {
			return nil, err
		}
		for _, run := range runs {
			if run.Stage == ev.Stage {
				out = append(out, evidence.StageResult{StageRun: run, Time: ev.Time, MadeBy: p.tool()})
			}
		}
		if ev.Stage != headgate.StageCanary {
			return out, nil
		}
		verdict, ok, err := p.canaryVerdict(ctx, ev)
		if ok {
			out = append(out, verdict)
		}
		return out, err
	case "rollback_finished":
		rec, err := p.o.Store.Release(ctx, ev.ReleaseID)
		if err != nil {
			return nil, err
		}
		all, err := p.rollbacksOf(ctx, named{ev.ReleaseID, ev.TenantID})
		if err != nil || len(all) == 0 {
			return nil, err
		}
		return append(out, p.rollbackStatement(rec, all[len(all)-1], ev.Time)), nil
	}
	return nil, nil
}

// canaryVerdict is what one judge of a canary, whose end ev tells, has seen and
// said.
func (p *Plane) canaryVerdict(ctx context.Context, ev headgate.Event) (evidence.CanaryVerdict, bool, error) {
	rec, err := p.o.Store.Release(ctx, ev.ReleaseID)
	if err != nil {
		return evidence.CanaryVerdict{}, false, err
	}
	rec = rec.AsJudged(ev)
	rows, err := p.o.Store.Ticks(ctx, ev.ReleaseID)
	if err != nil {
		return evidence.CanaryVerdict{}, false, err
	}
	rows = slices.DeleteFunc(rows, func(row pipeline.TickRow) bool {
		return row.Seq <= rec.State.JudgedFrom || row.Seq > rec.State.Ticks
	})
	if len(rows) == 0 {
		return evidence.CanaryVerdict{}, false, nil
	}
	var log bytes.Buffer
	for _, row := range rows {
		if err := canary.WriteTick(&log, row.Tick); err != nil {
			return evidence.CanaryVerdict{}, false, err
		}
	}
	ticks, err := p.rawBlob(ctx, "ticks.jsonl", evidence.TickLog, p.tool(), log.Bytes())
	if err != nil {
		return evidence.CanaryVerdict{}, false, err
	}
	cfg, err := json.Marshal(rec.Judging())
	if err != nil {
		return evidence.CanaryVerdict{}, false, err
	}
	last := rows[len(rows)-1].Decision
	decision, err := json.Marshal(last)
	if err != nil {
		return evidence.CanaryVerdict{}, false, err
	}
	return evidence.CanaryVerdict{
		ReleaseID: ev.ReleaseID, Time: ev.Time, StartedAt: rows[0].Tick.Time, Share: rec.WantedShare(),
		Stable:    evidence.ArmCounts{Requests: last.Stable.Requests, Errors: last.Stable.Errors},
		Candidate: evidence.ArmCounts{Requests: last.Candidate.Requests, Errors: last.Candidate.Errors},
		EValue:    last.Evidence.Combined, Alpha: rec.Plan.Canary.Alpha, Verdict: last.Verdict, Reasons: last.Reasons,
		Config: cfg, Decision: decision, Inputs: []evidence.Input{ticks}, MadeBy: p.tool(),
	}, true, nil
}

// statementsOf returns the statements about a release in the log, and the
// entries that hold them.
func (p *Plane) statementsOf(ctx context.Context, rel headgate.Release) ([]evidence.Entry, []evidence.Statement, error) {
	all, err := p.o.Log.Entries(ctx, evidence.EntryQuery{ReleaseID: rel.ID})
	if err != nil {
		return nil, nil, err
	}
	entries, statements := all[:0], make([]evidence.Statement, 0, len(all))
	for _, e := range all {
		st, err := e.Statement()
		if err != nil {
			return nil, nil, err
		}
		if st.IsAbout(rel) {
			entries, statements = append(entries, e), append(statements, st)
		}
	}
	return entries, statements, nil
}

// Reevaluate judges a recorded gate decision again, for a verifier.
func Reevaluate(d evidence.GateDecision, rules []byte) (evidence.Reevaluation, error) {
	set, err := gate.ParseRules("rules.json", rules)
	if err != nil {
		return evidence.Reevaluation{}, err
	}
	in, err := recordedInput(d)
	if err != nil {
		return evidence.Reevaluation{}, err
	}
	res, err := gate.Evaluate(set, d.Gate, in)
	if err != nil {
		return evidence.Reevaluation{}, err
	}
	return evidence.Reevaluation{Verdict: res.Verdict, FailedChecks: res.FailedChecks, Thresholds: res.Thresholds, Values: res.Values}, nil
}

// recordedInput is what a recorded decision was made on.
func recordedInput(d evidence.GateDecision) (gate.Input, error) {
	var in gate.Input
	dec := json.NewDecoder(bytes.NewReader(d.Request))
	dec.UseNumber()
	if err := dec.Decode(&in); err != nil {
		return in, headgate.Invalidf("the recorded request is not readable: %w", err)
	}
	return in, nil
}

// ReplayCanary judges a recorded canary again, for a verifier.
func ReplayCanary(v evidence.CanaryVerdict, ticks []byte) (headgate.Verdict, error) {
	var cfg canary.Config
	if err := json.Unmarshal(v.Config, &cfg); err != nil {
		return "", headgate.Invalidf("the recorded configuration is not readable: %w", err)
	}
	verdict := headgate.Insufficient
	for d, err := range canary.Replay(bytes.NewReader(ticks), cfg) {
		if err != nil {
			return "", err
		}
		verdict = d.Verdict
	}
	return verdict, nil
}
