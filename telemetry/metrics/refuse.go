package metrics

import (
	"fmt"
	"math"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate/telemetry"
)

// refuse removes what the store cannot keep, by whole metrics, and points that
// no instrument can have counted. One value that is not a number would make
// every sum over its tenant none.
func refuse(md pmetric.Metrics) telemetry.Rejected {
	var rejected telemetry.Rejected
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool {
				n, reason := unsupported(m)
				rejected.Add(telemetry.Rejected{Count: int64(n), Reason: reason})
				if n == 0 {
					refusePoints(m, &rejected)
				}
				return n > 0
			})
		}
	}
	return rejected
}

func unsupported(m pmetric.Metric) (points int, reason string) {
	var temporality pmetric.AggregationTemporality
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		points, temporality = m.Gauge().DataPoints().Len(), pmetric.AggregationTemporalityCumulative
	case pmetric.MetricTypeSum:
		points, temporality = m.Sum().DataPoints().Len(), m.Sum().AggregationTemporality()
	case pmetric.MetricTypeHistogram:
		points, temporality = m.Histogram().DataPoints().Len(), m.Histogram().AggregationTemporality()
	case pmetric.MetricTypeExponentialHistogram:
		points, temporality = m.ExponentialHistogram().DataPoints().Len(), m.ExponentialHistogram().AggregationTemporality()
	case pmetric.MetricTypeSummary:
		points, temporality = m.Summary().DataPoints().Len(), pmetric.AggregationTemporalityCumulative
	default:
		return 1, fmt.Sprintf("metric %.*q has no data of a known type", maxNameBytes, m.Name())
	}
	switch {
	case m.Name() == "" || len(m.Name()) > maxNameBytes:
		return points, fmt.Sprintf("a metric's name must have 1 to %d bytes", maxNameBytes)
	case temporality == pmetric.AggregationTemporalityDelta:
		return points, fmt.Sprintf("metric %q has delta temporality; set OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative", m.Name())
	case temporality != pmetric.AggregationTemporalityCumulative:
		return points, fmt.Sprintf("metric %q has no aggregation temporality", m.Name())
	}
	return 0, ""
}

func refusePoints(m pmetric.Metric, rejected *telemetry.Rejected) {
	removed := func(reason string) bool {
		if reason != "" {
			rejected.Add(telemetry.Rejected{Count: 1, Reason: fmt.Sprintf("metric %q: %s", m.Name(), reason)})
		}
		return reason != ""
	}
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(func(p pmetric.NumberDataPoint) bool { return removed(impossible(p, false)) })
	case pmetric.MetricTypeSum:
		counter := m.Sum().IsMonotonic()
		m.Sum().DataPoints().RemoveIf(func(p pmetric.NumberDataPoint) bool { return removed(impossible(p, counter)) })
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(p pmetric.HistogramDataPoint) bool { return removed(impossibleHistogram(p)) })
	}
}

func impossible(p pmetric.NumberDataPoint, counter bool) (reason string) {
	v := float64(p.IntValue())
	if p.ValueType() == pmetric.NumberDataPointValueTypeDouble {
		v = p.DoubleValue()
	}
	switch {
	case p.Flags().NoRecordedValue():
		return ""
	case !finite(v):
		return "a value is not a finite number"
	case counter && v < 0:
		return "a counter is negative"
	}
	return ""
}

func impossibleHistogram(p pmetric.HistogramDataPoint) (reason string) {
	bounds, counts := p.ExplicitBounds(), p.BucketCounts()
	if p.Flags().NoRecordedValue() {
		return ""
	}
	if !finite(p.Sum()) {
		return "a sum is not a finite number"
	}
	if counts.Len() == 0 && bounds.Len() == 0 {
		return "" // without buckets
	}
	if counts.Len() != bounds.Len()+1 {
		return "a histogram does not have one bucket more than bounds"
	}
	last, total := math.Inf(-1), uint64(0)
	for _, b := range bounds.All() {
		if !(b > last) || math.IsInf(b, 1) { // a NaN, too
			return "a histogram's bounds are not rising numbers"
		}
		last = b
	}
	for _, n := range counts.All() {
		total += n
	}
	if total != p.Count() {
		return "a histogram's count is not that of its buckets"
	}
	return ""
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
