package report_test

import (
	"fmt"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/report"
)

func ExampleParse() {
	const vegeta = `{"latencies":{"95th":320000000},"requests":1200,"success":1,"status_codes":{"200":1200}}`
	facts, err := report.Parse("vegeta", strings.NewReader(vegeta), report.Options{Source: "load.json"})
	if err != nil {
		fmt.Println(err)
		return
	}
	in, err := report.Merge(headgate.GatePerformance, "staging", facts)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(in.Metrics["api_p95_s"], "from", *in.Origins["api_p95_s"].Samples, "requests")
	// Output: 0.32 from 1200 requests
}
