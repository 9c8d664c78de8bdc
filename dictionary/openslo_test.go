package dictionary_test

import (
	"math"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/headgate/headgate/dictionary"
)

const openSLO = `apiVersion: openslo/v1
kind: Service
metadata:
  name: bidding
spec:
  description: ignored
---
apiVersion: openslo/v1
kind: SLO
metadata:
  name: uploads-available
  displayName: Uploads
  annotations:
    headgate/owner: platform
    headgate/severity: P1
    headgate/runbook: docs/runbooks/api-errors.md
spec:
  description: 99 % of requests are answered without a 5xx status.
  service: bidding
  indicator:
    metadata:
      name: uploads
    spec:
      ratioMetric:
        counter: true
        GOODBAD:
          metricSource:
            type: Prometheus
            spec:
              query: sum(rate(bea_api_request_duration_seconds_count{http_response_status_code=~"CODES"}[{{.window}}]))
        total:
          metricSource:
            type: Prometheus
            spec:
              query: sum(rate(bea_api_request_duration_seconds_count[{{.window}}]))
  timeWindow:
    - duration: 30d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: Good
      target: 0.99
`

func bad(text string) string {
	return strings.NewReplacer("GOODBAD", "bad", "CODES", "5..").Replace(text)
}

func withFile(t *testing.T, namespace, text string) (*dictionary.Dictionary, error) {
	t.Helper()
	return dictionary.Load(namespace, fstest.MapFS{"slo.yaml": {Data: []byte(text)}})
}

func TestOpenSLOBecomesBurnRateAlerts(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"bad of total":  bad(openSLO),
		"good of total": strings.NewReplacer("GOODBAD", "good", "CODES", "2..").Replace(openSLO),
		"fixed window":  strings.ReplaceAll(bad(openSLO), "{{.window}}", "10m"),
		"percent":       strings.ReplaceAll(bad(openSLO), "target: 0.99", "targetPercent: 99"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := withFile(t, "my.app", text)
			if err != nil {
				t.Fatal(err)
			}
			f, ok := d.Figure("uploads_available_bad_share")
			if !ok || f.Metric != "my.app.api.request.duration" || f.Owner != "platform" {
				t.Fatalf("figure %+v", f)
			}
			found := 0
			for _, g := range rules(t, d) {
				for _, r := range g.Rules {
					if r.Labels["objective"] != "uploads-available" {
						continue
					}
					found++
					if r.Annotations["runbook"] != "docs/runbooks/api-errors.md" || r.Labels["owner"] != "platform" {
						t.Errorf("%s has labels %v and annotations %v", r.Alert, r.Labels, r.Annotations)
					}
				}
			}
			for window, want := range map[string][]string{"1h": {"[5m]", "[1h]", "> 0.144"}, "6h": {"[30m]", "[6h]", "> 0.06"}, "1d": {"[2h]", "[1d]", "> 0.03"}, "3d": {"[6h]", "[3d]", "> 0.01"}} {
				expr := alert(t, d, "uploads-available-burn-"+window)
				for _, w := range want {
					if !strings.Contains(expr, w) {
						t.Errorf("the alert on %s lacks %s: %s", window, w, expr)
					}
				}
			}
			if found != 4 {
				t.Errorf("%d alerts, want 4", found)
			}

			store, url := receive(t)
			now := time.Now()
			newService(t, d, "acme", "v1", now).
				histogram("my.app.api.request.duration", 1, attrs{"http.response.status_code": 200}).
				histogram("my.app.api.request.duration", 1, attrs{"http.response.status_code": 503}).send(url)
			q, err := d.Query(f.Name, dictionary.Scope{Window: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if v, ok, err := store.Number(t.Context(), q, now); err != nil || !ok || math.Abs(v-0.5) > 1e-9 {
				t.Errorf("bad share = %v, %v, %v; want a half", v, ok, err)
			}
		})
	}
}

func alert(t *testing.T, d *dictionary.Dictionary, name string) string {
	t.Helper()
	for _, g := range rules(t, d) {
		for _, r := range g.Rules {
			if r.Alert == name {
				return r.Expr
			}
		}
	}
	t.Errorf("no alert %s", name)
	return ""
}

func TestOpenSLOReferences(t *testing.T) {
	t.Parallel()
	inPlace := bad(openSLO)
	from, to := strings.Index(inPlace, "  indicator:\n"), strings.Index(inPlace, "  timeWindow:")
	sli := inPlace[from:to]
	text := inPlace[:from] + "  indicatorRef: uploads\n" + inPlace[to:]
	spec := strings.ReplaceAll(sli[strings.Index(sli, "    spec:\n")+len("    spec:\n"):], "\n    ", "\n")
	text += "---\napiVersion: openslo/v1\nkind: SLI\nmetadata: {name: uploads}\nspec:\n" + strings.TrimPrefix(spec, "    ")
	if d, err := withFile(t, "", text); err != nil {
		t.Fatalf("%v\n%s", err, text)
	} else if _, ok := d.Figure("uploads_available_bad_share"); !ok {
		t.Error("the SLO has no figure")
	}
}

func TestBadOpenSLOIsNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ old, new, want string }{
		"version":         {"openslo/v1", "openslo/v2alpha", "apiVersion must be openslo/v1"},
		"no owner":        {"headgate/owner: platform", "x: y", "headgate/owner is required"},
		"no runbook":      {"headgate/runbook: docs/runbooks/api-errors.md", "x: y", "runbook is required"},
		"no severity":     {"headgate/severity: P1", "x: y", "severity must be"},
		"window":          {"30d", "7d", "rolling window of 30d"},
		"budgeting":       {"Occurrences", "Timeslices", "use Occurrences"},
		"source":          {"type: Prometheus", "type: Datadog", "type Prometheus"},
		"target":          {"target: 0.99", "target: 99", "between 0 and 1"},
		"unknown metric":  {"bea_api_request_duration_seconds_count[", "nothing_total[", "not a series of any metric"},
		"not aggregated":  {"sum(rate(bea_api_request_duration_seconds_count[{{.window}}]))", "rate(bea_api_request_duration_seconds_count)", "does not parse"},
		"counter":         {"sum(rate(bea_api_request_duration_seconds_count[{{.window}}]))", "sum(bea_api_request_duration_seconds_count)", "must take a rate over a window"},
		"name used twice": {"name: uploads-available", "name: api-availability", "already used"},
		"no indicator":    {"  indicator:", "  other:", "needs an indicator"},
		"good and bad":    {"        total:", "        good: {}\n        total:", "one of good and bad"},
		"two objectives":  {"    - displayName: Good", "    - {target: 0.5}\n    - displayName: Good", "has 2 objectives"},
		"not YAML":        {"kind: SLO\n", "kind: [SLO\n", "slo.yaml: line"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.ReplaceAll(bad(openSLO), tt.old, tt.new)
			if _, err := withFile(t, "", text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

const priceTable = `currency: USD
per_tokens: 1000
models:
  - {model: "large-*", input: 0.01, output: 0.03}
  - {model: large-2, input: 0.02, output: 0.06}
  - {model: "large-2-mini*", input: 0.001, output: 0.002}
`

func TestPrices(t *testing.T) {
	t.Parallel()
	p, err := dictionary.LoadPrices([]byte(priceTable))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		model, tokenType string
		want             float64
		ok               bool
	}{
		{"large-1", "input", 0.00001, true},
		{"large-2", "output", 0.00006, true},
		{"large-2-mini-2026", "output", 0.000002, true},
		{"large-2", "reasoning", 0, false},
		{"small", "input", 0, false},
		{"", "input", 0, false},
	} {
		if got, ok := p.Token(tt.model, tt.tokenType); ok != tt.ok || math.Abs(got-tt.want) > 1e-15 {
			t.Errorf("%s %s = %v, %v; want %v, %v", tt.model, tt.tokenType, got, ok, tt.want, tt.ok)
		}
	}
	if _, ok := (dictionary.Prices{}).Token("large-1", "input"); ok || !(dictionary.Prices{}).Empty() {
		t.Error("the empty table knows a price")
	}
	for name, tt := range map[string]struct{ old, new, want string }{
		"currency":      {"USD", "EUR", "currency: USD"},
		"unit":          {"per_tokens: 1000", "per_tokens: 1", "per_tokens: 1000"},
		"twice":         {"model: large-2,", `model: "large-*",`, "priced twice"},
		"negative":      {"input: 0.02", "input: -1", "zero or more"},
		"not a number":  {"input: 0.02", "input: .nan", "zero or more"},
		"infinite":      {"input: 0.02", "input: .inf", "zero or more"},
		"missing":       {", output: 0.06", "", "needs model, input and output"},
		"star within":   {"large-2-mini*", "large-*-mini*", "at its end only"},
		"unknown field": {"input: 0.02", "inputs: 0.02", "line 5"},
	} {
		if _, err := dictionary.LoadPrices([]byte(strings.Replace(priceTable, tt.old, tt.new, 1))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

// FuzzExtraDefinitions loads whatever a user's file may hold: it is read or
// refused with findings, and what is read gives rules.
func FuzzExtraDefinitions(f *testing.F) {
	f.Add([]byte(bad(openSLO)))
	f.Add([]byte("apiVersion: openslo/v1\nkind: SLO\n"))
	f.Add([]byte("apiVersion: openslo/v1\nkind: SLO\nspec: {objectives: [{target: 0.5}], ratioMetric: {total: {}}}\n---\nnull\n"))
	f.Add([]byte("file_format: definition/2\nattributes: [{key: a, brief: b, annotations: {headgate: {aliases: [a, a]}}}]\n"))
	f.Add([]byte(preamble))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := dictionary.Load("", fstest.MapFS{"extra.yaml": {Data: text}})
		if err != nil {
			return
		}
		if _, err := d.Rules(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzPrices(f *testing.F) {
	f.Add([]byte(priceTable), "large-2")
	f.Add([]byte("currency: USD\nper_tokens: 1000\nmodels: [{model: '*', input: .inf, output: 0}]\n"), "")
	f.Fuzz(func(t *testing.T, text []byte, model string) {
		p, err := dictionary.LoadPrices(text)
		if err != nil {
			return
		}
		if usd, ok := p.Token(model, "input"); ok && (math.IsNaN(usd) || math.IsInf(usd, 0) || usd < 0) {
			t.Errorf("%s costs %v", model, usd)
		}
	})
}
