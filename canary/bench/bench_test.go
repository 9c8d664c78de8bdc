package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

var few = Options{Seed: 3, Runs: 40, Only: []string{"200 rps", "errors ×10", "100 % errors", "at the limit", "pass at 200 rps"}}

// A report depends on the seed and not on how many cores made it.
func TestSameResultOnAnyNumberOfCores(t *testing.T) {
	one := few
	one.Only = []string{"errors ×10"}
	before := runtime.GOMAXPROCS(1)
	first, err := Run(context.Background(), one)
	runtime.GOMAXPROCS(7)
	second, err2 := Run(context.Background(), one)
	runtime.GOMAXPROCS(before)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(first)
	b, _ := json.Marshal(second)
	if !bytes.Equal(a, b) {
		t.Errorf("1 and 7 cores differ:\n%s\n%s", a, b)
	}
	one.Seed++
	third, err := Run(context.Background(), one)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := json.Marshal(third); bytes.Equal(a, c) {
		t.Error("another seed gives the same runs")
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	r, err := Run(context.Background(), few)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cells {
		switch {
		case c.Detector == Product && c.Kind == Bad && c.Rollbacks != c.Runs:
			t.Errorf("%s: %d of %d stopped", c.Scenario, c.Rollbacks, c.Runs)
		case c.Detector == Product && c.Kind == Clean && c.Rollbacks > 0:
			t.Errorf("%s: %d good candidates rolled back", c.Scenario, c.Rollbacks)
		}
	}
	met := map[string]bool{}
	for _, g := range r.Goals {
		met[g.Name] = g.Met
	}
	for _, name := range []string{"100 % errors: seconds", "100 % errors: failed requests"} {
		if !met[name] {
			t.Errorf("goal %q is not met: %+v", name, r.Goals)
		}
	}
	var text, data, picture bytes.Buffer
	if err := errors.Join(r.WriteText(&text), r.WriteJSON(&data), r.WriteSVG(&picture)); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"Good candidates that are rolled back", "errors ×10", "Flagger", "Goals", "tuned", "0.00 % [0.00, 8.81]", "  ≤ 0.1 %   7.22 %  "} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("the text lacks %q:\n%s", part, text.String())
		}
	}
	for line := range strings.Lines(text.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > maxColumns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	var back Report
	if err := json.Unmarshal(data.Bytes(), &back); err != nil || len(back.Cells) != len(r.Cells) {
		t.Errorf("JSON does not read back: %v", err)
	}
	for d := xml.NewDecoder(&picture); ; {
		if _, err := d.Token(); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the picture is not XML: %v", err)
			}
			break
		}
	}
}

func TestRunStopsWhenTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, few); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestClopperPearson(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		k, n   int
		lo, hi float64
	}{{0, 10, 0, 0.3085}, {10, 10, 0.6915, 1}, {5, 10, 0.1871, 0.8129}, {0, 3000, 0, 0.00123}, {3, 100, 0.0062, 0.0852}} {
		lo, hi := clopperPearson(c.k, c.n, 0.025)
		if math.Abs(lo-c.lo) > 1e-4 || math.Abs(hi-c.hi) > 1e-4 {
			t.Errorf("%d of %d: [%.4f, %.4f], want [%.4f, %.4f]", c.k, c.n, lo, hi, c.lo, c.hi)
		}
	}
}

func TestSamplersHaveTheRightMeans(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 200000
	for _, mean := range []float64{0.3, 8, 29, 36, 400} {
		var sum, squares float64
		for range n {
			x := float64(poisson(rng, mean))
			sum += x
			squares += x * x
		}
		m := sum / n
		if v := squares/n - m*m; math.Abs(m/mean-1) > 0.02 || math.Abs(v/mean-1) > 0.03 {
			t.Errorf("Poisson %v: mean %.3f, variance %.3f", mean, m, v)
		}
	}
	for _, p := range []float64{0.005, 0.3, 0.7, 0.99} {
		var sum, squares float64
		for range n {
			x := float64(binomial(rng, 40, p))
			sum += x
			squares += x * x
		}
		m := sum / n
		if v := squares/n - m*m; math.Abs(m/(40*p)-1) > 0.02 || math.Abs(v/(40*p*(1-p))-1) > 0.04 {
			t.Errorf("binomial %v: mean %.3f, variance %.3f", p, m, v)
		}
	}
}

// What the rivals' documentation promises on plain input.
func TestRivalsFollowTheirRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		make  func() Detector
		after float64
	}{
		{"threshold N=2", consecutiveChecks(2, .99), 20},
		{"threshold N=5", consecutiveChecks(5, .99), 50},
		{"Flagger", flagger(.99), 300},
		{"Argo", argo(.95), 240},
		{"Kayenta peeked", kayenta(.98, true), 240},
		{"Kayenta at the end", kayenta(.98, false), 600},
		{"z", fixedZ(3.09), 10},
	} {
		s := Scenario{RPS: 200, Seconds: 700, Tenants: []Tenant{{Weight: 1, Dirt: 1}}, Ratio: constant(1e6)}
		w := newWorld(&s, tickSeconds, 1, 1)
		end := watch(w, c.make(), &s)
		if end.failedAt != c.after {
			t.Errorf("%s stops total failure after %v s, want %v", c.name, end.failedAt, c.after)
		}
	}
}
