package instrument

import (
	"net/http"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
)

// exportTimeout bounds one try to send a batch.
const exportTimeout = 10 * time.Second

// patience is how a batch of spans or log records is sent again. A batch
// processor gives up 30 s after its first try.
var patience = otlptracehttp.RetryConfig{
	Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: time.Minute,
}

// patient has a batch sent again that found nobody listening, as while the
// receiver restarts: OpenTelemetry's exporters would drop it, and a record of
// the audit log with it. Receivers know a record that comes twice.
type patient struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		err = unreachable{err}
	}
	return resp, err
}

// unreachable is an error that passes.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

// Temporary is what the exporters ask.
func (unreachable) Temporary() bool { return true }
