package evidence

import (
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

const summaryMember = exportsFolder + "summary.vsa.dsse.json"

// TestResult is a gate's decision as the in-toto test-result predicate. Its
// tests are the gate's checks by name.
type TestResult struct {
	Result        string               `json:"result"` // PASSED or FAILED
	Configuration []ResourceDescriptor `json:"configuration"`
	PassedTests   []string             `json:"passedTests"`
	FailedTests   []string             `json:"failedTests"`
}

// ResourceDescriptor is in-toto's reference to a file.
type ResourceDescriptor struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// VerificationSummary is the SLSA verification summary of a release: under
// which policy its gates were decided, and with what result.
type VerificationSummary struct {
	Verifier           Verifier             `json:"verifier"`
	TimeVerified       time.Time            `json:"timeVerified"`
	ResourceURI        string               `json:"resourceUri"`
	Policy             ResourceDescriptor   `json:"policy"`
	InputAttestations  []ResourceDescriptor `json:"inputAttestations"`  // decisions, by member of the bundle
	VerificationResult string               `json:"verificationResult"` // PASSED or FAILED
	VerifiedLevels     []string             `json:"verifiedLevels"`
}

// Verifier names who made a [VerificationSummary].
type Verifier struct {
	ID string `json:"id"`
}

func (TestResult) predicateType() string          { return TypeTestResult }
func (VerificationSummary) predicateType() string { return TypeVerificationSummary }

// decided is a decision with its place in the log.
type decided struct {
	GateDecision
	index  int64
	digest string
}

func (d decided) exportMember() string {
	return fmt.Sprintf("%s%010d.test-result.dsse.json", exportsFolder, d.index)
}

func passed(v headgate.Verdict) string {
	if v == headgate.Pass {
		return "PASSED"
	}
	return "FAILED"
}

func (d decided) testResult() TestResult {
	t := TestResult{
		Result:        passed(d.Verdict),
		Configuration: []ResourceDescriptor{{Name: "rules", Digest: digestSet(d.Rules.Digest)}},
		PassedTests:   []string{},
		FailedTests:   []string{},
	}
	for _, c := range d.Checks {
		if c.Verdict == headgate.Pass {
			t.PassedTests = append(t.PassedTests, c.Name)
		} else {
			t.FailedTests = append(t.FailedTests, c.Name)
		}
	}
	return t
}

// latest returns the last decision of each gate.
func latest(decisions []decided) map[headgate.Gate]decided {
	last := map[headgate.Gate]decided{}
	for _, d := range decisions {
		last[d.Gate] = d
	}
	return last
}

// summarise says PASSED when the last decision of each Gate D gate is a pass
// that something backs.
func summarise(r headgate.Release, origin string, decisions []decided) VerificationSummary {
	v := VerificationSummary{
		Verifier:           Verifier{ID: "https://headgate.dev/verifier/" + origin},
		ResourceURI:        "headgate:" + r.Service + "/" + r.ID,
		VerificationResult: "PASSED",
		VerifiedLevels:     []string{"HEADGATE_GATE_D"},
		InputAttestations:  []ResourceDescriptor{},
	}
	last := latest(decisions)
	for _, g := range headgate.GateD() {
		d, ok := last[g]
		if !ok || d.Verdict != headgate.Pass || d.Declared {
			v.VerificationResult, v.VerifiedLevels = "FAILED", []string{"FAILED"}
		}
		if !ok {
			continue
		}
		v.Policy = ResourceDescriptor{URI: "headgate:rules", Digest: digestSet(d.Rules.Digest)}
		v.InputAttestations = append(v.InputAttestations, ResourceDescriptor{URI: statementMember(d.index), Digest: digestSet(d.digest)})
		if d.Time.After(v.TimeVerified) {
			v.TimeVerified = d.Time
		}
	}
	return v
}

func digestSet(d string) map[string]string {
	algorithm, value, ok := strings.Cut(d, ":")
	if !ok {
		return nil
	}
	return map[string]string{algorithm: value}
}
