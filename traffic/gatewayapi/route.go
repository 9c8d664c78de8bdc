package gatewayapi

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

type (
	httpRoute = gateway.HTTPRoute
	rule      = gateway.HTTPRouteRule
)

// The limits of an HTTPRoute, from the API's own schema.
const (
	maxRules       = 16
	maxRuleMatches = 64
	maxMatches     = 128
	maxWeight      = 1_000_000
)

// annotation holds the split that the rules carry out.
const annotation = "headgate.dev/split"

// Headers that the rules match.
const (
	routeHeader  = "x-release-route"
	testerHeader = "x-release-tester"
)

// rules returns what the route must hold for s. Every field that the API server
// would fill in is written out, so that what is read back can be compared.
func (r *Router) rules(s rollout.Split) ([]rule, error) {
	if r.cfg.Mode == ModeProxy {
		proxy, err := serviceOf(r.cfg.Proxy, r.cfg.Namespace)
		return []rule{to(nil, proxy)}, err
	}
	stable, err := serviceOf(s.Stable.URL, r.cfg.Namespace)
	if err != nil {
		return nil, err
	}
	if s.Candidate.URL == "" {
		return []rule{to(nil, stable)}, nil
	}
	candidate, err := serviceOf(s.Candidate.URL, r.cfg.Namespace)
	if err != nil {
		return nil, err
	}
	if weight(s.Share) == 0 {
		return []rule{to(nil, stable)}, nil
	}
	if r.cfg.Mode == ModeHeader {
		return []rule{to(headers(routeHeader, string(headgate.Candidate)), candidate), to(nil, stable)}, nil
	}
	return r.weighted(s, stable, candidate)
}

func (r *Router) weighted(s rollout.Split, stable, candidate gateway.BackendObjectReference) ([]rule, error) {
	stableWeight, candidateWeight := maxWeight-weight(s.Share), weight(s.Share)
	split := func(matches []gateway.HTTPRouteMatch) rule {
		out := to(matches, stable, candidate)
		out.BackendRefs[0].Weight, out.BackendRefs[1].Weight = &stableWeight, &candidateWeight
		return out
	}
	var out []rule
	if r.cfg.Tester != "" {
		out = append(out, to(headers(testerHeader, r.cfg.Tester), candidate))
	}
	if s.AllTenants {
		return append(out, split(nil)), nil
	}
	tenants := slices.Compact(slices.Sorted(slices.Values(s.Tenants)))
	for part := range slices.Chunk(tenants, maxRuleMatches) {
		out = append(out, split(headers(r.cfg.TenantHeader, part...)))
	}
	out = append(out, to(nil, stable))
	matches := 0
	for _, rule := range out {
		matches += len(rule.Matches)
	}
	if len(out) > maxRules || matches > maxMatches {
		return nil, headgate.Invalidf(
			"an HTTPRoute holds at most %d rules and %d matches, and this split of %d tenants needs %d and %d; admit fewer tenants or all, or let proxies decide (mode proxy)",
			maxRules, maxMatches, len(tenants), len(out), matches)
	}
	for _, t := range tenants {
		if t == "" || len(t) > 4096 {
			return nil, headgate.Invalidf("a tenant's name does not fit a header match of an HTTPRoute; use 1 to 4096 characters")
		}
	}
	return out, nil
}

// to is a rule that sends what matches, or everything, to backends, each with
// the weight 1.
func to(matches []gateway.HTTPRouteMatch, backends ...gateway.BackendObjectReference) rule {
	if matches == nil {
		matches = []gateway.HTTPRouteMatch{{Path: root()}}
	}
	out := rule{Matches: matches}
	for _, b := range backends {
		one := int32(1)
		out.BackendRefs = append(out.BackendRefs, gateway.HTTPBackendRef{BackendRef: gateway.BackendRef{BackendObjectReference: b, Weight: &one}})
	}
	return out
}

// headers matches requests whose header has one of values.
func headers(name string, values ...string) []gateway.HTTPRouteMatch {
	exact := gateway.HeaderMatchExact
	var out []gateway.HTTPRouteMatch
	for _, v := range values {
		out = append(out, gateway.HTTPRouteMatch{Path: root(), Headers: []gateway.HTTPHeaderMatch{
			{Type: &exact, Name: gateway.HTTPHeaderName(name), Value: v},
		}})
	}
	return out
}

func root() *gateway.HTTPPathMatch {
	prefix, path := gateway.PathMatchPathPrefix, "/"
	return &gateway.HTTPPathMatch{Type: &prefix, Value: &path}
}

// serviceOf reads the Service that a URL such as
// http://bidding-v2.shop.svc.cluster.local:8080 names. A bare name is a
// Service in namespace.
func serviceOf(raw, namespace string) (gateway.BackendObjectReference, error) {
	var none gateway.BackendObjectReference
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" {
		return none, headgate.Invalidf("gateway api: %.100q is not the http address of a Service, such as http://bidding-v2.shop.svc:8080", raw)
	}
	name, rest, _ := strings.Cut(strings.TrimSuffix(u.Hostname(), ".svc.cluster.local"), ".")
	ns, kind, _ := strings.Cut(rest, ".")
	if ns == "" {
		ns = namespace
	}
	port, err := strconv.ParseInt(u.Port(), 10, 32)
	if u.Port() == "" {
		port, err = 80, nil
	}
	if err != nil || port < 1 || port > 65535 || !label.MatchString(name) || !label.MatchString(ns) || (kind != "" && kind != "svc") {
		return none, headgate.Invalidf("gateway api: %.100q does not name a Service; write http://<service>.<namespace>.svc:<port>", raw)
	}
	group, service, number := gateway.Group(""), gateway.Kind("Service"), gateway.PortNumber(port)
	ref := gateway.BackendObjectReference{Group: &group, Kind: &service, Name: gateway.ObjectName(name), Port: &number}
	if ns != namespace {
		other := gateway.Namespace(ns)
		ref.Namespace = &other
	}
	return ref, nil
}

// described reads the split from the route's annotation.
func described(route *httpRoute) (rollout.Split, error) {
	var s rollout.Split
	text, ok := route.Annotations[annotation]
	if !ok {
		return s, nil
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil || s.Epoch < 1 {
		return s, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"the annotation %s of the HTTPRoute cannot be read; remove it, and the next change writes it anew", annotation)
	}
	return s, nil
}

// unconfirmed says what the route's Gateways have not said yet of this
// generation, or have refused, which is final. It is empty once all of them
// have accepted it and found its backends.
func (st state) unconfirmed() (missing string, final bool) {
	if len(st.route.Status.Parents) < len(st.route.Spec.ParentRefs) || len(st.route.Status.Parents) == 0 {
		return "not every parent has reported; check that the route has parentRefs and that a Gateway controller runs", false
	}
	for _, p := range st.route.Status.Parents {
		for _, kind := range []gateway.RouteConditionType{gateway.RouteConditionAccepted, gateway.RouteConditionResolvedRefs} {
			i := slices.IndexFunc(p.Conditions, func(c condition) bool { return c.Type == string(kind) })
			switch {
			case i < 0 || p.Conditions[i].ObservedGeneration < st.route.Generation:
				return fmt.Sprintf("%s of parent %s is not reported for generation %d", kind, p.ParentRef.Name, st.route.Generation), false
			case p.Conditions[i].Status != "True":
				return fmt.Sprintf("%s of parent %s is %s (%s)", kind, p.ParentRef.Name, p.Conditions[i].Status, p.Conditions[i].Reason), true
			}
		}
	}
	return "", false
}
