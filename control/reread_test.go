package control_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/report"
)

// A server that signs something else than its tools reported is found out by
// whoever reads the reports again.
func TestReread(t *testing.T) {
	t.Parallel()
	const digest = "sha256:00"
	columns := map[string]string{"retrieval_p95_s": "http_req_duration"}
	raw, err := os.ReadFile(filepath.Join("..", "gate", "report", "testdata", "k6-summary-export.json"))
	if err != nil {
		t.Fatal(err)
	}
	facts, err := report.Parse("k6", strings.NewReader(string(raw)), report.Options{Source: "load.json", Columns: columns})
	if err != nil {
		t.Fatal(err)
	}
	facts.Digest = digest
	for _, tt := range []struct {
		name  string
		forge func(*gate.Input, *evidence.GateDecision)
		want  []string // what each difference begins with and contains
	}{
		{"as it was", func(*gate.Input, *evidence.GateDecision) {}, nil},
		{"a better figure", func(in *gate.Input, _ *evidence.GateDecision) { in.Metrics["retrieval_p95_s"] = 0.001 },
			[]string{"load.json (http_req_duration) says metrics.retrieval_p95_s = "}},
		{"a figure left out", func(in *gate.Input, _ *evidence.GateDecision) {
			delete(in.Metrics, "retrieval_p95_s")
			delete(in.Origins, "retrieval_p95_s")
		}, []string{"load.json (http_req_duration) says metrics.retrieval_p95_s = ", "load.json (http_req_duration) says origins.retrieval_p95_s.samples = "}},
		{"more samples", func(in *gate.Input, _ *evidence.GateDecision) {
			many := int64(1e6)
			in.Origins["retrieval_p95_s"] = gate.Origin{Source: in.Origins["retrieval_p95_s"].Source, Samples: &many}
		}, []string{"load.json (http_req_duration) says origins.retrieval_p95_s.samples = "}},
		{"a figure that nobody reported", func(in *gate.Input, _ *evidence.GateDecision) {
			in.Metrics["cache_hit_rate"] = 0.99
			in.Origins["cache_hit_rate"] = gate.Origin{Source: "load.json (cache)"}
		}, []string{"load.json does not say metrics.cache_hit_rate, "}},
		{"a crossed threshold hidden", func(in *gate.Input, _ *evidence.GateDecision) {
			in.Tools[0].Verdict, in.Tools[0].Problems = headgate.Pass, nil
		}, []string{"load.json says that its run came to fail TOOL_THRESHOLD_CROSSED (fail); tools[0] says pass"}},
		{"a failed run not judged", func(in *gate.Input, _ *evidence.GateDecision) { in.Tools = nil },
			[]string{"load.json says that its run came to fail TOOL_THRESHOLD_CROSSED (fail), which was not judged"}},
		{"fewer failed requests", func(in *gate.Input, _ *evidence.GateDecision) { in.Tools[0].Counts["requests_failed"] = 0 },
			[]string{"load.json says requests_failed = "}},
		{"a report called something else", func(_ *gate.Input, d *evidence.GateDecision) { d.Inputs[0].Format = "notes" },
			[]string{"load.json does not say metrics.api_p95_s, ", "load.json does not say metrics.retrieval_p95_s, "}},
		{"a report called another tool's", func(_ *gate.Input, d *evidence.GateDecision) { d.Inputs[0].Format = "gitleaks" },
			[]string{"load.json cannot be read again: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in, err := report.Merge(headgate.GatePerformance, "d", facts)
			if err != nil {
				t.Fatal(err)
			}
			d := evidence.GateDecision{
				Gate: headgate.GatePerformance, DatasetID: "d", MadeBy: evidence.Tool{Name: "headgate"},
				Inputs: []evidence.Input{{Name: "load.json", Digest: digest, Format: "k6", Columns: columns, Tool: evidence.Tool{Name: "k6"}}},
			}
			tt.forge(&in, &d)
			if d.Request, err = json.Marshal(in); err != nil {
				t.Fatal(err)
			}
			got := control.Reread(d, map[string][]byte{digest: raw})
			matches := len(got) >= len(tt.want) && (len(tt.want) > 0 || len(got) == 0)
			for i := range tt.want {
				matches = matches && slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, tt.want[i]) })
			}
			if !matches {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
