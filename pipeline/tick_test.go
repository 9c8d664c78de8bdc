package pipeline

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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

// Routers read their counters one after the other, so that parts may run ahead
// of their sum; a tick never contradicts itself for that.
func TestShardsOfATickFitIntoStable(t *testing.T) {
	t.Parallel()
	plan := Plan{Tenants: []string{"acme"}, Share: 0.1}
	cell := func(requests, errors uint64, shards ...canary.Shard) rollout.Counts {
		return rollout.Counts{Cells: []rollout.Cell{{Arm: headgate.Stable, Tenant: "acme", Requests: requests, Errors: errors, Shards: shards}}}
	}
	for _, tc := range []struct {
		name        string
		before, now rollout.Counts
		want        canary.Stratum
	}{
		{
			"they add up", cell(100, 10, canary.Shard{Requests: 40, Errors: 4}, canary.Shard{Requests: 60, Errors: 6}),
			cell(130, 12, canary.Shard{Requests: 50, Errors: 5}, canary.Shard{Requests: 80, Errors: 7}),
			canary.Stratum{Stable: canary.Counts{Requests: 30, Errors: 2}, Shards: []canary.Shard{{Requests: 10, Errors: 1}, {Requests: 20, Errors: 1}}},
		},
		{
			"read earlier than their sum last time", cell(100, 10, canary.Shard{Requests: 40, Errors: 4}, canary.Shard{Requests: 59, Errors: 5}),
			cell(130, 12, canary.Shard{Requests: 50, Errors: 5}, canary.Shard{Requests: 80, Errors: 7}),
			canary.Stratum{Stable: canary.Counts{Requests: 30, Errors: 2}, Shards: []canary.Shard{{Requests: 10, Errors: 1}, {Requests: 20, Errors: 1}}},
		},
		{
			"an error of a request of the tick before", cell(100, 10), cell(100, 11),
			canary.Stratum{},
		},
		{
			"a router that counts none", cell(100, 10), cell(130, 12),
			canary.Stratum{Stable: canary.Counts{Requests: 30, Errors: 2}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := Record{Plan: plan, State: State{Share: 0.1, Counts: tc.before}}
			tick := makeTick(r, time.Unix(1, 0), tc.now, Observation{}, false)
			tc.want.Tenant = "acme"
			if d := cmp.Diff([]canary.Stratum{tc.want}, tick.Strata, cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
		})
	}
}
