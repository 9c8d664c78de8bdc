package rollout_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

func split(epoch int64, share float64) rollout.Split {
	return rollout.Split{
		Service: "bidding", Epoch: epoch, ReleaseID: "rel_1", Stable: rollout.Backend{Version: "v1", URL: "http://a"},
		Candidate: rollout.Backend{Version: "v2", URL: "http://b:80/"}, Share: share, Tenants: []string{"b", "a"}, Salt: "x",
	}
}

func TestSupersede(t *testing.T) {
	t.Parallel()
	reordered := split(5, 0.1)
	reordered.Tenants = []string{"a", "b", "b"}
	for _, tc := range []struct {
		name    string
		highest int64
		current rollout.Split
		leased  bool
		next    rollout.Split
		code    string
	}{
		{"first", 0, rollout.Split{}, false, split(1, 0.1), ""},
		{"higher", 5, split(5, 0.1), true, split(6, 0.2), ""},
		{"older", 5, split(5, 0.1), true, split(4, 0), headgate.CodeStaleEpoch},
		{"renewal", 5, split(5, 0.1), true, reordered, ""},
		{"renewal too late", 5, split(5, 0.1), false, split(5, 0.1), rollout.CodeLeaseLapsed},
		{"nothing to renew", 5, split(5, 0), false, split(5, 0), ""},
		{"raise under the same epoch", 5, split(5, 0.1), true, split(5, 0.2), headgate.CodeStaleEpoch},
		{"lower under the same epoch", 5, split(5, 0.1), true, split(5, 0), headgate.CodeStaleEpoch},
		{"older after a restart", 5, rollout.Split{}, false, split(4, 0), headgate.CodeStaleEpoch},
		{"share after a restart", 5, rollout.Split{}, false, split(5, 0.1), rollout.CodeLeaseLapsed},
		{"stable after a restart", 5, rollout.Split{}, false, split(5, 0), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := rollout.Supersede(tc.highest, tc.current, tc.leased, tc.next)
			got := ""
			if err != nil {
				got = headgate.AsError(err).Code
			}
			if got != tc.code {
				t.Errorf("got %v, want %q", err, tc.code)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rollout.Split){
		"no service":    func(s *rollout.Split) { s.Service = "" },
		"no epoch":      func(s *rollout.Split) { s.Epoch = 0 },
		"NaN":           func(s *rollout.Split) { s.Share = math.NaN() },
		"infinity":      func(s *rollout.Split) { s.Share = math.Inf(1) },
		"no candidate":  func(s *rollout.Split) { s.Candidate = rollout.Backend{} },
		"negative ttl":  func(s *rollout.Split) { s.TTL = -1 },
		"no stable":     func(s *rollout.Split) { s.Stable = rollout.Backend{} },
		"path":          func(s *rollout.Split) { s.Stable.URL = "http://a/b" },
		"credentials":   func(s *rollout.Split) { s.Stable.URL = "http://u:p@a" },
		"no host":       func(s *rollout.Split) { s.Candidate.URL = "http://" },
		"other scheme":  func(s *rollout.Split) { s.Candidate.URL = "unix:/x" },
		"version alone": func(s *rollout.Split) { s.Share, s.Candidate = 0, rollout.Backend{Version: "v2"} },
	} {
		s := split(1, 0.5)
		change(&s)
		if err := s.Validate(); err == nil || headgate.AsError(err).Code != headgate.CodeValidation {
			t.Errorf("%s: %v, want REQ_VALIDATION_FAILED", name, err)
		}
	}
	if err := split(1, 0.5).Validate(); err != nil {
		t.Error(err)
	}
}

// FuzzSplit asks that what is read as a valid split survives writing.
func FuzzSplit(f *testing.F) {
	f.Add([]byte(`{"service":"s","epoch":1,"stable":{"version":"v","url":"http://a"},"share":0,"ttl_s":2.5,"salt":""}`))
	f.Add([]byte(`{"service":"s","epoch":1,"stable":{"url":"http://[::1]:80"},"candidate":{"url":"http://b"},"share":1e-300,"tenants":["a"],"ttl_s":1e-9}`))
	f.Add([]byte(`{"ttl_s":1e308}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s rollout.Split
		if json.Unmarshal(data, &s) != nil || s.Validate() != nil {
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again rollout.Split
		if err := json.Unmarshal(out, &again); err != nil || !again.Same(s) || (again.TTL-s.TTL).Abs() > time.Microsecond {
			t.Fatalf("%s became %s (%v)", data, out, err)
		}
	})
}

// TestSplitsKnowNoClock holds up what makes skewed clocks harmless: what a
// controller and a router tell each other has durations, and no time of day
// that one of them would compare with its own.
func TestSplitsKnowNoClock(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		rollout.Split{Service: "s", Epoch: 1, Candidate: rollout.Backend{Version: "v2"}, Tenants: []string{"a"}, AllTenants: true, TTL: 1500 * time.Millisecond},
		rollout.Status{LeaseRemaining: 2500 * time.Millisecond, Backends: []rollout.BackendStatus{{}}},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			switch name {
			case "service", "epoch", "release_id", "stable", "candidate", "share", "tenants", "all_tenants", "salt", "backends", "boot_id":
			case "ttl_s", "lease_remaining_s":
				if s := fields[name]; s != 1.5 && s != 2.5 {
					t.Errorf("%s is %v, want seconds", name, s)
				}
			default:
				t.Errorf("field %q: is it a time of day? Clocks of two machines differ by minutes", name)
			}
		}
	}
}
