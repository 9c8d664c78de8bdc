package telemetry

import (
	"regexp"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Redacted is what stands where a secret was.
const Redacted = "[REDACTED]"

// minSecret is the length below which nothing is one of the built-in kinds.
const minSecret = 8

// Redactor replaces secrets in logs, spans and the attributes of metrics: in
// every text that is stored but the names of attributes and metrics. It is safe
// for concurrent use.
type Redactor struct {
	extra []*regexp.Regexp
}

// Source is who sent a record.
type Source struct {
	Service, Version, Environment, Tenant string
}

// NewRedactor returns a redactor for the built-in kinds of secret
// (authorization and cookie headers, bearer and basic credentials, private
// keys, JSON web tokens, cloud and forge tokens, key=value passwords) and for
// every match of the extra patterns, of which the group named s is the secret,
// where there is one. Extra patterns find numbers and short texts too.
func NewRedactor(extra ...*regexp.Regexp) *Redactor { return &Redactor{extra} }

// Search is what was looked through, and what was found.
type Search struct {
	Items int64 // log records or spans
	Hits  int64 // secrets in them
}

func (s Search) plus(items, hits int64) Search { return Search{s.Items + items, s.Hits + hits} }

// Logs redacts ld in place. It returns what was searched and found per source;
// a source that sent records without any secret is there too, because "looked
// and found nothing" is not "never looked".
func (r *Redactor) Logs(ld plog.Logs) map[Source]Search {
	found := make(map[Source]Search)
	for _, rl := range ld.ResourceLogs().All() {
		hits := r.attributes(rl.Resource().Attributes())
		src := SourceOf(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			hits += r.attributes(sl.Scope().Attributes())
			for _, rec := range sl.LogRecords().All() {
				n := r.value("", rec.Body()) + r.attributes(rec.Attributes()) +
					r.field(rec.EventName(), rec.SetEventName) + r.field(rec.SeverityText(), rec.SetSeverityText)
				of := src.withTenant(rec.Attributes())
				found[of] = found[of].plus(1, n)
			}
		}
		if hits > 0 {
			found[src] = found[src].plus(0, hits)
		}
	}
	return found
}

// Traces redacts td in place; see [Redactor.Logs].
func (r *Redactor) Traces(td ptrace.Traces) map[Source]Search {
	found := make(map[Source]Search)
	for _, rs := range td.ResourceSpans().All() {
		hits := r.attributes(rs.Resource().Attributes())
		src := SourceOf(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			hits += r.attributes(ss.Scope().Attributes())
			for _, span := range ss.Spans().All() {
				n := r.span(span)
				of := src.withTenant(span.Attributes())
				found[of] = found[of].plus(1, n)
			}
		}
		if hits > 0 {
			found[src] = found[src].plus(0, hits)
		}
	}
	return found
}

func (r *Redactor) span(span ptrace.Span) (hits int64) {
	hits = r.attributes(span.Attributes()) + r.field(span.Name(), span.SetName) +
		r.field(span.Status().Message(), span.Status().SetMessage)
	for _, e := range span.Events().All() {
		hits += r.attributes(e.Attributes()) + r.field(e.Name(), e.SetName)
	}
	for _, l := range span.Links().All() {
		hits += r.attributes(l.Attributes())
	}
	return hits
}

// Metrics redacts the attributes of md in place; see [Redactor.Logs]. Of a
// source without a secret it says nothing, and of none how much was searched:
// metrics are no evidence that logs were looked at.
func (r *Redactor) Metrics(md pmetric.Metrics) map[Source]Search {
	found := make(map[Source]Search)
	for _, rm := range md.ResourceMetrics().All() {
		hits := r.attributes(rm.Resource().Attributes())
		src := SourceOf(rm.Resource())
		if hits > 0 {
			found[src] = found[src].plus(0, hits)
		}
		point := func(a pcommon.Map) {
			if n := r.attributes(a); n > 0 {
				of := src.withTenant(a)
				found[of] = found[of].plus(0, n)
			}
		}
		for _, sm := range rm.ScopeMetrics().All() {
			point(sm.Scope().Attributes())
			for _, m := range sm.Metrics().All() {
				eachPoint(m, point)
			}
		}
	}
	return found
}

// eachPoint calls use with the attributes of every point of m. Exemplars are not stored.
func eachPoint(m pmetric.Metric, use func(pcommon.Map)) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			use(p.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			use(p.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			use(p.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			use(p.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			use(p.Attributes())
		}
	}
}

// SourceOf reads the sender's identity from its resource.
func SourceOf(res pcommon.Resource) Source {
	a := res.Attributes()
	return Source{
		Service:     text(a, "service.name"),
		Version:     text(a, "service.version"),
		Environment: text(a, "deployment.environment.name"),
		Tenant:      text(a, AttrTenant),
	}
}

func (s Source) withTenant(a pcommon.Map) Source {
	if t := text(a, AttrTenant); t != "" {
		s.Tenant = t
	}
	return s
}

func text(a pcommon.Map, key string) string {
	if v, ok := a.Get(key); ok {
		return v.AsString()
	}
	return ""
}

func (r *Redactor) attributes(a pcommon.Map) (hits int64) {
	for k, v := range a.All() {
		hits += r.value(k, v)
	}
	return hits
}

func (r *Redactor) value(key string, v pcommon.Value) (hits int64) {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		clean, n := r.keyed(key, v.Str())
		if n > 0 {
			v.SetStr(clean)
		}
		return n
	case pcommon.ValueTypeBytes:
		clean, n := r.keyed(key, string(v.Bytes().AsRaw()))
		if n > 0 {
			v.SetEmptyBytes().FromRaw([]byte(clean))
		}
		return n
	case pcommon.ValueTypeMap:
		return r.attributes(v.Map())
	case pcommon.ValueTypeSlice:
		for _, x := range v.Slice().All() {
			hits += r.value(key, x)
		}
	case pcommon.ValueTypeInt, pcommon.ValueTypeDouble:
		if len(r.extra) == 0 {
			return 0
		}
		if _, n := r.configured(v.AsString()); n > 0 {
			v.SetStr(Redacted)
			return n
		}
	}
	return hits
}

// field redacts a text that is no attribute.
func (r *Redactor) field(s string, set func(string)) (hits int64) {
	clean, hits := r.Text(s)
	if hits > 0 {
		set(clean)
	}
	return hits
}

func (r *Redactor) keyed(key, s string) (clean string, hits int64) {
	if secretKey(key) && s != "" {
		if masked(s) {
			return s, 0
		}
		return Redacted, 1
	}
	return r.Text(s)
}

// secretKeys are the attribute names whose value is a secret whatever it
// looks like. The last dot-separated segment counts, with _ for -.
var secretKeys = map[string]bool{
	"authorization": true, "proxy_authorization": true, "cookie": true, "set_cookie": true,
	"password": true, "passwd": true, "secret": true, "client_secret": true, "private_key": true,
	"api_key": true, "apikey": true, "x_api_key": true, "token": true, "access_token": true,
	"refresh_token": true, "id_token": true, "auth_token": true, "resume_token": true, "x_auth_token": true,
}

// longestKey is the length of the longest of secretKeys.
const longestKey = len("proxy_authorization")

func secretKey(key string) bool {
	key = key[strings.LastIndexByte(key, '.')+1:]
	if len(key) > longestKey || key == "" {
		return false
	}
	var buf [longestKey]byte
	for i := range len(key) {
		c := key[i]
		switch {
		case c == '-':
			c = '_'
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		buf[i] = c
	}
	return secretKeys[string(buf[:len(key)])]
}

// pattern finds one kind of secret. The group named s is the secret; without
// one, the whole match is. A pattern is tried only where one of its triggers,
// in lower case, occurs.
type pattern struct {
	triggers []string
	re       *regexp.Regexp
}

var patterns = []pattern{
	{[]string{"-----begin"}, regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|$)`)},
	{[]string{"authorization", "cookie"}, regexp.MustCompile(`(?i)\b(?:proxy-authorization|authorization|set-cookie|cookie)\b\\?["']?\s*[:=]\s*\\?["'\[]*(?P<s>[^\r\n"'\\]+)`)},
	{[]string{"bearer ", "basic "}, regexp.MustCompile(`(?i)\b(?:bearer|basic)\s+(?P<s>[a-z0-9\-._~+/]{8,}=*)`)},
	{[]string{"eyj"}, regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*`)},
	{[]string{"akia", "asia"}, regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{[]string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "sk-"},
		regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|sk-[\w-]{20,})`)},
	{[]string{"passw", "pwd", "secret", "api_key", "api-key", "apikey", "token"},
		regexp.MustCompile(`(?i)\b\w*(?:password|passwd|pwd|secret|api[_-]?key|token)\\?["']?\s*[:=]\s*\\?["']?(?P<s>[^\s"',;&}\\]{4,})`)},
	{[]string{"://"}, regexp.MustCompile(`://[^\s/:@]*:(?P<s>[^\s/@]+)@`)},
}

// trigger is a lower-case literal with the patterns that it wakes.
type trigger struct {
	literal string
	mask    uint32
}

// triggers are indexed by their first byte, so that one pass over a value
// tells which patterns can match at all.
var triggers = func() (byFirst [256][]trigger) {
	for i, p := range patterns {
		for _, t := range p.triggers {
			byFirst[t[0]] = append(byFirst[t[0]], trigger{t, 1 << i})
		}
	}
	return byFirst
}()

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func awake(s string) (mask uint32) {
	for i := range len(s) {
		for _, t := range triggers[lower(s[i])] {
			if hasPrefixFold(s[i:], t.literal) {
				mask |= t.mask
			}
		}
	}
	return mask
}

func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if lower(s[i]) != prefix[i] {
			return false
		}
	}
	return true
}

// maskedValue is how senders write a secret that they removed themselves.
var maskedValue = regexp.MustCompile(`(?i)^(?:(?:bearer|basic)\s+)?[\[<({]?(?:redacted|masked|filtered|hidden|removed|\*+|x{3,}|\.{3,}|…)[\])>}]?;?$`)

func masked(s string) bool { return maskedValue.MatchString(strings.TrimSpace(s)) }

// Text returns s without its secrets, and how many there were.
func (r *Redactor) Text(s string) (clean string, hits int64) {
	if len(s) >= minSecret {
		mask := awake(s)
		for i, p := range patterns {
			if mask&(1<<i) == 0 {
				continue
			}
			var n int64
			s, n = replace(p.re, s)
			hits += n
		}
	}
	s, n := r.configured(s)
	return s, hits + n
}

func (r *Redactor) configured(s string) (clean string, hits int64) {
	for _, re := range r.extra {
		var n int64
		s, n = replace(re, s)
		hits += n
	}
	return s, hits
}

// replace puts [Redacted] in place of the secret of every match that is not
// masked already.
func replace(re *regexp.Regexp, s string) (clean string, hits int64) {
	group := 2 * max(re.SubexpIndex("s"), 0)
	var b strings.Builder
	at := 0
	for _, m := range re.FindAllStringSubmatchIndex(s, -1) {
		from, to := m[group], m[group+1]
		if from < 0 || from == to || masked(s[from:to]) {
			continue
		}
		b.WriteString(s[at:from])
		b.WriteString(Redacted)
		at = to
		hits++
	}
	if hits == 0 {
		return s, 0
	}
	b.WriteString(s[at:])
	return b.String(), hits
}
