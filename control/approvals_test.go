package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/telemetry"
)

// audited is a record of the audit log of v2 in staging, so many seconds after
// the stage began.
func audited(event, id string, second int, more ...string) telemetry.Event {
	e := telemetry.Event{
		Kind: telemetry.Log, Time: start.Add(time.Duration(second) * time.Second), Service: "things", Version: "v2", Environment: "staging",
		TenantID: "acme", Attributes: map[string]string{"event.name": event, "evaluation_id": id},
	}
	for kv := range slices.Chunk(more, 2) {
		switch kv[0] {
		case "version":
			e.Version = kv[1]
		case "environment":
			e.Environment = kv[1]
		case "tenant":
			e.TenantID = kv[1]
		default:
			e.Attributes[kv[0]] = kv[1]
		}
	}
	return e
}

func highRisk(id string, second int, more ...string) telemetry.Event {
	return audited("audit.evaluated", id, second, append([]string{"risk_level", "high"}, more...)...)
}

func approval(id string, second int, more ...string) telemetry.Event {
	return audited("audit.reviewed", id, second, append([]string{"reviewer", "ada", "reviewer_type", "person", "approved", "true"}, more...)...)
}

func took(id string, second int, more ...string) telemetry.Event {
	return audited("audit.effective", id, second, more...)
}

// TestApprovalCoverageIsReadFromTheAuditLog runs stage gate_d over what a
// service's audit log says; its own counter says that all were approved.
func TestApprovalCoverageIsReadFromTheAuditLog(t *testing.T) {
	t.Parallel()
	type events = []telemetry.Event
	const (
		low          = "HIGH_RISK_APPROVAL_COVERAGE_LOW"
		insufficient = "HIGH_RISK_APPROVAL_COVERAGE_INSUFFICIENT_SAMPLES"
		broken       = "HIGH_RISK_APPROVAL_COVERAGE_TELEMETRY_BROKEN"
	)
	day := 24 * 60 * 60
	for _, tt := range []struct {
		name    string
		log     events
		counter float64 // 0 is what the fixture says, 1
		reason  string  // "" passes
		value   any
		samples int64
		detail  string
	}{
		{name: "no audit log: the counter", value: 1.0, samples: 1},
		{name: "each was approved", log: events{highRisk("e1", 1), approval("e1", 2), took("e1", 3), highRisk("e2", 1), approval("e2", 2), took("e2", 3)}, value: 1.0, samples: 2},
		{name: "in no order, and sent twice", log: events{took("e1", 3), approval("e1", 2), highRisk("e1", 1), took("e1", 3), highRisk("e1", 1)}, value: 1.0, samples: 1},
		{name: "evaluated days before the window", log: events{highRisk("e1", -3*day), approval("e1", 2), took("e1", 3)}, value: 1.0, samples: 1},
		{name: "a low risk needs nobody", log: events{highRisk("e1", 1, "risk_level", "low"), took("e1", 2), highRisk("e2", 1), approval("e2", 2), took("e2", 3)}, value: 1.0, samples: 1},
		{name: "one still waits for its person", log: events{highRisk("e1", 1), approval("e1", 2), took("e1", 3), highRisk("e2", 1)}, value: 1.0, samples: 1},
		{name: "another version's and another environment's do not count", log: events{
			highRisk("e1", 1), approval("e1", 2), took("e1", 3),
			highRisk("e2", 1, "version", "v1"), took("e2", 3, "version", "v1"), highRisk("e3", 1, "environment", "production"), took("e3", 3, "environment", "production"),
		}, value: 1.0, samples: 1},
		{name: "reviewed in another version's process", log: events{highRisk("e1", 1), approval("e1", 2, "version", "v1"), took("e1", 3, "version", "v1")}, value: 1.0, samples: 1},

		{name: "one without a record", log: events{highRisk("e1", 1), approval("e1", 2), took("e1", 3), highRisk("e2", 1), took("e2", 3)}, reason: low, value: 0.5, samples: 2},
		{name: "no risk said", log: events{audited("audit.evaluated", "e1", 1), took("e1", 3)}, reason: low, value: 0.0, samples: 1},
		{name: "approved afterwards", log: events{highRisk("e1", 1), took("e1", 2), approval("e1", 3)}, reason: low, value: 0.0, samples: 1},
		{name: "approved, then evaluated anew", log: events{highRisk("e1", 1), approval("e1", 2), highRisk("e1", 3), took("e1", 4)}, reason: low, value: 0.0, samples: 1},
		{name: "rejected, and in effect", log: events{highRisk("e1", 1), approval("e1", 2, "approved", "false"), took("e1", 3)}, reason: low, value: 0.0, samples: 1},
		{name: "approved by a machine", log: events{highRisk("e1", 1), approval("e1", 2, "reviewer_type", "model"), took("e1", 3)}, reason: low, value: 0.0, samples: 1},
		{name: "approved by nobody", log: events{highRisk("e1", 1), approval("e1", 2, "reviewer", ""), took("e1", 3)}, reason: low, value: 0.0, samples: 1},
		{name: "approved by another tenant", log: events{highRisk("e1", 1), approval("e1", 2, "tenant", "borealis"), took("e1", 3)}, reason: broken, value: 0.0, samples: 1, detail: "audit.reviewed"},
		{name: "approved before it was evaluated", log: events{approval("e1", 1), highRisk("e1", 2), took("e1", 3)}, reason: broken, value: 0.0, samples: 1, detail: `audit.reviewed of evaluation "e1" and no audit.evaluated before it`},
		{name: "more approvals than evaluations", log: events{highRisk("e1", 1), approval("e1", 2), took("e1", 3), approval("e2", 2)}, reason: broken, value: 1.0, samples: 1, detail: `evaluation "e2"`},
		{name: "in effect and never evaluated", log: events{took("e1", 3)}, reason: broken, samples: 0, detail: `audit.effective of evaluation "e1"`},
		{name: "the counter saw one that was not reviewed", log: events{highRisk("e1", 1), approval("e1", 2), took("e1", 3)}, counter: .9, reason: low, value: .9, samples: 1},
		{name: "an audit log that fell silent", log: events{highRisk("e1", -day), approval("e1", -day), took("e1", -day)}, reason: insufficient, samples: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.figures.answer = func(q string) (float64, bool) {
				return tt.counter, tt.counter > 0 && strings.Contains(q, "high_risk") && strings.Contains(q, "/")
			}
			rec := f.atGateD(t, "rel-1")
			f.probe(t, rec)
			f.reports(t, "rel-1")
			f.audit = tt.log
			f.now = start.Add(10 * time.Second)
			res := f.gateD(t, rec)
			if (res.Waiting != "") != (tt.reason != "") || tt.reason != "" && !strings.Contains(res.Waiting, "high_risk_approval_coverage") {
				t.Errorf("while records may still come: %+v", res)
			}
			f.now = start.Add(30 * time.Second)
			res = f.gateD(t, rec)
			if want := []string{tt.reason}; tt.reason == "" && res.Verdict != headgate.Pass || tt.reason != "" && !slices.Equal(res.Reasons, want) {
				t.Errorf("%s %v, want %q", res.Verdict, res.Reasons, tt.reason)
			}
			checks := f.lastDecision(t, headgate.GateSecurity).Checks
			c := checks[slices.IndexFunc(checks, func(c evidence.Check) bool { return c.Name == "high_risk_approval_coverage" })]
			if c.Value != tt.value || c.Samples == nil || *c.Samples != tt.samples || c.Window != "10m" || !strings.Contains(c.Detail, tt.detail) {
				t.Errorf("check %+v, samples %v", c, c.Samples)
			}
			inLog, inCounter := strings.Contains(c.Source, "log store: audit.evaluated"), strings.Contains(c.Source, "bea_high_risk_evaluations_total")
			if inLog != (tt.log != nil) || inCounter != (tt.log == nil || tt.counter > 0) {
				t.Errorf("source %s", c.Source)
			}
		})
	}
}
