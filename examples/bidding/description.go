package bidding

import "embed"

// Description is what a release control plane is told about the service:
// headgate.yaml, the recorded sessions and the scanner's report.
//
//go:embed headgate.yaml replay/suite.yaml replay/documents reports/gitleaks.json
var Description embed.FS
