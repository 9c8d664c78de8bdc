// Package bench measures canary detectors against each other on simulated
// traffic: how often a good candidate is rolled back, how soon a bad one is
// stopped and how many user requests fail until then.
//
// It owns the simulator, the scenarios and the rivals' rules. It never judges
// a real canary. A run depends on its seed alone, not on how many run at once.
package bench

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

// Options of a benchmark.
type Options struct {
	// Quick uses fewer runs and leaves out the longest scenarios: about half a
	// minute on two cores.
	Quick bool
	// Seed of all random numbers.
	Seed uint64
	// Config of the judge; nil is the default.
	Config *canary.Config
	// Runs per scenario. Zero is the default: 10,000 with equal arms and 2,000
	// with a worse candidate; quick 3,000 (1,500 under stress) and 800. Rivals
	// get a fifth, quick an eightieth.
	Runs int
	// Only limits the scenarios by name; empty is all. Goals need all.
	Only []string
	// NoRivals leaves the rivals out.
	NoRivals bool
}

// tickSeconds is the distance of two ticks; lookSeconds are those compared to
// show that looking more often does not cost false alarms.
const tickSeconds = 2

var lookSeconds = []float64{1, 10}

// looking begins the label of a cell with another distance of ticks.
const looking = "looking every "

// Product is the name of this project's detector in a report.
const Product = "headgate"

// one is the end of one simulated canary.
type one struct {
	failedAt, passedAt float64 // seconds, −1 for never
	failedRequests     int64
}

// Run simulates every scenario for every detector.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Config == nil {
		cfg := canary.DefaultConfig()
		o.Config = &cfg
	}
	report := Report{Seed: o.Seed, Quick: o.Quick}
	rivals := newTally()
	for _, s := range Scenarios() {
		if !o.wants(s.Name) || o.Quick && s.Long && len(o.Only) == 0 {
			continue
		}
		cells, err := runScenario(ctx, o, &s, rivals)
		if err != nil {
			return Report{}, err
		}
		report.Cells = append(report.Cells, cells...)
	}
	if !o.NoRivals {
		report.Cells = append(report.Cells, rivals.cells()...)
	}
	report.Goals = goals(report.Cells)
	return report, nil
}

func (o Options) wants(name string) bool {
	for _, only := range o.Only {
		if only == name {
			return true
		}
	}
	return len(o.Only) == 0
}

func (o Options) runs(k Kind) int {
	switch {
	case o.Runs > 0:
		return o.Runs
	case o.Quick && k == Clean:
		return 3000
	case o.Quick && k == Stress:
		return 1500
	case o.Quick:
		return 800
	case k == Clean || k == Stress:
		return 10000
	}
	return 2000
}

func runScenario(ctx context.Context, o Options, s *Scenario, rivals *tally) ([]Cell, error) {
	runs := o.runs(s.Kind)
	product, err := runProduct(ctx, o, s, tickSeconds, runs)
	if err != nil {
		return nil, err
	}
	cells := []Cell{newCell(s, Product, "", product)}
	looks, part := 2, 5
	if o.Quick {
		looks, part = 8, 80
	}
	if s.Name == "200 rps" || s.Name == "clustered errors" {
		for _, look := range lookSeconds {
			results, err := runProduct(ctx, o, s, look, max(1, runs/looks))
			if err != nil {
				return nil, err
			}
			cells = append(cells, newCell(s, Product, looking+number(look)+" s", results))
		}
	}
	if s.Name == "100 % errors" {
		results, err := runProduct(ctx, o, s, 1, runs)
		if err != nil {
			return nil, err
		}
		cells = append(cells, newCell(s, Product, looking+"1 s", results))
	}
	if o.NoRivals || s.Kind == Limit || s.Kind == Good {
		return cells, nil
	}
	return cells, rivals.run(ctx, o, s, max(1, runs/part))
}

// runProduct simulates runs in which the judge controls the share.
func runProduct(ctx context.Context, o Options, s *Scenario, tick float64, runs int) ([]one, error) {
	results := make([]one, runs)
	err := parallel(ctx, runs, func(run int) error {
		cfg := *o.Config
		cfg.TickSeconds = tick
		cfg.MinDurationSeconds = s.Seconds
		if s.Kind == Limit || s.Kind == Good {
			cfg.MinDurationSeconds = 0
		}
		w := newWorld(s, tick, o.Seed, uint64(run))
		d, err := newHeadgate(cfg, s, rand.New(rand.NewPCG(o.Seed+1, uint64(run))))
		if err != nil {
			return err
		}
		results[run] = watch(w, d, s)
		return nil
	})
	return results, err
}

// watch runs one canary to its end.
func watch(w *world, d Detector, s *Scenario) one {
	end := one{failedAt: -1, passedAt: -1}
	for limit := 1.0; w.now < s.Seconds-1e-9; {
		outcome := d.Observe(w.step(limit))
		limit = outcome.Share
		switch outcome.Verdict {
		case headgate.Fail:
			end.failedAt = w.now
			end.failedRequests = w.failed
			return end
		case headgate.Pass:
			end.passedAt = w.now
			if s.Kind == Limit || s.Kind == Good {
				return end
			}
		}
	}
	end.failedRequests = w.failed
	return end
}

// parallel calls f for 0 to n−1 on all cores.
func parallel(ctx context.Context, n int, f func(int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for worker := range errs {
		wg.Go(func() {
			for errs[worker] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[worker] = ctx.Err(); errs[worker] == nil {
					errs[worker] = f(i)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// tally keeps the results of every rival at every setting.
type tally struct {
	families  []family
	scenarios []*Scenario
	results   map[*Scenario][][][]one // family, setting, run
}

func newTally() *tally { return &tally{families: families(), results: map[*Scenario][][][]one{}} }

// run simulates canaries that all rivals watch at once: none of them changes
// the share.
func (t *tally) run(ctx context.Context, o Options, s *Scenario, runs int) error {
	kept := *s
	results := make([][][]one, len(t.families))
	for i, f := range t.families {
		results[i] = make([][]one, len(f.settings))
		for k := range f.settings {
			results[i][k] = make([]one, runs)
		}
	}
	t.scenarios = append(t.scenarios, &kept)
	t.results[&kept] = results
	return parallel(ctx, runs, func(run int) error {
		w := newWorld(s, tickSeconds, o.Seed, uint64(run))
		detectors := make([][]Detector, len(t.families))
		for i, f := range t.families {
			for k, setting := range f.settings {
				detectors[i] = append(detectors[i], setting.make())
				results[i][k][run] = one{failedAt: -1, passedAt: -1}
			}
		}
		for w.now < s.Seconds-1e-9 {
			tick := w.step(1)
			for i := range detectors {
				for k, d := range detectors[i] {
					end := &results[i][k][run]
					if end.failedAt >= 0 {
						continue
					}
					end.failedRequests = w.failed
					if d.Observe(tick).Verdict == headgate.Fail {
						end.failedAt = w.now
					}
				}
			}
		}
		return nil
	})
}

// tunedRate is the false-rollback rate to which rivals are tuned.
const tunedRate = 0.005

// cells reports each rival at its default and, where that rolls back too many
// good candidates, at its mildest setting that does not.
func (t *tally) cells() []Cell {
	var cells []Cell
	for i, f := range t.families {
		tuned := t.tune(i)
		for _, s := range t.scenarios {
			cells = append(cells, newCell(s, f.name, "", t.results[s][i][0]))
			if tuned > 0 {
				cells = append(cells, newCell(s, f.name, "tuned to "+f.settings[tuned].label, t.results[s][i][tuned]))
			}
		}
	}
	return cells
}

// tune returns the mildest setting whose worst false-rollback rate on the
// scenarios seen is low enough, or the strictest.
func (t *tally) tune(family int) int {
	last := len(t.families[family].settings) - 1
	for k := range last {
		worst := 0.0
		for _, s := range t.scenarios {
			if (s.Kind == Clean || s.Kind == Stress) && !s.Unseen {
				c := newCell(s, "", "", t.results[s][family][k])
				worst = max(worst, c.RollbackRate)
			}
		}
		if worst <= tunedRate {
			return k
		}
	}
	return last
}

// undetected stands for a canary that was never stopped when medians are taken.
var undetected = math.Inf(1)
