package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// gateMetrics is a gate's own request: {"dataset_id", "metrics": {…}}, with
// "samples": {"api_p95_s": 1200} or "samples": 1200 beside it if the writer
// counted.
type gateMetrics struct {
	DatasetID string         `json:"dataset_id,omitempty"`
	Metrics   map[string]any `json:"metrics"`
	Samples   sampleCounts   `json:"samples,omitempty"`
}

// sampleCounts are samples by metric; one number stands for all of them, under
// the empty name.
type sampleCounts map[string]int64

// UnmarshalJSON reads an object or one number; null means that nobody counted.
func (s *sampleCounts) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var one int64
	if err := json.Unmarshal(data, &one); err == nil {
		*s = sampleCounts{"": one}
		return nil
	}
	return json.Unmarshal(data, (*map[string]int64)(s))
}

func (s sampleCounts) of(metric string) (int64, bool) {
	if n, ok := s[metric]; ok {
		return n, true
	}
	n, ok := s[""]
	return n, ok
}

func isGateMetrics(d document) bool {
	var metrics map[string]json.RawMessage
	if !d.has("metrics") || d.has("root_group") || json.Unmarshal(d.object["metrics"], &metrics) != nil {
		return false
	}
	for key := range metrics {
		if _, ok := gate.Known(key); ok || groups[key] {
			return true
		}
	}
	return false
}

var groups = map[string]bool{"ragas": true, "deepeval": true, "citation": true}

func decodeGateMetrics(d document, _ Options) (content, error) {
	var in gateMetrics
	dec := json.NewDecoder(bytes.NewReader(nanToNull(d.raw)))
	dec.UseNumber()
	if err := dec.Decode(&in); err != nil || dec.More() {
		return nil, errors.New("is not one JSON object with dataset_id and metrics")
	}
	if in.Metrics == nil {
		return nil, errors.New("metrics: is missing")
	}
	return in, nil
}

func (in gateMetrics) facts(o Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "gate-metrics"}, Verdict: headgate.Pass, DatasetID: clip(in.DatasetID)}
	for _, g := range headgate.GateD() {
		for _, name := range gate.MetricNames(g) {
			v, ok := in.lookup(name)
			if !ok {
				continue
			}
			m := Metric{Gate: g, Name: name, Value: v, From: "metrics." + name}
			if n, ok := v.(json.Number); ok {
				number, err := n.Float64()
				if err != nil {
					return f, fmt.Errorf("metrics.%s: must be finite", name)
				}
				m.Value = number
			} else if _, ok := v.(bool); !ok {
				return f, fmt.Errorf("metrics.%s: must be a number or a boolean", name)
			}
			if n, ok := in.Samples.of(name); ok {
				m.Samples = &n
			}
			f.Metrics = append(f.Metrics, m)
		}
	}
	if len(f.Metrics) == 0 {
		f.fail(headgate.Insufficient, gate.ToolNoMetrics, "the file holds none of the gates' metrics")
	}
	return f, nil
}

func (in gateMetrics) lookup(name string) (any, bool) {
	if v, ok := in.Metrics[name]; ok {
		return v, v != nil
	}
	group, key, _ := strings.Cut(name, ".")
	sub, _ := in.Metrics[group].(map[string]any)
	v, ok := sub[key]
	return v, ok && v != nil
}

// stored keeps the gates' metrics only.
func (in gateMetrics) stored() ([]byte, error) {
	kept := gateMetrics{DatasetID: in.DatasetID, Metrics: map[string]any{}, Samples: map[string]int64{}}
	for _, g := range headgate.GateD() {
		for _, name := range gate.MetricNames(g) {
			if v, ok := in.lookup(name); ok {
				kept.Metrics[name] = v
			}
			if n, ok := in.Samples.of(name); ok {
				kept.Samples[name] = n
			}
		}
	}
	return json.Marshal(kept)
}
