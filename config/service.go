// Package config reads what people write: the service description
// (headgate.yaml, [Load]) and the process settings ([LoadSettings]).
//
// It owns defaults, bounds and the messages that name file, line and field.
// It never holds a secret, only where to find one ([SecretRef]); it never
// talks to the network and never runs a command.
package config

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// Service is a service description, headgate.yaml. [Load] and [Parse] return
// it complete: defaults filled in, paths absolute or relative to the working
// directory, every reference checked.
type Service struct {
	// Name identifies the service; it is the service.name of its telemetry.
	Name string `yaml:"name" json:"name"`
	// Owner and OnCall are who answers for the service and who is woken.
	Owner  string `yaml:"owner" json:"owner"`
	OnCall string `yaml:"on_call" json:"on_call"`
	// Runbooks maps an alert class to a URL or a path.
	Runbooks     map[string]string `yaml:"runbooks" json:"runbooks,omitempty"`
	Environments Environments      `yaml:"environments" json:"environments"`
	Tenants      []Tenant          `yaml:"tenants" json:"tenants"`
	// TenantHeader and SessionHeader are the request headers by which the
	// router knows the tenant and keeps one session on one arm.
	TenantHeader  string     `yaml:"tenant_header" json:"tenant_header"`
	SessionHeader string     `yaml:"session_header" json:"session_header"`
	Components    Components `yaml:"components" json:"components"`
	Targets       Targets    `yaml:"targets" json:"targets"`
	Stages        Stages     `yaml:"stages" json:"stages"`
	Contract      Contract   `yaml:"contract" json:"contract"`
	Replay        Replay     `yaml:"replay" json:"replay"`
	Gates         Gates      `yaml:"gates" json:"gates"`
	Rollout       Rollout    `yaml:"rollout" json:"rollout"`
	Canary        Canary     `yaml:"canary" json:"canary"`
	RollbackDrill Drill      `yaml:"rollback_drill" json:"rollback_drill"`
	Feedback      Feedback   `yaml:"feedback" json:"feedback"`
	Router        Router     `yaml:"router" json:"router,omitzero"`
	// Deadlines overrides how long a stage may take; ask [Service.Deadline].
	Deadlines map[headgate.Stage]time.Duration `yaml:"deadlines" json:"deadlines,omitempty"`

	// Dir is the folder of the file, in which commands run.
	Dir string `yaml:"-" json:"-"`
}

// Environments are the values of deployment.environment.name by which the
// service marks its telemetry.
type Environments struct {
	Staging    string `yaml:"staging" json:"staging"`
	Production string `yaml:"production" json:"production"`
}

// Tenant is one customer of the service.
type Tenant struct {
	ID   string               `yaml:"id" json:"id"`
	Size headgate.ProjectSize `yaml:"size" json:"size"`
}

// Components are the parts of the service that a release changes.
type Components struct {
	ModelConfig     Component `yaml:"model_config" json:"model_config"`
	RetrievalParams Component `yaml:"retrieval_params" json:"retrieval_params"`
	WorkflowVersion Component `yaml:"workflow_version" json:"workflow_version"`
	ReleaseVersion  Component `yaml:"release_version" json:"release_version"`
}

// Get returns the named component; the zero Component if there is none.
func (c Components) Get(name headgate.Component) Component {
	switch name {
	case headgate.ModelConfig:
		return c.ModelConfig
	case headgate.RetrievalParams:
		return c.RetrievalParams
	case headgate.WorkflowVersion:
		return c.WorkflowVersion
	case headgate.ReleaseVersion:
		return c.ReleaseVersion
	}
	return Component{}
}

// Component is one part's value in production and how it is changed.
type Component struct {
	Current  string   `yaml:"current" json:"current"`
	Actuator Actuator `yaml:"actuator" json:"actuator"`
}

// ActuatorKind says how a component's value is changed.
type ActuatorKind string

// The kinds of actuator: a flag that the application asks for, an HTTP hook
// that is called, or the router's weights.
const (
	ActuatorFlag   ActuatorKind = "flag"
	ActuatorHook   ActuatorKind = "hook"
	ActuatorRouter ActuatorKind = "router"
)

// Actuator changes a component. URL is set for hooks only.
type Actuator struct {
	Kind ActuatorKind `yaml:"kind" json:"kind"`
	URL  string       `yaml:"url" json:"url,omitempty"`
}

// Targets are the addresses of the service's instances.
type Targets struct {
	Stable    Target `yaml:"stable" json:"stable"`
	Staging   Target `yaml:"staging" json:"staging"`
	Candidate Target `yaml:"candidate" json:"candidate"`
	// CandidateHosts are the hosts on which a release may place a candidate,
	// as host or host:port. Empty allows loopback only.
	CandidateHosts []string `yaml:"candidate_hosts" json:"candidate_hosts,omitempty"`
	// HealthPath answers 200 when an instance can take traffic.
	HealthPath string `yaml:"health_path" json:"health_path"`
	// CapacityURL answers 200 when the version in its query parameter "version"
	// can carry all traffic; empty asks that version's HealthPath.
	CapacityURL string `yaml:"capacity_url" json:"capacity_url,omitempty"`
}

// Target is one instance; Version is known for stable only.
type Target struct {
	Version string `yaml:"version" json:"version,omitempty"`
	URL     string `yaml:"url" json:"url,omitempty"`
}

// Stages are the commands of the stages that run where the CLI runs.
type Stages struct {
	Build Command `yaml:"build" json:"build"`
	Test  Command `yaml:"test" json:"test"`
	// Reports are files of real tools that become evidence for gates.
	Reports []Report `yaml:"reports" json:"reports,omitempty"`
}

// Command is an argument vector, never a shell line; see [Expand]. It runs in
// [Service.Dir].
// An empty Run means that the stage has nothing to do.
type Command struct {
	Run     []string      `yaml:"run" json:"run,omitempty"`
	Timeout time.Duration `yaml:"timeout" json:"timeout"`
}

// Report is one tool's result file for a gate.
type Report struct {
	Gate headgate.Gate `yaml:"gate" json:"gate"`
	// Run, if set, makes the file first.
	Run     []string      `yaml:"run" json:"run,omitempty"`
	Timeout time.Duration `yaml:"timeout" json:"timeout"`
	File    string        `yaml:"file" json:"file"`
	// Format names the tool's format; empty means that it is recognised from
	// the content.
	Format string `yaml:"format" json:"format,omitempty"`
	// Columns maps a gate metric to what the tool calls it, where the two
	// differ.
	Columns map[string]string `yaml:"columns" json:"columns,omitempty"`
}

// Contract says where the service publishes its OpenAPI document.
type Contract struct {
	OpenAPIPath string `yaml:"openapi_path" json:"openapi_path"`
}

// Replay is the recorded suite that a candidate must repeat.
type Replay struct {
	// Suite is the file; empty means that the service has none, and then no
	// release passes the replay stage.
	Suite string `yaml:"suite" json:"suite,omitempty"`
	// Tenant owns the sessions; OtherTenants are those who must be refused.
	Tenant       string   `yaml:"tenant" json:"tenant,omitempty"`
	OtherTenants []string `yaml:"other_tenants" json:"other_tenants,omitempty"`
	// Credentials maps a tenant to where its token is.
	Credentials map[string]SecretRef `yaml:"credentials" json:"credentials,omitempty"`
	Vars        map[string]string    `yaml:"vars" json:"vars,omitempty"`
}

// SecretRef says where a secret is: in an environment variable or in a file.
// It never holds the secret.
type SecretRef struct {
	Env  string `yaml:"env" json:"env,omitempty"`
	File string `yaml:"file" json:"file,omitempty"`
}

// Read returns the secret without surrounding white space. The error names
// the place, never the content.
func (r SecretRef) Read() (string, error) {
	if r.Env != "" {
		if v := strings.TrimSpace(os.Getenv(r.Env)); v != "" {
			return v, nil
		}
		return "", invalidf("the environment variable %s, named by the service description as a credential, is not set", r.Env)
	}
	b, err := os.ReadFile(r.File)
	if err != nil {
		return "", invalidf("the credential file %s cannot be read: %w", r.File, err)
	}
	if v := strings.TrimSpace(string(b)); v != "" {
		return v, nil
	}
	return "", invalidf("the credential file %s is empty", r.File)
}

// Gates says over which window live figures are taken and, optionally, which
// rule set replaces the contract's.
type Gates struct {
	Window time.Duration `yaml:"window" json:"window"`
	Rules  string        `yaml:"rules" json:"rules,omitempty"`
}

// Rollout is the plan by which a release reaches tenants.
type Rollout struct {
	TenantWhitelist     []string               `yaml:"tenant_whitelist" json:"tenant_whitelist"`
	EnabledProjectSizes []headgate.ProjectSize `yaml:"enabled_project_sizes" json:"enabled_project_sizes"`
	HighRiskHITL        bool                   `yaml:"high_risk_hitl_enforced" json:"high_risk_hitl_enforced"`
	// Tiers are the steps by which a canary widens, in order; empty is the
	// whitelist alone. A resolved description has their shares and soaks.
	Tiers []Tier `yaml:"tiers" json:"tiers,omitempty"`
	// OnBusy is what a release does while an older one of the service is under
	// canary: wait for its end, or supersede it.
	OnBusy string `yaml:"on_busy" json:"on_busy"`
	// Soak is how long a tier after the first that does not say is watched
	// before it can pass; zero is the canary's duration.
	Soak time.Duration `yaml:"soak" json:"soak"`
}

// Tier is one step by which a canary widens: to the whitelist, or to every
// tenant of a size class as well.
type Tier struct {
	// Tier is whitelist, small, medium or large.
	Tier string `yaml:"tier" json:"tier"`
	// Share is the candidate's part of the admitted traffic, 0 < Share <= 1, and
	// never below that of the tier before.
	Share float64       `yaml:"share" json:"share"`
	Soak  time.Duration `yaml:"soak" json:"soak"`
	// ApprovalRequired holds the canary before this tier until a person with
	// the approver role agrees.
	ApprovalRequired bool `yaml:"approval_required" json:"approval_required,omitempty"`
}

// Drill says how often a rollback has to be rehearsed; a zero Every asks for
// none.
type Drill struct {
	Every Interval `yaml:"every" json:"every"`
}

// Interval is a duration that may be written in days: 30d.
type Interval time.Duration

// Duration returns the interval as one.
func (i Interval) Duration() time.Duration { return time.Duration(i) }

const day = 24 * time.Hour

// String writes whole days as days.
func (i Interval) String() string {
	if d := i.Duration(); d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return i.Duration().String()
}

// MarshalText writes what UnmarshalText reads.
func (i Interval) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads a number of days, or any other duration.
func (i *Interval) UnmarshalText(text []byte) error {
	if n, ok := strings.CutSuffix(string(text), "d"); ok {
		days, err := strconv.Atoi(n)
		*i = Interval(time.Duration(days) * day)
		return err
	}
	d, err := time.ParseDuration(string(text))
	*i = Interval(d)
	return err
}

// TierWhitelist is the tier of the whitelisted tenants alone.
const TierWhitelist = "whitelist"

// Canary says how much traffic is risked for how long. Ratio and Duration are
// zero when the description leaves them to the process; see [Service.Resolve].
type Canary struct {
	// Ratio is the candidate's share of admitted traffic, 0 < Ratio <= 1.
	Ratio    float64       `yaml:"ratio" json:"ratio"`
	Duration time.Duration `yaml:"duration" json:"duration"`
	// MaxDuration bounds how long an insufficient verdict may hold.
	MaxDuration time.Duration `yaml:"max_duration" json:"max_duration"`
	// BrokenGrace is how long broken telemetry may hold before a rollback.
	BrokenGrace time.Duration `yaml:"broken_grace" json:"broken_grace"`
	// ConsecutiveThreshold is the number of failed gate evaluations in a row
	// that trigger a rollback, at least 1.
	ConsecutiveThreshold int `yaml:"consecutive_threshold" json:"consecutive_threshold"`
	// SLOErrorRate is the share of failed requests that the service promises
	// to stay below; KillErrorRate, over both arms, stops the canary whatever
	// the comparison says. 0 < SLOErrorRate < KillErrorRate <= 0.9.
	SLOErrorRate  float64 `yaml:"slo_error_rate" json:"slo_error_rate"`
	KillErrorRate float64 `yaml:"kill_error_rate" json:"kill_error_rate"`
	// Assignment is "split", part of each admitted tenant's sessions, or
	// "whole_tenants", all of them; then shares do not count.
	Assignment string `yaml:"assignment" json:"assignment"`
	// ApprovalRequired holds the release before the rollout until a person
	// with the approver role agrees.
	ApprovalRequired bool `yaml:"approval_required" json:"approval_required"`
}

// Resolve fills what the description left open about canary and tiers from the
// process settings. The description is the more specific of the two and wins.
func (s Service) Resolve(st Settings) Service {
	c := &s.Canary
	c.Ratio = cmp.Or(c.Ratio, st.CanaryRatio)
	c.Duration = cmp.Or(c.Duration, time.Duration(st.CanaryDurationMin)*time.Minute)
	tiers := slices.Clone(s.Rollout.Tiers)
	if len(tiers) == 0 {
		tiers = []Tier{{Tier: TierWhitelist}}
	}
	share, soak, longest := c.Ratio, c.Duration, c.Duration
	for i := range tiers {
		t := &tiers[i]
		t.Share, t.Soak = cmp.Or(t.Share, share), cmp.Or(t.Soak, soak)
		share, soak, longest = t.Share, cmp.Or(s.Rollout.Soak, c.Duration), max(longest, t.Soak)
	}
	s.Rollout.Tiers = tiers
	c.MaxDuration = max(cmp.Or(c.MaxDuration, 4*longest), longest)
	return s
}

// Router says what stands in front of the service, if not Headgate's proxies
// alone. At most one part is given.
type Router struct {
	GatewayAPI GatewayAPI `yaml:"gateway_api" json:"gateway_api,omitzero"`
	HAProxy    HAProxy    `yaml:"haproxy" json:"haproxy,omitzero"`
}

// HAProxy names a HAProxy on the control plane's machine; the zero value, none.
type HAProxy struct {
	// Dir holds its configuration, its maps and its Runtime socket.
	Dir string `yaml:"dir" json:"dir"`
	// Listen is where users reach it.
	Listen string `yaml:"listen" json:"listen"`
}

// The modes of a [GatewayAPI] router, as package traffic/gatewayapi explains
// them.
const (
	GatewayProxy   = "proxy"
	GatewayHeader  = "header"
	GatewayWeights = "weights"
)

// GatewayAPI names an HTTPRoute of a Kubernetes cluster; the zero value, none.
type GatewayAPI struct {
	Mode string `yaml:"mode" json:"mode"`
	// Kubeconfig is a file; empty means the service account of the pod.
	Kubeconfig string `yaml:"kubeconfig" json:"kubeconfig,omitempty"`
	Namespace  string `yaml:"namespace" json:"namespace"`
	Route      string `yaml:"route" json:"route"`
	// Proxy is the Service of Headgate's proxies, for mode proxy; Gateway is
	// where they reach the Gateway, for mode header.
	Proxy   string `yaml:"proxy" json:"proxy,omitempty"`
	Gateway string `yaml:"gateway" json:"gateway,omitempty"`
	// Tester is the value of x-release-tester that meets the candidate, for mode
	// weights.
	Tester string `yaml:"tester" json:"tester,omitempty"`
	// Force takes the rules from another field manager.
	Force bool `yaml:"force" json:"force,omitempty"`
}

// Feedback says where the service lists what went wrong. Empty paths mean
// that there is nothing to take.
type Feedback struct {
	DLQPath     string `yaml:"dlq_path" json:"dlq_path,omitempty"`
	ReviewsPath string `yaml:"reviews_path" json:"reviews_path,omitempty"`
}

// Deadline returns how long stage may take in all before the release is
// stopped there. A canary may take its longest hold and the grace on top,
// unless the description says otherwise; call it on a resolved description.
func (s Service) Deadline(stage headgate.Stage) time.Duration {
	if d := s.Deadlines[stage]; d > 0 {
		return d
	}
	if stage == headgate.StageCanary {
		return s.Canary.MaxDuration + s.Canary.BrokenGrace + 5*time.Minute
	}
	return defaultDeadlines[stage]
}

// Tenant returns the tenant of that id.
func (s Service) Tenant(id string) (Tenant, bool) {
	for _, t := range s.Tenants {
		if t.ID == id {
			return t, true
		}
	}
	return Tenant{}, false
}

// AllowCandidate reports, as an error, why a release may not place a
// candidate at rawURL: only http and https on an allowed host, without
// credentials, query or fragment.
func (t Targets) AllowCandidate(rawURL string) error {
	u, err := baseURL(rawURL)
	if err != nil {
		return invalidf("candidate address: %w", err)
	}
	if hostAllowed(u, t.CandidateHosts) {
		return nil
	}
	return invalidf("candidate address %s: host %q is not allowed; add it to targets.candidate_hosts of the service description", u.Redacted(), u.Host)
}

func hostAllowed(u *url.URL, hosts []string) bool {
	if len(hosts) == 0 {
		return isLoopback(u.Hostname())
	}
	for _, h := range hosts {
		if strings.EqualFold(h, u.Host) || strings.EqualFold(h, u.Hostname()) {
			return true
		}
	}
	return false
}

func (s *Service) resolvePaths(dir string) {
	s.Dir = dir
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	abs(&s.Replay.Suite)
	abs(&s.Router.GatewayAPI.Kubeconfig)
	abs(&s.Router.HAProxy.Dir)
	abs(&s.Gates.Rules)
	for i := range s.Stages.Reports {
		abs(&s.Stages.Reports[i].File)
	}
	for tenant, ref := range s.Replay.Credentials {
		abs(&ref.File)
		s.Replay.Credentials[tenant] = ref
	}
}
