package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/genai"
	"github.com/headgate/headgate/telemetry/loki"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/telemetry/tempo"
)

// metricStore keeps metrics and answers PromQL: in the data folder, or in a
// server of somebody else's.
type metricStore interface {
	telemetry.MetricSink
	control.Figures
	Handler(authorize func(*http.Request) (tenant string, err error)) http.Handler
	RunRules(text []byte, every time.Duration, logger *slog.Logger, notify func(metrics.Alert)) error
	Close() error
}

// openMetrics opens the metric store that the settings name.
func (s *Server) openMetrics() error {
	b := s.o.Settings.Metrics
	if b.URL == "" {
		store, err := metrics.Open(filepath.Join(s.o.Settings.DataDir, "metrics"), metrics.Options{
			Retention: s.retention(), MaxBytes: s.maxBytes(), Logger: s.o.Logger,
		})
		if err == nil {
			s.metrics = store
		}
		return err
	}
	transport, err := bearerOf(b)
	if err != nil {
		return err
	}
	remote, err := metrics.NewRemote(b.URL, transport, 0)
	if err == nil {
		s.metrics = remote
	}
	return err
}

// retention and maxBytes bound each of the two telemetry stores.
func (s *Server) retention() time.Duration {
	return time.Duration(s.o.Settings.TelemetryDays) * 24 * time.Hour
}

func (s *Server) maxBytes() int64 { return int64(s.o.Settings.TelemetryMB) << 20 }

// openFinders returns the own event store and, beside it, the servers in which
// requests are looked for too.
func (s *Server) openFinders() (telemetry.Finders, error) {
	found := telemetry.Finders{s.events}
	if b := s.o.Settings.Traces; b.URL != "" {
		transport, err := bearerOf(b)
		if err != nil {
			return nil, err
		}
		var f telemetry.Finder
		if b.API == "jaeger" {
			f, err = tempo.NewJaeger(b.URL, transport, 0)
		} else {
			f, err = tempo.New(b.URL, transport, 0)
		}
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	if b := s.o.Settings.Logs; b.URL != "" {
		transport, err := bearerOf(b)
		if err != nil {
			return nil, err
		}
		var f telemetry.Finder
		if b.API == "victorialogs" {
			f, err = loki.NewVictoriaLogs(b.URL, transport, 0)
		} else {
			f, err = loki.New(b.URL, "", transport, 0)
		}
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}

// loadDictionary reads the built-in definitions and the operator's own.
func (s *Server) loadDictionary() (*dictionary.Dictionary, error) {
	dir := s.o.Settings.Dictionary
	if dir == "" {
		return dictionary.Load(s.o.Settings.MetricsNamespace)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the folder of metric definitions cannot be read: %w", err)
	}
	return dictionary.Load(s.o.Settings.MetricsNamespace, os.DirFS(dir))
}

// tokenCounter counts the tokens of model calls and what they cost by the
// price table, if there is one.
func (s *Server) tokenCounter() (*genai.Counter, error) {
	var prices dictionary.Prices
	if path := s.o.Settings.Prices; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the price table cannot be read: %w", err)
		}
		if prices, err = dictionary.LoadPrices(text); err != nil {
			return nil, err
		}
	}
	return genai.New(s.dict, prices, rand.Text()[:8]), nil
}

// bearerOf is the transport to a server of somebody else's, with its token.
func bearerOf(b config.Backend) (http.RoundTripper, error) {
	if b.TokenFile == "" {
		return http.DefaultTransport, nil
	}
	token, err := config.SecretRef{File: b.TokenFile}.Read()
	return bearer{http.DefaultTransport, token}, err
}

// bearer sends a token with every request.
type bearer struct {
	http.RoundTripper
	token string
}

// RoundTrip implements [http.RoundTripper].
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// stories lets the control plane ask what happened: for one request wherever
// events are, for the errors of a version and its audit log in the own store.
type stories struct {
	telemetry.Finder
	own *events.Store
}

// ErrorsOf implements [control.Stories].
func (s stories) ErrorsOf(ctx context.Context, of dictionary.Scope, from, to time.Time) ([]telemetry.ErrorGroup, error) {
	return s.own.Errors(ctx, events.ErrorQuery{
		Service: of.Service, Version: of.Version, Environment: of.Environment, TenantID: of.Tenant, From: from, To: to,
	})
}

// EachNamed implements [control.Stories].
func (s stories) EachNamed(ctx context.Context, service string, names []string, from, to time.Time, use func(telemetry.Event)) error {
	return s.own.EachNamed(ctx, events.NamedQuery{Service: service, Names: names, From: from, To: to}, use)
}
