package canary_test

import (
	"fmt"
	"strings"

	"github.com/headgate/headgate/canary"
)

// A tick log from anywhere can be judged.
func ExampleReplay() {
	log := `{"time":"2026-01-01T00:00:02Z","strata":[{"stable":{"requests":360,"errors":2},"candidate":{"requests":40,"errors":0}}]}
{"time":"2026-01-01T00:00:04Z","strata":[{"stable":{"requests":355,"errors":1},"candidate":{"requests":41,"errors":41}}]}
`
	for decision, err := range canary.Replay(strings.NewReader(log), canary.DefaultConfig()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(decision.Verdict, decision.Action, decision.Reasons)
	}
	// Output:
	// insufficient hold [CANARY_NEEDS_MORE_DATA]
	// insufficient throttle [CANARY_THROTTLED]
}
