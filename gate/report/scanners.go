package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

const secretMetric = "secret_scan_findings"

// gitleaks holds what a gitleaks JSON report says about each leak. Secret,
// Match, Author, Email and the commit's Message are not even decoded.
type gitleaks []gitleaksLeak

type gitleaksLeak struct {
	RuleID      string
	Description string
	File        string
	StartLine   int
	EndLine     int
	Commit      string
	Fingerprint string
}

func isGitleaks(d document) bool { return hasKeys(d.first(), "RuleID", "StartLine", "Fingerprint") }

func decodeGitleaks(d document, _ Options) (content, error) {
	var leaks gitleaks
	if !d.isList && string(d.raw) != "null" {
		return nil, errors.New("is not a JSON list of leaks")
	}
	if err := decodeJSON(d.raw, &leaks); err != nil {
		return nil, err
	}
	for i, l := range leaks {
		if l.RuleID == "" {
			return nil, fmt.Errorf("leak %d has no RuleID", i)
		}
		leaks[i].File = location(l.File)
	}
	return leaks, nil
}

func (leaks gitleaks) facts(Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "gitleaks"}}
	for _, l := range leaks {
		f.find(Finding{Rule: clip(l.RuleID), Severity: "error", File: l.File, Line: l.StartLine, Title: clip(l.Description)})
	}
	f.count(secretMetric, int64(len(leaks)), "leaks")
	f.Verdict = headgate.Pass
	if len(leaks) > 0 {
		f.fail(headgate.Fail, gate.ToolSecretsFound, "%d secret(s) found", len(leaks))
	}
	return f, nil
}

func (leaks gitleaks) stored() ([]byte, error) {
	if leaks == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(leaks)
}

// trivy is a Trivy JSON report, schema version 2. What it quotes of a secret
// (Match, Code) is not decoded.
type trivy struct {
	SchemaVersion int
	ArtifactName  string
	ArtifactType  string       `json:",omitempty"`
	Trivy         trivyVersion `json:",omitzero"`
	Results       []trivyResult
}

type trivyVersion struct {
	Version string `json:",omitempty"`
}

type trivyResult struct {
	Target            string
	Class             string
	Vulnerabilities   []trivyVulnerability    `json:",omitempty"`
	Misconfigurations []trivyMisconfiguration `json:",omitempty"`
	Secrets           []trivySecret           `json:",omitempty"`
}

type trivyVulnerability struct {
	VulnerabilityID string
	PkgName         string
	Severity        string
	Title           string `json:",omitempty"`
}

type trivyMisconfiguration struct {
	ID       string
	Title    string `json:",omitempty"`
	Severity string
	Status   string
}

type trivySecret struct {
	RuleID    string
	Severity  string
	Title     string `json:",omitempty"`
	StartLine int
}

func isTrivy(d document) bool { return d.has("SchemaVersion", "ArtifactName") }

func decodeTrivy(d document, _ Options) (content, error) {
	var t trivy
	if err := decodeJSON(nanToNull(d.raw), &t); err != nil {
		return nil, err
	}
	if t.SchemaVersion != 2 {
		return nil, errors.New("SchemaVersion: only version 2 is known")
	}
	t.ArtifactName = location(t.ArtifactName)
	for i := range t.Results {
		t.Results[i].Target = location(t.Results[i].Target)
	}
	return t, nil
}

// facts counts secrets as the security gate's metric only where the report
// proves that Trivy looked for them: it names none of its scanners, so that an
// empty report may mean that nobody looked. The caller vouches for it with
// Columns {"secret_scan_findings": "secret"}.
func (t trivy) facts(o Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "trivy", Version: clip(t.Trivy.Version)}}
	serious, secrets := 0, 0
	for _, r := range t.Results {
		file := r.Target
		for _, v := range r.Vulnerabilities {
			f.find(Finding{Rule: clip(v.VulnerabilityID), Severity: severity(v.Severity), File: file, Title: clip(v.PkgName + ": " + v.Title)})
			serious += seriousness(v.Severity)
		}
		for _, m := range r.Misconfigurations {
			// PASS and EXCEPTION are listed among the misconfigurations too.
			if m.Status != "" && m.Status != "FAIL" {
				continue
			}
			f.find(Finding{Rule: clip(m.ID), Severity: severity(m.Severity), File: file, Title: clip(m.Title)})
			serious += seriousness(m.Severity)
		}
		for _, s := range r.Secrets {
			f.find(Finding{Rule: clip(s.RuleID), Severity: severity(s.Severity), File: file, Line: s.StartLine, Title: clip(s.Title)})
			secrets++
		}
	}
	f.Verdict = headgate.Pass
	if serious > 0 {
		f.fail(headgate.Fail, gate.ToolFindings, "%d vulnerability(ies) or misconfiguration(s) of severity HIGH or CRITICAL", serious)
	}
	if secrets > 0 {
		f.fail(headgate.Fail, gate.ToolSecretsFound, "%d secret(s) found", secrets)
	}
	if secrets > 0 || o.Columns[secretMetric] == "secret" {
		f.count(secretMetric, int64(secrets), "Results[].Secrets")
	} else {
		f.note("the report does not say whether Trivy looked for secrets, so it gives no %s", secretMetric)
	}
	return f, nil
}

func (t trivy) stored() ([]byte, error) { return json.Marshal(t) }

func severity(s string) string { return strings.ToLower(clip(s)) }

func seriousness(s string) int {
	if s == "HIGH" || s == "CRITICAL" {
		return 1
	}
	return 0
}

// sarif is the part of SARIF 2.1.0 that says what was found where. Snippets,
// messages, fixes, flows, invocations' command lines and fingerprints can hold
// the secret itself and are not decoded.
type sarif struct {
	Schema  string     `json:"$schema,omitempty"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	Invocations []sarifInvocation `json:"invocations,omitempty"`
	// Results are null when nothing was scanned, empty when nothing was found.
	Results []sarifResult `json:"results"`
	// ExternalPropertyFileReferences may say that the results are elsewhere.
	External sarifExternal `json:"externalPropertyFileReferences,omitzero"`
}

type sarifExternal struct {
	Results []struct{} `json:"results,omitempty"`
}

type sarifDriver struct {
	Name            string      `json:"name"`
	Version         string      `json:"version,omitempty"`
	SemanticVersion string      `json:"semanticVersion,omitempty"`
	Rules           []sarifRule `json:"rules,omitempty"`
}

type sarifRule struct {
	ID            string    `json:"id"`
	Short         sarifText `json:"shortDescription,omitzero"`
	Configuration struct {
		Level string `json:"level,omitempty"`
	} `json:"defaultConfiguration,omitzero"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifInvocation struct {
	Successful *bool `json:"executionSuccessful"`
}

type sarifResult struct {
	RuleID       string             `json:"ruleId,omitempty"`
	RuleIndex    *int               `json:"ruleIndex,omitempty"`
	Kind         string             `json:"kind,omitempty"`
	Level        string             `json:"level,omitempty"`
	Baseline     string             `json:"baselineState,omitempty"`
	Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	Locations    []sarifLocation    `json:"locations,omitempty"`
}

type sarifSuppression struct {
	Status string `json:"status,omitempty"`
}

type sarifLocation struct {
	Physical struct {
		Artifact struct {
			URI string `json:"uri,omitempty"`
		} `json:"artifactLocation"`
		Region struct {
			StartLine int `json:"startLine,omitempty"`
		} `json:"region"`
	} `json:"physicalLocation"`
}

func isSARIF(d document) bool {
	var schema, version string
	_ = json.Unmarshal(d.object["$schema"], &schema)
	_ = json.Unmarshal(d.object["version"], &version)
	return d.has("runs") && (version == "2.1.0" || strings.Contains(schema, "sarif"))
}

func decodeSARIF(d document, _ Options) (content, error) {
	var s sarif
	if err := decodeJSON(nanToNull(d.raw), &s); err != nil {
		return nil, err
	}
	if s.Version != "2.1.0" {
		return nil, errors.New("version: only 2.1.0 is known")
	}
	for _, run := range s.Runs {
		for _, r := range run.Results {
			for i := range r.Locations {
				r.Locations[i].Physical.Artifact.URI = location(r.Locations[i].Physical.Artifact.URI)
			}
		}
	}
	return s, nil
}

// secretScanners are drivers whose every result is a secret.
var secretScanners = []string{"gitleaks", "trufflehog", "detect-secrets", "ggshield", "kingfisher", "betterleaks"}

func secretScanner(driver string) bool {
	return slices.Contains(secretScanners, strings.ToLower(driver))
}

func (s sarif) facts(o Options) (Facts, error) {
	f := Facts{Verdict: headgate.Pass}
	counts := map[string]int64{}
	var errored, warned, secrets int
	if len(s.Runs) == 0 {
		f.fail(headgate.Insufficient, gate.ToolNothingScanned, "the report holds no run")
	}
	for i, run := range s.Runs {
		d := run.Tool.Driver
		if i == 0 {
			f.Tool = d.tool()
		}
		run.usable(&f)
		if run.Results == nil {
			continue
		}
		mapped := o.mapped(d.Name, counts)
		for _, r := range run.Results {
			if !r.counts() {
				continue
			}
			rule := d.rule(r)
			level := r.level(rule)
			f.find(r.finding(rule, level))
			switch {
			case secretScanner(d.Name):
				secrets++
			case level == "error":
				errored++
			case level == "warning":
				warned++
			}
			for name, pattern := range mapped {
				if matches(pattern, rule.ID) {
					counts[name]++
				}
			}
		}
	}
	if errored > 0 {
		f.fail(headgate.Fail, gate.ToolFindings, "%d finding(s) of level error", errored)
	}
	if secrets > 0 {
		f.fail(headgate.Fail, gate.ToolSecretsFound, "%d secret(s) found", secrets)
	}
	if warned > 0 {
		f.note("%d finding(s) of level warning, which do not fail it", warned)
	}
	for _, name := range sortedKeys(counts) {
		f.count(name, counts[name], "results")
	}
	return f, nil
}

func (s sarif) stored() ([]byte, error) { return json.Marshal(s) }

// mapped returns which security metrics a run of the tool counts, by a pattern
// on the rule, and starts each at zero: a run that found nothing measured zero.
func (o Options) mapped(tool string, counts map[string]int64) map[string]string {
	m := map[string]string{}
	if secretScanner(tool) {
		m[secretMetric] = "*"
	}
	for name, pattern := range o.Columns {
		if slices.Contains(securityCounts(), name) {
			m[name] = pattern
		}
	}
	for name := range m {
		counts[name] += 0
	}
	return m
}

// usable records why the run's results are not the whole truth.
func (run sarifRun) usable(f *Facts) {
	for _, inv := range run.Invocations {
		if inv.Successful != nil && !*inv.Successful {
			f.fail(headgate.Broken, gate.ToolRunFailed, "the tool says that its run did not succeed")
		}
	}
	switch {
	case len(run.External.Results) > 0:
		f.fail(headgate.Insufficient, gate.ToolNothingScanned, "the results are in another file")
	case run.Results == nil:
		f.fail(headgate.Insufficient, gate.ToolNothingScanned, "a run has no results, not even none: nothing was scanned")
	}
}

// tool names the driver. gitleaks writes a constant for its version.
func (d sarifDriver) tool() Tool {
	t := Tool{Name: clip(d.Name), Version: clip(d.SemanticVersion)}
	if t.Version == "" {
		t.Version = clip(d.Version)
	}
	if t.Name == "gitleaks" {
		t.Version = ""
	}
	return t
}

func (d sarifDriver) rule(r sarifResult) sarifRule {
	if r.RuleIndex != nil && *r.RuleIndex >= 0 && *r.RuleIndex < len(d.Rules) {
		rule := d.Rules[*r.RuleIndex]
		if r.RuleID != "" {
			rule.ID = r.RuleID
		}
		return rule
	}
	if i := slices.IndexFunc(d.Rules, func(x sarifRule) bool { return x.ID == r.RuleID }); i >= 0 {
		return d.Rules[i]
	}
	return sarifRule{ID: r.RuleID}
}

// counts reports whether the result is a problem that is there now: of kind
// "fail", which is the default, not accepted as suppressed, not gone.
func (r sarifResult) counts() bool {
	if r.Kind != "" && r.Kind != "fail" || r.Baseline == "absent" {
		return false
	}
	return !slices.ContainsFunc(r.Suppressions, func(s sarifSuppression) bool {
		return s.Status == "" || s.Status == "accepted"
	})
}

// level is the result's own, else its rule's, else a warning.
func (r sarifResult) level(rule sarifRule) string {
	for _, l := range []string{r.Level, rule.Configuration.Level} {
		if slices.Contains([]string{"none", "note", "warning", "error"}, l) {
			return l
		}
	}
	return "warning"
}

func (r sarifResult) finding(rule sarifRule, level string) Finding {
	x := Finding{Rule: clip(rule.ID), Severity: level, Title: clip(rule.Short.Text)}
	if len(r.Locations) > 0 {
		p := r.Locations[0].Physical
		x.File, x.Line = p.Artifact.URI, p.Region.StartLine
	}
	return x
}
