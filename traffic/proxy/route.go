package proxy

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

// route is what the data path reads, once per request. It never changes; a new
// one takes its place.
type route struct {
	split rollout.Split
	// epoch is the highest ever applied. It exceeds split.Epoch after a restart
	// only, when the split itself is forgotten.
	epoch    int64
	until    time.Time // monotonic; the candidate has no share from here on
	stable   *backend
	cand     *backend // nil when there is none
	admitted map[string]struct{}
}

// leased reports whether a share is granted and its lease still runs.
func (r *route) leased(now time.Time) bool {
	return r.cand != nil && r.split.Share > 0 && now.Before(r.until)
}

// rescues reports that stable is out of service and the candidate is not. Those
// admitted to the candidate are then better off with it, also when its lease is
// over; after its share was withdrawn it is no choice at all.
func (r *route) rescues() bool {
	return r.cand != nil && r.split.Share > 0 && !r.stable.healthy.Load() && r.cand.healthy.Load()
}

// takes reports whether b may be sent a request now.
func (r *route) takes(b *backend, now time.Time) bool {
	return b == r.stable || b == r.cand && (r.leased(now) || r.rescues())
}

func (r *route) admits(tenant string) bool {
	if r.split.AllTenants {
		return true
	}
	_, ok := r.admitted[tenant]
	return ok
}

// caller is what a decision is made from.
type caller struct {
	tenant, session      string
	tester, testerSecret string
	method, path         []byte
}

// decision says where one request goes and under which arm it is counted.
type decision struct {
	arm     headgate.Arm // what the client and the service are told
	backend *backend
	route   *route
	tally   tally
}

// decide is called once per request. A request assigned to a version that is
// out of service is served by the other, if it may be, and counted as an error
// of its own: hiding it would make a dead version look like one without
// traffic.
func (p *Proxy) decide(c caller) decision {
	now := time.Now()
	r := p.route.Load()
	d := decision{arm: headgate.Stable, backend: r.stable, route: r, tally: tally{start: now}}
	leased := r.leased(now)
	if c.tester != "" && p.isTester(c) {
		if leased {
			d.arm, d.backend = headgate.Candidate, r.cand
		}
		return d
	}
	d.tally = p.tally(c, now)
	if r.cand == nil || !r.admits(c.tenant) {
		return d
	}
	if leased {
		place := rollout.PlaceOf(r.split.Salt, c.tenant, c.session)
		if place.Arm(r.split.Share) == headgate.Candidate {
			d.tally.arm = headgate.Candidate
			if r.cand.healthy.Load() {
				d.arm, d.backend = headgate.Candidate, r.cand
			} else {
				d.tally.failed()
			}
			return d
		}
		d.tally.shard = &d.tally.tenant.shards[place.Shard()]
	}
	if r.rescues() {
		d.tally.failed()
		d.arm, d.backend = headgate.Candidate, r.cand
	}
	return d
}

// tally returns that of a request of stable.
func (p *Proxy) tally(c caller, now time.Time) tally {
	t := tally{counters: p.counters, tenant: p.counters.tenant(c.tenant), arm: headgate.Stable, start: now}
	var buf [2 * maxTemplate]byte
	name := template(buf[:0], c.method, c.path)
	if a, ok := (*t.tenant.known.Load())[string(name)]; ok {
		t.cells = a
	} else {
		t.route = string(name)
	}
	return t
}

// confirm is called right before a request is sent. Since its decision the
// process may have been paused, or the body may have taken long to arrive, so
// that its backend has lost its traffic.
func (p *Proxy) confirm(d *decision) {
	r := p.route.Load()
	if r.takes(d.backend, time.Now()) {
		return
	}
	d.arm, d.backend, d.route, d.tally.arm = headgate.Stable, r.stable, r, headgate.Stable
}

func (p *Proxy) isTester(c caller) bool {
	return c.tester == string(headgate.Candidate) && p.cfg.TesterSecret != "" &&
		subtle.ConstantTimeCompare([]byte(c.testerSecret), []byte(p.cfg.TesterSecret)) == 1
}

// install makes s the route in force. The caller holds p.applying.
func (p *Proxy) install(s rollout.Split) (*route, error) {
	cur := p.route.Load()
	now := time.Now()
	if err := rollout.Supersede(cur.epoch, cur.split, cur.leased(now), s); err != nil {
		return nil, err
	}
	if s.TTL == 0 {
		s.TTL = rollout.DefaultTTL
	}
	next := &route{split: s, epoch: s.Epoch, until: now.Add(s.TTL)}
	if cur.split.Same(s) {
		next.stable, next.cand, next.admitted = cur.stable, cur.cand, cur.admitted
		p.route.Store(next)
		return next, nil
	}
	if s.Share > 0 {
		if err := p.remember(s); err != nil {
			return nil, headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient,
				"the proxy cannot write its state file, so it refuses a share for the candidate; free space at its state path").Wrap(err)
		}
	}
	p.counters.admit(s.Tenants)
	next.admitted = make(map[string]struct{}, len(s.Tenants))
	for _, t := range s.Tenants {
		next.admitted[t] = struct{}{}
	}
	next.stable = p.backend(s.Stable, cur)
	if s.Candidate.URL != "" {
		next.cand = p.backend(s.Candidate, cur)
	}
	p.route.Store(next)
	if s.Share == 0 {
		// Taking traffic off a candidate must not wait for a disk.
		if err := p.remember(s); err != nil {
			p.cfg.Logger.Error("state file not written; a restart would serve the stable version before this one", "err", err)
		}
	}
	for _, b := range []*backend{cur.stable, cur.cand} {
		if b != nil && b != next.stable && b != next.cand {
			b.retire()
		}
	}
	return next, nil
}

// state is what survives a restart. A share does not.
type state struct {
	Service string          `json:"service"`
	Epoch   int64           `json:"epoch"`
	Stable  rollout.Backend `json:"stable"`
}

func (p *Proxy) remember(s rollout.Split) error {
	if p.cfg.StatePath == "" {
		return nil
	}
	data, err := json.Marshal(state{p.cfg.Service, s.Epoch, s.Stable})
	if err != nil {
		return err
	}
	return writeDurably(p.cfg.StatePath, data)
}

// recall returns the zero state when there is no file yet.
func recall(path string) (state, error) {
	var st state
	if path == "" {
		return st, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err != nil {
		return st, headgate.Invalidf("state file %s is unreadable; repair it or remove it to start from the configured stable backend", path).Wrap(err)
	}
	return st, nil
}

// writeDurably replaces path so that a crash leaves the old or the new content.
func writeDurably(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
