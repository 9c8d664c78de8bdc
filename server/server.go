// Package server composes the control plane: it opens the stores, connects
// judges, actors and adapters, and owns every goroutine between Start and
// Stop.
//
// It decides nothing. What a part does is in the part's own package.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/api"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/incident"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/store/s3"
	"github.com/headgate/headgate/store/sqlite"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/otlp"
	"github.com/headgate/headgate/traffic/proxy"
	"github.com/headgate/headgate/vitals"
)

// stopTimeout bounds how long Stop waits for requests in flight.
const stopTimeout = 10 * time.Second

// Options configure a server.
type Options struct {
	Settings config.Settings
	// Services are under control from the start.
	Services []config.Service
	// Proxies are the admin addresses of proxies that run as processes of
	// their own; empty runs one in this process.
	Proxies []string
	// ProxyToken is the credential for Proxies.
	ProxyToken string
	// Development refuses every address but loopback, honours
	// x-internal-debug, and takes telemetry without a credential.
	Development bool
	// Forward makes the HTTP API answer what belongs to the service, through
	// the embedded proxy; for development.
	Forward bool
	// Version of this build.
	Version string
	Logger  *slog.Logger
}

// Server is a control plane that runs.
type Server struct {
	o       Options
	db      *sqlite.DB
	metrics metricStore
	finders telemetry.Finders
	events  *events.Store
	alerts  *incident.Notifier
	dict    *dictionary.Dictionary
	vitals  *vitals.Vitals
	signals *vitals.Signals
	otlp    *otlp.Receiver
	plane   *control.Plane
	engine  *pipeline.Engine
	proxy   *proxy.Proxy
	http    *http.Server
	// watchdogs take weights back from candidates whose lease is over.
	watchdogs []func(context.Context)

	rulesEvery time.Duration // instead of what the dictionary says; tests hurry

	addr      string
	proxyAddr string
	receiving bool // the OTLP receiver has started
	cancel    context.CancelFunc
	running   sync.WaitGroup
	failed    chan error
}

// New opens the data folder and composes the server. It listens on nothing
// yet. Close what New returned by Stop.
func New(ctx context.Context, o Options) (*Server, error) {
	s := &Server{o: o, failed: make(chan error, 8)}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) error {
	if s.o.Development {
		if err := onlyLoopback(s.o.Settings); err != nil {
			return err
		}
	}
	dir := s.o.Settings.DataDir
	var err error
	if s.signals, err = vitals.NewSignals(ctx, s.o.Settings.OTLPEndpoint, s.o.Version, s.o.Logger); err != nil {
		return err
	}
	s.o.Logger = s.signals.Logger(s.o.Logger)
	if s.db, err = sqlite.Open(ctx, dir); err != nil {
		return err
	}
	if err = s.openMetrics(); err != nil {
		return err
	}
	if s.events, err = events.Open(filepath.Join(dir, "events"), events.Options{
		Retention: s.retention(), MaxBytes: s.maxBytes(), Logger: s.o.Logger,
	}); err != nil {
		return err
	}
	if s.finders, err = s.openFinders(); err != nil {
		return err
	}
	if s.dict, err = s.loadDictionary(); err != nil {
		return err
	}
	tokens, err := s.tokenCounter()
	if err != nil {
		return err
	}
	s.otlp = &otlp.Receiver{
		Metrics: s.metrics, Logs: s.events, Traces: s.events, Logger: s.o.Logger, Authenticate: s.authenticateTelemetry(),
		// Gates read the receiver's own counters too, and wait for them.
		ReportEvery: time.Second, ItemsPerSecond: tenantItems, GenAI: tokens,
		Redactor: telemetry.NewRedactor(s.o.Settings.RedactPatterns...),
	}
	if s.alerts, err = incident.New(incident.Config{Webhook: s.o.Settings.AlertWebhook, Logger: s.o.Logger}); err != nil {
		return err
	}
	if s.vitals, err = s.newVitals(ctx); err != nil {
		return err
	}
	if s.plane, err = s.newPlane(ctx, dir); err != nil {
		return err
	}
	s.engine = pipeline.New(pipeline.Options{
		Store: s.db, Router: s.plane.Router, Observe: s.tick, Rollback: s.rollback, Publish: s.publish,
		Runners: s.traced(map[headgate.Stage]pipeline.Runner{
			headgate.StageContract: s.plane.Contract, headgate.StageReplay: s.plane.Replay, headgate.StageGateD: s.plane.GateD,
			headgate.StageRollout: s.plane.Ready, headgate.StageFeedback: s.plane.GateF,
		}),
		Log: s.o.Logger, Owner: owner(),
	})
	s.plane.Wakes(s.engine.Wake)
	if err := s.plane.AdoptRules(ctx); err != nil {
		return err
	}
	for _, svc := range s.o.Services {
		if err := s.addService(ctx, svc); err != nil {
			return err
		}
	}
	s.http = &http.Server{
		Handler: s.signals.Requests(api.New(api.Options{
			Plane: s.plane, Credentials: s.db, Version: s.o.Version, Logger: s.o.Logger,
			Development: s.o.Development, Forward: s.forward(), Prometheus: s.metrics.Handler, Measured: s.vitals.Request,
		})),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelWarn),
	}
	return nil
}

func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

func (s *Server) newPlane(ctx context.Context, dir string) (*control.Plane, error) {
	keys, err := OpenKeys(ctx, s.db, dir)
	if err != nil {
		return nil, err
	}
	if err := s.finishRotation(ctx, keys); err != nil {
		return nil, err
	}
	blobs, err := OpenBlobs(ctx, s.o.Settings, dir)
	if err != nil {
		return nil, err
	}
	rules, err := s.rules()
	if err != nil {
		return nil, err
	}
	return control.New(control.Options{
		Settings: s.o.Settings, Store: s.db, Log: evidence.NewLog(s.db.EvidenceLog(), keys), Blobs: blobs, Rules: rules,
		Dictionary: s.dict, Figures: s.metrics, Stories: stories{s.finders, s.events}, Freshness: s.freshness, Notify: s.notify,
		Version: s.o.Version, Logger: s.o.Logger,
	}), nil
}

// OpenKeys opens the signing keys of the data folder dir, making the first one
// for a log that is empty. Where something was signed and no public key is
// left, it is CONFIG_INVALID: with a new key alone, nobody could verify that.
func OpenKeys(ctx context.Context, db *sqlite.DB, dir string) (*evidence.Keyring, error) {
	keys := filepath.Join(dir, "keys")
	size, err := db.EvidenceLog().Size(ctx)
	if err != nil {
		return nil, err
	}
	public, err := filepath.Glob(filepath.Join(keys, "*.pub"))
	if err != nil {
		return nil, err
	}
	if size > 0 && len(public) == 0 {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the evidence log holds %d signed statements, and %s holds no key to verify them; restore that folder from the backup of the data folder. "+
				"If the private key is lost, put back at least its .pub file, the line that auditors were given: a new key then signs beside it", size, keys)
	}
	return evidence.OpenKeyring(keys, "headgate")
}

// finishRotation ends a change of keys that was interrupted after the new one
// was in use: the old private key goes, and the audit trail tells of it.
func (s *Server) finishRotation(ctx context.Context, keys *evidence.Keyring) error {
	if err := keys.DestroyOld(); err != nil {
		return err
	}
	if len(keys.Public()) == 1 {
		return nil
	}
	id := keys.Current().ID()
	return s.db.Record(ctx, "key_rotated/"+id, headgate.Event{
		Time: time.Now().UTC(), Kind: "key_rotated", Actor: "headgate serve", Reason: "found at the start; headgate keys rotate was interrupted",
		Message: "key " + id + " signs now", Data: map[string]any{"key": keys.Current().String()},
	})
}

// OpenBlobs opens the evidence files where the settings say: in a bucket, or in
// the data folder dir.
func OpenBlobs(ctx context.Context, settings config.Settings, dir string) (evidence.Blobs, error) {
	if settings.EvidenceBucket == "" {
		return evidence.OpenFolder(filepath.Join(dir, "blobs"))
	}
	return s3.Open(ctx, s3.Config{
		Endpoint: settings.EvidenceEndpoint, Region: settings.EvidenceRegion, Bucket: settings.EvidenceBucket, Prefix: settings.EvidencePrefix,
	})
}

// rules are the contract's, and those of each service that names its own.
func (s *Server) rules() (map[string]gate.RuleSet, error) {
	rules := map[string]gate.RuleSet{"": gate.DefaultRules()}
	for _, svc := range s.o.Services {
		if svc.Gates.Rules == "" {
			continue
		}
		src, err := os.ReadFile(svc.Gates.Rules)
		if err != nil {
			return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "rule set of %s: %w", svc.Name, err)
		}
		if rules[svc.Name], err = gate.ParseRules(svc.Gates.Rules, src); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// Start listens and begins to work. It returns once everything is ready.
func (s *Server) Start(ctx context.Context) error {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	grpcLn, err := listen(s.o.Settings.OTLPGRPC, "OTLP/gRPC", "--otlp-grpc")
	if err != nil {
		return err
	}
	httpLn, err := listen(s.o.Settings.OTLPHTTP, "OTLP/HTTP", "--otlp-http")
	if err != nil {
		return errors.Join(err, grpcLn.Close())
	}
	if err := s.otlp.Start(grpcLn, httpLn); err != nil {
		return err
	}
	s.receiving = true
	if s.proxy != nil {
		ln, err := listen(s.o.Settings.ProxyListen, "the proxy", "--proxy-listen")
		if err != nil {
			return err
		}
		s.proxyAddr = ln.Addr().String()
		s.running.Go(func() { s.report(s.proxy.Serve(ln)) })
	}
	ln, err := listen(s.o.Settings.Listen, "the HTTP API", "--listen")
	if err != nil {
		return err
	}
	scheme := "http"
	if s.o.Settings.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(s.o.Settings.TLSCert, s.o.Settings.TLSKey)
		if err != nil {
			return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the TLS certificate cannot be used: %w", err)
		}
		ln, scheme = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), "https"
	}
	s.addr = scheme + "://" + ln.Addr().String()
	if err := errors.Join(s.reopenAlerts(ctx), s.watchFigures()); err != nil {
		return errors.Join(err, ln.Close())
	}
	s.running.Go(func() { s.alerts.Run(ctx) })
	s.running.Go(func() { s.engine.Run(ctx) })
	s.running.Go(func() { s.plane.RunSealer(ctx) })
	s.running.Go(func() { s.runDrills(ctx) })
	s.running.Go(func() { s.keepRouters(ctx) })
	for _, watch := range s.watchdogs {
		s.running.Go(func() { watch(ctx) })
	}
	s.running.Go(func() { s.plane.RunRollbacks(ctx) })
	s.running.Go(func() {
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.report(err)
		}
	})
	return nil
}

func (s *Server) report(err error) {
	if err != nil {
		select {
		case s.failed <- err:
		default:
		}
	}
}

// Failed delivers the error of a listener that stopped by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// ProxyAddr is where the embedded proxy answers; empty when there is none.
func (s *Server) ProxyAddr() string { return s.proxyAddr }

// URL is where the HTTP API answers.
func (s *Server) URL() string { return s.addr }

// IssueToken makes a credential in the server's own store.
func (s *Server) IssueToken(ctx context.Context, name string, role access.Role, tenants []string) (string, error) {
	by := access.Identity{Name: "headgate serve", Role: access.Operator}
	token, _, err := access.Issue(ctx, s.db, by, access.Wanted{Name: name, Role: role, Tenants: tenants}, time.Now().UTC())
	return token, err
}

// Stop stops taking requests, lets those in flight end, and closes the stores.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	errs := []error{s.http.Shutdown(ctx)}
	if errs[0] != nil { // what waits for longer is cut off, and asks the stores no more
		errs = append(errs, s.http.Close())
	}
	if s.cancel != nil {
		s.cancel()
	}
	if s.receiving {
		errs = append(errs, s.otlp.Stop(ctx))
	}
	if s.proxy != nil {
		errs = append(errs, s.proxy.Shutdown(ctx))
	}
	s.running.Wait()
	return errors.Join(append(errs, s.close())...)
}

func (s *Server) close() error {
	var errs []error
	if s.vitals != nil {
		ctx, cancel := context.WithTimeout(context.Background(), vitalsTimeout)
		defer cancel()
		errs = append(errs, s.vitals.Stop(ctx))
	}
	if s.events != nil {
		errs = append(errs, s.events.Close())
	}
	if s.metrics != nil {
		errs = append(errs, s.metrics.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.signals != nil {
		ctx, cancel := context.WithTimeout(context.Background(), vitalsTimeout)
		defer cancel()
		s.signals.Stop(ctx)
	}
	return errors.Join(errs...)
}

func listen(addr, what, flag string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"%s cannot listen on %s: the address is in use or not this machine's; choose another with %s", what, addr, flag).Wrap(err)
	}
	return ln, nil
}

func onlyLoopback(st config.Settings) error {
	for _, addr := range []string{st.Listen, st.OTLPGRPC, st.OTLPHTTP, st.ProxyListen} {
		host, _, err := net.SplitHostPort(addr)
		ip := net.ParseIP(host)
		if err != nil || (host != "localhost" && (ip == nil || !ip.IsLoopback())) {
			return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
				"a development server listens on loopback only, and %s is not; use 127.0.0.1 or leave out --dev", addr)
		}
	}
	return nil
}
