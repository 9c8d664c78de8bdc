package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

var latencyDefault = map[string][]string{"api_p95_s": {"http_req_duration"}}

// k6 is an end-of-test summary of k6 in any of its three shapes.
type k6 struct {
	version string
	metrics map[string]k6Metric
	kept    []byte
}

// k6Metric holds a metric's values under the names of the older summaries and
// whether each threshold held.
type k6Metric struct {
	values map[string]float64
	held   map[string]bool
}

func isK6(d document) bool {
	if d.has("results", "version", "metadata") {
		return bytes.Contains(d.object["metadata"], []byte("k6_version"))
	}
	return d.has("metrics", "root_group")
}

func decodeK6(d document, _ Options) (content, error) {
	if d.object == nil {
		return nil, cmp.Or(decodeJSON(d.raw, new(map[string]json.RawMessage)), errors.New("is not a k6 summary"))
	}
	k := k6{metrics: map[string]k6Metric{}}
	var err error
	switch {
	case d.has("results"):
		err = k.decodeNew(d)
	case d.has("metrics", "state"):
		err = k.decodeHandleSummary(d.object["metrics"])
	case d.has("metrics"):
		err = k.decodeExport(d.object["metrics"])
	default:
		err = errors.New("holds no metrics")
	}
	if err != nil {
		return nil, err
	}
	// The script and what its setup returned may hold credentials.
	for _, key := range []string{"config", "options", "setup_data"} {
		delete(d.object, key)
	}
	k.kept, err = json.Marshal(d.object)
	return k, err
}

// decodeNew reads the machine-readable summary. It names percentiles p95 and
// says nothing of thresholds.
func (k *k6) decodeNew(d document) error {
	var meta struct {
		Version string `json:"k6_version"`
	}
	var results struct {
		Metrics []struct {
			Name   string             `json:"name"`
			Values map[string]float64 `json:"values"`
		} `json:"metrics"`
	}
	if err := decodeJSON(d.object["metadata"], &meta); err != nil {
		return err
	}
	if err := decodeJSON(d.object["results"], &results); err != nil {
		return err
	}
	k.version = clip(meta.Version)
	for _, m := range results.Metrics {
		if p, ok := m.Values["p95"]; ok {
			m.Values["p(95)"] = p
		}
		if n, ok := m.Values["matches"]; ok {
			m.Values["passes"] = n
		}
		k.metrics[m.Name] = k6Metric{values: m.Values}
	}
	return nil
}

func (k *k6) decodeHandleSummary(raw json.RawMessage) error {
	var metrics map[string]struct {
		Values     map[string]float64 `json:"values"`
		Thresholds map[string]struct {
			OK *bool `json:"ok"`
		} `json:"thresholds"`
	}
	if err := decodeJSON(raw, &metrics); err != nil {
		return err
	}
	for name, m := range metrics {
		held := map[string]bool{}
		for expr, t := range m.Thresholds {
			held[expr] = t.OK != nil && *t.OK
		}
		k.metrics[name] = k6Metric{m.Values, held}
	}
	return nil
}

// decodeExport reads --summary-export, in which a threshold that is true is one
// that was crossed.
func (k *k6) decodeExport(raw json.RawMessage) error {
	var metrics map[string]map[string]json.RawMessage
	if err := decodeJSON(raw, &metrics); err != nil {
		return err
	}
	for name, fields := range metrics {
		m := k6Metric{values: map[string]float64{}, held: map[string]bool{}}
		for key, value := range fields {
			var v float64
			if key == "thresholds" {
				var crossed map[string]bool
				if err := decodeJSON(value, &crossed); err != nil {
					return fmt.Errorf("thresholds of %s: %w", clip(name), err)
				}
				for expr, c := range crossed {
					m.held[expr] = !c
				}
			} else if err := decodeJSON(value, &v); err != nil {
				return fmt.Errorf("%s of %s: %w", clip(key), clip(name), err)
			} else {
				m.values[key] = v
			}
		}
		k.metrics[name] = m
	}
	return nil
}

func (k k6) stored() ([]byte, error) { return k.kept, nil }

func (k k6) facts(o Options) (Facts, error) {
	f := Facts{Tool: Tool{Name: "k6", Version: k.version}, Verdict: headgate.Pass}
	f.Requests = &Requests{
		Total: int64(k.metrics["http_reqs"].values["count"]),
		// "passes" counts the requests for which "failed" was true; "fails"
		// counts the good ones.
		Failed: int64(k.metrics["http_req_failed"].values["passes"]),
	}
	thresholds := 0
	for _, name := range sortedKeys(k.metrics) {
		for _, expr := range sortedKeys(k.metrics[name].held) {
			thresholds++
			if !k.metrics[name].held[expr] {
				f.fail(headgate.Fail, gate.ToolThresholdCrossed, "threshold %s on %s was crossed", clip(expr), clip(name))
			}
		}
	}
	if thresholds == 0 {
		f.note("the summary holds no thresholds; whether k6 itself passed is not known")
	}
	if !f.requestsMeasure() {
		return f, nil
	}
	for name, columns := range o.wanted(headgate.GatePerformance, latencyDefault) {
		if !strings.HasSuffix(name, "_p95_s") {
			continue
		}
		if err := k.latency(&f, name, columns[0]); err != nil {
			return f, err
		}
	}
	f.sortMetrics()
	return f, nil
}

func (k k6) latency(f *Facts, name, from string) error {
	m, ok := k.metrics[from]
	if !ok {
		return fmt.Errorf("has no metric %s; k6 keeps a tagged metric only when a threshold names it", clip(from))
	}
	ms, ok := m.values["p(95)"]
	if !ok {
		return fmt.Errorf("%s has no p(95); add it to summaryTrendStats", clip(from))
	}
	metric, err := latencyMetric(name, from, ms/1000)
	if err != nil {
		return err
	}
	if n, ok := m.values["count"]; ok {
		metric.Samples = new(int64(n))
	} else if tail, ok := strings.CutPrefix(from, "http_req_duration"); ok {
		if reqs, ok := k.metrics["http_reqs"+tail]; ok {
			metric.Samples = new(int64(reqs.values["count"]))
		}
	}
	f.Metrics = append(f.Metrics, metric)
	return nil
}

func latencyMetric(name, from string, seconds float64) (Metric, error) {
	if seconds < 0 || math.IsNaN(seconds) || math.IsInf(seconds, 0) {
		return Metric{}, fmt.Errorf("%s is not a duration", clip(from))
	}
	return Metric{Gate: headgate.GatePerformance, Name: name, Value: seconds, From: clip(from)}, nil
}

// requestsMeasure reports whether the latencies of a load test mean anything:
// those of no request, or of failures only, do not.
func (f *Facts) requestsMeasure() bool {
	switch r := f.Requests; {
	case r.Total <= 0:
		f.fail(headgate.Insufficient, gate.ToolNoRequests, "no HTTP request was made")
		return false
	case r.Failed >= r.Total:
		f.fail(headgate.Fail, gate.ToolRequestsFailed, "every request failed; the latencies of failures measure nothing")
		return false
	case r.Failed > 0:
		f.note("%d of %d requests failed", r.Failed, r.Total)
	}
	return true
}

// vegeta is "vegeta report -type json". Its durations are in nanoseconds. Its
// errors quote addresses and are not decoded.
type vegeta struct {
	Latencies struct {
		P95 *float64 `json:"95th"`
	} `json:"latencies"`
	Requests    *int64           `json:"requests"`
	Success     *float64         `json:"success"`
	StatusCodes map[string]int64 `json:"status_codes"`
}

func isVegeta(d document) bool { return d.has("latencies", "status_codes", "requests") }

func decodeVegeta(d document, _ Options) (content, error) {
	var v vegeta
	if err := decodeJSON(nanToNull(d.raw), &v); err != nil {
		return nil, err
	}
	switch {
	case v.Requests == nil || *v.Requests < 0:
		return nil, errors.New("requests: must be a count")
	case v.Success == nil || *v.Success < 0 || *v.Success > 1:
		return nil, errors.New("success: must be a share between 0 and 1")
	case v.Latencies.P95 == nil:
		return nil, errors.New("latencies.95th: is missing")
	}
	return v, nil
}

func (v vegeta) facts(o Options) (Facts, error) {
	total := *v.Requests
	f := Facts{Tool: Tool{Name: "vegeta"}, Verdict: headgate.Pass}
	f.Requests = &Requests{Total: total, Failed: total - int64(math.Round(*v.Success*float64(total)))}
	if !f.requestsMeasure() {
		return f, nil
	}
	// One report is one attack on one kind of request; a column says which.
	name := "api_p95_s"
	for _, metric := range sortedKeys(o.Columns) {
		if strings.HasSuffix(metric, "_p95_s") {
			name = metric
		}
	}
	m, err := latencyMetric(name, "latencies.95th", *v.Latencies.P95/1e9)
	m.Samples = &total
	f.Metrics = append(f.Metrics, m)
	return f, err
}

func (v vegeta) stored() ([]byte, error) { return json.Marshal(v) }
