package evidence

// TestResult is a gate's decision as the in-toto test-result predicate.
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

// VerificationSummary is the SLSA verification summary of a release: which
// policy it was verified against and with what result.
type VerificationSummary struct {
	Verifier struct {
		ID string `json:"id"`
	} `json:"verifier"`
	TimeVerified       string               `json:"timeVerified"`
	ResourceURI        string               `json:"resourceUri"`
	Policy             ResourceDescriptor   `json:"policy"`
	InputAttestations  []ResourceDescriptor `json:"inputAttestations"`
	VerificationResult string               `json:"verificationResult"`
	VerifiedLevels     []string             `json:"verifiedLevels"`
}

func (TestResult) predicateType() string          { return TypeTestResult }
func (VerificationSummary) predicateType() string { return TypeVerificationSummary }
