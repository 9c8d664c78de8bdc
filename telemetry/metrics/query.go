package metrics

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/headgate/headgate"
)

// maxSteps is Prometheus's own bound on the points of a range query.
const maxSteps = 11_000

// Sample is one series' value at one instant.
type Sample struct {
	Labels map[string]string
	Time   time.Time
	Value  float64
}

// Point is one value of a series.
type Point struct {
	Time  time.Time
	Value float64
}

// Series is a labelled line of points in order of time.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Instant evaluates a PromQL query at one time. A query that does not parse is
// REQ_VALIDATION_FAILED, one that runs into a limit is UNAVAILABLE.
func (s *Store) Instant(ctx context.Context, query string, at time.Time) ([]Sample, error) {
	var out []Sample
	err := s.instant(ctx, query, at, func(v parser.Value) error {
		switch v := v.(type) {
		case promql.Scalar:
			out = []Sample{{Labels: map[string]string{}, Time: time.UnixMilli(v.T).UTC(), Value: v.V}}
		case promql.Vector:
			out = make([]Sample, 0, len(v))
			for _, x := range v {
				if x.H != nil {
					return errNativeHistogram
				}
				out = append(out, Sample{Labels: x.Metric.Map(), Time: time.UnixMilli(x.T).UTC(), Value: x.F})
			}
		default:
			return headgate.Invalidf("the query returns a %s; an instant query must return numbers", v.Type())
		}
		return nil
	})
	return out, err
}

// Each hands every series of an instant query's answer to use.
func (s *Store) Each(ctx context.Context, query string, at time.Time, use func(labels map[string]string, v float64)) error {
	samples, err := s.Instant(ctx, query, at)
	each(samples, use)
	return err
}

func each(samples []Sample, use func(labels map[string]string, v float64)) {
	for _, x := range samples {
		use(x.Labels, x.Value)
	}
}

var errNativeHistogram = headgate.Invalidf("the query returns native histograms; reduce them with histogram_quantile or histogram_count")

// instant hands the result to use, which must not keep it.
func (s *Store) instant(ctx context.Context, query string, at time.Time, use func(parser.Value) error) error {
	q, err := s.engine.NewInstantQuery(ctx, s.db, nil, query, at)
	if err != nil {
		return queryError(err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return queryError(res.Err)
	}
	return use(res.Value)
}

// Number evaluates a query whose answer is at most one value. ok is false
// when there is no data; NaN is returned as it is. More than one series is
// REQ_VALIDATION_FAILED.
func (s *Store) Number(ctx context.Context, query string, at time.Time) (v float64, ok bool, err error) {
	return number(s.Instant(ctx, query, at))
}

func number(samples []Sample, err error) (v float64, ok bool, _ error) {
	if err != nil {
		return math.NaN(), false, err
	}
	switch len(samples) {
	case 0:
		return 0, false, nil
	case 1:
		return samples[0].Value, true, nil
	}
	return math.NaN(), false, headgate.Invalidf("the query returns %d series where one number is needed; aggregate it", len(samples))
}

// Range evaluates a PromQL query at every step from start to end, both
// inclusive, at most 11 000 steps.
func (s *Store) Range(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]Series, error) {
	var out []Series
	err := s.ranged(ctx, query, start, end, step, func(m promql.Matrix) error {
		out = make([]Series, 0, len(m))
		for _, line := range m {
			if len(line.Histograms) > 0 {
				return errNativeHistogram
			}
			points := make([]Point, 0, len(line.Floats))
			for _, p := range line.Floats {
				points = append(points, Point{Time: time.UnixMilli(p.T).UTC(), Value: p.F})
			}
			out = append(out, Series{Labels: line.Metric.Map(), Points: points})
		}
		return nil
	})
	return out, err
}

// ranged hands the result to use, which must not keep it.
func (s *Store) ranged(ctx context.Context, query string, start, end time.Time, step time.Duration, use func(promql.Matrix) error) error {
	if err := checkRange(start, end, step); err != nil {
		return err
	}
	q, err := s.engine.NewRangeQuery(ctx, s.db, nil, query, start, end, step)
	if err != nil {
		return queryError(err)
	}
	defer q.Close()
	m, err := q.Exec(ctx).Matrix()
	if err != nil {
		return queryError(err)
	}
	return use(m)
}

// Times returns the steps from start to end at which a query has an answer, in
// order.
func (s *Store) Times(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]time.Time, error) {
	return times(s.Range(ctx, query, start, end, step))
}

func times(lines []Series, err error) ([]time.Time, error) {
	var out []time.Time
	for _, line := range lines {
		for _, p := range line.Points {
			out = append(out, p.Time)
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return slices.CompactFunc(out, time.Time.Equal), err
}

func checkRange(start, end time.Time, step time.Duration) error {
	switch {
	case step < time.Millisecond:
		return headgate.Invalidf("step must be at least 1ms")
	case end.Before(start):
		return headgate.Invalidf("end must not be before start")
	case end.Sub(start)/step >= maxSteps:
		return headgate.Invalidf("the range has more than %d steps; use a longer step", maxSteps)
	}
	return nil
}

func queryError(err error) error {
	var timeout promql.ErrQueryTimeout
	var canceled promql.ErrQueryCanceled
	var tooMany promql.ErrTooManySamples
	var damaged promql.ErrStorage
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout), errors.As(err, &canceled):
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the query did not finish in time; narrow its range or its selectors").Wrap(err)
	case errors.As(err, &tooMany):
		return headgate.Invalidf("the query loads too many samples; narrow its range or its selectors").Wrap(err)
	case errors.As(err, &damaged):
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"the metric store could not read its files; the server's log has the cause").Wrap(err)
	}
	return headgate.Invalidf("the query cannot be evaluated: %v", err)
}
