package metrics

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

const (
	maxAhead      = 10 * time.Minute
	maxStartAge   = time.Hour              // a start beyond it would only stretch the head
	twoExports    = 500 * time.Millisecond // parts of one export lie closer together
	maxNameBytes  = 200
	maxValueBytes = 1024
)

// promoted are the resource attributes that every series carries as labels.
var promoted = prometheusremotewrite.NewPromoteResourceAttributes(config.OTLPConfig{
	PromoteResourceAttributes: []string{
		"service.name", "service.version", "deployment.environment.name", telemetry.AttrTenant,
	},
})

// intake turns OTLP into samples. What it remembers of who sends is shared by
// all batches.
type intake struct {
	previous exports
	families families
	now      func() time.Time
	// from is when the intake began to know which series there are, in
	// milliseconds; zero when it knows those from before too.
	from int64
}

// converters translate one batch each at a time.
var converters = sync.Pool{New: func() any { return prometheusremotewrite.NewPrometheusConverter(nil) }}

// AppendMetrics stores a batch; see [telemetry.MetricSink]. Delta temporality,
// points that are too old or too far ahead, points of another tenant and
// series beyond the tenant's limit are refused by count. md may be modified.
func (s *Store) AppendMetrics(ctx context.Context, tenant string, md pmetric.Metrics) (telemetry.Rejected, error) {
	rejected, err := s.append(ctx, s.db.AppenderV2(ctx), tenant, md)
	if err != nil {
		return telemetry.Rejected{}, commitError(err)
	}
	return rejected, nil
}

// append writes a batch through one transaction of inner. An error means that
// nothing of it was stored.
func (in *intake) append(ctx context.Context, inner storage.AppenderV2, tenant string, md pmetric.Metrics) (telemetry.Rejected, error) {
	rejected := refuse(md)
	app := &appender{
		AppenderV2: inner,
		intake:     in,
		tenant:     tenant,
		maxTime:    in.now().Add(maxAhead).UnixMilli(),
		exported:   make(map[exporter]int64),
	}
	app.refs, _ = inner.(storage.GetRef)

	settings := prometheusremotewrite.Settings{
		AddMetricSuffixes:               true,
		DisableTargetInfo:               true,
		PromoteResourceAttributes:       promoted,
		LabelNameUnderscoreSanitization: true,
	}
	if tenant != "" {
		settings.ExternalLabels = map[string]string{telemetry.AttrTenant: tenant}
	}
	converter := converters.Get().(*prometheusremotewrite.PrometheusConverter)
	converter.Reset(app)
	_, err := converter.FromMetrics(ctx, md, settings)
	defer func() {
		converter.Reset(nil)
		converters.Put(converter)
	}()
	if ctx.Err() != nil {
		return telemetry.Rejected{}, errors.Join(ctx.Err(), inner.Rollback())
	}
	if err != nil {
		app.reject(1, "the metric cannot be translated to Prometheus: "+err.Error())
	}
	if err := inner.Commit(); err != nil {
		return telemetry.Rejected{}, err
	}
	in.previous.record(app.exported)
	rejected.Add(app.rejected)
	if w, ok := inner.(*writing); ok {
		rejected.Add(w.rejected)
	}
	return rejected, nil
}

func commitError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient,
			"the disk of the metric store is full; free space or lower HEADGATE_TELEMETRY_DAYS or HEADGATE_TELEMETRY_MB").Wrap(err)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the metric store could not write the batch; send it again").Wrap(err)
}

// appender stands between the converter and the TSDB's appender. It refuses
// points one by one where the converter would give up on a whole metric, and
// starts new counters at zero.
type appender struct {
	storage.AppenderV2
	refs     storage.GetRef
	intake   *intake
	tenant   string
	maxTime  int64
	exported map[exporter]int64
	rejected telemetry.Rejected
}

func (a *appender) reject(n int64, reason string) {
	a.rejected.Add(telemetry.Rejected{Count: n, Reason: reason})
}

// Append implements storage.AppenderV2. It never fails: a refusal is counted
// instead.
func (a *appender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) {
	points := pointsOf(ls, h != nil || fh != nil, opts)
	if a.tenant != "" && ls.Get(telemetry.AttrTenant) != a.tenant {
		a.reject(points, "a point carries the tenant_id of another tenant than the credential's")
		return 0, nil
	}
	if t > a.maxTime {
		a.reject(points, "a point is more than 10 minutes ahead of the server's clock; check the sender's clock")
		return 0, nil
	}
	var ref storage.SeriesRef
	if a.refs != nil {
		ref, _ = a.refs.GetRef(ls, ls.Hash())
	}
	if ref == 0 {
		if reason := malformed(ls); reason != "" {
			a.reject(points, reason)
			return 0, nil
		}
		a.startAtZero(ls, st, t, v, h != nil || fh != nil, opts)
	}
	a.note(ls, t)
	ref, err := a.AppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
	if err != nil {
		a.reject(points, refusal(err))
		return 0, nil
	}
	a.intake.families.record(ls.Get(telemetry.AttrTenant), opts.MetricFamilyName, opts.Metadata)
	return ref, nil
}

// pointsOf is how many OTLP points a sample stands for: a classic histogram or
// summary is many samples but one point, which is counted at its _count series.
func pointsOf(ls labels.Labels, native bool, opts storage.AOptions) int64 {
	if native || !classic(opts.Metadata.Type) || strings.HasSuffix(ls.Get(model.MetricNameLabel), "_count") {
		return 1
	}
	return 0
}

func classic(t model.MetricType) bool {
	return t == model.MetricTypeHistogram || t == model.MetricTypeSummary
}

// startAtZero gives a counter that is first seen with a value its beginning:
// it was zero when its exporter last exported, or when it was created.
// Without that, rate and increase would miss everything before the second
// export, which for a short-lived candidate can be its only error.
func (a *appender) startAtZero(ls labels.Labels, st, t int64, v float64, native bool, opts storage.AOptions) {
	counter := opts.Metadata.Type == model.MetricTypeCounter || classic(opts.Metadata.Type)
	if native || !counter || value.IsStaleNaN(v) || ls.Has("quantile") {
		return
	}
	zero := a.intake.begin(exporterOf(ls), st)
	if zero == 0 {
		return
	}
	zero = min(zero, t-1) // an export within the same millisecond
	if t-zero <= maxStartAge.Milliseconds() {
		// Best effort: the point itself decides whether the series is accepted.
		_, _ = a.AppenderV2.Append(0, ls, 0, zero, 0, nil, nil, opts)
	}
}

// begin is when a series that is seen for the first time began, 0 when that
// cannot be told: what was created before the intake knew the series, by an
// exporter of which it has not seen two exports without the series, may be an
// old one.
func (in *intake) begin(x exporter, created int64) int64 {
	first, latest := in.previous.of(x)
	if created < in.from {
		created = 0
	}
	if in.from > 0 && latest-first < twoExports.Milliseconds() {
		latest = 0
	}
	return max(created, latest)
}

func (a *appender) note(ls labels.Labels, t int64) {
	e := exporterOf(ls)
	a.exported[e] = max(a.exported[e], t)
}

// malformed checks a new series' labels against the limits.
func malformed(ls labels.Labels) (reason string) {
	ls.Range(func(l labels.Label) {
		switch {
		case len(l.Name) > maxNameBytes:
			reason = fmt.Sprintf("an attribute's name is longer than %d bytes", maxNameBytes)
		case len(l.Value) > maxValueBytes:
			reason = fmt.Sprintf("attribute %q has a value longer than %d bytes", l.Name, maxValueBytes)
		case !utf8.ValidString(l.Value):
			reason = fmt.Sprintf("attribute %q is not UTF-8", l.Name)
		}
	})
	return reason
}

func refusal(err error) string {
	switch {
	case errors.Is(err, errTooManySeries), errors.Is(err, errFull):
		return err.Error()
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		return "a point repeats a time stamp with another value"
	case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrTooOldSample):
		return "a point is older than the store accepts; check the sender's clock and export interval"
	}
	return "a point cannot be stored: " + err.Error()
}
