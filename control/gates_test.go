package control_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/pipeline"
)

// atGateD is a release in stage gate_d.
func (f *fixture) atGateD(t *testing.T, id string) pipeline.Record {
	t.Helper()
	f.release(t, id, digest("a"))
	rec, err := f.db.Release(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	rec.Stage, rec.StageStartedAt = headgate.StageGateD, f.now
	return rec
}

func (f *fixture) report(t *testing.T, id string, g headgate.Gate, format, name, content string) {
	t.Helper()
	if _, err := f.AddReport(t.Context(), operator, id, g, format, name, nil, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

// reports adds both reports that the description asks for.
func (f *fixture) reports(t *testing.T, id string) {
	t.Helper()
	quality, err := json.Marshal(map[string]any{"dataset_id": "gold", "samples": 40, "metrics": passing[headgate.GateQuality]})
	if err != nil {
		t.Fatal(err)
	}
	f.report(t, id, headgate.GateQuality, "gate-metrics", "quality.json", string(quality))
	f.report(t, id, headgate.GateSecurity, "gitleaks", "gitleaks.json", "[]")
}

func (f *fixture) gateD(t *testing.T, rec pipeline.Record) pipeline.Result {
	t.Helper()
	res, err := f.GateD(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// probe runs stage replay, which leaves what strangers could see.
func (f *fixture) probe(t *testing.T, rec pipeline.Record) {
	t.Helper()
	rec.Stage = headgate.StageReplay
	res, err := f.Replay(t.Context(), rec)
	if err != nil || res.Verdict != headgate.Pass {
		t.Fatalf("replay: %+v, %v", res, err)
	}
}

func TestGateDWaitsForItsReports(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	rec := f.atGateD(t, "rel-1")
	f.probe(t, rec)
	if res := f.gateD(t, rec); !strings.Contains(res.Waiting, "quality report quality.json") || !strings.Contains(res.Waiting, "security report gitleaks.json") {
		t.Errorf("without reports: %+v", res)
	}
	// A report for another gate is not the one that is asked for.
	f.report(t, "rel-1", headgate.GateQuality, "gitleaks", "gitleaks.json", "[]")
	f.report(t, "rel-1", headgate.GateSecurity, "gitleaks", "gitleaks.json", "[]")
	if res := f.gateD(t, rec); !strings.Contains(res.Waiting, "quality.json") || strings.Contains(res.Waiting, "gitleaks.json") {
		t.Errorf("with one report: %+v", res)
	}
	f.reports(t, "rel-1")
	f.now = f.now.Add(time.Minute)
	if res := f.gateD(t, rec); res.Verdict == "" || res.Waiting != "" {
		t.Errorf("with both reports: %+v", res)
	}
}

func TestGateDJudges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		prepare func(*fixture)
		reports func(*testing.T, *fixture)
		verdict headgate.Verdict
		reasons []string
	}{
		{name: "everything is in order", verdict: headgate.Pass},
		{
			name: "strangers see a tenant's thing", prepare: func(f *fixture) { f.service.leaking.Store(true) },
			verdict: headgate.Fail, reasons: []string{"TENANT_SCOPE_VIOLATION_FOUND"},
		},
		{
			name: "probes prove nothing", prepare: func(f *fixture) { f.service.failing.Store(true) }, verdict: headgate.Broken,
			reasons: []string{"TENANT_SCOPE_VIOLATIONS_TELEMETRY_BROKEN", "AUTH_BYPASS_FINDINGS_TELEMETRY_BROKEN"},
		},
		{
			name: "no telemetry of one kind", prepare: func(f *fixture) { f.figures.lose("bea_retrieval_duration") },
			verdict: headgate.Insufficient, reasons: []string{"RETRIEVAL_P95_S_INSUFFICIENT_SAMPLES"},
		},
		{
			name: "a secret in the repository", verdict: headgate.Fail, reasons: []string{"SECRET_SCAN_FINDING_FOUND", "TOOL_SECRETS_FOUND"},
			reports: func(t *testing.T, f *fixture) {
				f.report(t, "rel-1", headgate.GateSecurity, "gitleaks", "gitleaks.json",
					`[{"RuleID":"generic-api-key","File":"a.go","StartLine":1,"Match":"key=s3cr3t","Secret":"s3cr3t","Fingerprint":"a.go:generic-api-key:1"}]`)
			},
		},
		{
			name: "no telemetry and a secret", prepare: func(f *fixture) { f.figures.lose("bea_retrieval_duration") },
			verdict: headgate.Fail, reasons: []string{"RETRIEVAL_P95_S_INSUFFICIENT_SAMPLES", "SECRET_SCAN_FINDING_FOUND", "TOOL_SECRETS_FOUND"},
			reports: func(t *testing.T, f *fixture) {
				f.report(t, "rel-1", headgate.GateSecurity, "gitleaks", "gitleaks.json",
					`[{"RuleID":"generic-api-key","File":"a.go","StartLine":1,"Match":"key=s3cr3t","Secret":"s3cr3t","Fingerprint":"a.go:generic-api-key:1"}]`)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			rec := f.atGateD(t, "rel-1")
			if tt.prepare != nil {
				tt.prepare(f)
			}
			f.probe(t, rec)
			f.reports(t, "rel-1")
			if tt.reports != nil {
				tt.reports(t, f)
			}
			f.now = f.now.Add(5 * time.Second)
			waits := slices.ContainsFunc(tt.reasons, func(r string) bool { return strings.HasSuffix(r, "INSUFFICIENT_SAMPLES") })
			if res := f.gateD(t, rec); (res.Waiting != "") != waits {
				t.Errorf("5 s after the last report: %+v", res)
			}
			f.now = f.now.Add(time.Minute)
			res := f.gateD(t, rec)
			if res.Verdict != tt.verdict || !slices.Equal(res.Reasons, tt.reasons) {
				t.Errorf("got %s %v, want %s %v", res.Verdict, res.Reasons, tt.verdict, tt.reasons)
			}
			for _, r := range tt.reasons {
				if !strings.Contains(res.Summary, r) {
					t.Errorf("the summary does not say why: %q", res.Summary)
				}
			}
			if len(tt.reasons) == 0 {
				return
			}
			// What did not pass is no evidence.
			if got := f.failed(t, "rel-1"); len(got) == 0 {
				t.Error("the release is admitted")
			}
		})
	}
}

// Without a baseline there is no cost ratio to judge.
func TestCostNeedsABaseline(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	rec := f.atGateD(t, "rel-1")
	f.probe(t, rec)
	f.reports(t, "rel-1")
	f.figures.lose(`deployment_environment_name="production"`)
	f.now = f.now.Add(time.Minute)
	res := f.gateD(t, rec)
	if res.Verdict != headgate.Insufficient || len(res.Reasons) == 0 || !strings.Contains(res.Reasons[0], "TASK_COST") {
		t.Errorf("%+v", res)
	}
}

// What an ended release was judged on does not change any more.
func TestEndedReleaseTakesNoReports(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.release(t, "rel-1", digest("a"))
	f.end(t, headgate.Promoted)
	report := strings.NewReader(`{"precision": 1}`)
	if _, err := f.AddReport(t.Context(), operator, "rel-1", headgate.GateQuality, "gate-metrics", "late.json", nil, report); code(err) != headgate.CodeReleaseDone {
		t.Errorf("a report after the end: %v", err)
	}
	if docs, err := f.db.Documents(t.Context(), "report", "rel-1"); err != nil || len(docs) != 0 {
		t.Errorf("%d reports were kept, %v", len(docs), err)
	}
}

// While the evidence bucket is away no gate is judged, and the release is not to
// blame; once it is back, the gates are judged as if nothing had been.
func TestNoGateIsJudgedWithoutItsEvidence(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	rec := f.atGateD(t, "rel-1")
	f.probe(t, rec)
	f.reports(t, "rel-1")
	f.now = f.now.Add(time.Minute)
	f.away.Store(true)
	for range 5 {
		if res, err := f.GateD(t.Context(), rec); !errors.Is(err, pipeline.ErrOutage) || headgate.AsError(err).Message != "the bucket does not answer" {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if d := f.lastDecision(t, headgate.GateQuality); d.Gate != "" {
		t.Errorf("a gate was judged without its files: %+v", d)
	}
	f.away.Store(false)
	if res := f.gateD(t, rec); res.Verdict != headgate.Pass {
		t.Errorf("afterwards: %+v", res)
	}
}
