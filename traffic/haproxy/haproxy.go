// Package haproxy is the router for a HAProxy that stands in front of the
// service: it changes maps, server addresses and a stick-table entry over the
// Runtime socket, without a reload.
//
// It owns the configuration that HAProxy must run ([Router.File]) and what it
// tells the socket. It never starts, stops or reloads HAProxy.
//
// Some things HAProxy cannot do, so they differ from the embedded proxy. It
// forgets its epoch and its stable address when it restarts and serves what its
// file says. It does not compare epochs itself, so two controllers that write
// in the same millisecond are told apart by the lease only, whose key is the
// epoch. It measures latency until the answer's header, in coarser buckets, and
// does not see an answer that is cut short after it.
package haproxy

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/canary"
	"github.com/headgate/headgate/rollout"
)

// Config names one HAProxy.
type Config struct {
	Service string
	// Dir holds HAProxy's socket and its map files; HAProxy and this process
	// both need it.
	Dir string
	// Listen is where users' requests go, for example "127.0.0.1:8080".
	Listen string
	// Stable is served until the first Apply, and again after each restart of
	// HAProxy. It must be an http URL with an IP address and a port.
	Stable rollout.Backend
	// TenantHeader and SessionHeader tell whose request it is; empty is
	// x-tenant-id and x-session-id.
	TenantHeader, SessionHeader string
	// HealthPath is asked for on each backend every second, and any answer below
	// 500 is good; empty only connects.
	HealthPath string
	// TTL is the lease of every split; zero is [rollout.DefaultTTL]. HAProxy
	// fixes it when it starts.
	TTL time.Duration
}

const (
	routeMap   = "route.map"
	bootMap    = "boot.map"
	socketName = "admin.sock"
	// timeout bounds one conversation with the socket.
	timeout = 2 * time.Second
	// shareSteps is the resolution of a share.
	shareSteps = 1_000_000
	// batch is how many map entries are sent at once; all of them must fit in
	// HAProxy's buffer of 16 KiB.
	batch = 64
)

// plain is what a word on the socket's command line and a table key may hold.
var plain = regexp.MustCompile(`^[A-Za-z0-9._:@/-]{1,100}$`)

// plainPath is what a health path in HAProxy's configuration may hold.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._~:@/?&=,-]{0,200})?$`)

// Router is a [rollout.Router] for one HAProxy.
type Router struct {
	cfg Config
	mu  sync.Mutex // one change at a time
}

var _ rollout.Router = (*Router)(nil)

// New returns the router. It does not connect. Returns REQ_VALIDATION_FAILED
// for a bad configuration.
func New(cfg Config) (*Router, error) {
	cfg.TTL = cmp.Or(cfg.TTL, rollout.DefaultTTL)
	cfg.TenantHeader, cfg.SessionHeader = cmp.Or(cfg.TenantHeader, "x-tenant-id"), cmp.Or(cfg.SessionHeader, "x-session-id")
	if err := (rollout.Split{Service: cfg.Service, Epoch: 1, Stable: cfg.Stable, TTL: cfg.TTL}).Validate(); err != nil {
		return nil, err
	}
	if _, _, err := address(cfg.Stable); err != nil {
		return nil, err
	}
	if !plain.MatchString(cfg.Dir) {
		return nil, headgate.Invalidf("haproxy: the directory must be a short path of letters, digits and ._:@/-")
	}
	if !plain.MatchString(cfg.TenantHeader) || !plain.MatchString(cfg.SessionHeader) {
		return nil, headgate.Invalidf("haproxy: a header's name must be of letters, digits and dashes")
	}
	if !plainPath.MatchString(cfg.HealthPath) {
		return nil, headgate.Invalidf("haproxy: the health path must begin with / and hold letters, digits and ._~:@/?&=,- only")
	}
	return &Router{cfg: cfg}, nil
}

// address returns the IP address and the port of b.
func address(b rollout.Backend) (ip, port string, err error) {
	u, err := url.Parse(b.URL)
	if err == nil && u.Scheme == "http" && net.ParseIP(u.Hostname()) != nil && u.Port() != "" {
		return u.Hostname(), u.Port(), nil
	}
	return "", "", headgate.Invalidf("haproxy: backend %q needs a URL such as http://10.0.0.7:8080, with an IP address and a port", b.Version)
}

func (r *Router) path(name string) string { return r.cfg.Dir + "/" + name }

// Apply implements [rollout.Router].
func (r *Router) Apply(ctx context.Context, s rollout.Split) (rollout.Status, error) {
	if err := r.validate(s); err != nil {
		return rollout.Status{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before, err := r.read(ctx)
	if err != nil {
		return rollout.Status{}, err
	}
	if err := rollout.Supersede(before.split.Epoch, before.split, before.lease > 0, s); err != nil {
		return rollout.Status{}, err
	}
	if !before.split.Same(s) {
		err = r.change(ctx, before, s)
	} else if s.Share > 0 {
		err = r.lend(ctx, s.Epoch)
	}
	if err != nil {
		return rollout.Status{}, err
	}
	after, err := r.read(ctx)
	if err != nil {
		return rollout.Status{}, err
	}
	if !after.split.Same(s) || !after.addressed(s) || (s.Share > 0 && after.lease <= 0) {
		return rollout.Status{}, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"HAProxy does not read back what was applied; apply it again, and look for another controller if this persists")
	}
	return r.status(after), nil
}

func (r *Router) validate(s rollout.Split) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if s.Service != r.cfg.Service {
		return headgate.Invalidf("this HAProxy serves %q, not %q", r.cfg.Service, s.Service)
	}
	if ttl := cmp.Or(s.TTL, rollout.DefaultTTL); ttl != r.cfg.TTL {
		return headgate.Invalidf("this HAProxy runs with a lease of %s; a split cannot ask for %s", r.cfg.TTL, ttl)
	}
	for _, t := range s.Tenants {
		if !plain.MatchString(t) {
			return headgate.Invalidf("a tenant's name does not fit HAProxy's map; use up to 100 letters, digits and ._:@/-")
		}
	}
	if _, _, err := address(s.Stable); err != nil {
		return err
	}
	if s.Candidate.URL == "" {
		return nil
	}
	_, _, err := address(s.Candidate)
	return err
}

// change replaces the route in one step. Where servers' addresses change too,
// it first closes the candidate to everybody.
func (r *Router) change(ctx context.Context, before state, s rollout.Split) error {
	if !before.addressed(s) {
		closed := s
		closed.Share = 0
		if err := r.writeRoute(ctx, closed); err != nil {
			return err
		}
		if err := r.readdress(ctx, s); err != nil {
			return err
		}
	}
	if s.Share > 0 {
		if err := r.lend(ctx, s.Epoch); err != nil {
			return err
		}
	}
	return r.writeRoute(ctx, s)
}

func (r *Router) readdress(ctx context.Context, s rollout.Split) error {
	ip, port, err := address(s.Stable)
	if err != nil {
		return err
	}
	commands := []string{
		fmt.Sprintf("set server stable/s addr %s port %s", ip, port),
		fmt.Sprintf("set server candidate/fallback addr %s port %s", ip, port),
	}
	if s.Candidate.URL != "" {
		ip, port, err := address(s.Candidate)
		if err != nil {
			return err
		}
		commands = append(commands, fmt.Sprintf("set server candidate/c addr %s port %s", ip, port), "set server candidate/c health up")
	}
	for _, command := range commands {
		if _, err := r.ask(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// lend begins or renews the lease. The entry's key is the epoch, so a stale
// controller renews nothing that is in force.
func (r *Router) lend(ctx context.Context, epoch int64) error {
	until := time.Now().Add(r.cfg.TTL + time.Second).Unix() // in whole seconds, so up to one later
	answer, err := r.ask(ctx, fmt.Sprintf("set table lease key %d data.gpt0 %d", epoch, until))
	if err == nil && strings.TrimSpace(answer) != "" {
		err = misunderstood(answer)
	}
	return err
}

// writeRoute replaces the whole route map in one commit.
func (r *Router) writeRoute(ctx context.Context, s rollout.Split) error {
	tenants := s.Tenants
	s.Tenants = nil
	description, err := json.Marshal(s)
	if err != nil {
		return err
	}
	entries := []string{
		fmt.Sprintf("epoch %d", s.Epoch),
		fmt.Sprintf("share %d", int64(s.Share*shareSteps+0.5)),
		// HAProxy hashes the salt; its form is nobody's business.
		"salt " + base64.RawURLEncoding.EncodeToString([]byte(s.Salt)) + ".",
		"split " + base64.RawURLEncoding.EncodeToString(description),
	}
	if s.AllTenants {
		entries = append(entries, "everybody 1")
	}
	for _, t := range tenants {
		entries = append(entries, "tenant:"+t+" 1")
	}
	answer, err := r.ask(ctx, "prepare map "+r.path(routeMap))
	if err != nil {
		return err
	}
	_, version, ok := strings.Cut(strings.TrimSpace(answer), "New version created: ")
	if !ok {
		return misunderstood(answer)
	}
	for chunk := range slices.Chunk(entries, batch) {
		answer, err := r.ask(ctx, fmt.Sprintf("add map @%s %s <<\n%s\n", version, r.path(routeMap), strings.Join(chunk, "\n")))
		if err != nil {
			return err
		}
		if strings.TrimSpace(answer) != "" {
			return misunderstood(answer)
		}
	}
	answer, err = r.ask(ctx, fmt.Sprintf("commit map @%s %s", version, r.path(routeMap)))
	if err == nil && strings.TrimSpace(answer) != "" {
		err = misunderstood(answer)
	}
	return err
}

// state is what HAProxy holds.
type state struct {
	split   rollout.Split
	lease   time.Duration
	servers map[string]server
	bootID  string
}

type server struct {
	address string // ip:port
	up      bool
}

func (st state) addressed(s rollout.Split) bool {
	ip, port, _ := address(s.Stable)
	if st.servers["stable/s"].address != net.JoinHostPort(ip, port) {
		return false
	}
	if s.Candidate.URL == "" {
		return true
	}
	ip, port, _ = address(s.Candidate)
	return st.servers["candidate/c"].address == net.JoinHostPort(ip, port)
}

func (r *Router) read(ctx context.Context) (state, error) {
	st := state{split: rollout.Split{Service: r.cfg.Service, Stable: r.cfg.Stable}}
	var err error
	if st.bootID, err = r.boot(ctx); err != nil {
		return st, err
	}
	route, err := r.readMap(ctx, routeMap)
	if err != nil {
		return st, err
	}
	if text, ok := route["split"]; ok {
		data, err := base64.RawURLEncoding.DecodeString(text)
		if err == nil {
			err = json.Unmarshal(data, &st.split)
		}
		if err != nil {
			return st, misunderstood(text)
		}
		for key := range route {
			if tenant, ok := strings.CutPrefix(key, "tenant:"); ok {
				st.split.Tenants = append(st.split.Tenants, tenant)
			}
		}
	}
	leases, err := r.ask(ctx, "show table lease")
	if err != nil {
		return st, err
	}
	for _, entry := range tableEntries(leases) {
		if entry["key"] != strconv.FormatInt(st.split.Epoch, 10) {
			continue
		}
		ms, err := strconv.Atoi(entry["exp"])
		if err != nil {
			return st, misunderstood(entry["exp"])
		}
		until, err := strconv.ParseInt(entry["gpt0"], 10, 64)
		if err != nil {
			return st, misunderstood(entry["gpt0"])
		}
		st.lease = max(0, min(time.Duration(ms)*time.Millisecond, time.Until(time.Unix(until, 0))))
	}
	servers, err := r.ask(ctx, "show servers state")
	st.servers = serverStates(servers)
	if err == nil && st.split.Epoch == 0 && !st.addressed(st.split) {
		// It runs an older file. What it serves counts, whatever version that is.
		st.split.Stable = rollout.Backend{URL: "http://" + st.servers["stable/s"].address}
	}
	return st, err
}

// boot returns what names this run of HAProxy: a mark that its memory loses
// when it restarts.
func (r *Router) boot(ctx context.Context) (string, error) {
	for range 2 {
		marks, err := r.readMap(ctx, bootMap)
		if err != nil {
			return "", err
		}
		if id := marks["id"]; id != "" {
			return id, nil
		}
		if _, err := r.ask(ctx, fmt.Sprintf("add map %s id %s", r.path(bootMap), headgate.NewID("boot"))); err != nil {
			return "", err
		}
	}
	return "", misunderstood("")
}

// Status implements [rollout.Router].
func (r *Router) Status(ctx context.Context) (rollout.Status, error) {
	st, err := r.read(ctx)
	if err != nil {
		return rollout.Status{}, err
	}
	return r.status(st), nil
}

func (r *Router) status(st state) rollout.Status {
	out := rollout.Status{
		Service: r.cfg.Service, Epoch: st.split.Epoch, ReleaseID: st.split.ReleaseID, BootID: st.bootID,
		Backends: []rollout.BackendStatus{{Backend: st.split.Stable, Arm: headgate.Stable, Healthy: st.servers["stable/s"].up}},
	}
	if st.split.Candidate.URL != "" {
		out.Backends = append(out.Backends, rollout.BackendStatus{Backend: st.split.Candidate, Arm: headgate.Candidate, Healthy: st.servers["candidate/c"].up})
	}
	if st.lease > 0 && st.split.Share > 0 {
		out.Share, out.LeaseRemaining = st.split.Share, st.lease
	}
	return out
}

// Counts implements [rollout.Router]. Tenants that the split does not admit
// are counted together, and so is what no server answered: for that, HAProxy
// keeps one number per arm.
func (r *Router) Counts(ctx context.Context) (rollout.Counts, error) {
	cells, err := r.count(ctx, "answers")
	if err != nil {
		return rollout.Counts{}, err
	}
	for _, arm := range []headgate.Arm{headgate.Stable, headgate.Candidate} {
		n, err := r.lost(ctx, arm)
		if err != nil {
			return rollout.Counts{}, err
		}
		c := cells.of(arm, rollout.OtherTenants, "")
		c.Requests += n
		c.Errors += n
		c.Latency[canary.TimeoutBucket] += n
	}
	return cells.counts(), nil
}

// Routes is the part of Counts that has a route, in cells of their own: what a
// server answered, but not with a 4xx. HAProxy has room for 10,000 different
// answers and does not tell further ones apart; they are missing here.
func (r *Router) Routes(ctx context.Context) (rollout.Counts, error) {
	cells, err := r.count(ctx, "routes")
	if err != nil {
		return rollout.Counts{}, err
	}
	return cells.counts(), nil
}

// cells are what one run of HAProxy counted.
type cells struct {
	boot string
	all  map[[3]string]*rollout.Cell // by arm, tenant and route
}

func (c cells) of(arm headgate.Arm, tenant, route string) *rollout.Cell {
	key := [3]string{string(arm), tenant, route}
	if c.all[key] == nil {
		c.all[key] = &rollout.Cell{BootID: c.boot, Arm: arm, Tenant: tenant, Route: route, Latency: make([]uint64, canary.NumBuckets)}
	}
	return c.all[key]
}

func (c cells) counts() rollout.Counts {
	out := rollout.Counts{At: time.Now().UTC(), Cells: []rollout.Cell{}}
	for _, cell := range c.all {
		if cell.Requests > 0 {
			out.Cells = append(out.Cells, *cell)
		}
	}
	slices.SortFunc(out.Cells, func(a, b rollout.Cell) int {
		return cmp.Or(cmp.Compare(a.Arm, b.Arm), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Route, b.Route))
	})
	return out
}

// count reads a table whose keys are arm|tenant|bucket|ok or error, and in the
// routes' table then |METHOD:/path.
func (r *Router) count(ctx context.Context, table string) (cells, error) {
	boot, err := r.boot(ctx)
	if err != nil {
		return cells{}, err
	}
	out := cells{boot: boot, all: map[[3]string]*rollout.Cell{}}
	answered, err := r.ask(ctx, "show table "+table)
	if err != nil {
		return cells{}, err
	}
	for _, entry := range tableEntries(answered) {
		key := append(strings.SplitN(entry["key"], "|", 5), "")
		n, err := strconv.ParseUint(entry["gpc0"], 10, 64)
		if err != nil || len(key) < 5 {
			return cells{}, misunderstood(entry["key"])
		}
		bucket, err := strconv.Atoi(key[2])
		if err != nil || bucket < 0 || bucket >= canary.NumBuckets {
			return cells{}, misunderstood(entry["key"])
		}
		c := out.of(headgate.Arm(key[0]), key[1], strings.Replace(key[4], ":", " ", 1))
		c.Requests += n
		c.Latency[bucket] += n
		if key[3] == "error" {
			c.Errors += n
		}
	}
	return out, nil
}

// lost returns how many requests of the arm HAProxy answered with a 5xx of its
// own.
func (r *Router) lost(ctx context.Context, arm headgate.Arm) (uint64, error) {
	answer, err := r.ask(ctx, "get var proc.lost_"+string(arm))
	if err != nil {
		return 0, err
	}
	// proc.lost_stable: type=sint value=<3>
	_, value, _ := strings.Cut(answer, "value=<")
	value, _, _ = strings.Cut(value, ">")
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, misunderstood(answer)
	}
	return n, nil
}
