package metrics

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/headgate/headgate"
)

// Remote asks any server that speaks Prometheus's query API. It answers as
// [Store] does.
type Remote struct {
	api     promv1.API
	timeout time.Duration
}

// NewRemote returns a client of the server at the base URL, which has
// /api/v1/query below it. A nil transport is Go's default; authentication is
// the transport's business. A query takes at most the timeout, 0 meaning 30 s.
func NewRemote(url string, transport http.RoundTripper, timeout time.Duration) (*Remote, error) {
	client, err := api.NewClient(api.Config{Address: url, RoundTripper: transport})
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the metric server's address %q is not a URL: %w", url, err)
	}
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	return &Remote{api: promv1.NewAPI(client), timeout: timeout}, nil
}

// Instant is [Store.Instant].
func (r *Remote) Instant(ctx context.Context, query string, at time.Time) ([]Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	value, _, _, err := r.api.Query(ctx, query, at)
	if err != nil {
		return nil, remoteError(err)
	}
	switch v := value.(type) {
	case *model.Scalar:
		return []Sample{{Labels: map[string]string{}, Time: v.Timestamp.Time().UTC(), Value: float64(v.Value)}}, nil
	case model.Vector:
		out := make([]Sample, 0, len(v))
		for _, x := range v {
			if x.Histogram != nil {
				return nil, errNativeHistogram
			}
			out = append(out, Sample{Labels: metricLabels(x.Metric), Time: x.Timestamp.Time().UTC(), Value: float64(x.Value)})
		}
		return out, nil
	}
	return nil, headgate.Invalidf("the query returns a %s; an instant query must return numbers", value.Type())
}

// Number is [Store.Number].
func (r *Remote) Number(ctx context.Context, query string, at time.Time) (v float64, ok bool, err error) {
	return number(r.Instant(ctx, query, at))
}

// Range is [Store.Range].
func (r *Remote) Range(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]Series, error) {
	if err := checkRange(start, end, step); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	value, _, _, err := r.api.QueryRange(ctx, query, promv1.Range{Start: start, End: end, Step: step})
	if err != nil {
		return nil, remoteError(err)
	}
	m, ok := value.(model.Matrix)
	if !ok {
		return nil, headgate.Invalidf("the query returns a %s; a range query must return series", value.Type())
	}
	out := make([]Series, 0, len(m))
	for _, line := range m {
		if len(line.Histograms) > 0 {
			return nil, errNativeHistogram
		}
		points := make([]Point, 0, len(line.Values))
		for _, p := range line.Values {
			points = append(points, Point{Time: p.Timestamp.Time().UTC(), Value: float64(p.Value)})
		}
		out = append(out, Series{Labels: metricLabels(line.Metric), Points: points})
	}
	return out, nil
}

func metricLabels(m model.Metric) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[string(k)] = string(v)
	}
	return out
}

func remoteError(err error) error {
	var e *promv1.Error
	if errors.As(err, &e) && (e.Type == promv1.ErrBadData || e.Type == promv1.ErrExec) {
		return headgate.Invalidf("the query cannot be evaluated: %s", e.Msg)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the metric server does not answer; check its address and that it runs").Wrap(err)
}
