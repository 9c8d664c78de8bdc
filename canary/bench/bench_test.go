package bench

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestTry prints chosen cells: HEADGATE_BENCH_ONLY="a;b" HEADGATE_BENCH_RUNS=n.
func TestTry(t *testing.T) {
	only := os.Getenv("HEADGATE_BENCH_ONLY")
	if only == "" {
		t.Skip("set HEADGATE_BENCH_ONLY")
	}
	runs, _ := strconv.Atoi(os.Getenv("HEADGATE_BENCH_RUNS"))
	o := Options{Seed: 7, Quick: true, Runs: runs, NoRivals: os.Getenv("HEADGATE_BENCH_RIVALS") == ""}
	if only != "all" {
		o.Only = strings.Split(only, ";")
	}
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cells {
		t.Logf("%-24s %-7s %-44s n=%d rb=%.2f%% (%.2f-%.2f) det=%v failed=%v pass=%.1f%% %v", c.Scenario, c.Kind, c.label(), c.Runs, 100*c.RollbackRate, 100*c.RollbackLow, 100*c.RollbackHigh, c.Detection, c.Failed, 100*c.PassRate, c.Pass)
	}
	for _, g := range r.Goals {
		t.Logf("%+v", g)
	}
}
