package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/report"
	"github.com/headgate/headgate/pipeline"
)

// GateRequest is the contract's body of POST …-gates/evaluate.
type GateRequest struct {
	ReleaseID string         `json:"release_id,omitempty"`
	DatasetID string         `json:"dataset_id"`
	Metrics   map[string]any `json:"metrics"`
}

// EvaluateGate judges the metrics of a request. With a release id the result
// becomes evidence of that release.
func (p *Plane) EvaluateGate(ctx context.Context, who access.Identity, g headgate.Gate, req GateRequest) (gate.Result, error) {
	of, err := p.reach(ctx, who, req.ReleaseID)
	if err != nil {
		return gate.Result{}, err
	}
	rules, err := p.rulesOf(ctx, of)
	if err != nil {
		return gate.Result{}, err
	}
	in := gate.Input{DatasetID: req.DatasetID, Metrics: req.Metrics}
	res, err := gate.Evaluate(rules, g, in)
	if err != nil || req.ReleaseID == "" {
		return res, err
	}
	if _, err := p.stateGate(ctx, of, judged{rules: rules, in: in, inputs: []evidence.Input{}}, res); err != nil {
		return res, err
	}
	return res, p.record(ctx, "", p.gateEvent(who, of, res))
}

func (p *Plane) gateEvent(who access.Identity, of named, res gate.Result) headgate.Event {
	return headgate.Event{
		Kind: "gate_evaluated", ReleaseID: of.releaseID, TenantID: of.tenant, Actor: who.Name, From: who.From, Verdict: res.Verdict,
		Message: fmt.Sprintf("%s gate: %s", res.Gate, strings.Join(append([]string{string(res.Verdict)}, res.FailedChecks...), " ")),
	}
}

// reportKind is the document of a tool's report that was added to a release.
const reportKind = "report"

// Report is a tool's report that was added to a release as evidence.
type Report struct {
	Gate  headgate.Gate  `json:"gate"`
	Input evidence.Input `json:"input"`
	Facts report.Facts   `json:"facts"`
}

// AddReport reads a tool's report, keeps it without the secrets it may quote,
// and makes it an input of the release's gate. An empty format is recognised
// from the content.
func (p *Plane) AddReport(ctx context.Context, who access.Identity, releaseID string, g headgate.Gate, format, name string, columns map[string]string, r io.Reader) (Report, error) {
	rec, err := p.release(ctx, who, releaseID)
	if err != nil {
		return Report{}, err
	}
	switch {
	case !slices.Contains(headgate.GateD(), g):
		return Report{}, headgate.Invalidf("gate must be one of quality, performance, security, cost")
	case rec.Done():
		return Report{}, headgate.Errorf(headgate.CodeReleaseDone, headgate.ClassBusinessRule,
			"release %s has ended; what its gates were judged on is settled", releaseID)
	}
	raw, err := io.ReadAll(io.LimitReader(r, report.DefaultMaxBytes+1))
	if err != nil {
		return Report{}, headgate.Invalidf("the report could not be read to its end; send it again").Wrap(err)
	}
	if len(raw) > report.DefaultMaxBytes {
		return Report{}, headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassValidation,
			"the report is larger than %d MiB; send a summary", report.DefaultMaxBytes>>20)
	}
	if format == "" {
		if format, err = report.Detect(bytes.NewReader(raw)); err != nil {
			return Report{}, err
		}
	}
	opts := report.Options{Source: name, Columns: columns}
	facts, err := report.Parse(format, bytes.NewReader(raw), opts)
	if err != nil {
		return Report{}, err
	}
	clean, err := report.Redact(format, bytes.NewReader(raw), opts)
	if err != nil {
		return Report{}, err
	}
	tool := evidence.Tool{Name: facts.Tool.Name, Version: facts.Tool.Version}
	in, err := p.rawBlob(ctx, name, format, tool, clean)
	if err != nil {
		return Report{}, err
	}
	facts.Digest, in.Columns = in.Digest, columns
	rep := Report{Gate: g, Input: in, Facts: facts}
	// The same file for the same gate is the same report.
	id := fmt.Sprintf("%s/%s/%s", releaseID, g, name)
	if err := p.putDocument(ctx, reportKind, id, releaseID, rec.TenantID, rep); err != nil {
		return Report{}, err
	}
	ev := headgate.Event{
		Kind: "evidence_added", ReleaseID: releaseID, Service: rec.Service, TenantID: rec.TenantID, Actor: who.Name, From: who.From,
		Message: fmt.Sprintf("%s report %s for the %s gate", format, name, g), Data: map[string]any{"digest": in.Digest},
	}
	return rep, p.signal(ctx, releaseID, pipeline.Fact{Kind: pipeline.FactEvidence, Actor: who.Name, Summary: name}, ev)
}

// reports returns a release's reports for a gate, and which files the
// description asks for that are not there yet.
func (p *Plane) reports(ctx context.Context, s *Service, releaseID string) (map[headgate.Gate][]Report, []string, error) {
	docs, err := p.o.Store.Documents(ctx, reportKind, releaseID)
	if err != nil {
		return nil, nil, err
	}
	got := map[headgate.Gate][]Report{}
	names := map[string]bool{}
	for _, d := range docs {
		var rep Report
		if err := json.Unmarshal(d.Body, &rep); err != nil {
			return nil, nil, err
		}
		got[rep.Gate] = append(got[rep.Gate], rep)
		names[string(rep.Gate)+"/"+rep.Input.Name] = true
	}
	var missing []string
	for _, want := range s.Stages.Reports {
		if name := ReportName(want.File); !names[string(want.Gate)+"/"+name] {
			missing = append(missing, fmt.Sprintf("%s report %s", want.Gate, name))
		}
	}
	return got, missing, nil
}

// ReportName is the name under which a report's file is added.
func ReportName(file string) string { return file[strings.LastIndexByte(file, '/')+1:] }

// gateInput puts together what a gate of a release is judged on.
func (p *Plane) gateInput(ctx context.Context, s *Service, r pipeline.Record, g headgate.Gate, reports []Report) (gate.Input, []evidence.Input, []string, error) {
	facts := make([]report.Facts, 0, len(reports))
	inputs := make([]evidence.Input, 0, len(reports))
	for _, rep := range reports {
		facts = append(facts, rep.Facts)
		inputs = append(inputs, rep.Input)
	}
	in, err := report.Merge(g, s.Name+"/"+r.Version, facts...)
	if err != nil {
		return in, nil, nil, err
	}
	if in.Metrics == nil {
		in.Metrics = map[string]any{}
	}
	if in.Origins == nil {
		in.Origins = map[string]gate.Origin{}
	}
	at := p.o.Now()
	missing, err := p.compare(ctx, &in, s, r, g, at)
	if err != nil {
		return in, nil, nil, err
	}
	scope := dictionary.Scope{
		Service: s.Name, Version: r.Version, Environment: s.Environments.Staging, Window: s.Gates.Window,
	}
	_, reported := in.Metrics[approvalCoverage]
	m, err := p.measure(ctx, &in, scope, same(liveFigures[g]), at)
	if err != nil {
		return in, nil, nil, err
	}
	missing = append(missing, m...)
	if g != headgate.GateSecurity {
		return in, inputs, missing, nil
	}
	if !reported {
		complete, err := p.approvals(ctx, &in, scope, at)
		if err != nil {
			return in, nil, nil, err
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == approvalCoverage })
		if !complete {
			missing = append(missing, approvalCoverage)
		}
	}
	more, err := p.isolationInput(ctx, r.ID, &in)
	return in, append(inputs, more...), missing, err
}

const (
	// settleTime is how long after the last report a figure may still be on its
	// way through the telemetry pipeline.
	settleTime = 15 * time.Second
	// exportTime is how long what a tool's run caused may still be in the service
	// itself. A figure that is there sooner may be without it.
	exportTime = 2 * time.Second
)

// GateD is the runner of stage gate_d: all four gates on what tools reported,
// what the isolation probes found, and what telemetry shows.
func (p *Plane) GateD(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	s, err := p.Service(r.Service)
	if err != nil {
		return pipeline.Result{}, err
	}
	reports, absent, err := p.reports(ctx, s, r.ID)
	if err != nil {
		return pipeline.Result{}, err
	}
	if len(absent) > 0 {
		return pipeline.Result{Waiting: "waits for the client to add " + strings.Join(absent, ", ")}, nil
	}
	rules, err := p.rules(ctx, s.Name)
	if err != nil {
		return pipeline.Result{}, err
	}
	overrides, err := p.overridesOf(ctx, r.ID)
	if err != nil {
		return pipeline.Result{}, err
	}
	all := map[headgate.Gate]judged{}
	var missing []string
	for _, g := range headgate.GateD() {
		in, inputs, m, err := p.gateInput(ctx, s, r, g, reports[g])
		if err != nil {
			return pipeline.Result{}, err
		}
		all[g] = judged{rules, in, inputs, true}
		for _, name := range m {
			if slices.Contains(rules.Metrics(g), name) {
				missing = append(missing, name)
			}
		}
	}
	switch age := p.o.Now().Sub(p.lastReport(ctx, r)); {
	case len(missing) > 0 && age < settleTime:
		return pipeline.Result{Waiting: "waits for telemetry of " + r.Version + ": " + strings.Join(missing, ", ")}, nil
	case age < exportTime:
		return pipeline.Result{Waiting: "waits for the last telemetry of " + r.Version}, nil
	}
	out := pipeline.Result{Verdict: headgate.Pass}
	var let []string
	for _, g := range headgate.GateD() {
		res, _, err := p.conclude(ctx, named{r.ID, r.TenantID}, g, all[g])
		if err != nil {
			return pipeline.Result{}, err
		}
		if err := p.record(ctx, fmt.Sprintf("%s/gate_d/%d/%s", r.ID, r.Attempt, g), p.gateEvent(access.Identity{Name: "headgate"}, named{r.ID, r.TenantID}, res)); err != nil {
			return pipeline.Result{}, err
		}
		o, overridden := overrides[g]
		switch {
		case !res.Passed && overridden:
			let = append(let, fmt.Sprintf("%s OVERRIDDEN by %s (%s)", g, strings.Join(o.Actors, " and "), strings.Join(res.FailedChecks, ", ")))
		case !res.Passed:
			if gravity[res.Verdict] > gravity[out.Verdict] {
				out.Verdict = res.Verdict
			}
			out.Reasons = append(out.Reasons, res.FailedChecks...)
		}
	}
	out.Summary = "all four gates passed"
	if len(let) > 0 {
		out.Summary = "let pass: " + strings.Join(let, "; ")
	}
	if out.Verdict != headgate.Pass {
		out.Summary = "stopped by " + strings.Join(out.Reasons, ", ")
	}
	return out, nil
}

// gravity orders verdicts by what they ask of a person.
var gravity = map[headgate.Verdict]int{headgate.Insufficient: 1, headgate.Broken: 2, headgate.Fail: 3}

// lastReport is when the stage had everything from the client.
func (p *Plane) lastReport(ctx context.Context, r pipeline.Record) time.Time {
	last := r.StageStartedAt
	docs, err := p.o.Store.Documents(ctx, reportKind, r.ID)
	if err != nil {
		return last
	}
	for _, d := range docs {
		if d.At.After(last) {
			last = d.At
		}
	}
	return last
}
