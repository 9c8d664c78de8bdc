package report

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// compose puts a release into words.
func compose(r Release, w words) document {
	d := document{
		Lang:     w.lang,
		Nav:      w.nav(r),
		Title:    w.trf("Release %s", r.ID),
		Subtitle: strings.TrimSpace(r.Service + " " + r.Version),
		Badge:    w.outcome(r),
		Lead:     w.lead(r),
		Why:      w.why(r),
		Found:    w.found(r),
		Next:     w.next(r),
		Alarms:   w.alarms(r),
		Figures:  w.figures(r),
		Facts:    w.facts(r),
	}
	for _, s := range []section{
		w.stages(r), w.gates(r), w.canary(r), w.rollback(r), w.readiness(r),
		w.replays(r), w.alerts(r), w.trail(r), w.evidence(r),
	} {
		if s.ID != "" {
			d.Sections = append(d.Sections, s)
		}
	}
	d.Footer = w.trf("Made %s UTC by %s. All times are UTC. The signed evidence is in the release's bundle; this page is a reading of it.",
		w.time(r.GeneratedAt), cmp.Or(r.Server, "headgate"))
	return d
}

// nav leads from a page that a server shows to its other pages. What still
// changes is loaded again.
func (w words) nav(r Release) nav {
	n := nav{Home: r.HomeURL, HomeText: w.tr("All releases"), Lang: Chinese, LangText: "中文", Reload: r.HomeURL != "" && !r.Done()}
	if w.lang == Chinese {
		n.Lang, n.LangText = English, "English"
	}
	return n
}

func (w words) outcome(r Release) cell {
	switch r.Outcome {
	case headgate.Promoted:
		if r.Rollback != nil {
			return cell{Text: "✕ " + w.tr("Promoted, and taken back since"), Tone: bad}
		}
		return cell{Text: "✓ " + w.tr("Promoted"), Tone: good}
	case headgate.Blocked:
		return cell{Text: "✕ " + w.tr("Blocked"), Tone: bad}
	case headgate.RolledBack:
		return cell{Text: "✕ " + w.tr("Rolled back"), Tone: bad}
	case headgate.Aborted:
		return cell{Text: "! " + w.tr("Aborted"), Tone: warn}
	case headgate.Inconclusive:
		return cell{Text: "… " + w.tr("Inconclusive"), Tone: warn}
	}
	return cell{Text: "… " + w.tr("In progress"), Tone: warn}
}

func (w words) stage(s headgate.Stage) string { return w.tr("stage:" + string(s)) }
func (w words) gate(g headgate.Gate) string   { return w.tr("gate:" + string(g)) }

// lead says in one sentence what became of the release.
func (w words) lead(r Release) string {
	at := w.stage(cmp.Or(r.StoppedAt, r.Stage))
	switch r.Outcome {
	case headgate.Promoted:
		switch rb := r.Rollback; {
		case rb == nil:
		case rb.RestoredAt.IsZero():
			return w.tr("All stages passed, and it was rolled back afterwards. Service is not yet confirmed as restored.")
		default:
			return w.tr("All stages passed, and it was rolled back afterwards. All traffic is back on the version before it, verified by a replay.")
		}
		return w.trf("All stages passed; the new version serves all traffic after %s.", w.between(r.CreatedAt, r.UpdatedAt))
	case headgate.Blocked:
		if candidateRequests(r) == 0 {
			return w.trf("Stopped at stage “%s”. No user request reached the new version.", at)
		}
		return w.trf("Stopped at stage “%s”.", at)
	case headgate.RolledBack:
		if r.Rollback != nil && !r.Rollback.RestoredAt.IsZero() {
			return w.trf("Failed at stage “%s”. All traffic is back on the stable version, verified by a replay.", at)
		}
		return w.trf("Failed at stage “%s” and was rolled back. Service is not yet confirmed as restored.", at)
	case headgate.Aborted:
		return w.trf("Ended by a person at stage “%s”.", at)
	case headgate.Inconclusive:
		return w.trf("Ended at stage “%s” without a verdict on it.", at)
	}
	return w.trf("Now at stage “%s”.", at)
}

// why explains each reason by the failed check behind it, or else by what its
// stage found.
func (w words) why(r Release) []reason {
	checks := map[string]string{}
	for _, run := range r.Stages {
		if len(run.Reasons) == 1 && run.Stage != headgate.StageGateD {
			checks[run.Reasons[0]] = run.Summary
		}
	}
	for _, g := range r.Gates {
		for _, c := range g.Checks {
			if c.Verdict != headgate.Pass {
				checks[c.Code] = c.Detail
				if c.Op == "tool" {
					continue
				}
				checks[c.Code] = w.trf("%s is %s, the limit is %s%s", c.Name, w.quantity(c.Value, c.Threshold, c.Unit), comparison(c.Op), w.quantity(c.Threshold, nil, c.Unit))
			}
		}
	}
	var out []reason
	for _, code := range r.Reasons {
		out = append(out, reason{code, checks[code]})
	}
	return out
}

// found is what failed in a release that was rolled back.
func (w words) found(r Release) finding {
	b := r.Rollback
	if b == nil || b.Explanation == "" {
		return finding{}
	}
	return finding{Text: w.tr("What failed:") + " " + b.Explanation, URL: b.TraceURL, Link: w.tr("Read the story of one failed request")}
}

// next names the command that this state of the release calls for.
func (w words) next(r Release) next {
	byReason := func(verb string) string { return "headgate release " + verb + " " + r.ID + " --reason '…'" }
	switch b := r.Rollback; {
	case b != nil && b.RestoredAt.IsZero():
		return next{w.tr("Try again what is not done:"), byReason("rollback")}
	case b != nil:
		return next{w.tr("Builds that may not be released again:"), "headgate quarantine list"}
	case r.Outcome == headgate.Promoted:
		return next{w.tr("To take it back:"), byReason("rollback")}
	case !r.Done():
		return next{w.tr("To stop it now:"), byReason("abort")}
	}
	return next{}
}

func (w words) alarms(r Release) []string {
	var out []string
	for _, o := range r.Overrides {
		out = append(out, w.trf("Override: gate “%s” was let pass by %s until %s. Reason: %s", w.gate(o.Gate), strings.Join(o.Actors, ", "), w.time(o.ExpiresAt), o.Reason))
	}
	for _, g := range r.Gates {
		if g.Declared {
			out = append(out, w.trf("Gate “%s” was only declared; no evidence backs it.", w.gate(g.Gate)))
		}
	}
	return out
}

func candidateRequests(r Release) int64 {
	if r.Canary == nil || len(r.Canary.Points) == 0 {
		return 0
	}
	return r.Canary.Points[len(r.Canary.Points)-1].CandidateRequests
}

func (w words) figures(r Release) []figure {
	var out []figure
	if len(r.Gates) > 0 {
		passed := 0
		for _, g := range r.Gates {
			if g.Verdict == headgate.Pass {
				passed++
			}
		}
		f := figure{Label: w.tr("Gates passed"), Value: w.trf("%d of %d", passed, len(r.Gates)), Tone: good}
		if passed < len(r.Gates) {
			f.Tone = bad
		}
		out = append(out, f)
	}
	if r.Canary != nil && len(r.Canary.Points) > 0 {
		last := r.Canary.Points[len(r.Canary.Points)-1]
		out = append(out, figure{
			Label: w.tr("Requests to the candidate"), Value: count(last.CandidateRequests),
			Note: w.trf("%s failed", count(last.CandidateErrors)),
		})
	} else {
		out = append(out, figure{Label: w.tr("Requests to the candidate"), Value: "0", Note: w.tr("no user saw it")})
	}
	if b := r.Rollback; b != nil {
		if !b.FirstBadAt.IsZero() {
			out = append(out, figure{Label: w.tr("Found after"), Value: w.between(b.FirstBadAt, b.TriggeredAt), Note: w.tr("from the first bad answer")})
		}
		out = append(out, figure{Label: w.tr("Traffic back after"), Value: w.between(cmp.Or(b.FirstBadAt, b.TriggeredAt), b.TrafficBackAt), Note: w.since(b)})
		out = append(out, figure{Label: w.tr("Restored after"), Value: w.between(b.TriggeredAt, b.RestoredAt), Note: w.tr("from the trigger, replay included")})
	}
	return append(out, figure{Label: w.tr("Evidence"), Value: strconv.Itoa(len(r.Evidence)), Note: w.tr("signed statements")})
}

func (w words) since(b *Rollback) string {
	if b.FirstBadAt.IsZero() {
		return w.tr("from the trigger")
	}
	return w.tr("from the first bad answer")
}

func (w words) facts(r Release) []fact {
	out := []fact{
		{Label: w.tr("Service"), Value: r.Service},
		{Label: w.tr("Version"), Value: r.Version},
		{Label: w.tr("Tenant"), Value: r.TenantID},
		{Label: w.tr("Digest"), Value: r.Digest, Mono: true},
		{Label: w.tr("Created"), Value: w.time(r.CreatedAt)},
	}
	if r.Done() {
		out = append(out, fact{Label: w.tr("Ended"), Value: w.time(r.UpdatedAt) + " · " + w.between(r.CreatedAt, r.UpdatedAt)})
	}
	for _, c := range r.Changes {
		out = append(out, fact{Label: w.tr("component:" + string(c.Component)), Value: cmp.Or(c.From, none) + " → " + c.To, Mono: true})
	}
	source := strings.TrimSpace(r.Source.Commit + " " + r.Source.Author)
	out = append(out, fact{Label: w.tr("Source"), Value: source, Mono: true}, fact{Label: w.tr("Link"), Value: r.Source.Link})
	return slices.DeleteFunc(out, func(f fact) bool { return f.Value == "" })
}

func (w words) stages(r Release) section {
	last := map[headgate.Stage]headgate.StageRun{}
	t := table{Head: columns(w.tr("Stage"), w.tr("Verdict"), w.tr("Started (UTC)"), ">"+w.tr("Duration"), w.tr("What was found"))}
	for _, run := range r.Stages {
		last[run.Stage] = run
		name := w.stage(run.Stage)
		if run.Attempt > 1 {
			name = w.trf("%s (attempt %d)", name, run.Attempt)
		}
		found := cell{Text: cmp.Or(run.Summary, none)}
		if reasons := strings.Join(run.Reasons, ", "); !strings.Contains(run.Summary, reasons) {
			found.Sub = reasons
		}
		t.Rows = append(t.Rows, []cell{{Text: name, Whole: true}, w.verdict(run.Verdict), w.when(run.StartedAt), text(w.between(run.StartedAt, run.EndedAt)), found})
	}
	s := section{ID: "stages", Title: w.tr("Stages"), Tables: []table{t}}
	for _, stage := range headgate.Stages() {
		run, ok := last[stage]
		c := w.verdict(run.Verdict)
		switch {
		case !ok:
			c = cell{Text: w.tr("not reached")}
		case run.Verdict == "":
			c = cell{Text: w.tr("running"), Tone: warn}
		}
		s.Steps = append(s.Steps, step{w.stage(stage), c})
	}
	return s
}

// longSource is the length above which a query stands below its table, where
// it has the page's width.
const longSource = 60

func (w words) gates(r Release) section {
	s := section{ID: "gates", Title: w.tr("Gates")}
	if len(r.Gates) == 0 {
		s.Text = w.tr("No gate has decided about this release.")
	}
	for _, g := range r.Gates {
		t := table{
			Caption: w.gate(g.Gate), Badge: w.verdict(g.Verdict),
			Head: widths(columns(w.tr("Check"), ">"+w.tr("Value"), ">"+w.tr("Threshold"), ">"+w.tr("Distance"), ">"+w.tr("Samples"), w.tr("Measured from"), w.tr("Verdict")),
				25, 12, 10, 12, 9, 23, 9),
			Note: w.trf("Decided %s under rules %s", w.time(g.Time), cmp.Or(g.RulesDigest, none)),
		}
		for _, c := range g.Checks {
			if len(c.Source) > longSource {
				t.Queries = append(t.Queries, c.Source)
				c.Source = w.trf("query %d", len(t.Queries))
			}
			t.Rows = append(t.Rows, w.check(c))
		}
		t.Asked = w.trf("%d queries", len(t.Queries))
		s.Tables = append(s.Tables, t)
	}
	return s
}

func (w words) check(c Check) []cell {
	distance, samples := text(""), text("")
	if c.Distance != nil {
		distance = text(signed(*c.Distance) + unit(c.Unit))
	}
	if c.Samples != nil {
		samples.Text = count(*c.Samples)
	}
	if c.MinSamples > 0 {
		samples.Sub = w.trf("at least %s", count(c.MinSamples))
	}
	limit := text(comparison(c.Op) + w.quantity(c.Threshold, nil, c.Unit))
	source := mono(c.Source)
	source.Sub = cmp.Or(c.Detail, c.Window)
	switch c.Op {
	case "cel": // the rule is its own source
		limit, source = text(""), mono(w.quantity(c.Threshold, nil, ""))
	case "tool":
		limit = text(w.tr("must pass"))
		if c.Threshold == false {
			limit = text(w.tr("accepted"))
		}
	}
	return []cell{
		{Text: c.Name, Sub: c.Code, Mono: true}, text(w.quantity(c.Value, c.Threshold, c.Unit)), limit, distance, samples, source, w.verdict(c.Verdict),
	}
}

func (w words) rollback(r Release) section {
	b := r.Rollback
	if b == nil {
		return section{}
	}
	s := section{ID: "rollback", Title: w.tr("Rollback"), Text: b.Reason}
	if b.TriggerGate != "" {
		s.Text = strings.TrimSpace(w.trf("Triggered by gate “%s”.", w.gate(b.TriggerGate)) + " " + b.Reason)
	}
	moments := table{Caption: w.tr("Moments"), Head: columns(w.tr("What"), w.tr("When (UTC)"), ">"+w.tr("After the trigger"))}
	for _, m := range []struct {
		what string
		when time.Time
	}{
		{"First bad answer to a user", b.FirstBadAt}, {"Triggered", b.TriggeredAt}, {"All traffic on stable, read back", b.TrafficBackAt},
		{"Completed: every component back", b.CompletedAt}, {"Restored: replay passed", b.RestoredAt},
	} {
		after := none
		if !m.when.IsZero() && !m.when.Before(b.TriggeredAt) {
			after = w.between(b.TriggeredAt, m.when)
		} else if !m.when.IsZero() {
			after = w.trf("%s before", w.between(m.when, b.TriggeredAt))
		}
		moments.Rows = append(moments.Rows, []cell{text(w.tr(m.what)), w.when(m.when), text(after)})
	}
	if b.LimitS > 0 {
		moments.Note = w.trf("The limit is %s.", w.duration(time.Duration(b.LimitS*float64(time.Second))))
	}
	steps := table{Caption: w.tr("Components, in order"), Head: columns(w.tr("Component"), w.tr("Back to"), w.tr("Read back"), w.tr("State"), ">"+w.tr("Duration"))}
	for _, st := range b.Steps {
		state := cell{Text: w.tr("step:" + st.Status), Sub: st.Error}
		if st.Error != "" {
			state.Tone = bad
		}
		steps.Rows = append(steps.Rows, []cell{text(w.tr("component:" + string(st.Component))), mono(st.To), mono(st.ReadBack), state, text(w.between(st.StartedAt, st.EndedAt))})
	}
	s.Tables = []table{moments}
	if len(steps.Rows) > 0 {
		s.Tables = append(s.Tables, steps)
	}
	if b.ReplayJobID != "" {
		s.Tables[len(s.Tables)-1].Note = strings.TrimSpace(s.Tables[len(s.Tables)-1].Note + " " + w.trf("Replay %s: %s.", b.ReplayJobID, w.tr("job:"+b.ReplayStatus)))
	}
	return s
}

func (w words) readiness(r Release) section {
	a := r.Readiness
	if a == nil {
		return section{}
	}
	s := section{
		ID: "readiness", Title: w.tr("Readiness"), Badge: w.passed(a.Admitted),
		Text: w.trf("Assessment %s on dataset %s.", a.AssessmentID, cmp.Or(a.DatasetVersion, none)),
	}
	t := table{Head: columns(w.tr("Gate"), w.tr("Verdict"), w.tr("Rests on"))}
	restsOn := func(evidence, reason string) cell {
		return cell{Text: cmp.Or(evidence, none), Sub: reason, Mono: evidence != ""}
	}
	for _, g := range a.Gates {
		t.Rows = append(t.Rows, []cell{text(w.gate(g.Gate)), w.passed(g.Passed), restsOn(g.Evidence, g.Reason)})
	}
	t.Rows = append(t.Rows, []cell{text(w.tr("Replay")), w.passed(a.ReplayPassed), restsOn(a.ReplayEvidence, a.ReplayReason)})
	if len(a.FailedChecks) > 0 {
		t.Note = w.trf("Failed checks: %s", strings.Join(a.FailedChecks, ", "))
	}
	s.Tables = []table{t}
	return s
}

func (w words) replays(r Release) section {
	if len(r.Replays) == 0 {
		return section{}
	}
	t := table{Head: columns(w.tr("Run"), w.tr("Purpose"), w.tr("When (UTC)"), ">"+w.tr("Sessions"), ">"+w.tr("Steps"), ">"+w.tr("Failed"), w.tr("Verdict"))}
	for _, p := range r.Replays {
		run := mono(p.RunID)
		run.Sub = strings.Join(p.Failures, "; ")
		t.Rows = append(t.Rows, []cell{run, text(w.tr(p.Purpose)), w.when(p.Time), text(strconv.Itoa(p.Sessions)), text(strconv.Itoa(p.Steps)), text(strconv.Itoa(p.Failed)), w.passed(p.Passed)})
	}
	return section{ID: "replays", Title: w.tr("Replays"), Tables: []table{t}}
}

func (w words) alerts(r Release) section {
	if len(r.Alerts) == 0 {
		return section{}
	}
	t := table{Head: columns(w.tr("Alert"), w.tr("Severity"), w.tr("Fired (UTC)"), w.tr("Acted on"), w.tr("Resolved"), w.tr("What was done"))}
	for _, a := range r.Alerts {
		t.Rows = append(t.Rows, []cell{{Text: a.Name, Sub: a.Summary}, text(a.Severity), w.when(a.FiredAt), w.when(a.ActedAt), w.when(a.ResolvedAt), text(a.Action)})
	}
	return section{ID: "alerts", Title: w.tr("Alerts"), Tables: []table{t}}
}

func (w words) trail(r Release) section {
	t := table{Head: columns(w.tr("When (UTC)"), w.tr("Event"), w.tr("Stage"), w.tr("Verdict"), w.tr("Who, from where"), w.tr("Why"))}
	for _, e := range r.Events {
		stage := none
		if e.Stage != "" {
			stage = w.stage(e.Stage)
		}
		t.Rows = append(t.Rows, []cell{w.when(e.Time), {Text: e.Kind, Mono: true, Whole: true}, {Text: stage, Whole: true}, w.verdict(e.Verdict), {Text: cmp.Or(e.Actor, none), Sub: e.From}, {Text: cmp.Or(e.Message, e.Reason, none), Sub: otherThan(e.Reason, e.Message)}})
	}
	s := section{ID: "trail", Title: w.tr("Decision trail"), Tables: []table{t}}
	if len(t.Rows) == 0 {
		s.Tables, s.Text = nil, w.tr("Nothing was recorded.")
	}
	return s
}

// otherThan returns s unless it is already shown.
func otherThan(s, shown string) string {
	if shown == "" || s == shown {
		return ""
	}
	return s
}

func (w words) evidence(r Release) section {
	t := table{
		Head: columns(">"+w.tr("Log entry"), w.tr("Statement"), w.tr("When (UTC)"), w.tr("Verdict"), w.tr("Digest and files")),
		Note: w.tr("A statement's digest is the sha256 of its signed envelope, a file's that of its content."),
	}
	for _, e := range r.Evidence {
		files := make([]string, len(e.Inputs))
		for i, f := range e.Inputs {
			files[i] = f.Name + " (" + bytesText(f.Size) + ") " + f.Digest
		}
		kind := cell{Text: w.tr("evidence:" + e.Kind), Sub: e.About, Whole: true}
		t.Rows = append(t.Rows, []cell{text(strconv.FormatInt(e.Index, 10)), kind, w.when(e.Time), w.verdict(e.Verdict), {Text: e.Digest, Sub: strings.Join(files, "\n"), Mono: true}})
	}
	s := section{ID: "evidence", Title: w.tr("Evidence"), Tables: []table{t}}
	if len(t.Rows) == 0 {
		s.Tables, s.Text = nil, w.tr("There is no evidence about this release.")
	}
	return s
}
