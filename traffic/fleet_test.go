package traffic_test

import (
	"context"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
	"github.com/headgate/headgate/traffic"
)

// router answers with fixed values.
type router struct {
	status rollout.Status
	counts rollout.Counts
	err    error
}

func (r router) Apply(context.Context, rollout.Split) (rollout.Status, error) {
	return r.status, r.err
}
func (r router) Status(context.Context) (rollout.Status, error) { return r.status, r.err }
func (r router) Counts(context.Context) (rollout.Counts, error) { return r.counts, r.err }

func TestFleetTakesTheCautiousView(t *testing.T) {
	t.Parallel()
	backends := func(healthy bool) []rollout.BackendStatus {
		return []rollout.BackendStatus{{Arm: headgate.Stable, Healthy: healthy}}
	}
	f := traffic.Fleet(
		router{status: rollout.Status{Epoch: 3, Share: 0, Backends: backends(true), BootID: "a"}},
		router{status: rollout.Status{Epoch: 4, Share: 0.1, LeaseRemaining: time.Second, Backends: backends(false), BootID: "b"}},
	)
	st, err := f.Status(t.Context())
	if err != nil || st.Epoch != 4 || st.Share != 0.1 || st.LeaseRemaining != time.Second || st.Backends[0].Healthy || st.BootID != "a,b" {
		t.Errorf("status %+v %v", st, err)
	}
}

func TestFleetAppliesOnlyIfAllDo(t *testing.T) {
	t.Parallel()
	lapsed := headgate.Errorf(rollout.CodeLeaseLapsed, headgate.ClassBusinessRule, "over")
	for name, f := range map[string]rollout.Router{
		rollout.CodeLeaseLapsed:  traffic.Fleet(router{}, router{err: lapsed}),
		headgate.CodeUnavailable: traffic.Fleet(),
	} {
		if _, err := f.Apply(t.Context(), rollout.Split{}); err == nil || headgate.AsError(err).Code != name {
			t.Errorf("got %v, want %s", err, name)
		}
		if _, err := f.Counts(t.Context()); err == nil {
			t.Errorf("%s: counts of half a fleet", name)
		}
	}
}

func TestFleetCountsEveryRouter(t *testing.T) {
	t.Parallel()
	cell := func(boot string, n uint64) rollout.Counts {
		return rollout.Counts{Cells: []rollout.Cell{{BootID: boot, Arm: headgate.Stable, Tenant: "acme", Requests: n}}}
	}
	before, err := traffic.Fleet(router{counts: cell("a", 10)}, router{counts: cell("b", 100)}).Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, err := traffic.Fleet(router{counts: cell("a", 11)}, router{counts: cell("b2", 5)}).Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := after.Sub(before).Arm(headgate.Stable).Requests; got != 6 {
		t.Errorf("%d requests between the readings, want 1 on a and 5 on the restarted b", got)
	}
}
