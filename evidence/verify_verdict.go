package evidence

import (
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// checkDecisions verifies that each recorded verdict follows from what was
// recorded with it.
func (v *verification) checkDecisions() {
	var judged, replayed int
	for _, s := range v.statements {
		for _, d := range s.references() {
			if v.members[blobMember(d)] == nil {
				v.find(FindingMemberMissing, blobMember(d), "statement %d rests on this file, but it is not in the bundle", s.index)
			}
		}
		switch s.PredicateType {
		case TypeGateDecision:
			d := decided{index: s.index, digest: s.digest}
			if !v.read(s, &d.GateDecision, "a gate decision") {
				continue
			}
			judged++
			v.decisions = append(v.decisions, d)
			v.checkDecision(s, d.GateDecision)
			v.checkReports(s, d.GateDecision)
		case TypeCanaryVerdict:
			var c CanaryVerdict
			if !v.read(s, &c, "a canary verdict") {
				continue
			}
			replayed++
			v.checkCanary(s, c)
		case TypeStageResult:
			v.read(s, &StageResult{}, "a stage's result")
		case TypeRollback:
			v.read(s, &Rollback{}, "a rollback")
		case TypeOverride:
			v.read(s, &Override{}, "an override")
		case TypeAuditEvent:
			v.read(s, &AuditEvent{}, "an audit event")
		}
	}
	if judged > 0 && v.options.Reevaluate == nil {
		v.note("the rules were not applied again: each verdict was checked against its own checks and the thresholds of its rule set only")
	}
	if judged > 0 && v.options.Reread == nil {
		v.note("the reports were not read again: what each says is what the server says that it says")
	}
	if replayed > 0 && v.options.ReplayCanary == nil {
		v.note("canaries were not judged again from their ticks")
	}
	v.checkAge()
}

func (v *verification) checkDecision(s stated, d GateDecision) {
	if got := worst(d.Checks); d.Verdict != got {
		v.find(FindingVerdict, s.name, "gate %s is recorded as %q, but its checks give %q", d.Gate, d.Verdict, got)
	}
	failed := 0
	for _, c := range d.Checks {
		if c.Verdict != headgate.Pass {
			failed++
		}
		v.checkCheck(s, d, c)
	}
	if failed != len(d.FailedChecks) {
		v.find(FindingVerdict, s.name, "gate %s lists %d failed checks, but %d of its checks did not pass", d.Gate, len(d.FailedChecks), failed)
	}
	rules := v.members[blobMember(d.Rules.Digest)]
	if rules == nil {
		return
	}
	if limits, err := readLimits(rules, d.Gate); err != nil {
		v.find(FindingMemberInvalid, blobMember(d.Rules.Digest), "it is not a rule set, but statement %d was judged under it: %s", s.index, err)
	} else {
		v.checkThresholds(s, d, limits)
		v.checkTools(s, d, limits.accept)
	}
	if v.options.Reevaluate == nil || len(d.Request) == 0 {
		return
	}
	again, err := v.options.Reevaluate(d, rules)
	switch {
	case err != nil:
		v.find(FindingVerdict, s.name, "gate %s cannot be judged again from what was recorded: %s", d.Gate, err)
	case again.Verdict != d.Verdict || !slices.Equal(again.FailedChecks, d.FailedChecks):
		v.find(FindingVerdict, s.name, "gate %s is recorded as %q with failed checks %v; its rules give %q with %v for the recorded input", d.Gate, d.Verdict, d.FailedChecks, again.Verdict, again.FailedChecks)
	case !sameValues(again.Thresholds, d.Thresholds):
		v.find(FindingThreshold, s.name, "gate %s shows thresholds that are not those of its rule set %s", d.Gate, d.Rules.Digest)
	case !sameValues(again.Values, d.Values):
		v.find(FindingVerdict, s.name, "gate %s shows values that do not follow from the recorded input", d.Gate)
	}
}

// worst orders verdicts as the gates do: a failure says most, then telemetry
// that cannot be trusted, then too little of it. No check at all is too little.
func worst(checks []Check) headgate.Verdict {
	order := []headgate.Verdict{headgate.Fail, headgate.Broken, headgate.Insufficient, headgate.Pass}
	for _, verdict := range order {
		if slices.ContainsFunc(checks, func(c Check) bool { return c.Verdict == verdict }) {
			return verdict
		}
	}
	return headgate.Insufficient
}

// checkCheck verifies one comparison with the decision's own numbers.
func (v *verification) checkCheck(s stated, d GateDecision, c Check) {
	holds, decidable := c.holds()
	switch {
	case c.Verdict == headgate.Pass && decidable && !holds:
		v.find(FindingVerdict, s.name, "check %s of gate %s is recorded as passed, but %v %s %v does not hold", c.Name, d.Gate, c.Value, c.Op, c.Threshold)
	case c.Verdict == headgate.Pass && c.MinSamples > 0 && (c.Samples == nil || *c.Samples < c.MinSamples):
		v.find(FindingVerdict, s.name, "check %s of gate %s is recorded as passed with fewer than the %d samples that it needs", c.Name, d.Gate, c.MinSamples)
	case c.Verdict == headgate.Pass && !decidable && c.Op != "cel":
		v.find(FindingVerdict, s.name, "check %s of gate %s is recorded as passed without a value", c.Name, d.Gate)
	case c.Verdict == headgate.Fail && decidable && holds:
		v.find(FindingVerdict, s.name, "check %s of gate %s is recorded as failed, but %v %s %v holds", c.Name, d.Gate, c.Value, c.Op, c.Threshold)
	}
	if c.Op == "cel" || c.Op == opTool {
		return
	}
	if shown, ok := d.Values[c.Name]; ok && !sameValue(shown, c.Value) {
		v.find(FindingVerdict, s.name, "check %s of gate %s has the value %v, but the decision shows %v", c.Name, d.Gate, c.Value, shown)
	}
	if shown, ok := threshold(d.Thresholds, c.Name); !ok || !sameValue(shown, c.Threshold) {
		v.find(FindingThreshold, s.name, "check %s of gate %s was made against %v, but the decision shows the threshold %v", c.Name, d.Gate, c.Threshold, shown)
	}
}

// tolerance is the relative error of a double that stands for a decimal
// fraction: a ratio of exactly 1.2 may read 1.2000000000000002.
const tolerance = 1e-12

// holds reports whether the comparison holds and whether it can be made here.
func (c Check) holds() (holds, decidable bool) {
	if a, ok := c.Value.(bool); ok {
		b, ok := c.Threshold.(bool)
		return a == b, ok && (c.Op == "==" || c.Op == opTool)
	}
	a, okA := c.Value.(float64)
	b, okB := c.Threshold.(float64)
	if !okA || !okB {
		return false, false
	}
	slack := tolerance * max(math.Abs(a), math.Abs(b))
	switch c.Op {
	case ">=":
		return a >= b-slack, true
	case "<=":
		return a <= b+slack, true
	case "==":
		return math.Abs(a-b) <= slack, true
	}
	return false, false
}

// threshold finds a check's threshold by the contract's suffixes.
func threshold(all map[string]any, name string) (any, bool) {
	for _, suffix := range []string{"_min", "_max", "_required"} {
		if t, ok := all[name+suffix]; ok {
			return t, true
		}
	}
	return nil, false
}

// checkThresholds compares the thresholds with the recorded rule set.
func (v *verification) checkThresholds(s stated, d GateDecision, rules limits) {
	for _, name := range slices.Sorted(maps.Keys(rules.thresholds)) {
		want := rules.thresholds[name]
		if shown, ok := d.Thresholds[name]; !ok || !sameValue(shown, want) {
			v.find(FindingThreshold, s.name, "gate %s shows %s = %v, but its rule set %s says %v", d.Gate, name, shown, d.Rules.Digest, want)
		}
	}
	for _, c := range d.Checks {
		if want := rules.minSamples[c.Name]; want != c.MinSamples {
			v.find(FindingThreshold, s.name, "check %s of gate %s demands %d samples, but its rule set %s says %d", c.Name, d.Gate, c.MinSamples, d.Rules.Digest, want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Thresholds)) {
		if _, ok := rules.thresholds[name]; !ok {
			v.find(FindingThreshold, s.name, "gate %s shows the threshold %s, which its rule set %s does not have", d.Gate, name, d.Rules.Digest)
		}
	}
	for _, name := range rules.compared {
		if !slices.ContainsFunc(d.Checks, func(c Check) bool { return c.Name == name }) {
			v.find(FindingVerdict, s.name, "gate %s lacks the check %s, which its rule set %s asks for", d.Gate, name, d.Rules.Digest)
		}
	}
}

// limits are what a rule set says of one gate, its comparisons included.
type limits struct {
	thresholds map[string]any
	minSamples map[string]int64
	compared   []string // checks
	accept     []string // codes of tools' problems
}

func readLimits(raw []byte, g headgate.Gate) (limits, error) {
	var rules struct {
		Thresholds  map[headgate.Gate]map[string]any   `json:"thresholds"`
		MinSamples  map[headgate.Gate]map[string]int64 `json:"min_samples"`
		Comparisons map[headgate.Gate]map[string]struct {
			Max        float64 `json:"max"`
			MinSamples int64   `json:"min_samples"`
		} `json:"comparisons"`
		Accept map[headgate.Gate][]string `json:"accept_tool_codes"`
	}
	if err := decode(raw, &rules); err != nil {
		return limits{}, err
	}
	out := limits{
		thresholds: map[string]any{}, minSamples: map[string]int64{},
		compared: slices.Sorted(maps.Keys(rules.Comparisons[g])), accept: rules.Accept[g],
	}
	maps.Copy(out.thresholds, rules.Thresholds[g])
	maps.Copy(out.minSamples, rules.MinSamples[g])
	for name, c := range rules.Comparisons[g] {
		out.thresholds[name+"_max"], out.minSamples[name] = c.Max, c.MinSamples
	}
	return out, nil
}

// opTool is the operator of a check on a tool's own run. Such a check has the
// value true when the run passed, and the threshold false when the rule set
// accepts what it came to.
const opTool = "tool"

// checkTools compares the checks on tools' runs with what the recorded request
// says of each, and each report with the files of the decision.
func (v *verification) checkTools(s stated, d GateDecision, accept []string) {
	type problem struct {
		Code    string           `json:"code"`
		Verdict headgate.Verdict `json:"verdict"`
	}
	var request struct {
		Tools []struct {
			File     string           `json:"file"`
			Digest   string           `json:"digest"`
			Verdict  headgate.Verdict `json:"verdict"`
			Problems []problem        `json:"problems"`
		} `json:"tools"`
	}
	if len(d.Request) > 0 {
		if err := decode(d.Request, &request); err != nil {
			v.find(FindingMemberInvalid, s.name, "its request cannot be read: %s", err)
			return
		}
	}
	type outcome struct {
		name, code string
		verdict    headgate.Verdict
	}
	var want, got []outcome
	for _, t := range request.Tools {
		if t.Digest != "" && !slices.ContainsFunc(d.Inputs, func(in Input) bool { return in.Digest == t.Digest }) {
			v.find(FindingVerdict, s.name, "gate %s judged the run behind %s, which is none of its files", d.Gate, printable(t.File))
		}
		if len(t.Problems) == 0 {
			t.Problems = []problem{{"TOOL_REPORT_FAILED", t.Verdict}}
		}
		for _, p := range t.Problems {
			o := outcome{"tool/" + t.File, p.Code, p.Verdict}
			if slices.Contains(accept, p.Code) {
				o.verdict = headgate.Pass
			}
			want = append(want, o)
		}
	}
	for _, c := range d.Checks {
		if c.Op == opTool {
			got = append(got, outcome{c.Name, c.Code, c.Verdict})
		}
	}
	if !slices.Equal(want, got) {
		v.find(FindingVerdict, s.name, "gate %s shows tool runs as %v; its request and its rule set give %v", d.Gate, got, want)
	}
}

// checkReports compares what the server read in the decision's reports with the
// reports.
func (v *verification) checkReports(s stated, d GateDecision) {
	if v.options.Reread == nil || len(d.Request) == 0 {
		return
	}
	files := map[string][]byte{}
	for _, in := range d.Inputs {
		if raw, ok := v.members[blobMember(in.Digest)]; ok {
			files[in.Digest] = raw
		}
	}
	for _, difference := range v.options.Reread(d, files) {
		v.find(FindingInput, s.name, "gate %s: %s", d.Gate, difference)
	}
}

func (v *verification) checkCanary(s stated, c CanaryVerdict) {
	i := slices.IndexFunc(c.Inputs, func(in Input) bool { return in.Format == TickLog })
	if v.options.ReplayCanary == nil || i < 0 {
		return
	}
	ticks := v.members[blobMember(c.Inputs[i].Digest)]
	if ticks == nil {
		return
	}
	again, err := v.options.ReplayCanary(c, ticks)
	switch {
	case err != nil:
		v.find(FindingVerdict, s.name, "the canary cannot be judged again from its ticks: %s", err)
	case again != c.Verdict:
		v.find(FindingVerdict, s.name, "the canary is recorded as %q, but its ticks give %q", c.Verdict, again)
	}
}

// checkAge measures the last decision of each gate.
func (v *verification) checkAge() {
	if v.options.Now.IsZero() {
		return
	}
	last := latest(v.decisions)
	for _, g := range headgate.GateD() {
		d, ok := last[g]
		if !ok {
			continue
		}
		age := v.options.Now.Sub(d.Time)
		switch {
		case age < -clockSkew:
			v.find(FindingFuture, statementMember(d.index), "gate %s was decided at %s, which has not come yet", g, d.Time.UTC().Format("2006-01-02 15:04:05Z"))
		case v.options.MaxAge > 0 && age > v.options.MaxAge:
			v.find(FindingStale, statementMember(d.index), "gate %s was decided %s ago, the limit is %s", g, age.Round(1e9), v.options.MaxAge)
		}
	}
}

// checkExports verifies that the copies for other tools say what the log says.
func (v *verification) checkExports() {
	want := map[string]string{}
	for _, d := range v.decisions {
		want[d.exportMember()] = passed(d.Verdict)
	}
	if len(v.decisions) > 0 {
		want[summaryMember] = summarise(v.manifest.Release, "", v.decisions).VerificationResult
	}
	for _, name := range v.names(exportsFolder) {
		s, ok := v.open(name)
		if !ok {
			continue
		}
		var says struct {
			Result             string `json:"result"`
			VerificationResult string `json:"verificationResult"`
		}
		if err := decodeParsed(s.document, s.Predicate, &says); err != nil || says.Result+says.VerificationResult != want[name] {
			v.find(FindingExport, name, "it says %q, the log's decisions say %q", says.Result+says.VerificationResult, want[name])
		}
	}
}

// checkOutcome refuses a promotion that neither the gates nor an override bear
// out. What a gate said once the release had all traffic is not what admitted
// it.
func (v *verification) checkOutcome() {
	if v.manifest.Release.Outcome != headgate.Promoted {
		return
	}
	full := v.fullAt()
	last := latest(slices.DeleteFunc(slices.Clone(v.decisions), func(d decided) bool { return d.index > full }))
	for _, g := range headgate.GateD() {
		d, ok := last[g]
		if o := v.override(g, full); o != nil && (!ok || d.Declared || d.Verdict != headgate.Pass) {
			v.note("gate %s did not pass: %s and %s let the release pass it until %s (%s)", g, printable(o.RequestedBy), printable(o.ApprovedBy),
				o.ExpiresAt.UTC().Format(time.RFC3339), printable(o.Reason))
			continue
		}
		switch {
		case !ok:
			v.find(FindingOutcome, manifestMember, "the release was promoted without a decision of gate %s", g)
		case d.Declared:
			v.find(FindingOutcome, manifestMember, "the release was promoted although gate %s was only declared to pass", g)
		case d.Verdict != headgate.Pass:
			v.find(FindingOutcome, manifestMember, "the release was promoted although the last decision of gate %s was %q", g, d.Verdict)
		}
	}
}

// override returns an override of a gate that two people granted in time and
// that still held when the release was admitted to users. There is none of the
// security gate.
func (v *verification) override(g headgate.Gate, before int64) *Override {
	if g == headgate.GateSecurity {
		return nil
	}
	admitted := v.admittedAt()
	for _, s := range v.statements {
		var o Override
		if s.PredicateType != TypeOverride || s.index > before || json.Unmarshal(s.Predicate, &o) != nil || o.Gate != g {
			continue
		}
		twoPeople := o.RequestedBy != "" && o.ApprovedBy != "" && o.RequestedBy != o.ApprovedBy
		short := !o.ExpiresAt.After(o.RequestedAt.Add(maxOverride))
		if twoPeople && short && o.Reason != "" && !admitted.IsZero() && !o.Time.After(admitted) && admitted.Before(o.ExpiresAt.Add(clockSkew)) {
			return &o
		}
	}
	return nil
}

// maxOverride is how long an override may last.
const maxOverride = 24 * time.Hour

// admittedAt is when stage rollout passed; zero when nothing says so.
func (v *verification) admittedAt() time.Time {
	for _, s := range v.statements {
		var r StageResult
		if s.PredicateType == TypeStageResult && json.Unmarshal(s.Predicate, &r) == nil && r.Stage == headgate.StageRollout &&
			r.Verdict == headgate.Pass && r.Facts["gate"] == nil {
			return r.EndedAt
		}
	}
	return time.Time{}
}

// fullAt returns the place in the log of the result of stage full.
func (v *verification) fullAt() int64 {
	for _, s := range v.statements {
		var r StageResult
		if s.PredicateType == TypeStageResult && json.Unmarshal(s.Predicate, &r) == nil && r.Stage == headgate.StageFull {
			return s.index
		}
	}
	return math.MaxInt64
}

func sameValues(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	for k, x := range a {
		if y, ok := b[k]; !ok || !sameValue(x, y) {
			return false
		}
	}
	return true
}

// sameValue compares a number or boolean with one that went through JSON.
func sameValue(a, b any) bool {
	x, okX := number(a)
	y, okY := number(b)
	if okX && okY {
		return x == y
	}
	return reflect.DeepEqual(a, b) // foreign JSON may hold what == cannot compare
}

func number(v any) (float64, bool) {
	switch r := reflect.ValueOf(v); {
	case r.CanFloat():
		return r.Float(), true
	case r.CanInt():
		return float64(r.Int()), true
	}
	return 0, false
}
