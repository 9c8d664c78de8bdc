package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// complete fills defaults that depend on what was written.
func (s *Service) complete() {
	for i := range s.Stages.Reports {
		r := &s.Stages.Reports[i]
		r.Timeout = cmp.Or(r.Timeout, defaultReportTimeout)
	}
	if len(s.Rollout.TenantWhitelist) == 0 {
		for _, t := range s.Tenants {
			s.Rollout.TenantWhitelist = append(s.Rollout.TenantWhitelist, t.ID)
		}
	}
	if g := &s.Router.GatewayAPI; g.Route != "" {
		g.Mode = cmp.Or(g.Mode, GatewayProxy)
	}
	slices.Sort(s.Rollout.TenantWhitelist)
	order := headgate.ProjectSizes()
	slices.SortFunc(s.Rollout.EnabledProjectSizes, func(a, b headgate.ProjectSize) int {
		return slices.Index(order, a) - slices.Index(order, b)
	})
}

// check looks at what a schema cannot say: references between parts, order of
// durations, hosts.
func (d *document) check(s Service, found *problems) {
	report := func(message string, path ...string) { found.add(d.problem(path, message)) }
	d.checkTenants(s, report)
	d.checkTargets(s, report)
	for _, name := range headgate.RollbackOrder() {
		a := s.Components.Get(name).Actuator
		if a.Kind != ActuatorHook && a.URL != "" {
			report(fmt.Sprintf("is only for an actuator of kind hook; this one is a %s", a.Kind), "components", string(name), "actuator", "url")
		}
		if a.Kind == ActuatorRouter && name != headgate.ReleaseVersion {
			report("the router can only change release_version; use flag or hook", "components", string(name), "actuator", "kind")
		}
	}
	if s.Replay.Suite != "" && s.Replay.Tenant == "" {
		report("is missing; it names the tenant that owns the recorded sessions", "replay", "tenant")
	}
	c := s.Canary
	if c.MaxDuration > 0 && c.MaxDuration < c.Duration {
		report(fmt.Sprintf("must not be shorter than canary.duration, %v", c.Duration), "canary", "max_duration")
	}
	if c.KillErrorRate <= c.SLOErrorRate {
		report(fmt.Sprintf("must be above canary.slo_error_rate, %g", c.SLOErrorRate), "canary", "kill_error_rate")
	}
	d.checkTiers(s, report)
	checkRouter(s.Router.GatewayAPI, report)
	if s.Router.HAProxy.Dir != "" {
		checkAddressed(s.Targets, report)
	}
	d.checkCommands(s, report)
	d.checkDurations(s, report)
}

// checkTiers keeps a rollout from ever taking back what it has given.
func (d *document) checkTiers(s Service, report func(string, ...string)) {
	order := []string{TierWhitelist}
	for _, size := range headgate.ProjectSizes() {
		order = append(order, string(size))
	}
	reached, share := -1, s.Canary.Ratio
	for i, t := range s.Rollout.Tiers {
		at := func(field string) []string { return []string{"rollout", "tiers", strconv.Itoa(i), field} }
		place := slices.Index(order, t.Tier)
		switch {
		case i == 0 && t.Tier != TierWhitelist:
			report("must be whitelist: a rollout begins there", at("tier")...)
		case place <= reached:
			report("comes too late; the order is "+strings.Join(order, ", ")+", each once", at("tier")...)
		case t.Tier != TierWhitelist && !slices.Contains(s.Rollout.EnabledProjectSizes, headgate.ProjectSize(t.Tier)):
			report("is not one of rollout.enabled_project_sizes", at("tier")...)
		}
		if i > 0 && t.Share > 0 && t.Share < share {
			report(fmt.Sprintf("must not be below the share before it, %g: a session that met the candidate stays there", share), at("share")...)
		}
		if s.Canary.MaxDuration > 0 && t.Soak > s.Canary.MaxDuration {
			report(fmt.Sprintf("must not be longer than canary.max_duration, %v", s.Canary.MaxDuration), at("soak")...)
		}
		reached, share = max(reached, place), cmp.Or(t.Share, share)
	}
}

// checkRouter looks at what the modes of a Gateway API router need.
func checkRouter(g GatewayAPI, report func(string, ...string)) {
	for _, of := range []struct{ field, value, mode string }{
		{"proxy", g.Proxy, GatewayProxy}, {"gateway", g.Gateway, GatewayHeader}, {"tester", g.Tester, GatewayWeights},
	} {
		switch {
		case of.value != "" && g.Mode != of.mode:
			report(fmt.Sprintf("is only for mode %s; this one is %s", of.mode, g.Mode), "router", "gateway_api", of.field)
		case of.value == "" && g.Mode == of.mode && of.field != "tester":
			report(fmt.Sprintf("is missing; mode %s needs it", of.mode), "router", "gateway_api", of.field)
		}
	}
}

// checkAddressed looks at the backends of a HAProxy, which it is told by IP
// address.
func checkAddressed(t Targets, report func(string, ...string)) {
	for _, at := range []struct{ name, raw string }{{"stable", t.Stable.URL}, {"candidate", t.Candidate.URL}} {
		u, err := baseURL(at.raw)
		if at.raw == "" || err != nil { // checkTargets has said why
			continue
		}
		if u.Scheme != "http" || net.ParseIP(u.Hostname()) == nil || u.Port() == "" {
			report("must be an address such as http://10.0.0.7:8080, with an IP address and a port: router.haproxy resolves no names and speaks no TLS", "targets", at.name, "url")
		}
	}
}

func (d *document) checkCommands(s Service, report func(string, ...string)) {
	check := func(argv []string, path ...string) {
		for i, arg := range argv {
			if name := unknownPlaceholder(arg, Placeholders()); name != "" {
				report(fmt.Sprintf("{{%s}} is not one of %s%s", clip(name), strings.Join(Placeholders(), ", "), suggest(name, Placeholders())),
					append(path, strconv.Itoa(i))...)
			}
		}
	}
	check(s.Stages.Build.Run, "stages", "build", "run")
	check(s.Stages.Test.Run, "stages", "test", "run")
	for i, r := range s.Stages.Reports {
		check(r.Run, "stages", "reports", strconv.Itoa(i), "run")
	}
}

func (d *document) checkTenants(s Service, report func(string, ...string)) {
	var ids []string
	for i, t := range s.Tenants {
		if slices.Contains(ids, t.ID) {
			report(fmt.Sprintf("tenant %q is listed twice", t.ID), "tenants", strconv.Itoa(i), "id")
		}
		ids = append(ids, t.ID)
	}
	known := func(id string, path ...string) {
		if !slices.Contains(ids, id) {
			report(fmt.Sprintf("%q is not one of the tenants%s", clip(id), suggest(id, ids)), path...)
		}
	}
	for i, id := range s.Rollout.TenantWhitelist {
		known(id, "rollout", "tenant_whitelist", strconv.Itoa(i))
	}
	if s.Replay.Tenant != "" {
		known(s.Replay.Tenant, "replay", "tenant")
	}
	for i, id := range s.Replay.OtherTenants {
		known(id, "replay", "other_tenants", strconv.Itoa(i))
		if id == s.Replay.Tenant {
			report("is replay.tenant itself; list tenants that must be refused", "replay", "other_tenants", strconv.Itoa(i))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Replay.Credentials)) {
		known(id, "replay", "credentials", id)
	}
}

func (d *document) checkTargets(s Service, report func(string, ...string)) {
	address := func(raw string, path ...string) bool {
		if raw == "" {
			return false
		}
		if _, err := baseURL(raw); err != nil {
			report(err.Error(), path...)
			return false
		}
		return true
	}
	address(s.Targets.Stable.URL, "targets", "stable", "url")
	address(s.Targets.CapacityURL, "targets", "capacity_url")
	address(s.Targets.Staging.URL, "targets", "staging", "url")
	if address(s.Targets.Candidate.URL, "targets", "candidate", "url") {
		if err := s.Targets.AllowCandidate(s.Targets.Candidate.URL); err != nil {
			report(headgate.AsError(err).Message, "targets", "candidate", "url")
		}
	}
	for i, h := range s.Targets.CandidateHosts {
		if strings.ContainsAny(h, "/@*? ") {
			report(fmt.Sprintf("%q is not a host; write host or host:port, without scheme, path or wildcard", clip(h)), "targets", "candidate_hosts", strconv.Itoa(i))
		}
	}
	for _, name := range headgate.RollbackOrder() {
		address(s.Components.Get(name).Actuator.URL, "components", string(name), "actuator", "url")
	}
}

// maxDuration bounds every duration; more is a mistake in the unit.
const maxDuration = 28 * 24 * time.Hour

func (d *document) checkDurations(s Service, report func(string, ...string)) {
	within := func(v time.Duration, path ...string) {
		if v > maxDuration {
			report("must be at most 28 days (672h)", path...)
		}
	}
	within(s.Stages.Build.Timeout, "stages", "build", "timeout")
	within(s.Stages.Test.Timeout, "stages", "test", "timeout")
	for i, r := range s.Stages.Reports {
		within(r.Timeout, "stages", "reports", strconv.Itoa(i), "timeout")
	}
	within(s.Gates.Window, "gates", "window")
	within(s.Rollout.Soak, "rollout", "soak")
	for i, t := range s.Rollout.Tiers {
		within(t.Soak, "rollout", "tiers", strconv.Itoa(i), "soak")
	}
	within(s.Canary.Duration, "canary", "duration")
	within(s.Canary.MaxDuration, "canary", "max_duration")
	within(s.Canary.BrokenGrace, "canary", "broken_grace")
	for stage, v := range s.Deadlines {
		within(v, "deadlines", string(stage))
	}
}
