package gatewayapi

import (
	"cmp"
	"context"
	"log/slog"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

// lent is what the Lease says.
type lent struct {
	epoch   int64
	ttl     time.Duration
	renewed string // distinguishes renewals; never compared with a clock
	version string
}

// sighting is a lease and when this process, by its own clock, saw it first.
// Clocks of other machines do not matter.
type sighting struct {
	lent
	at time.Time
}

func (s sighting) left(now time.Time) time.Duration { return max(0, s.ttl-now.Sub(s.at)) }

// leased reports whether this process granted the epoch and the grant still
// runs. What another process, or this one before a restart, granted cannot be
// renewed; it is decided anew under a higher epoch.
func (r *Router) leased(epoch int64) bool {
	r.leaseMu.Lock()
	defer r.leaseMu.Unlock()
	return r.granted.epoch == epoch && r.granted.left(time.Now()) > 0
}

func (r *Router) remaining() time.Duration {
	r.leaseMu.Lock()
	defer r.leaseMu.Unlock()
	return max(r.granted.left(time.Now()), r.seen.left(time.Now()))
}

// lend writes the Lease that watchers of the share look at.
func (r *Router) lend(ctx context.Context, s rollout.Split) error {
	begin := time.Now()
	before, err := r.cluster.lease(ctx)
	if err != nil {
		return err
	}
	if before.epoch > s.Epoch {
		return headgate.Errorf(headgate.CodeStaleEpoch, headgate.ClassBusinessRule,
			"epoch %d is older than %d, which holds the Lease; read the release's state again before acting", s.Epoch, before.epoch).With("epoch", before.epoch)
	}
	next := lent{epoch: s.Epoch, ttl: cmp.Or(s.TTL, rollout.DefaultTTL), renewed: begin.UTC().Format("2006-01-02T15:04:05.000000Z07:00"), version: before.version}
	if err := r.cluster.setLease(ctx, next); err != nil {
		return err
	}
	r.leaseMu.Lock()
	defer r.leaseMu.Unlock()
	r.granted = sighting{next, begin}
	r.seen = r.granted
	return nil
}

func (c cluster) leaseName() string { return "headgate-" + c.name }

// lease returns the zero value when there is none.
func (c cluster) lease(ctx context.Context) (lent, error) {
	u, err := c.leases.Get(ctx, c.leaseName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return lent{}, nil
	}
	if err != nil {
		return lent{}, c.explain(err)
	}
	out := lent{version: u.GetResourceVersion()}
	holder, _, _ := unstructured.NestedString(u.Object, "spec", "holderIdentity")
	seconds, _, _ := unstructured.NestedInt64(u.Object, "spec", "leaseDurationSeconds")
	out.renewed, _, _ = unstructured.NestedString(u.Object, "spec", "renewTime")
	out.ttl = time.Duration(seconds) * time.Second
	// Whatever else stands there grants nothing.
	out.epoch, _ = strconv.ParseInt(holder, 10, 64)
	return out, nil
}

func (c cluster) setLease(ctx context.Context, l lent) error {
	metadata := map[string]any{"name": c.leaseName(), "namespace": c.namespace}
	if l.version != "" {
		metadata["resourceVersion"] = l.version
	}
	patch, err := plain(map[string]any{
		"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
		"spec": map[string]any{
			"holderIdentity": strconv.FormatInt(l.epoch, 10), "leaseDurationSeconds": int64(l.ttl / time.Second), "renewTime": l.renewed,
		},
	})
	if err != nil {
		return err
	}
	_, err = c.leases.Apply(ctx, c.leaseName(), patch, metav1.ApplyOptions{FieldManager: manager, Force: true})
	return c.explain(err)
}

// watchEvery is how often Watch looks while nothing is due earlier.
const watchEvery = time.Second

// Watch takes the candidate's weight back when its lease is not renewed, until
// ctx ends. Run it in the control plane and, because that may die, in a second
// process as well; several do not hurt. It is best effort: who can neither
// reach the API server nor be started cannot take anything back. In other modes
// it returns at once, since there the proxies end the share.
func (r *Router) Watch(ctx context.Context) {
	if r.cfg.Mode != ModeWeights {
		return
	}
	for {
		wait, err := r.watch(ctx)
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.WarnContext(ctx, "the lease of an HTTPRoute cannot be watched", slog.String("service", r.cfg.Service), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// watch looks once and returns when to look again.
func (r *Router) watch(ctx context.Context) (time.Duration, error) {
	st, err := r.read(ctx)
	if err != nil || !st.open {
		return watchEvery, err
	}
	now := time.Now()
	lease, err := r.cluster.lease(ctx)
	if err != nil {
		return watchEvery, err
	}
	r.leaseMu.Lock()
	if lease.epoch != r.seen.epoch || lease.renewed != r.seen.renewed {
		r.seen = sighting{lease, now}
	}
	left := r.seen.left(time.Now())
	r.leaseMu.Unlock()
	if lease.epoch >= st.split.Epoch && left > 0 {
		return min(left, watchEvery), nil
	}
	r.cfg.Logger.WarnContext(ctx, "a candidate's lease is over; its weight is taken back", slog.String("service", r.cfg.Service), slog.Int64("epoch", st.split.Epoch))
	return confirmPoll, r.takeBack(ctx, st.split.Epoch)
}
