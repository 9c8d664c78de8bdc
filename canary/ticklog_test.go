package canary_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
)

var update = flag.Bool("update", false, "rewrite golden files")

// logOf is a canary of four minutes with everything in it: several tenants,
// latencies, costs, shards, a gap in the telemetry and a late regression.
func logOf(t *testing.T) []byte {
	t.Helper()
	tr := newTraffic(42, 60, .2, .004, .004)
	tr.change = func(tick *canary.Tick) {
		second := tr.elapsed().Seconds()
		if second > 60 && second <= 70 {
			*tick = canary.Tick{Time: tick.Time, Telemetry: canary.Missing}
			return
		}
		tick.Strata[0].Tenant = "north"
		south := canary.Stratum{Tenant: "south", Stable: tr.arm(6, .01), Candidate: tr.arm(1, .01)}
		if second > 150 {
			south.Candidate.Errors = south.Candidate.Requests
			tick.Strata[0].Candidate = tr.arm(12, .1)
		}
		tick.Strata = append(tick.Strata, south)
		for i := range tick.Strata {
			s := &tick.Strata[i]
			s.Stable.Latency = sampleLatency(tr.rng, s.Stable.Requests, 1)
			s.Candidate.Latency = sampleLatency(tr.rng, s.Candidate.Requests, 1.02)
			s.Stable.Costs = []float64{tr.rng.Float64(), tr.rng.Float64()}
			s.Candidate.Costs = []float64{tr.rng.Float64()}
			s.Shards = []canary.Shard{{Requests: s.Stable.Requests / 2}, {Requests: s.Stable.Requests / 2, Errors: s.Stable.Errors / 2}}
		}
		tick.ExpectedShare = .2
		if int(second)%30 == 0 {
			tick.Checks = []canary.Check{{Gate: headgate.GatePerformance, MetricCode: "API_P95_EXCEEDED", Breached: second == 90}}
		}
	}
	var log bytes.Buffer
	for tr.elapsed() < 4*time.Minute {
		if err := canary.WriteTick(&log, tr.next()); err != nil {
			t.Fatal(err)
		}
	}
	return log.Bytes()
}

func decisions(t *testing.T, log []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for d, err := range canary.Replay(bytes.NewReader(log), canary.DefaultConfig()) {
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(line, '\n'))
	}
	return out.Bytes()
}

// A float64 in JSON reads back as the same bits, so equal text is equal bits.
func TestReplayIsTheSameBitForBit(t *testing.T) {
	t.Parallel()
	logFile, wantFile := filepath.Join("testdata", "ticks.jsonl"), filepath.Join("testdata", "decisions.jsonl")
	if *update {
		log := logOf(t)
		for file, data := range map[string][]byte{logFile: log, wantFile: decisions(t, log)} {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	log, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(wantFile)
	if err != nil {
		t.Fatal(err)
	}
	got := decisions(t, log)
	gotLines, wantLines := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	if len(gotLines) != len(wantLines) {
		t.Fatalf("%d decisions, want %d", len(gotLines), len(wantLines))
	}
	for i := range wantLines {
		if !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Fatalf("decision %d differs\n got %s\nwant %s", i+1, gotLines[i], wantLines[i])
		}
	}
	for _, verdict := range []string{"insufficient", "broken", "fail"} {
		if !bytes.Contains(got, []byte(`"verdict":"`+verdict+`"`)) {
			t.Errorf("the golden log never shows %s", verdict)
		}
	}
}

func TestReplayAgreesWithObserve(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	j := newJudge(t, nil)
	tr := newTraffic(9, 100, .1, .01, .03)
	var live []canary.Decision
	for range 120 {
		tick := tr.next()
		if err := canary.WriteTick(&log, tick); err != nil {
			t.Fatal(err)
		}
		live = append(live, j.Observe(tick))
	}
	i := 0
	for d, err := range canary.Replay(&log, canary.DefaultConfig()) {
		if err != nil {
			t.Fatal(err)
		}
		if d.Verdict != live[i].Verdict || d.Evidence != live[i].Evidence || d.Reason != live[i].Reason {
			t.Fatalf("tick %d: replayed %+v, live %+v", i, d, live[i])
		}
		i++
	}
	if i != len(live) {
		t.Errorf("%d decisions replayed, %d live", i, len(live))
	}
}

func TestReplayNamesTheBadLine(t *testing.T) {
	t.Parallel()
	good := `{"time":"2026-01-01T00:00:02Z"}` + "\n"
	cases := map[string]string{
		"not JSON":        good + "\n" + "hello\n",
		"NaN":             good + "\n" + `{"time":"2026-01-01T00:00:04Z","expected_share":NaN}` + "\n",
		"wrong type":      good + "\n" + `{"time":"2026-01-01T00:00:04Z","strata":{}}` + "\n",
		"fractional":      good + "\n" + `{"time":"2026-01-01T00:00:04Z","strata":[{"stable":{"requests":1.5}}]}` + "\n",
		"not a time":      good + "\n" + `{"time":"noon"}` + "\n",
		"cut in the line": good + "\n" + `{"time":"2026-01-01T00:00:04Z","strata":[`,
	}
	for name, log := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			var last error
			for _, err := range canary.Replay(strings.NewReader(log), canary.DefaultConfig()) {
				if last = err; err == nil {
					n++
				}
			}
			var domain *headgate.Error
			if !errors.As(last, &domain) || domain.Code != headgate.CodeValidation || !strings.Contains(last.Error(), "line 3") {
				t.Errorf("error is %v; it must name line 3", last)
			}
			if n != 1 {
				t.Errorf("%d decisions before the error, want 1", n)
			}
		})
	}
}

func TestWriteTickRefusesWhatJSONCannotHold(t *testing.T) {
	t.Parallel()
	err := canary.WriteTick(&bytes.Buffer{}, canary.Tick{Time: start, ExpectedShare: math.NaN()})
	if err == nil {
		t.Fatal("NaN was written")
	}
}

// Whatever a log holds, replaying it neither panics nor makes figures that
// cannot be written down, and only valid verdicts come out.
func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-01T00:00:02Z","strata":[{"tenant":"a","stable":{"requests":90,"errors":1,"latency":[[10,50],[20,40]],"costs":[0.1,0.2]},"candidate":{"requests":10,"errors":10,"latency":[[30,10]],"costs":[5]},"stable_shards":[{"requests":40,"errors":0},{"requests":50,"errors":1}]}],"expected_share":0.1}`))
	f.Add([]byte(`{"time":"2026-01-01T00:00:02Z","telemetry":"missing"}` + "\n" + `{"time":"2025-01-01T00:00:02Z"}`))
	f.Add([]byte(`{"time":"9999-12-31T23:59:59Z","strata":[{"candidate":{"requests":1099511627776,"errors":1099511627776}}]}`))
	f.Add([]byte(`{"time":"2026-01-01T00:00:02Z","checks":[{"gate":"performance","metric_code":"X","breached":true}]}`))
	f.Fuzz(func(t *testing.T, log []byte) {
		for d, err := range canary.Replay(bytes.NewReader(log), canary.DefaultConfig()) {
			if err != nil {
				return
			}
			switch d.Verdict {
			case headgate.Pass, headgate.Fail, headgate.Insufficient, headgate.Broken:
			default:
				t.Fatalf("verdict %q", d.Verdict)
			}
			if !(d.Share >= 0 && d.Share <= 1) || d.Reason == "" || len(d.Reasons) == 0 {
				t.Fatalf("incomplete decision %+v", d)
			}
			if d.Time.Year() < 10000 {
				if _, err := json.Marshal(d); err != nil {
					t.Fatalf("%v: %+v", err, d)
				}
			}
		}
	})
}
