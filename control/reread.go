package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/report"
)

// Reread reads the reports behind a recorded gate decision again, for a
// verifier: what the decision was made on is what they say. Figures that
// telemetry gave are in no report.
func Reread(d evidence.GateDecision, files map[string][]byte) []string {
	recorded, err := recordedInput(d)
	if err != nil {
		return nil // Reevaluate says so
	}
	var all []report.Facts
	var differ []string
	for _, in := range d.Inputs {
		raw, ok := files[in.Digest]
		if !ok || !slices.Contains(report.Formats(), in.Format) || in.Name == inputName(d.Gate) && in.Tool == d.MadeBy {
			continue
		}
		facts, err := report.Parse(in.Format, bytes.NewReader(raw), report.Options{Source: in.Name, Columns: in.Columns})
		if err != nil {
			differ = append(differ, fmt.Sprintf("%s cannot be read again: %s", in.Name, err))
			continue
		}
		facts.Digest = in.Digest
		all = append(all, facts)
	}
	said, err := report.Merge(d.Gate, d.DatasetID, all...)
	if err != nil {
		return append(differ, err.Error())
	}
	differ = append(differ, differentFigures(d, said, recorded)...)
	return append(differ, differentRuns(said.Tools, recorded.Tools)...)
}

// differentFigures compares the figures that reports give with the recorded.
func differentFigures(d evidence.GateDecision, said, recorded gate.Input) []string {
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(said.Metrics)) {
		want, got := said.Metrics[name], recorded.Metrics[name]
		if n, ok := got.(json.Number); ok {
			if f, err := n.Float64(); err == nil {
				got = f
			}
		}
		if got == nil {
			got = "none"
		}
		if got != want {
			differ = append(differ, fmt.Sprintf("%s says metrics.%s = %v; the decision was made on %v", said.Origins[name].Source, name, want, got))
		}
		if w, g := count(said.Origins[name].Samples), count(recorded.Origins[name].Samples); w != g {
			differ = append(differ, fmt.Sprintf("%s says origins.%s.samples = %s; the decision was made on %s", said.Origins[name].Source, name, w, g))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(recorded.Origins)) {
		if _, ok := said.Metrics[name]; ok {
			continue
		}
		for _, in := range d.Inputs {
			if strings.HasPrefix(recorded.Origins[name].Source, in.Name+" (") {
				differ = append(differ, fmt.Sprintf("%s does not say metrics.%s, which was taken from it", in.Name, name))
			}
		}
	}
	return differ
}

// differentRuns compares what reports say of their tools' runs with the
// recorded. Words may change between versions; codes and counts do not.
func differentRuns(said, recorded []gate.ToolReport) []string {
	var differ []string
	for _, want := range said {
		i := slices.IndexFunc(recorded, func(t gate.ToolReport) bool { return t.File == want.File && t.Digest == want.Digest })
		switch {
		case i < 0 && want.Verdict != headgate.Pass:
			differ = append(differ, fmt.Sprintf("%s says that its run came to %s, which was not judged", want.File, outcome(want)))
			continue
		case i < 0:
			continue // it could not have changed the verdict
		}
		got := recorded[i]
		if w, g := outcome(want), outcome(got); w != g {
			differ = append(differ, fmt.Sprintf("%s says that its run came to %s; tools[%d] says %s", want.File, w, i, g))
		}
		for _, name := range slices.Sorted(maps.Keys(want.Counts)) {
			if want.Counts[name] != got.Counts[name] {
				differ = append(differ, fmt.Sprintf("%s says %s = %d; tools[%d] says %d", want.File, name, want.Counts[name], i, got.Counts[name]))
			}
		}
	}
	return differ
}

func outcome(t gate.ToolReport) string {
	words := []string{string(t.Verdict)}
	for _, p := range t.Problems {
		words = append(words, fmt.Sprintf("%s (%s)", p.Code, p.Verdict))
	}
	return strings.Join(words, " ")
}

// count is a number of samples in words.
func count(n *int64) string {
	if n == nil {
		return "uncounted"
	}
	return fmt.Sprint(*n)
}
