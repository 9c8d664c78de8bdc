package server

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/api"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/replay"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic"
	"github.com/headgate/headgate/traffic/gatewayapi"
	"github.com/headgate/headgate/traffic/haproxy"
	"github.com/headgate/headgate/traffic/proxy"
)

// addService puts a service under control: its suite is read, its router
// found, and both given to the plane.
func (s *Server) addService(ctx context.Context, svc config.Service) error {
	var suite *replay.Suite
	if svc.Replay.Suite != "" {
		loaded, err := replay.Load(os.DirFS(filepath.Dir(svc.Replay.Suite)), filepath.Base(svc.Replay.Suite))
		if err != nil {
			return err
		}
		suite = &loaded
	}
	router, err := s.router(svc)
	if err != nil {
		return err
	}
	return s.plane.Add(ctx, svc, suite, router, s.credential(svc))
}

// credential reads a tenant's token for the service where the description
// says it is, each time: a rotated one counts at once.
func (s *Server) credential(svc config.Service) func(string) string {
	return func(tenant string) string {
		ref, ok := svc.Replay.Credentials[tenant]
		if !ok {
			return ""
		}
		token, err := ref.Read()
		if err != nil {
			s.o.Logger.Warn("a tenant's credential cannot be read", slog.String("tenant_id", tenant), slog.Any("error", err))
		}
		return token
	}
}

// router is what stands in front of the service: Headgate's proxies, an
// HTTPRoute, both, or a HAProxy.
func (s *Server) router(svc config.Service) (rollout.Router, error) {
	if svc.Router.HAProxy.Dir != "" {
		if len(s.o.Proxies) > 0 {
			return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
				"service %s has a router.haproxy, and --proxy names proxies; remove one of them", svc.Name)
		}
		for _, other := range s.o.Services {
			if other.Name != svc.Name && other.Router.HAProxy.Dir == svc.Router.HAProxy.Dir {
				return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
					"services %s and %s have the same router.haproxy.dir, %s; each needs a HAProxy and a directory of its own", svc.Name, other.Name, svc.Router.HAProxy.Dir)
			}
		}
		return HAProxy(svc)
	}
	g := svc.Router.GatewayAPI
	if g.Route == "" {
		return s.proxies(svc)
	}
	var front rollout.Router
	if g.Mode == config.GatewayWeights {
		s.o.Logger.Warn("an HTTPRoute's weights are best effort: a share ends only while a watchdog runs; nothing is counted, so no canary can begin and no release meets users by them", slog.String("service", svc.Name))
	} else {
		var err error
		if front, err = s.proxies(svc); err != nil {
			return nil, err
		}
	}
	r, err := httpRoute(svc, front, s.o.Logger)
	if err != nil {
		return nil, err
	}
	s.watchdogs = append(s.watchdogs, r.Watch)
	return r, nil
}

// HAProxy is the router for the HAProxy that the description names. It need not
// run yet.
func HAProxy(svc config.Service) (*haproxy.Router, error) {
	if svc.Router.HAProxy.Dir == "" {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"service %s has no HAProxy; add router.haproxy to its description", svc.Name)
	}
	dir, err := filepath.Abs(svc.Router.HAProxy.Dir) // HAProxy may have another working directory
	if err != nil {
		return nil, err
	}
	return haproxy.New(haproxy.Config{
		Service: svc.Name, Dir: dir, Listen: svc.Router.HAProxy.Listen,
		Stable:       rollout.Backend{Version: svc.Targets.Stable.Version, URL: svc.Targets.Stable.URL},
		TenantHeader: svc.TenantHeader, SessionHeader: svc.SessionHeader, HealthPath: svc.Targets.HealthPath,
	})
}

func httpRoute(svc config.Service, front rollout.Router, log *slog.Logger) (*gatewayapi.Router, error) {
	g := svc.Router.GatewayAPI
	return gatewayapi.New(gatewayapi.Config{
		Service: svc.Name, Kubeconfig: g.Kubeconfig, Namespace: g.Namespace, Route: g.Route, Mode: gatewayapi.Mode(g.Mode),
		Front: front, Proxy: g.Proxy, Gateway: g.Gateway, Tester: g.Tester, TenantHeader: svc.TenantHeader, Force: g.Force, Logger: log,
	})
}

// Watchdog takes the candidate's weight back when the control plane does not
// renew its lease, until ctx ends. It is for a service whose HTTPRoute splits by
// weights, and runs best in a process that does not die with the control plane.
func Watchdog(ctx context.Context, svc config.Service, log *slog.Logger) error {
	if g := svc.Router.GatewayAPI; g.Mode != config.GatewayWeights {
		return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"service %s has no HTTPRoute in mode weights; proxies end a share by themselves and need no watchdog", svc.Name)
	}
	r, err := httpRoute(svc, nil, log)
	if err != nil {
		return err
	}
	if _, err := r.Status(ctx); err != nil {
		return err
	}
	r.Watch(ctx)
	return nil
}

func (s *Server) proxies(svc config.Service) (rollout.Router, error) {
	if len(s.o.Proxies) > 0 {
		var fleet []rollout.Router
		for _, admin := range s.o.Proxies {
			fleet = append(fleet, proxy.NewClient(admin, s.o.ProxyToken, nil))
		}
		return traffic.Fleet(fleet...), nil
	}
	if s.proxy != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the embedded proxy serves one service; run headgate proxy for each and name them with --proxy")
	}
	p, err := proxy.New(proxy.Config{
		Service: svc.Name, Stable: rollout.Backend{Version: svc.Targets.Stable.Version, URL: svc.Targets.Stable.URL},
		StatePath:    filepath.Join(s.o.Settings.DataDir, "proxy.json"),
		TenantHeader: svc.TenantHeader, SessionHeader: svc.SessionHeader, HealthPath: svc.Targets.HealthPath, Logger: s.o.Logger,
	})
	if err != nil {
		return nil, err
	}
	s.proxy = p
	return p, nil
}

// keepEvery is how often routers are compared with the database.
const keepEvery = 2 * time.Second

// keepRouters brings routers that have restarted, or were out of reach, back to
// what the database says, for services that no release holds.
func (s *Server) keepRouters(ctx context.Context) {
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	for {
		for _, svc := range s.plane.Services() {
			if err := s.keepRouter(ctx, svc); err != nil && ctx.Err() == nil {
				s.o.Logger.WarnContext(ctx, "a router does not follow", slog.String("service", svc.Name), slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// drillEvery is how often the schedules of rollback drills are looked at.
const drillEvery = time.Minute

func (s *Server) runDrills(ctx context.Context) {
	ticker := time.NewTicker(drillEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.plane.RunDueDrills(ctx)
		}
	}
}

func (s *Server) keepRouter(ctx context.Context, svc *control.Service) error {
	ctx, cancel := context.WithTimeout(ctx, keepEvery)
	defer cancel()
	state, err := s.db.Service(ctx, svc.Name)
	if err != nil || state.HeldBy != "" {
		return err
	}
	st, err := svc.Router.Status(ctx)
	if err != nil {
		return err
	}
	for _, b := range st.Backends {
		if b.Arm == headgate.Stable && b.Backend == state.Stable && st.Share == 0 {
			return nil
		}
	}
	if rel, err := s.db.Release(ctx, st.ReleaseID); err == nil && !rel.Done() {
		// This data is older than the router's share. The release sees that at
		// its next turn, unless the router is made to forget it.
		return nil
	}
	epoch, err := s.db.NextEpoch(ctx, st.Epoch)
	if err != nil {
		return err
	}
	_, err = svc.Router.Apply(ctx, rollout.Split{Service: svc.Name, Epoch: epoch, Stable: state.Stable})
	return err
}

// forward answers requests for the service on the control plane's own address,
// with the tenant's credential where the request has none: a convenience of
// the development server.
func (s *Server) forward() http.Handler {
	if !s.o.Forward || len(s.o.Services) != 1 {
		return nil
	}
	svc := s.o.Services[0]
	credential := s.credential(svc)
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: s.proxyAddr})
			r.SetXForwarded()
			tenant := cmp.Or(r.In.Header.Get(svc.TenantHeader), svc.Replay.Tenant)
			if r.In.Header.Get("Authorization") == "" && r.In.Header.Get("x-internal-debug") == "true" {
				if token := credential(tenant); token != "" {
					r.Out.Header.Set("Authorization", "Bearer "+token)
				}
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusUnauthorized && strings.HasPrefix(r.Request.URL.Path, "/api/v1/jobs/") {
				// Whom the service does not know has no jobs there.
				return headgate.Errorf(headgate.CodeJobNotFound, headgate.ClassBusinessRule, "there is no job of that id")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if headgate.AsError(err).Code != headgate.CodeJobNotFound {
				err = headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
					"the service behind the proxy does not answer").Wrap(err)
			}
			api.WriteError(w, r, err)
		},
	}
}
