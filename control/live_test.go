package control_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/pipeline"
)

const comparing = `format: headgate-rules/v1
version: 2
owner: platform
reason: a release must not be much slower than what runs
comparisons:
  performance:
    api_p95_ratio: {max: 1.2, min_samples: 200}
    api_error_rate_increase: {max: 0.01, min_samples: 200}
`

// served answers what the API did: p95, error rate and requests by version.
func served(arms map[string][3]float64) func(string) (float64, bool) {
	return func(promql string) (float64, bool) {
		for version, v := range arms {
			if !strings.Contains(promql, `service_version="`+version+`"`) || !strings.Contains(promql, "bea_api_request_duration") {
				continue
			}
			switch {
			case strings.Contains(promql, "histogram_quantile"):
				return v[0], true
			case strings.Contains(promql, "5.."):
				return v[1], true
			}
			return v[2], true
		}
		return 0, false
	}
}

func (f *fixture) compare(t *testing.T) {
	t.Helper()
	f.adopt(t)
	if c, err := f.ProposeRules(t.Context(), ada, "", []byte(comparing)); err != nil || c.InForceAt.IsZero() {
		t.Fatalf("%+v, %v", c, err)
	}
}

// lastDecision is what the evidence log holds of a gate.
func (f *fixture) lastDecision(t *testing.T, g headgate.Gate) evidence.GateDecision {
	t.Helper()
	entries, err := f.db.EvidenceLog().Entries(t.Context(), evidence.EntryQuery{ReleaseID: "rel-1", PredicateType: evidence.TypeGateDecision})
	if err != nil {
		t.Fatal(err)
	}
	var last evidence.GateDecision
	for _, e := range entries {
		st, err := e.Statement()
		if err != nil {
			t.Fatal(err)
		}
		var d evidence.GateDecision
		if err := json.Unmarshal(st.Predicate, &d); err != nil {
			t.Fatal(err)
		}
		if d.Gate == g {
			last = d
		}
	}
	return last
}

func TestTheStagingGateComparesBothVersions(t *testing.T) {
	t.Parallel()
	fast := [3]float64{0.2, 0, 900}
	for _, tt := range []struct {
		name      string
		candidate [3]float64
		silent    string
		verdict   headgate.Verdict
		reasons   []string
	}{
		{"no worse", [3]float64{0.24, 0.01, 300.4}, "", headgate.Pass, nil},
		{"slower, within the absolute limit", [3]float64{0.3, 0, 300}, "", headgate.Fail, []string{"API_P95_RATIO_HIGH"}},
		{"more errors", [3]float64{0.2, 0.02, 300}, "", headgate.Fail, []string{"API_ERROR_RATE_INCREASE_HIGH"}},
		{"too few requests", [3]float64{0.2, 0, 199}, "", headgate.Insufficient,
			[]string{"API_P95_RATIO_INSUFFICIENT_SAMPLES", "API_ERROR_RATE_INCREASE_INSUFFICIENT_SAMPLES"}},
		{"stable's telemetry stopped", [3]float64{0.9, 0.5, 300}, "v1", headgate.Broken,
			[]string{"API_P95_RATIO_TELEMETRY_BROKEN", "API_ERROR_RATE_INCREASE_TELEMETRY_BROKEN", "TASK_COST_P95_RATIO_TELEMETRY_BROKEN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.compare(t)
			rec := f.atGateD(t, "rel-1")
			f.figures.answer = served(map[string][3]float64{"v1": fast, "v2": tt.candidate})
			f.silent = tt.silent
			f.probe(t, rec)
			f.reports(t, "rel-1")
			f.now = f.now.Add(time.Minute)
			res := f.gateD(t, rec)
			if res.Verdict != tt.verdict || !slices.Equal(res.Reasons, tt.reasons) {
				t.Errorf("got %s %v, want %s %v", res.Verdict, res.Reasons, tt.verdict, tt.reasons)
			}
			d := f.lastDecision(t, headgate.GatePerformance)
			i := slices.IndexFunc(d.Checks, func(c evidence.Check) bool { return c.Name == "api_p95_ratio" })
			if i < 0 {
				t.Fatalf("the record has no comparison: %+v", d.Checks)
			}
			c := d.Checks[i]
			if c.Samples == nil || *c.Samples != int64(tt.candidate[2]) || c.MinSamples != 200 || c.Window != "10m" || c.Distance == nil ||
				!strings.Contains(c.Source, `service_version="v2",tenant_id="acme"`) || !strings.Contains(c.Source, `service_version="v1",tenant_id="acme"`) {
				t.Errorf("%+v", c)
			}
			// Whoever has the record comes to the same.
			rules, err := gate.ParseRules("rules.yaml", []byte(comparing))
			if err != nil {
				t.Fatal(err)
			}
			var in gate.Input
			if err := json.Unmarshal(d.Request, &in); err != nil {
				t.Fatal(err)
			}
			again, err := gate.Evaluate(rules, headgate.GatePerformance, in)
			if err != nil || again.Verdict != d.Verdict || !slices.Equal(again.FailedChecks, d.FailedChecks) {
				t.Errorf("judged again: %+v, %v", again, err)
			}
		})
	}
}

// Live checks say on how many observations they rest.
func TestLiveFiguresAreCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	rec := f.atGateD(t, "rel-1")
	f.probe(t, rec)
	f.reports(t, "rel-1")
	f.now = f.now.Add(time.Minute)
	f.gateD(t, rec)
	for _, g := range []headgate.Gate{headgate.GatePerformance, headgate.GateSecurity, headgate.GateCost} {
		for _, c := range f.lastDecision(t, g).Checks {
			if c.Samples == nil && c.Window != "" {
				t.Errorf("%s: nobody counted %s", g, c.Name)
			}
		}
	}
}

// Under user traffic a comparison that fails is a breach, and one that nothing
// can be said of holds the canary.
func TestTheCanaryComparesBothVersions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.compare(t)
	f.release(t, "rel-1", digest("a"))
	rec := f.at(t, func(r *pipeline.Record) {
		inCanary(headgate.Insufficient)(r)
		r.StageStartedAt = f.now
	})
	ratio := func(breached, undecided bool) canary.Check {
		return canary.Check{Gate: headgate.GatePerformance, MetricCode: "API_P95_RATIO_HIGH", Breached: breached, Undecided: undecided}
	}
	var asked []string
	observe := func(arms map[string][3]float64) canary.Check {
		answer := served(arms)
		f.figures.answer = func(q string) (float64, bool) {
			asked = append(asked, q)
			return answer(q)
		}
		obs, err := f.Observe(t.Context(), rec)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(obs.Checks, func(c canary.Check) bool { return c.MetricCode == "API_P95_RATIO_HIGH" })
		if i < 0 {
			t.Fatalf("no comparison in %+v", obs.Checks)
		}
		return obs.Checks[i]
	}
	fast, slow := [3]float64{0.2, 0, 900}, [3]float64{0.5, 0, 900}
	if diff := cmp.Diff(ratio(false, true), observe(map[string][3]float64{"v1": fast, "v2": slow})); diff != "" {
		t.Errorf("before there is a window: %s", diff)
	}
	f.now = f.now.Add(2 * time.Minute)
	if diff := cmp.Diff(ratio(true, false), observe(map[string][3]float64{"v1": fast, "v2": slow})); diff != "" {
		t.Errorf("slower: %s", diff)
	}
	if !slices.ContainsFunc(asked, func(q string) bool {
		return strings.Contains(q, `deployment_environment_name="production",service_name="things",service_version="v1",tenant_id=~"acme|borealis"}[2m]`)
	}) {
		t.Errorf("stable is not asked for the same tenants and time:\n%s", strings.Join(asked, "\n"))
	}
	if diff := cmp.Diff(ratio(false, false), observe(map[string][3]float64{"v1": slow, "v2": slow})); diff != "" {
		t.Errorf("both slow: %s", diff)
	}
	if diff := cmp.Diff(ratio(false, true), observe(map[string][3]float64{"v1": fast, "v2": {0.5, 0, 20}})); diff != "" {
		t.Errorf("too few: %s", diff)
	}
	f.silent = "v1"
	if diff := cmp.Diff(ratio(false, true), observe(map[string][3]float64{"v1": fast, "v2": slow})); diff != "" {
		t.Errorf("stable's telemetry stopped: %s", diff)
	}
}

// A comparison that is dropped while a canary runs holds it no longer.
func TestADroppedComparisonHoldsNoCanary(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.adopt(t)
	f.release(t, "rel-1", digest("a"))
	rec := f.at(t, func(r *pipeline.Record) {
		inCanary(headgate.Insufficient)(r)
		r.StageStartedAt = f.now
		r.State.Canary.Undecided = []string{"API_P95_RATIO_HIGH"}
		r.State.Canary.Breaches = []headgate.Breach{{Gate: headgate.GatePerformance, MetricCode: "API_P95_EXCEEDED", ConsecutiveFailures: 1}}
	})
	f.now = f.now.Add(2 * time.Minute)
	obs, err := f.Observe(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	dropped := slices.DeleteFunc(obs.Checks, func(c canary.Check) bool { return !c.Dropped })
	want := []canary.Check{{Gate: headgate.GatePerformance, MetricCode: "API_P95_RATIO_HIGH", Dropped: true}}
	if diff := cmp.Diff(want, dropped); diff != "" {
		t.Error(diff)
	}
}
