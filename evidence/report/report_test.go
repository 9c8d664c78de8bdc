package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var start = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func ptr[T any](v T) *T { return &v }

func gate(g headgate.Gate, v headgate.Verdict, checks ...Check) Gate {
	return Gate{Gate: g, Verdict: v, Time: at(95 * time.Second), RulesDigest: "sha256:8c1f0f6d3a9b7e4c25d1a8f0b3c6e9d2f5a8b1c4d7e0f3a6b9c2d5e8f1a4b7c0", Checks: checks}
}

func gates() []Gate {
	return []Gate{
		gate(headgate.GateQuality, headgate.Pass,
			Check{Name: "ragas_faithfulness", Code: "RAGAS_FAITHFULNESS_LOW", Value: 0.943, Threshold: 0.9, Op: ">=", Unit: "1", Samples: ptr(int64(48)), MinSamples: 30, Window: "bids@v1.0.0", Source: "ragas.json", Distance: ptr(0.043), Verdict: headgate.Pass},
			Check{Name: "citation_resolvable_rate", Code: "CITATION_RESOLVABLE_RATE_LOW", Value: 0.98, Threshold: 0.98, Op: ">=", Unit: "1", Samples: ptr(int64(48)), Source: "ragas.json", Distance: ptr(0.0), Verdict: headgate.Pass}),
		gate(headgate.GatePerformance, headgate.Pass,
			Check{Name: "api_p95_s", Code: "API_P95_EXCEEDED", Value: 0.214, Threshold: 1.5, Op: "<=", Unit: "s", Samples: ptr(int64(12409)), MinSamples: 200, Window: "10m", Source: "histogram_quantile(0.95, sum by (le) (rate(bea_api_request_duration_seconds_bucket[10m])))", Distance: ptr(1.286), Verdict: headgate.Pass}),
		gate(headgate.GateSecurity, headgate.Pass,
			Check{Name: "secret_scan_findings", Code: "SECRET_SCAN_FINDING_FOUND", Value: 0.0, Threshold: 0.0, Op: "<=", Unit: "{finding}", Source: "gitleaks.json", Distance: ptr(0.0), Verdict: headgate.Pass}),
		gate(headgate.GateCost, headgate.Pass,
			Check{Name: "routing_degrade_passed", Code: "ROUTING_DEGRADE_FAILED", Value: true, Threshold: true, Op: "==", Verdict: headgate.Pass}),
	}
}

// rolledBack is a release that passed its gates and failed under users.
func rolledBack() Release {
	r := Release{
		Release: headgate.Release{
			ID: "rel_9w2kq4x7m3", Service: "bidding", TenantID: "acme", Version: "2.5.0",
			Changes: []headgate.Change{
				{Component: headgate.ModelConfig, From: "scorer-3", To: "scorer-4"},
				{Component: headgate.ReleaseVersion, From: "2.4.0", To: "2.5.0"},
			},
			Source: headgate.Source{Commit: "4be1c09", Author: "ada@example.com", Link: "https://git.example.com/bidding/changes/812"},
			Digest: "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
			Stage:  headgate.StageCanary, Outcome: headgate.RolledBack, StoppedAt: headgate.StageCanary,
			Reasons: []string{"CANARY_ERRORS_WORSE"}, CreatedAt: start, UpdatedAt: at(11 * time.Minute),
		},
		GeneratedAt: at(12 * time.Minute), Server: "headgate 0.1.0 at ci.example.com",
		Gates: gates(),
		Rollback: &Rollback{
			TriggerGate: headgate.GatePerformance, Reason: "The candidate fails 8 % of requests, stable 0.1 %.",
			Explanation: "DB_LOCKED occurred 30 times on the candidate, at POST /api/v1/evaluations, and never there on stable; it hit tenant acme only.",
			TraceID:     "4bf92f3577b34da6a3ce929d0e0e4736", TraceURL: "https://ci.example.com/trace/4bf92f3577b34da6a3ce929d0e0e4736",
			FirstBadAt: at(6*time.Minute + 4*time.Second), TriggeredAt: at(6*time.Minute + 40*time.Second), TrafficBackAt: at(6*time.Minute + 40*time.Second + 300*time.Millisecond),
			CompletedAt: at(6*time.Minute + 52*time.Second), RestoredAt: at(7*time.Minute + 31*time.Second), LimitS: 1800,
			Steps: []Step{
				{Component: headgate.ModelConfig, To: "scorer-3", Status: "done", ReadBack: "scorer-3", StartedAt: at(400 * time.Second), EndedAt: at(402 * time.Second)},
				{Component: headgate.RetrievalParams, Status: "unchanged"},
				{Component: headgate.WorkflowVersion, Status: "unchanged"},
				{Component: headgate.ReleaseVersion, To: "2.4.0", Status: "done", ReadBack: "2.4.0", StartedAt: at(402 * time.Second), EndedAt: at(412 * time.Second)},
			},
			ReplayJobID: "job_k3v8", ReplayStatus: "succeeded",
		},
		Readiness: &Readiness{
			AssessmentID: "ra_7hq2", DatasetVersion: "v1.0.0", Admitted: true, ReplayPassed: true, ReplayEvidence: "sha256:5eed1b9c7e2f5a8d3c6b9e1f4a7d0c3b6e9f2a5d8c1b4e7f0a3d6c9b2e5f8a5e",
			Gates: []ReadinessGate{{Gate: headgate.GateQuality, Passed: true, Evidence: "sha256:0d4a1b9c7e2f5a8d3c6b9e1f4a7d0c3b6e9f2a5d8c1b4e7f0a3d6c9b2e5f8a1d"}, {Gate: headgate.GateOps, Passed: true, Reason: "EVIDENCE_STALE"}},
		},
		Replays: []Replay{
			{RunID: "rpy_a81", Purpose: "before release", Time: at(70 * time.Second), Sessions: 6, Steps: 42, Passed: true},
			{RunID: "rpy_a92", Purpose: "after rollback", Time: at(450 * time.Second), Sessions: 6, Steps: 42, Passed: true},
		},
		Alerts: []Alert{{Name: "CanaryErrorRate", Severity: "P0", Summary: "Candidate answers with errors", FiredAt: at(398 * time.Second), ActedAt: at(400 * time.Second), ResolvedAt: at(452 * time.Second), Action: "rolled back by headgate"}},
		Events: []headgate.Event{
			{Time: start, Kind: "release_created", Actor: "ada@example.com", From: "10.0.0.7", Reason: "weekly release", Stage: headgate.StageBuild},
			{Time: at(400 * time.Second), Kind: "canary_failed", Actor: "headgate", Stage: headgate.StageCanary, Verdict: headgate.Fail, Message: "The candidate fails 8 % of requests, stable 0.1 %.", Reason: "CANARY_ERRORS_WORSE"},
			{Time: at(451 * time.Second), Kind: "rollback_replay_verified", Actor: "headgate", Stage: headgate.StageCanary, Verdict: headgate.Pass},
		},
		Evidence: []Evidence{
			{Index: 12, Kind: "gate-decision", About: "quality", Time: at(95 * time.Second), Verdict: headgate.Pass, Digest: "sha256:0d4a1b9c7e2f5a8d3c6b9e1f4a7d0c3b6e9f2a5d8c1b4e7f0a3d6c9b2e5f8a1d",
				Inputs: []File{{Name: "ragas.json", Size: 18211, Digest: "sha256:77aa1b9c7e2f5a8d3c6b9e1f4a7d0c3b6e9f2a5d8c1b4e7f0a3d6c9b2e5f8a77"}}},
			{Index: 31, Kind: "rollback", Time: at(451 * time.Second), Digest: "sha256:c0ffee9c7e2f5a8d3c6b9e1f4a7d0c3b6e9f2a5d8c1b4e7f0a3d6c9b2e5f8c0f"},
		},
	}
	for i, s := range headgate.Stages()[:7] {
		run := headgate.StageRun{Stage: s, Attempt: 1, Verdict: headgate.Pass, StartedAt: at(time.Duration(i*20) * time.Second), EndedAt: at(time.Duration(i*20+20) * time.Second), Summary: "all good"}
		if s == headgate.StageCanary {
			run.Verdict, run.Summary, run.Reasons, run.EndedAt = headgate.Fail, "e-value 143 reached 100", []string{"CANARY_ERRORS_WORSE"}, at(400*time.Second)
		}
		r.Stages = append(r.Stages, run)
	}
	r.Canary = &Canary{Alpha: 0.01, Points: points(144, 122)}
	return r
}

// points are a canary's ticks, 2 s apart, with a candidate that goes bad.
func points(n, badFrom int) []Point {
	var out []Point
	p := Point{Share: 0.1, EValue: 1}
	for i := range n {
		p.Time = at(2*time.Minute + time.Duration(i)*2*time.Second)
		p.StableRequests += 180
		p.CandidateRequests += 20
		p.StableP95S, p.CandidateP95S = 0.21+0.02*math.Sin(float64(i)/5), 0.24+0.05*math.Cos(float64(i)/7)
		if i%6 == 0 {
			p.StableErrors++
		}
		switch {
		case i < badFrom:
			p.EValue = 0.35 + 0.6*math.Abs(math.Sin(float64(i)/9))
			p.Verdict = headgate.Insufficient
		case i < n-1:
			p.CandidateErrors += 2
			p.EValue *= 1.32
		default:
			p.Verdict, p.Share = headgate.Fail, 0
		}
		out = append(out, p)
	}
	return out
}

// blocked is a release that a gate stopped.
func blocked() Release {
	r := rolledBack()
	r.ID, r.Outcome, r.Stage, r.StoppedAt = "rel_b10ck3d", headgate.Blocked, headgate.StageGateD, headgate.StageGateD
	r.Reasons = []string{"API_P95_EXCEEDED", "PERFORMANCE_GATE_FAILED"}
	r.Gates[1] = gate(headgate.GatePerformance, headgate.Fail,
		Check{Name: "api_p95_s", Code: "API_P95_EXCEEDED", Value: 2.31, Threshold: 1.5, Op: "<=", Unit: "s", Samples: ptr(int64(2409)), Window: "10m", Source: "k6.json", Distance: ptr(-0.81), Verdict: headgate.Fail},
		Check{Name: "cache_hit_rate", Code: "CACHE_HIT_RATE_LOW", Threshold: 0.7, Op: ">=", Unit: "1", Samples: ptr(int64(0)), MinSamples: 100, Verdict: headgate.Insufficient, Detail: "nobody asked the cache"},
		Check{Name: "own", Code: "OWN_RULE", Threshold: "metrics.api_p95_s <= 1.5 && samples.api >= 200", Op: "cel", Verdict: headgate.Broken})
	r.Gates[3].Declared = true
	r.Stages = r.Stages[:5]
	r.Stages[4].Verdict, r.Stages[4].Attempt = headgate.Fail, 2
	r.Canary, r.Rollback, r.Alerts, r.Evidence = nil, nil, nil, nil
	r.Readiness = &Readiness{AssessmentID: "ra_1", FailedChecks: []string{"PERFORMANCE_GATE_FAILED"}}
	r.Overrides = []Override{{Gate: headgate.GateCost, Actors: []string{"ada", "bob"}, Reason: "the night before the tender closes", ExpiresAt: at(8 * time.Hour)}}
	return r
}

func promoted() Release {
	r := rolledBack()
	r.ID, r.Outcome, r.Stage, r.StoppedAt, r.Reasons = "rel_pr0m0t3d", headgate.Promoted, headgate.StageFeedback, "", nil
	r.Rollback, r.Alerts = nil, nil
	r.Canary.Points = points(900, 900)
	r.Canary.Points[899].Verdict, r.Canary.Points[899].Share = headgate.Pass, 0.1
	r.Stages[6].Verdict, r.Stages[6].Reasons = headgate.Pass, nil
	r.Stages = append(r.Stages, headgate.StageRun{Stage: headgate.StageFull, Attempt: 1, Verdict: headgate.Pass}, headgate.StageRun{Stage: headgate.StageFeedback, Attempt: 1})
	return r
}

func render(t *testing.T, name string, r Release, lang Lang) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch filepath.Ext(name) {
	case ".html":
		err = HTML(&b, r, lang)
	case ".md":
		err = Markdown(&b, r, lang)
	default:
		err = JSON(&b, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGolden(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file string
		r    Release
		lang Lang
	}{
		{"rolled-back.html", rolledBack(), English},
		{"rolled-back.zh-CN.html", rolledBack(), Chinese},
		{"blocked.html", blocked(), English},
		{"promoted.html", promoted(), English},
		{"rolled-back.md", rolledBack(), English},
		{"blocked.zh-CN.md", blocked(), Chinese},
		{"blocked.json", blocked(), English},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			got := render(t, tt.file, tt.r, tt.lang)
			path := filepath.Join("testdata", tt.file)
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs; run go test -update and read the difference", path)
			}
		})
	}
}

func TestPromotedReleaseThatWasTakenBack(t *testing.T) {
	t.Parallel()
	r := promoted()
	r.Rollback = rolledBack().Rollback
	if page := string(render(t, "r.md", r, English)); !strings.Contains(page, "✕ Promoted, and taken back since") || strings.Contains(page, "the new version serves all traffic") {
		t.Errorf("%.400s", page)
	}
}

func TestPageNeedsNothingFromOutside(t *testing.T) {
	t.Parallel()
	for _, r := range []Release{rolledBack(), blocked(), promoted(), {}} {
		page := string(render(t, "x.html", r, English))
		// A link is followed by a person, never by the page.
		page = strings.ReplaceAll(page, `<a href="https://ci.example.com/trace/4bf92f3577b34da6a3ce929d0e0e4736">`, "")
		for _, bad := range []string{"<script", "<link", "<img", "src=", "href=", "url(", "@import", "ZgotmplZ", "NaN"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: the page holds %q", r.ID, bad)
			}
		}
	}
}

func TestEveryTextIsTranslated(t *testing.T) {
	t.Parallel()
	for _, r := range []Release{rolledBack(), blocked(), promoted()} {
		for _, outcome := range []headgate.Outcome{"", headgate.Promoted, headgate.Blocked, headgate.RolledBack, headgate.Aborted, headgate.Inconclusive} {
			r.Outcome = outcome
			compose(r, words{lang: Chinese, missing: func(text string) { t.Errorf("no Chinese for %q", text) }})
		}
	}
	for _, s := range headgate.Stages() {
		if english["stage:"+string(s)] == "" || chinese["stage:"+string(s)] == "" {
			t.Errorf("stage %s has no name", s)
		}
	}
}

func TestRecordedTextIsNeverMarkup(t *testing.T) {
	t.Parallel()
	r := blocked()
	evil := "</td><script>alert(1)</script>|\n# x `y` [a](b)"
	r.ID, r.Reasons[0], r.Gates[1].Checks[0].Source, r.Events[0].Message, r.Stages[0].Summary = evil, evil, evil, evil, evil
	if page := string(render(t, "x.html", r, English)); strings.Contains(page, "<script") {
		t.Error("HTML holds a recorded script")
	}
	for line := range strings.Lines(string(render(t, "x.md", r, English))) {
		if strings.Contains(line, "<script") && !strings.Contains(line, "`</td><script>") || strings.HasPrefix(line, "# x") {
			t.Errorf("Markdown holds recorded markup: %s", line)
		}
	}
}

func TestChartsSurviveOddNumbers(t *testing.T) {
	t.Parallel()
	r := rolledBack()
	for i, v := range []float64{math.NaN(), math.Inf(1), 0, -1, 1e300, math.Inf(-1)} {
		r.Canary.Points[i].EValue = v
	}
	r.Canary.Alpha = 0
	r.Canary.Points[7].StableRequests = 0
	one := rolledBack()
	one.Canary.Points = one.Canary.Points[:1]
	for _, r := range []Release{r, one} {
		page := string(render(t, "x.html", r, English))
		for _, bad := range []string{"NaN", "Inf", "+Inf"} {
			if strings.Contains(page, bad) {
				t.Errorf("the page holds %s", bad)
			}
		}
	}
	if err := JSON(&bytes.Buffer{}, r); headgate.AsError(err).Code != headgate.CodeValidation {
		t.Errorf("JSON of NaN: %v", err)
	}
}

func TestJSONIsTheWholeReport(t *testing.T) {
	t.Parallel()
	var back Release
	if err := json.Unmarshal(render(t, "x.json", promoted(), English), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Canary.Points) != 900 || back.ID != "rel_pr0m0t3d" || len(back.Gates) != 4 {
		t.Errorf("%d points, %s, %d gates", len(back.Canary.Points), back.ID, len(back.Gates))
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1.5": number(1.5), "−0.81": number(-0.81), "1234567": number(1234567), "0.00001": number(0.00001), "–": number(math.NaN()),
		"1.50000001": exact(1.50000001, 1.5), "1.50001": exact(1.50001, 1.5), "12\u202f409": count(12409), "−1": number(-1), "10 %": percent(0.1), "0.12 %": percent(0.00123),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func BenchmarkHTML(b *testing.B) {
	r := promoted()
	for b.Loop() {
		if err := HTML(&bytes.Buffer{}, r, English); err != nil {
			b.Fatal(err)
		}
	}
}
