package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// Report is what a benchmark found.
type Report struct {
	Seed  uint64 `json:"seed"`
	Quick bool   `json:"quick"`
	Cells []Cell `json:"cells"`
	Goals []Goal `json:"goals"`
}

// Cell is one detector in one scenario. Intervals are 95 % intervals; medians
// are over all runs and null when fewer than half were stopped.
type Cell struct {
	Scenario string `json:"scenario"`
	Kind     Kind   `json:"kind"`
	// Unseen scenarios played no part in choosing the defaults.
	Unseen   bool   `json:"not_used_for_tuning"`
	Detector string `json:"detector"`
	// Setting is empty for the documented default.
	Setting string `json:"setting,omitempty"`
	Runs    int    `json:"runs"`

	Rollbacks    int     `json:"rollbacks"`
	RollbackRate float64 `json:"rollback_rate"`
	RollbackLow  float64 `json:"rollback_rate_low"`
	RollbackHigh float64 `json:"rollback_rate_high"`

	Detection *Median `json:"detection_s"`
	Failed    *Median `json:"failed_requests"`

	Passes   int     `json:"passes"`
	PassRate float64 `json:"pass_rate"`
	PassLow  float64 `json:"pass_rate_low"`
	PassHigh float64 `json:"pass_rate_high"`
	Pass     *Median `json:"pass_s"`
}

// Median is a median with its 95 % interval.
type Median struct {
	Value float64 `json:"median"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Goal is a figure that this project set itself. Measured is its one-sided 95 %
// confidence bound (for medians, that of the 95 % interval), and Met is judged
// on it.
type Goal struct {
	Name     string  `json:"name"`
	Target   string  `json:"target"`
	Measured float64 `json:"measured"`
	Met      bool    `json:"met"`
}

func newCell(s *Scenario, detector, setting string, results []one) Cell {
	c := Cell{Scenario: s.Name, Kind: s.Kind, Unseen: s.Unseen, Detector: detector, Setting: setting, Runs: len(results)}
	var detected, failed, passed []float64
	for _, r := range results {
		if r.failedAt >= 0 {
			c.Rollbacks++
		}
		if r.passedAt >= 0 {
			c.Passes++
		}
		detected = append(detected, orNever(r.failedAt, s.Onset))
		passed = append(passed, orNever(r.passedAt, 0))
		failed = append(failed, float64(r.failedRequests))
	}
	n := max(1, len(results))
	c.RollbackRate, c.PassRate = float64(c.Rollbacks)/float64(n), float64(c.Passes)/float64(n)
	c.RollbackLow, c.RollbackHigh = clopperPearson(c.Rollbacks, len(results), 0.025)
	c.PassLow, c.PassHigh = clopperPearson(c.Passes, len(results), 0.025)
	if s.Kind == Bad {
		c.Detection = medianOf(detected)
		c.Failed = medianOf(failed)
	}
	c.Pass = medianOf(passed)
	return c
}

func orNever(at, onset float64) float64 {
	if at < 0 {
		return undetected
	}
	return at - onset
}

func medianOf(values []float64) *Median {
	mid, lo, hi := median(values)
	if math.IsInf(mid, 1) {
		return nil
	}
	if math.IsInf(hi, 1) {
		hi = -1
	}
	return &Median{mid, lo, hi}
}

// oneSided is the tail of the bound on which goals are judged.
const oneSided = 0.05

// notMore is the target of a rate that is compared with another one.
const notMore = "not more"

// goals judges the product's cells. Without a cell there is no goal.
func goals(cells []Cell) []Goal {
	var list []Goal
	find := func(scenario, setting string) *Cell {
		for i := range cells {
			if c := &cells[i]; c.Detector == Product && c.Scenario == scenario && c.Setting == setting {
				return c
			}
		}
		return nil
	}
	worst := func(name, target string, limit float64, of func(Cell) (float64, bool)) {
		measured, found := 0.0, false
		for _, c := range cells {
			if x, ok := of(c); ok && c.Detector == Product {
				measured, found = max(measured, x), true
			}
		}
		if found {
			list = append(list, Goal{name, target, measured, measured <= limit})
		}
	}
	upTo := func(name, scenario, setting, target string, limit float64, of func(*Cell) *Median) {
		c := find(scenario, setting)
		if c == nil {
			return
		}
		m := of(c)
		if m == nil || m.High < 0 {
			list = append(list, Goal{name, target, -1, false})
			return
		}
		list = append(list, Goal{name, target, m.High, m.High <= limit})
	}
	detection := func(c *Cell) *Median { return c.Detection }
	failed := func(c *Cell) *Median { return c.Failed }

	rollbacks := func(k Kind) func(Cell) (float64, bool) {
		return func(c Cell) (float64, bool) {
			_, hi := clopperPearson(c.Rollbacks, c.Runs, oneSided)
			return hi, c.Kind == k && !strings.HasPrefix(c.Setting, looking)
		}
	}
	worst("clean false rollbacks, every cell", "≤ 0.1 %", 0.001, rollbacks(Clean))
	worst("stress false rollbacks, every cell", "≤ 0.5 %", 0.005, rollbacks(Stress))
	worst("false passes at twice the errors", "≤ 5 %", 0.05, func(c Cell) (float64, bool) {
		_, hi := clopperPearson(c.Passes, c.Runs, oneSided)
		return hi, c.Kind == Limit
	})
	upTo("100 % errors: seconds", "100 % errors", "", "≤ 20", 20, detection)
	upTo("100 % errors: failed requests", "100 % errors", "", "≤ 60", 60, failed)
	upTo("100 % errors, looking every 1 s: seconds (stretch)", "100 % errors", looking+"1 s", "≤ 10", 10, detection)
	upTo("100 % errors, looking every 1 s: failed requests (stretch)", "100 % errors", looking+"1 s", "≤ 30", 30, failed)
	upTo("errors ×10: seconds", "errors ×10", "", "≤ 30", 30, detection)
	upTo("errors ×4: seconds", "errors ×4", "", "≤ 75", 75, detection)
	if c := find("errors ×2", ""); c != nil {
		power, _ := clopperPearson(c.Rollbacks, c.Runs, oneSided)
		list = append(list, Goal{"errors ×2: power in 10 minutes", "≥ 95 %", power, power >= 0.95})
	}
	upTo("latency +20 %: seconds", "latency +20 %", "", "≤ 60", 60, detection)
	often, seldom := find("200 rps", looking+"1 s"), find("200 rps", looking+"10 s")
	if often != nil && seldom != nil {
		// The rates differ when their intervals do not touch.
		list = append(list, Goal{"looking every 1 s instead of 10 s: false rollbacks", notMore, often.RollbackRate, often.RollbackLow <= seldom.RollbackHigh})
	}
	return list
}

// WriteJSON writes the report as JSON.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (c Cell) label() string {
	if c.Setting == "" {
		return c.Detector
	}
	return fmt.Sprintf("%s, %s", c.Detector, c.Setting)
}
