package proxy

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// metricBounds are indexes of the latency buckets that are shown as bounds of a
// histogram, from about a millisecond to about a minute.
func metricBounds() []int {
	var out []int
	bounds := canary.LatencyBuckets()
	for want := 0.001; want < 100; want *= 2 {
		i, _ := slices.BinarySearch(bounds, want)
		if i < len(bounds) {
			out = append(out, i)
		}
	}
	return out
}

// quoted escapes what a client may have sent for a label.
func quoted(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(value, "�"))
}

// writeMetrics writes counts in Prometheus' text form.
func writeMetrics(w io.Writer, c rollout.Counts) {
	out := bufio.NewWriter(w)
	defer func() { _ = out.Flush() }() // the reader went away
	each := func(name, kind, help string, write func(labels string, cell rollout.Cell)) {
		_, _ = fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for _, cell := range c.Cells {
			write(fmt.Sprintf(`arm="%s",tenant="%s",route="%s"`, cell.Arm, quoted(cell.Tenant), quoted(cell.Route)), cell)
		}
	}
	each("headgate_proxy_requests_total", "counter", "Requests of users.", func(labels string, cell rollout.Cell) {
		_, _ = fmt.Fprintf(out, "headgate_proxy_requests_total{%s} %d\n", labels, cell.Requests)
	})
	each("headgate_proxy_errors_total", "counter", "Requests that the service failed.", func(labels string, cell rollout.Cell) {
		_, _ = fmt.Fprintf(out, "headgate_proxy_errors_total{%s} %d\n", labels, cell.Errors)
	})
	bounds, shown := canary.LatencyBuckets(), metricBounds()
	each("headgate_proxy_request_duration_seconds", "histogram", "Time to the end of the answer.", func(labels string, cell rollout.Cell) {
		below, next := uint64(0), 0
		for _, i := range shown {
			for ; next <= i; next++ {
				below += cell.Latency[next]
			}
			_, _ = fmt.Fprintf(out, "headgate_proxy_request_duration_seconds_bucket{%s,le=\"%g\"} %d\n", labels, bounds[i], below)
		}
		_, _ = fmt.Fprintf(out, "headgate_proxy_request_duration_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, cell.Requests)
		_, _ = fmt.Fprintf(out, "headgate_proxy_request_duration_seconds_count{%s} %d\n", labels, cell.Requests)
	})
}
