package control

import (
	"context"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
)

// Evaluation is a gate's verdict on all that the server holds of a release,
// and where the signed statement of it is.
type Evaluation struct {
	gate.Result
	// Evidence is the statement's place in the log, EvidenceDigest its digest.
	Evidence       int64            `json:"evidence_index"`
	EvidenceDigest string           `json:"evidence_digest"`
	Inputs         []evidence.Input `json:"inputs"`
}

// EvaluateRelease judges a gate of a release on all reports that were added to
// it, and on telemetry as it is now. The verdict is evidence: it takes the
// place of the gate's last one. A release that has ended keeps those it ended
// with: RELEASE_DONE.
func (p *Plane) EvaluateRelease(ctx context.Context, who access.Identity, releaseID string, g headgate.Gate) (Evaluation, error) {
	rec, err := p.release(ctx, who, releaseID)
	if err != nil {
		return Evaluation{}, err
	}
	switch {
	case !slices.Contains(headgate.GateD(), g):
		return Evaluation{}, headgate.Invalidf("gate must be one of quality, performance, security, cost")
	case rec.Done():
		return Evaluation{}, headgate.Errorf(headgate.CodeReleaseDone, headgate.ClassBusinessRule,
			"release %s has ended; what its gates said is settled", releaseID)
	}
	s, err := p.Service(rec.Service)
	if err != nil {
		return Evaluation{}, err
	}
	reports, _, err := p.reports(ctx, s, releaseID)
	if err != nil {
		return Evaluation{}, err
	}
	j := judged{measured: true}
	if j.rules, err = p.rules(ctx, s.Name); err != nil {
		return Evaluation{}, err
	}
	if j.in, j.inputs, _, err = p.gateInput(ctx, s, rec, g, reports[g]); err != nil {
		return Evaluation{}, err
	}
	res, h, err := p.conclude(ctx, named{rec.ID, rec.TenantID}, g, j)
	if err != nil {
		return Evaluation{}, err
	}
	out := Evaluation{Result: res, Evidence: h.Index, EvidenceDigest: h.Digest, Inputs: j.inputs}
	return out, p.record(ctx, "", p.gateEvent(who, named{rec.ID, rec.TenantID}, res))
}

// conclude judges what was brought together for a gate of a release and makes
// the verdict evidence. A metric that is in no report and no telemetry has no
// samples, and so is insufficient.
func (p *Plane) conclude(ctx context.Context, of named, g headgate.Gate, j judged) (gate.Result, held, error) {
	for _, name := range j.rules.Metrics(g) {
		_, measured := j.in.Metrics[name]
		if _, known := j.in.Origins[name]; !measured && !known {
			none := int64(0)
			j.in.Origins[name] = gate.Origin{Samples: &none, Source: "in no report and no telemetry"}
		}
	}
	res, err := gate.Evaluate(j.rules, g, j.in)
	if err != nil {
		return res, held{}, err
	}
	in, err := p.blob(ctx, inputName(g), "gate-metrics", j.in)
	if err != nil {
		return res, held{}, err
	}
	j.inputs = append(j.inputs, in)
	h, err := p.stateGate(ctx, of, j, res)
	return res, h, err
}

// inputName is the file that says what a gate was judged on.
func inputName(g headgate.Gate) string { return string(g) + "-input.json" }
