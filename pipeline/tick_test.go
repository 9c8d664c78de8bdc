package pipeline

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// A candidate that answers while its telemetry is silent is held; one that
// fails at the router is judged, since silence is what a crash sounds like.
func TestSilenceOfACrashedCandidateIsJudged(t *testing.T) {
	t.Parallel()
	r := Record{Plan: Plan{Tenants: []string{"acme"}, Share: 0.1}, State: State{Share: 0.1}}
	silent := Observation{Stale: "no telemetry for 20 s"}
	for _, tc := range []struct {
		name   string
		errors uint64
		want   canary.Telemetry
	}{
		{"answers", 0, canary.Stale},
		{"fails now and then", 4, canary.Stale},
		{"fails half of its requests", 5, canary.Fresh},
		{"fails all of them", 10, canary.Fresh},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			counts := rollout.Counts{Cells: []rollout.Cell{
				{Arm: headgate.Stable, Tenant: "acme", Requests: 90},
				{Arm: headgate.Candidate, Tenant: "acme", Requests: 10, Errors: tc.errors},
			}}
			if got := makeTick(r, time.Unix(1, 0), counts, silent, false).Telemetry; got != tc.want {
				t.Errorf("telemetry is %q, want %q", got, tc.want)
			}
		})
	}
	idle := rollout.Counts{Cells: []rollout.Cell{{Arm: headgate.Stable, Tenant: "acme", Requests: 90}}}
	if got := makeTick(r, time.Unix(1, 0), idle, silent, false).Telemetry; got != canary.Stale {
		t.Errorf("telemetry of an idle candidate is %q, want stale", got)
	}
}
