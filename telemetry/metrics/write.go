package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/internal/backend"
)

// maxParts bounds the requests by which one batch looks for what the server
// does not take.
const maxParts = 64

// AppendMetrics is [Store.AppendMetrics]: it returns once the server has taken
// the batch, by Prometheus's remote write.
func (r *Remote) AppendMetrics(ctx context.Context, tenant string, md pmetric.Metrics) (telemetry.Rejected, error) {
	return r.append(ctx, remoteAppendable{r}.AppenderV2(ctx), tenant, md)
}

// remoteAppendable begins transactions.
type remoteAppendable struct{ *Remote }

// AppenderV2 implements [storage.AppendableV2].
func (r remoteAppendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &writing{remote: r.Remote, ctx: ctx, at: make(map[uint64]int)}
}

// writing collects samples and sends them when it is committed.
type writing struct {
	remote *Remote
	ctx    context.Context // of the transaction, which Commit belongs to
	series []outgoing
	at     map[uint64]int // where a series with this hash is
	added  []uint64       // series that were not known before
	parts  int
	// rejected is what the server refused for good.
	rejected telemetry.Rejected
}

// outgoing is a series and the number of OTLP points that it stands for.
type outgoing struct {
	prompb.TimeSeries
	points int64
}

// GetRef implements [storage.GetRef].
func (w *writing) GetRef(ls labels.Labels, hash uint64) (storage.SeriesRef, labels.Labels) {
	if w.remote.series.knows(hash, w.remote.now()) {
		return storage.SeriesRef(hash), ls
	}
	return 0, labels.EmptyLabels()
}

// Append implements [storage.AppenderV2].
func (w *writing) Append(ref storage.SeriesRef, ls labels.Labels, _, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) {
	hash := ls.Hash()
	if ref == 0 && !w.remote.series.knows(hash, w.remote.now()) {
		if err := w.remote.series.add(hash, ls, w.remote.now()); err != nil {
			return 0, err
		}
		w.added = append(w.added, hash)
	}
	i, ok := w.at[hash]
	if !ok {
		i = len(w.series)
		w.at[hash] = i
		w.series = append(w.series, outgoing{TimeSeries: prompb.TimeSeries{Labels: prompb.FromLabels(ls, nil)}})
	}
	line := &w.series[i]
	line.points += pointsOf(ls, h != nil || fh != nil, opts)
	switch {
	case h != nil:
		line.Histograms = append(line.Histograms, prompb.FromIntHistogram(t, h))
	case fh != nil:
		line.Histograms = append(line.Histograms, prompb.FromFloatHistogram(t, fh))
	default:
		line.Samples = append(line.Samples, prompb.Sample{Timestamp: t, Value: v})
	}
	return storage.SeriesRef(hash), nil
}

// Rollback implements [storage.AppenderTransaction].
func (w *writing) Rollback() error {
	w.remote.series.forget(w.added)
	return nil
}

// Commit implements [storage.AppenderTransaction].
func (w *writing) Commit() error {
	err := w.send(w.series)
	if err != nil {
		return errors.Join(err, w.Rollback())
	}
	return nil
}

// errRefused says that the server will never take a request as it is.
var errRefused = errors.New("refused")

// send writes the series. Some servers refuse all of a request for one sample
// in it, so that what is refused is looked for by halves. Samples that are sent
// twice on the way count once.
func (w *writing) send(series []outgoing) error {
	if len(series) == 0 {
		return nil
	}
	w.parts++
	reason, err := w.remote.post(w.ctx, series)
	if !errors.Is(err, errRefused) {
		return err
	}
	if len(series) == 1 || w.parts >= maxParts {
		for _, s := range series {
			w.rejected.Add(telemetry.Rejected{Count: s.points, Reason: "the metric server does not take a point: " + reason})
		}
		return nil
	}
	half := len(series) / 2
	if err := w.send(series[:half]); err != nil {
		return err
	}
	return w.send(series[half:])
}

// post sends one request. It returns the server's reason with errRefused.
func (r *Remote) post(ctx context.Context, series []outgoing) (reason string, err error) {
	var message prompb.WriteRequest
	for _, s := range series {
		message.Timeseries = append(message.Timeseries, s.TimeSeries)
	}
	text, err := message.Marshal()
	if err != nil {
		return "", fmt.Errorf("encode remote write: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base.JoinPath("/api/v1/write").String(), bytes.NewReader(snappy.Encode(nil, text)))
	if err != nil {
		return "", fmt.Errorf("remote write: %w", err)
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	resp, err := r.http.Do(req)
	if err != nil {
		return "", remoteError(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", remoteError(err)
	}
	advice := "send the batch again"
	switch status := resp.StatusCode; {
	case status/100 == 2:
		return "", nil
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity:
		return backend.Excerpt(said), errRefused
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		advice = "check the credential that is configured for it"
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		advice = "its address must be that of the API, and a Prometheus needs --web.enable-remote-write-receiver"
	}
	return "", headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the metric server at %s does not take remote writes (status %d); %s", r.base.Host, resp.StatusCode, advice)
}
