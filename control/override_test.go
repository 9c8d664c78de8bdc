package control_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/evidence/report"
	"github.com/headgate/headgate/pipeline"
)

// judged is a release whose gates were judged; the cost gate failed for want
// of a baseline.
func (f *fixture) withoutCost(t *testing.T, id string) pipeline.Record {
	t.Helper()
	rec := f.atGateD(t, id)
	f.probe(t, rec)
	f.reports(t, id)
	f.figures.lose(`deployment_environment_name="production"`)
	f.now = f.now.Add(time.Minute)
	return rec
}

func (f *fixture) override(t *testing.T, who access.Identity, id string, g headgate.Gate) control.Override {
	t.Helper()
	o, err := f.Override(t.Context(), who, control.OverrideRequest{ReleaseID: id, Gate: g, Reason: "the tender closes tonight", Expires: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOverrideTakesTwoPeople(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	rec := f.withoutCost(t, "rel-1")
	if res := f.gateD(t, rec); res.Verdict == headgate.Pass {
		t.Fatalf("without an override: %+v", res)
	}
	asked := f.override(t, ada, "rel-1", headgate.GateCost)
	if again := f.override(t, ada, "rel-1", headgate.GateCost); again.ID != asked.ID || again.ApprovedBy != "" {
		t.Errorf("whoever asks twice has not agreed: %+v", again)
	}
	if res := f.gateD(t, rec); res.Verdict == headgate.Pass {
		t.Errorf("one person passes the gate: %+v", res)
	}
	o := f.override(t, bob, "rel-1", headgate.GateCost)
	if o.ID != asked.ID || o.RequestedBy != "ada" || o.ApprovedBy != "bob" {
		t.Errorf("granted: %+v", o)
	}
	res := f.gateD(t, rec)
	if res.Verdict != headgate.Pass || !strings.Contains(res.Summary, "cost OVERRIDDEN by ada and bob") || !strings.Contains(res.Summary, "TASK_COST") {
		t.Errorf("with an override: %+v", res)
	}
	ready, err := f.Ready(t.Context(), rec)
	if err != nil || ready.Verdict != headgate.Pass || !strings.Contains(ready.Summary, "BY OVERRIDE of the cost gate (ada and bob") {
		t.Errorf("rollout: %+v, %v", ready, err)
	}
	f.isLoud(t)

	f.now = o.ExpiresAt
	if ready, err = f.Ready(t.Context(), rec); err != nil || !slices.Equal(ready.Reasons, []string{"COST_EVIDENCE_MISSING"}) {
		t.Errorf("once it has expired: %+v, %v", ready, err)
	}
	if next := f.override(t, ada, "rel-1", headgate.GateCost); next.ID == o.ID || next.ApprovedBy != "" {
		t.Errorf("after the end it takes two people again: %+v", next)
	}
}

// isLoud looks for the override wherever somebody could miss it.
func (f *fixture) isLoud(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	claims := map[headgate.Gate]bool{}
	for _, g := range headgate.Gates() {
		claims[g] = true
	}
	a, err := f.EvaluateReadiness(ctx, operator, control.ReadinessRequest{ReleaseID: "rel-1", DatasetVersion: "v1.0.0", ReplayPassed: true, GateResults: claims})
	if err != nil || !a.Admitted || len(a.Overridden) != 1 || !slices.Equal(a.Overridden[0].Actors, []string{"ada", "bob"}) {
		t.Errorf("readiness: %+v, %v", a, err)
	}
	for _, b := range a.Basis {
		if (b.Support == "override") != (b.Check == "cost") {
			t.Errorf("%s rests on %s", b.Check, b.Support)
		}
	}
	rows, err := f.db.Events(ctx, control.EventQuery{ReleaseID: "rel-1", Kind: "override_granted", Limit: 10})
	if err != nil || len(rows) != 1 || rows[0].Actor != "bob" || rows[0].Data["gate"] != "cost" || rows[0].Data["requested_by"] != "ada" {
		t.Errorf("audit trail: %+v, %v", rows, err)
	}
	entries, err := evidence.NewLog(f.db.EvidenceLog(), nil).Entries(ctx, evidence.EntryQuery{ReleaseID: "rel-1", PredicateType: evidence.TypeOverride})
	if err != nil || len(entries) != 1 {
		t.Errorf("%d statements, %v", len(entries), err)
	}
	rel, err := f.Report(ctx, operator, "rel-1")
	if err != nil {
		t.Fatal(err)
	}
	for format, write := range map[string]func(*bytes.Buffer) error{
		"html": func(b *bytes.Buffer) error { return report.HTML(b, rel, report.English) },
		"md":   func(b *bytes.Buffer) error { return report.Markdown(b, rel, report.English) },
		"json": func(b *bytes.Buffer) error { return report.JSON(b, rel) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil || !strings.Contains(b.String(), "the tender closes tonight") || !strings.Contains(b.String(), "bob") {
			t.Errorf("the %s report does not tell of it, %v", format, err)
		}
	}
}

func TestOverrideRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	good := control.OverrideRequest{ReleaseID: "rel-1", Gate: headgate.GateCost, Reason: "why", Expires: time.Hour}
	for _, tt := range []struct {
		name   string
		who    access.Identity
		change func(*control.OverrideRequest)
		code   string
	}{
		{"the security gate", ada, func(r *control.OverrideRequest) { r.Gate = headgate.GateSecurity }, control.CodeOverrideForbidden},
		{"the replay", ada, func(r *control.OverrideRequest) { r.Gate = "replay" }, control.CodeOverrideForbidden},
		{"what is no gate", ada, func(r *control.OverrideRequest) { r.Gate = "" }, control.CodeOverrideForbidden},
		{"no reason", ada, func(r *control.OverrideRequest) { r.Reason = " " }, headgate.CodeValidation},
		{"more than a day", ada, func(r *control.OverrideRequest) { r.Expires = 24*time.Hour + 1 }, headgate.CodeValidation},
		{"no end", ada, func(r *control.OverrideRequest) { r.Expires = 0 }, headgate.CodeValidation},
		{"no such release", ada, func(r *control.OverrideRequest) { r.ReleaseID = "rel-2" }, headgate.CodeReleaseNotFound},
		{"a releaser", access.Identity{Name: "ci", Role: access.Releaser}, func(*control.OverrideRequest) {}, headgate.CodeForbidden},
		{"another tenant", access.Identity{Name: "eve", Role: access.Operator, Tenants: []string{"borealis"}}, func(*control.OverrideRequest) {}, headgate.CodeReleaseNotFound},
	} {
		req := good
		tt.change(&req)
		if _, err := f.Override(t.Context(), tt.who, req); code(err) != tt.code {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
	}
	f.end(t, headgate.Blocked)
	if _, err := f.Override(t.Context(), ada, good); code(err) != headgate.CodeReleaseDone {
		t.Errorf("a release that has ended: %v", err)
	}
}

// An override on file that should not be there passes nothing.
func TestForgedOverrideOfSecurityPassesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	f.show(t, "rel-1")
	f.now = f.now.Add(time.Minute)
	for _, g := range []headgate.Gate{headgate.GateSecurity, "replay"} {
		body, err := json.Marshal(control.Override{
			ID: "ov-" + string(g), ReleaseID: "rel-1", Gate: g, RequestedBy: "ada", ApprovedBy: "bob", ApprovedAt: f.now, ExpiresAt: f.now.Add(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		err = f.db.PutDocument(t.Context(), control.Document{Kind: "override", ID: "ov-" + string(g), ReleaseID: "rel-1", At: f.now, Body: body})
		if err != nil {
			t.Fatal(err)
		}
	}
	bad := passing[headgate.GateSecurity]
	metrics := map[string]any{}
	for k, v := range bad {
		metrics[k] = v
	}
	metrics["secret_scan_findings"] = 1
	if _, err := f.EvaluateGate(t.Context(), operator, headgate.GateSecurity, control.GateRequest{ReleaseID: "rel-1", DatasetID: "d", Metrics: metrics}); err != nil {
		t.Fatal(err)
	}
	f.service.broken.Store(true)
	if res, err := f.ReplayE2E(t.Context(), operator, control.ReplayRequest{ReleaseID: "rel-1", ProjectID: "p", SupplierID: "s"}); err != nil || res.Passed {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := f.failed(t, "rel-1"); !slices.Equal(got, []string{"SECURITY_EVIDENCE_MISSING", "REPLAY_EVIDENCE_MISSING"}) {
		t.Errorf("failed checks %v", got)
	}
}
