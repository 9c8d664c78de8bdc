package rollout

import (
	"context"
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// DefaultTTL is the lease of a share when a [Split] names none; MaxTTL is the
// longest a router grants, because until it runs out a dead controller leaves
// users on an unproven version.
const (
	DefaultTTL = 10 * time.Second
	MaxTTL     = 5 * time.Minute
)

// CodeLeaseLapsed is the error code of a renewal that comes after the lease
// ran out or after the router restarted. The candidate has no share then; only
// a split with a higher epoch, decided anew, gives it one again.
const CodeLeaseLapsed = "LEASE_LAPSED"

// Router carries out a traffic split for one service. It is safe for
// concurrent use.
type Router interface {
	// Apply makes s the split in force and starts its lease. The answer is read
	// back from the router and confirms s.
	//
	// Within an epoch the split is fixed: applying the same one again is
	// harmless and renews the lease. Returns STALE_EPOCH for an older epoch,
	// or for a different split under the epoch in force; LEASE_LAPSED for the
	// renewal of a positive share whose lease is over; REQ_VALIDATION_FAILED
	// when [Split.Validate] does; UNAVAILABLE when the router cannot be reached
	// or does not confirm. After any error but UNAVAILABLE nothing has changed.
	Apply(ctx context.Context, s Split) (Status, error)
	// Status returns what the router does now. Returns UNAVAILABLE when it
	// cannot be reached.
	Status(ctx context.Context) (Status, error)
	// Counts returns what the router has counted since it started. Returns
	// UNAVAILABLE when it cannot be reached.
	Counts(ctx context.Context) (Counts, error)
}

// RouteCounter is a [Router] that can tell routes apart.
type RouteCounter interface {
	// Routes is what Counts is, with each route in cells of its own.
	Routes(ctx context.Context) (Counts, error)
}

// Routes returns what r counted by route, UNAVAILABLE when it cannot tell
// routes apart.
func Routes(ctx context.Context, r Router) (Counts, error) {
	if c, ok := r.(RouteCounter); ok {
		return c.Routes(ctx)
	}
	return Counts{}, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent, "this service's router does not count by route; look into the service's own telemetry")
}

// Backend is one version of the service and where it answers.
type Backend struct {
	Version string `json:"version"`
	// URL is http or https with host and optional port, without a path.
	URL string `json:"url"`
}

// Split is what a router executes: which part of whose traffic meets the
// candidate, and for how long without being told again.
type Split struct {
	Service string
	// Epoch orders splits; every change takes a higher one, from 1. Routers
	// refuse an older epoch.
	Epoch     int64
	ReleaseID string
	Stable    Backend
	// Candidate is the zero Backend when there is none.
	Candidate Backend
	// Share is the part, 0..1, of the admitted tenants' sessions that meet the
	// candidate.
	Share float64
	// Tenants are admitted to the candidate, and nobody else unless AllTenants.
	// Empty admits nobody.
	Tenants    []string
	AllTenants bool
	// Salt makes the assignment of sessions independent between releases. Keep
	// it for a release, so that its sessions stay where they are.
	Salt string
	// TTL is the lease: unless applied again, Share falls to 0 by itself after
	// it. Zero is [DefaultTTL].
	TTL time.Duration
}

// Validate returns REQ_VALIDATION_FAILED when the split could not be carried
// out safely.
func (s Split) Validate() error {
	switch {
	case s.Service == "":
		return headgate.Invalidf("split: service is empty")
	case s.Epoch < 1:
		return headgate.Invalidf("split: epoch is %d; epochs begin at 1", s.Epoch)
	case math.IsNaN(s.Share) || s.Share < 0 || s.Share > 1:
		return headgate.Invalidf("split: share is %v; it must lie between 0 and 1", s.Share)
	case s.TTL < 0 || s.TTL > MaxTTL:
		return headgate.Invalidf("split: ttl is %s; use at most %s", s.TTL, MaxTTL)
	case s.Share > 0 && s.Candidate.URL == "":
		return headgate.Invalidf("split: share is %v but there is no candidate; name its URL or set share to 0", s.Share)
	}
	if err := s.Stable.validate(headgate.Stable); err != nil {
		return err
	}
	if s.Candidate == (Backend{}) {
		return nil
	}
	return s.Candidate.validate(headgate.Candidate)
}

func (b Backend) validate(arm headgate.Arm) error {
	u, err := url.Parse(b.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return headgate.Invalidf("split: the %s backend needs a URL such as http://127.0.0.1:8080, without path or credentials", arm)
	}
	return nil
}

// Same reports whether s and t route alike, lease aside.
func (s Split) Same(t Split) bool {
	return s.Service == t.Service && s.Epoch == t.Epoch && s.ReleaseID == t.ReleaseID &&
		s.Stable == t.Stable && s.Candidate == t.Candidate && s.Share == t.Share &&
		s.AllTenants == t.AllTenants && slices.Equal(sortedSet(s.Tenants), sortedSet(t.Tenants)) && s.Salt == t.Salt
}

// Supersede returns why next may not follow, as [Router.Apply] promises, or nil.
// Highest is the highest epoch the router has seen and current the split it
// carries out, whose epoch is lower if the router has restarted since; leased
// says that current's share is still granted.
func Supersede(highest int64, current Split, leased bool, next Split) error {
	switch {
	case next.Epoch > highest:
		return nil
	case next.Epoch < highest:
		return headgate.Errorf(headgate.CodeStaleEpoch, headgate.ClassBusinessRule,
			"epoch %d is older than %d, which is in force; read the release's state again before acting", next.Epoch, highest).With("epoch", highest)
	case current.Epoch == highest && !current.Same(next):
		return headgate.Errorf(headgate.CodeStaleEpoch, headgate.ClassBusinessRule,
			"epoch %d is in force with another split; every change takes a higher epoch", highest).With("epoch", highest)
	case next.Share > 0 && (!leased || current.Epoch != highest):
		return headgate.Errorf(CodeLeaseLapsed, headgate.ClassBusinessRule,
			"the lease of epoch %d is over and all traffic is on stable; decide anew under a higher epoch", highest).With("epoch", highest)
	}
	return nil
}

type splitJSON struct {
	Service    string   `json:"service"`
	Epoch      int64    `json:"epoch"`
	ReleaseID  string   `json:"release_id"`
	Stable     Backend  `json:"stable"`
	Candidate  Backend  `json:"candidate,omitzero"`
	Share      float64  `json:"share"`
	Tenants    []string `json:"tenants,omitempty"`
	AllTenants bool     `json:"all_tenants,omitempty"`
	Salt       string   `json:"salt"`
	TTLSeconds float64  `json:"ttl_s"`
}

// MarshalJSON writes TTL as ttl_s, in seconds.
func (s Split) MarshalJSON() ([]byte, error) {
	return json.Marshal(splitJSON{s.Service, s.Epoch, s.ReleaseID, s.Stable, s.Candidate, s.Share, s.Tenants, s.AllTenants, s.Salt, s.TTL.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON writes. It does not validate.
func (s *Split) UnmarshalJSON(data []byte) error {
	var w splitJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	ttl, err := duration(w.TTLSeconds)
	if err != nil {
		return err
	}
	*s = Split{w.Service, w.Epoch, w.ReleaseID, w.Stable, w.Candidate, w.Share, w.Tenants, w.AllTenants, w.Salt, ttl}
	return nil
}

// Status is what a router does now.
type Status struct {
	Service   string
	Epoch     int64
	ReleaseID string
	// Share is the one in effect: 0 once the lease is over.
	Share float64
	// LeaseRemaining is 0 when nothing is leased.
	LeaseRemaining time.Duration
	// Backends holds stable and, if there is one, the candidate, in this order.
	Backends []BackendStatus
	// BootID changes when the router restarts.
	BootID string
}

// BackendStatus is a backend as the router sees it.
type BackendStatus struct {
	Backend
	Arm headgate.Arm `json:"arm"`
	// Healthy is false while the router keeps traffic away from it where it can.
	Healthy bool `json:"healthy"`
}

type statusJSON struct {
	Service               string          `json:"service"`
	Epoch                 int64           `json:"epoch"`
	ReleaseID             string          `json:"release_id"`
	Share                 float64         `json:"share"`
	LeaseRemainingSeconds float64         `json:"lease_remaining_s"`
	Backends              []BackendStatus `json:"backends"`
	BootID                string          `json:"boot_id"`
}

// MarshalJSON writes LeaseRemaining as lease_remaining_s, in seconds.
func (s Status) MarshalJSON() ([]byte, error) {
	return json.Marshal(statusJSON{s.Service, s.Epoch, s.ReleaseID, s.Share, s.LeaseRemaining.Seconds(), s.Backends, s.BootID})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (s *Status) UnmarshalJSON(data []byte) error {
	var w statusJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	remaining, err := duration(w.LeaseRemainingSeconds)
	if err != nil {
		return err
	}
	*s = Status{w.Service, w.Epoch, w.ReleaseID, w.Share, remaining, w.Backends, w.BootID}
	return nil
}

func duration(seconds float64) (time.Duration, error) {
	const limit = 365 * 24 * 3600
	if seconds < -limit || seconds > limit {
		return 0, headgate.Invalidf("%v seconds is no usable duration", seconds)
	}
	return time.Duration(math.Round(seconds * float64(time.Second))), nil
}
