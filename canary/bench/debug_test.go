package bench

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/headgate/headgate/canary"
)

func TestDebug(t *testing.T) {
	name := os.Getenv("DBG")
	if name == "" {
		t.Skip()
	}
	shown := 0
	for _, s := range Scenarios() {
		if s.Name != name {
			continue
		}
		for run := range 600 {
			cfg := canary.DefaultConfig()
			cfg.MinDurationSeconds = s.Seconds
			w := newWorld(&s, 2, 7, uint64(run))
			d, _ := newHeadgate(cfg, &s, rand.New(rand.NewPCG(8, uint64(run))))
			j := d.(headgateDetector).judge
			var log []canary.Decision
			var ticks []canary.Tick
			limit := 1.0
			for w.now < s.Seconds {
				tk := w.step(limit)
				dec := j.Observe(tk)
				limit = dec.Share
				log, ticks = append(log, dec), append(ticks, tk)
				if dec.Verdict == "fail" {
					shown++
					t.Logf("run %d failed at %v: %s", run, w.now, dec.Reason)
					for i := max(0, len(log)-40); i < len(log); i++ {
						c := ticks[i].Strata[0]
						t.Logf("  %4.0f nc=%d ec=%d ns=%d es=%d  comb=%.3g err=%.3g alarm=%.3g lat=%.3g share=%.3g phi=%.3g", float64(i*2+2), c.Candidate.Requests, c.Candidate.Errors, c.Stable.Requests, c.Stable.Errors, log[i].Evidence.Combined, log[i].Evidence.Errors, log[i].Evidence.Alarm, log[i].Evidence.Latency, log[i].Share, log[i].Evidence.Tempering)
					}
					break
				}
			}
			if shown > 3 {
				return
			}
		}
	}
}
