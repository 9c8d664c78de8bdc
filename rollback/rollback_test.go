package rollback

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func TestTriggered(t *testing.T) {
	t.Parallel()
	breach := func(g headgate.Gate, n int) headgate.Breach {
		return headgate.Breach{Gate: g, MetricCode: "X", ConsecutiveFailures: n}
	}
	tests := []struct {
		name      string
		threshold int
		breaches  []headgate.Breach
		gate      headgate.Gate
		triggered bool
	}{
		{"below", 2, []headgate.Breach{breach(headgate.GateQuality, 1)}, "", false},
		{"at the threshold", 2, []headgate.Breach{breach(headgate.GateQuality, 2)}, headgate.GateQuality, true},
		{"the first that reaches it names the gate", 3,
			[]headgate.Breach{breach(headgate.GateCost, 2), breach(headgate.GateSecurity, 3), breach(headgate.GateQuality, 9)},
			headgate.GateSecurity, true},
		{"counts of several breaches do not add up", 2,
			[]headgate.Breach{breach(headgate.GateCost, 1), breach(headgate.GateCost, 1)}, "", false},
		{"none", 1, nil, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gate, triggered := Triggered(tt.threshold, tt.breaches)
			if gate != tt.gate || triggered != tt.triggered {
				t.Errorf("got %q, %v", gate, triggered)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := headgate.Breach{Gate: headgate.GateCost, MetricCode: "X", ConsecutiveFailures: 1}
	for name, tt := range map[string]struct {
		threshold int
		breach    []headgate.Breach
		ok        bool
	}{
		"good":           {1, []headgate.Breach{good}, true},
		"threshold 0":    {0, []headgate.Breach{good}, false},
		"no breach":      {2, nil, false},
		"not of Gate D":  {2, []headgate.Breach{{Gate: headgate.GateOps, MetricCode: "X", ConsecutiveFailures: 1}}, false},
		"no metric code": {2, []headgate.Breach{{Gate: headgate.GateCost, ConsecutiveFailures: 1}}, false},
		"no failures":    {2, []headgate.Breach{{Gate: headgate.GateCost, MetricCode: "X"}}, false},
	} {
		if err := Validate(tt.threshold, tt.breach); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotTriggeredAsTheContractWritesIt(t *testing.T) {
	t.Parallel()
	got, err := json.Marshal(NotTriggered("rel_1"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"release_id":"rel_1","triggered":false,"trigger_gate":null,` +
		`"rollback_order":["model_config","retrieval_params","workflow_version","release_version"],` +
		`"replay_verification":null,"elapsed_minutes":0,"rollback_completed_within_30m":false,"service_restored":false}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHook(t *testing.T) {
	t.Parallel()
	var version atomic.Value
	version.Store("v2")
	var status atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := int(status.Load()); s != 0 {
			w.WriteHeader(s)
			return
		}
		if r.URL.Path != "/admin/model_config" || r.Header.Get("X-Key") != "k" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if r.Method == http.MethodPut {
			var body struct{ Component, Version string }
			if json.NewDecoder(r.Body).Decode(&body) != nil || body.Component != "model_config" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			version.Store(body.Version)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"version": version.Load()}})
	}))
	t.Cleanup(srv.Close)
	h := Hook{URL: srv.URL + "/admin/{component}", Header: http.Header{"X-Key": {"k"}}, Timeout: time.Minute}

	if err := h.Set(t.Context(), headgate.ModelConfig, "v1"); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Read(t.Context(), headgate.ModelConfig); err != nil || got != "v1" {
		t.Errorf("reads back %q, %v", got, err)
	}
	for code, retryable := range map[int]bool{500: true, 503: true, 429: true, 408: true, 400: false, 403: false, 404: false} {
		status.Store(int64(code))
		if err := h.Set(t.Context(), headgate.ModelConfig, "v1"); err == nil || headgate.AsError(err).Retryable != retryable {
			t.Errorf("status %d: %v", code, err)
		}
	}
	srv.Close()
	if err := h.Set(t.Context(), headgate.ModelConfig, "v1"); err == nil || !headgate.AsError(err).Retryable {
		t.Errorf("nobody listening: %v", err)
	}
}

func TestHookThatHangsEndsInTime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	h := Hook{URL: srv.URL, Timeout: 50 * time.Millisecond}
	if _, err := h.Read(t.Context(), headgate.ModelConfig); err == nil || !headgate.AsError(err).Retryable {
		t.Errorf("error %v", err)
	}
}
