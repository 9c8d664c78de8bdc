package gatewayapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic/gatewayapi"
)

func split(epoch int64, share float64) rollout.Split {
	return rollout.Split{
		Service: "bidding", Epoch: epoch, ReleaseID: "rel_1", Salt: "rel_1", Share: share, Tenants: []string{"acme"},
		Stable:    rollout.Backend{Version: "v1", URL: "http://bidding-v1.shop.svc:8080"},
		Candidate: rollout.Backend{Version: "v2", URL: "http://bidding-v2:8080"},
	}
}

// refused asserts the error's code and that its message says all of words.
func refused(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	if err == nil || headgate.AsError(err).Code != code {
		t.Errorf("%v, want %s", err, code)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

// theirs makes another field manager the owner of the route's rules.
func (w *world) theirs(manager string) {
	w.Apply(manager, map[string]any{"rules": []any{map[string]any{"backendRefs": []any{map[string]any{"name": "theirs", "port": int64(80)}}}}})
}

func TestWeightsAndMatches(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		w := worldOn(t, kubeconfig)
		cfg := w.config()
		cfg.Tester = "candidate"
		s := split(1, 0.25)
		s.Tenants = []string{"globex", "acme", "acme"}
		if _, err := newRouter(t, cfg).Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		_, route, err := w.Route()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range route.Spec.Rules {
			line := ""
			for _, m := range r.Matches {
				for _, h := range m.Headers {
					line += fmt.Sprintf("%s=%s ", h.Name, h.Value)
				}
			}
			for _, b := range r.BackendRefs {
				line += fmt.Sprintf("%s:%d*%d ", b.Name, *b.Port, *b.Weight)
			}
			got = append(got, strings.TrimSpace(line))
		}
		want := "x-release-tester=candidate bidding-v2:8080*1; x-tenant-id=acme x-tenant-id=globex bidding-v1:8080*750000 bidding-v2:8080*250000; bidding-v1:8080*1"
		if text := strings.Join(got, "; "); text != want {
			t.Errorf("rules %s\n want %s", text, want)
		}
		if len(route.Spec.ParentRefs) != 1 {
			t.Errorf("parents %v were touched", route.Spec.ParentRefs)
		}
	})
}

func TestAnotherManagersRulesAreNotTaken(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		w := worldOn(t, kubeconfig)
		w.theirs("argocd-controller")
		cfg := w.config()
		_, err := newRouter(t, cfg).Apply(t.Context(), split(1, 0.1))
		refused(t, err, gatewayapi.CodeConflict, "argocd-controller", ".spec.rules", "force")
		if _, route, err := w.Route(); err != nil || route.Spec.Rules[0].BackendRefs[0].Name != "theirs" {
			t.Errorf("the rules were changed: %v", err)
		}
		cfg.Force = true
		forced := newRouter(t, cfg)
		if _, err := forced.Apply(t.Context(), split(2, 0.1)); err != nil {
			t.Errorf("with force: %v", err)
		}
		// Taken back behind our back: the status does not pretend.
		w.theirs("kubectl")
		cfg.Force = false
		_, err = newRouter(t, cfg).Status(t.Context())
		refused(t, err, headgate.CodeUnavailable, "kubectl")
	})
}

func TestAChangeCountsOnceTheGatewayHasTakenIt(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		w := worldOn(t, kubeconfig)
		r := newRouter(t, w.config())
		if _, err := r.Apply(t.Context(), split(1, 0)); err != nil {
			t.Fatal(err)
		}
		w.Silent.Store(true)
		// Whoever asked waits a little once the route is written, and gives up.
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			defer cancel()
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				if _, route, err := w.Route(); err == nil && len(route.Spec.Rules) > 1 {
					time.Sleep(500 * time.Millisecond)
					return
				}
			}
		})
		_, err := r.Apply(ctx, split(2, 0.1))
		waiting.Wait()
		refused(t, err, headgate.CodeUnavailable, "not taken")
		if _, route, err := w.Route(); err != nil || len(route.Spec.Rules) != 1 {
			t.Errorf("a share that nobody confirmed stays: %v %v", route.Spec.Rules, err)
		}
		w.Silent.Store(false)
		if st, err := r.Apply(t.Context(), split(3, 0.1)); err != nil || st.Share != 0.1 {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

func TestACandidateThatTheGatewayCannotFindGetsNoWeight(t *testing.T) {
	t.Parallel()
	w := worldOn(t, "")
	reason := "BackendNotFound"
	w.Refuse.Store(&reason)
	_, err := newRouter(t, w.config()).Apply(t.Context(), split(1, 0.5))
	refused(t, err, headgate.CodeUnavailable, "ResolvedRefs", reason)
	if _, route, err := w.Route(); err != nil || len(route.Spec.Rules) != 1 || route.Spec.Rules[0].BackendRefs[0].Name != "bidding-v1" {
		t.Errorf("rules %+v, %v", route.Spec.Rules, err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		w := worldOn(t, kubeconfig)
		r := newRouter(t, w.config())
		s := split(1, 0.1)
		s.Tenants = nil
		for i := range 127 {
			s.Tenants = append(s.Tenants, fmt.Sprintf("tenant-%d", i))
		}
		if _, err := r.Apply(t.Context(), s); err != nil {
			t.Errorf("127 tenants and the rest are 128 matches: %v", err)
		}
		s.Epoch, s.Tenants = 2, append(s.Tenants, "one-more")
		_, err := r.Apply(t.Context(), s)
		refused(t, err, headgate.CodeValidation, "16 rules", "128 matches", "129")
		if st, err := r.Status(t.Context()); err != nil || st.Epoch != 1 {
			t.Errorf("%+v, %v; want epoch 1", st, err)
		}
	})
}

func TestBackendsMustBeServices(t *testing.T) {
	t.Parallel()
	r := newRouter(t, worldOn(t, "").config())
	for _, raw := range []string{"https://bidding-v2:8080", "http://10.0.0.7:8080", "http://bidding-v2.shop.example.com", "http://UPPER.shop.svc", "http://bidding-v2:99999"} {
		s := split(1, 0.1)
		s.Candidate.URL = raw
		_, err := r.Apply(t.Context(), s)
		refused(t, err, headgate.CodeValidation)
	}
}

// Two control planes: the one that is late learns it from the API server, and
// its word about a share is worth nothing.
func TestAStaleControllerCannotRaiseTheShare(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		w := worldOn(t, kubeconfig)
		old, next := newRouter(t, w.config()), newRouter(t, w.config())
		if _, err := old.Apply(t.Context(), split(5, 0.1)); err != nil {
			t.Fatal(err)
		}
		// A process that did not lend the share cannot renew it.
		_, err := next.Apply(t.Context(), split(5, 0.1))
		refused(t, err, rollout.CodeLeaseLapsed)
		if _, err := next.Apply(t.Context(), split(6, 0)); err != nil {
			t.Fatal(err)
		}
		_, err = old.Apply(t.Context(), split(5, 0.1))
		refused(t, err, headgate.CodeStaleEpoch)
		_, route, err := w.Route()
		if err != nil || len(route.Spec.Rules) != 1 {
			t.Errorf("rules %v, %v; want all on stable", route.Spec.Rules, err)
		}
	})
}

// The control plane is gone; a watchdog in another process takes the weight
// back within two leases of its start.
func TestAnotherProcessTakesTheWeightBack(t *testing.T) {
	t.Parallel()
	clusters(t, func(t *testing.T, kubeconfig string) {
		w := worldOn(t, kubeconfig)
		s := split(1, 0.5)
		s.TTL = time.Second
		if _, err := newRouter(t, w.config()).Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		watchdog := newRouter(t, w.config())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); watchdog.Watch(ctx) }()
		defer func() { stop(); <-done }()
		deadline := time.Now().Add(time.Minute)
		for {
			st, err := watchdog.Status(t.Context())
			if err == nil && st.Share == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("still %+v, %v", st, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		_, route, err := w.Route()
		if err != nil {
			t.Fatal(err)
		}
		var kept rollout.Split
		if err := json.Unmarshal([]byte(route.Annotations["headgate.dev/split"]), &kept); err != nil || kept.Epoch != 1 {
			t.Errorf("the annotation says %+v, %v; want epoch 1", kept, err)
		}
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	good := worldOn(t, "").config()
	for name, change := range map[string]func(*gatewayapi.Config){
		"no route":             func(c *gatewayapi.Config) { c.Route = "" },
		"a namespace in caps":  func(c *gatewayapi.Config) { c.Namespace = "Shop" },
		"an unknown mode":      func(c *gatewayapi.Config) { c.Mode = "magic" },
		"proxies for weights":  func(c *gatewayapi.Config) { c.Front = &gatewayapi.Router{} },
		"no proxies for proxy": func(c *gatewayapi.Config) { c.Mode = gatewayapi.ModeProxy },
		"no such kubeconfig":   func(c *gatewayapi.Config) { c.Kubeconfig = "/nowhere" },
	} {
		cfg := good
		change(&cfg)
		_, err := gatewayapi.New(cfg)
		if err == nil || headgate.AsError(err).Code != headgate.CodeConfigInvalid {
			t.Errorf("%s: %v, want CONFIG_INVALID", name, err)
		}
	}
}

func TestAMissingRouteSaysWhatToCreate(t *testing.T) {
	t.Parallel()
	cfg := worldOn(t, "").config()
	cfg.Route = "missing"
	_, err := newRouter(t, cfg).Status(t.Context())
	refused(t, err, headgate.CodeUnavailable, "shop/missing", "parentRefs")
}
