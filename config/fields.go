package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// field ties one setting to its names in the three sources. The value parses
// and prints, as flag.Value does.
type field struct {
	key, variable string
	value         interface {
		Set(string) error
		String() string
	}
	help   string
	secret bool // its value may contain one
	client bool // who asks a server has it, not who serves
}

func (f field) flag() string { return strings.ReplaceAll(f.key, "_", "-") }

func (s *Settings) fields() []field {
	return []field{
		{key: "otlp_endpoint", variable: "OTEL_EXPORTER_OTLP_ENDPOINT", value: (*urlValue)(&s.OTLPEndpoint), help: "where Headgate sends its own telemetry, beside its own store", secret: true},
		{key: "metrics_namespace", variable: "OBS_METRICS_NAMESPACE", value: (*nameValue)(&s.MetricsNamespace), help: "prefix of the metric names"},
		{key: "alert_webhook", variable: "OBS_ALERT_WEBHOOK", value: (*urlValue)(&s.AlertWebhook), help: "address that receives alerts", secret: true},
		{key: "canary_ratio", variable: "RELEASE_CANARY_RATIO", value: (*ratioValue)(&s.CanaryRatio), help: "share of traffic that a canary gets, above 0 and at most 1"},
		{key: "canary_duration_min", variable: "RELEASE_CANARY_DURATION_MIN", value: &whole{&s.CanaryDurationMin, "minutes", 1, maxMinutes}, help: "how long a canary lasts, in whole minutes"},
		{key: "rollback_max_minutes", variable: "ROLLBACK_MAX_MINUTES", value: &whole{&s.RollbackMaxMinutes, "minutes", 1, maxMinutes}, help: "limit within which a rollback must restore the service, in whole minutes"},
		{key: "readiness_required", variable: "P6_READINESS_REQUIRED", value: (*boolValue)(&s.ReadinessRequired), help: "whether a release needs the readiness assessment"},
		{key: "data", variable: "HEADGATE_DATA", value: (*textValue)(&s.DataDir), help: "folder of the control plane's data"},
		{key: "listen", variable: "HEADGATE_LISTEN", value: (*addressValue)(&s.Listen), help: "address of the HTTP API"},
		{key: "otlp_grpc", variable: "HEADGATE_OTLP_GRPC", value: (*addressValue)(&s.OTLPGRPC), help: "address of the OTLP receiver over gRPC"},
		{key: "otlp_http", variable: "HEADGATE_OTLP_HTTP", value: (*addressValue)(&s.OTLPHTTP), help: "address of the OTLP receiver over HTTP"},
		{key: "proxy_listen", variable: "HEADGATE_PROXY_LISTEN", value: (*addressValue)(&s.ProxyListen), help: "address of the proxy in front of the service"},
		{key: "evidence_mode", variable: "HEADGATE_EVIDENCE_MODE", value: (*evidenceValue)(&s.EvidenceMode), help: "verified: only evidence counts; declared: claims count (development only)"},
		{key: "evidence_bucket", variable: "HEADGATE_EVIDENCE_BUCKET", value: (*textValue)(&s.EvidenceBucket), help: "S3-compatible bucket that keeps the evidence files; unset keeps them in the data folder"},
		{key: "evidence_endpoint", variable: "HEADGATE_EVIDENCE_ENDPOINT", value: (*urlValue)(&s.EvidenceEndpoint), help: "address of the bucket's server"},
		{key: "evidence_region", variable: "HEADGATE_EVIDENCE_REGION", value: (*textValue)(&s.EvidenceRegion), help: "the bucket's region"},
		{key: "evidence_prefix", variable: "HEADGATE_EVIDENCE_PREFIX", value: (*prefixValue)(&s.EvidencePrefix), help: "what the names of the objects begin with, such as headgate/prod"},
		{key: "tls_cert", variable: "HEADGATE_TLS_CERT", value: (*textValue)(&s.TLSCert), help: "certificate file of the HTTP API"},
		{key: "tls_key", variable: "HEADGATE_TLS_KEY", value: (*textValue)(&s.TLSKey), help: "key file of the HTTP API"},
		{key: "metrics_url", variable: "HEADGATE_METRICS_URL", value: (*urlValue)(&s.Metrics.URL), help: "Prometheus-compatible server that keeps the metrics instead of the data folder", secret: true},
		{key: "metrics_token_file", variable: "HEADGATE_METRICS_TOKEN_FILE", value: (*textValue)(&s.Metrics.TokenFile), help: "file with the bearer token for metrics_url"},
		{key: "traces_url", variable: "HEADGATE_TRACES_URL", value: (*urlValue)(&s.Traces.URL), help: "trace server in which requests are looked for too", secret: true},
		{key: "traces_api", variable: "HEADGATE_TRACES_API", value: &choice{&s.Traces.API, []string{"tempo", "jaeger"}}, help: "what traces_url speaks: tempo or jaeger"},
		{key: "traces_token_file", variable: "HEADGATE_TRACES_TOKEN_FILE", value: (*textValue)(&s.Traces.TokenFile), help: "file with the bearer token for traces_url"},
		{key: "logs_url", variable: "HEADGATE_LOGS_URL", value: (*urlValue)(&s.Logs.URL), help: "log server in which requests are looked for too", secret: true},
		{key: "logs_api", variable: "HEADGATE_LOGS_API", value: &choice{&s.Logs.API, []string{"loki", "victorialogs"}}, help: "what logs_url speaks: loki or victorialogs"},
		{key: "logs_token_file", variable: "HEADGATE_LOGS_TOKEN_FILE", value: (*textValue)(&s.Logs.TokenFile), help: "file with the bearer token for logs_url"},
		{key: "prices", variable: "HEADGATE_PRICES", value: (*textValue)(&s.Prices), help: "price table that turns the tokens of model calls into cost"},
		{key: "telemetry_days", variable: "HEADGATE_TELEMETRY_DAYS", value: &whole{&s.TelemetryDays, "days", 1, 3650}, help: "how long metrics, logs and traces are kept, in whole days"},
		{key: "telemetry_mb", variable: "HEADGATE_TELEMETRY_MB", value: &whole{&s.TelemetryMB, "megabytes", 0, 1 << 30}, help: "how large each of the two telemetry stores may become, in megabytes; 0 is no limit"},
		{key: "redact_patterns", variable: "HEADGATE_REDACT_PATTERNS", value: (*patternsValue)(&s.RedactPatterns), help: "what is a secret in telemetry beside the built-in kinds: RE2 expressions, one a line"},
		{key: "dictionary", variable: "HEADGATE_DICTIONARY", value: (*textValue)(&s.Dictionary), help: "folder with more metric definitions and OpenSLO files, *.yaml"},
		{key: "url", variable: "HEADGATE_URL", value: (*urlValue)(&s.URL), help: "address of the server that the client asks", client: true},
		{key: "token_file", variable: "HEADGATE_TOKEN_FILE", value: (*textValue)(&s.TokenFile), help: "file that holds the client's token", client: true},
	}
}

type textValue string

func (v *textValue) String() string     { return string(*v) }
func (v *textValue) Set(s string) error { *v = textValue(s); return nil }

// prefixValue is a folder in a bucket, without a slash at its ends.
type prefixValue string

func (v *prefixValue) String() string { return string(*v) }
func (v *prefixValue) Set(s string) error {
	s = strings.Trim(s, "/")
	if s != "" && !fs.ValidPath(s) || s == "." {
		return fmt.Errorf("%q is not a folder in a bucket; use names between slashes, for example headgate/prod", s)
	}
	*v = prefixValue(s)
	return nil
}

type nameValue string

var metricName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,62}$`)

func (v *nameValue) String() string { return string(*v) }
func (v *nameValue) Set(s string) error {
	if !metricName.MatchString(s) {
		return fmt.Errorf("%q is not a metric prefix; use a letter, then letters, digits and underscores, at most 63", s)
	}
	*v = nameValue(s)
	return nil
}

type boolValue bool

func (v *boolValue) String() string { return strconv.FormatBool(bool(*v)) }
func (v *boolValue) Set(s string) error {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		*v = true
	case "false", "0", "no", "off":
		*v = false
	default:
		return fmt.Errorf("%q is not a boolean; use true, false, 1, 0, yes, no, on or off", s)
	}
	return nil
}

type ratioValue float64

func (v *ratioValue) String() string { return strconv.FormatFloat(float64(*v), 'g', -1, 64) }
func (v *ratioValue) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f <= 0 || f > 1 {
		return fmt.Errorf("%q is not a share; use a number above 0 and at most 1, for example 0.1", s)
	}
	*v = ratioValue(f)
	return nil
}

// maxMinutes is four weeks, above which a number of minutes is a mistake.
const maxMinutes = 28 * 24 * 60

// whole is a whole number of something, from min to max.
type whole struct {
	to       *int
	what     string
	min, max int
}

func (v *whole) String() string { return strconv.Itoa(*v.to) }
func (v *whole) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < v.min || n > v.max {
		return fmt.Errorf("%q is not a number of %s; use a whole number from %d to %d", s, v.what, v.min, v.max)
	}
	*v.to = n
	return nil
}

type addressValue string

func (v *addressValue) String() string { return string(*v) }
func (v *addressValue) Set(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not an address; use host:port, for example 127.0.0.1:8080", s)
	}
	*v = addressValue(s)
	return nil
}

type urlValue string

func (v *urlValue) String() string { return string(*v) }

// Set does not repeat the address, which may contain a secret.
func (v *urlValue) Set(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New("is not an http or https address, for example http://127.0.0.1:4318")
	}
	*v = urlValue(s)
	return nil
}

// choice takes one of a few words.
type choice struct {
	value *string
	words []string
}

func (c *choice) String() string { return *c.value }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.words, s) {
		return fmt.Errorf("%q is not known; use %s", s, strings.Join(c.words, " or "))
	}
	*c.value = s
	return nil
}

type evidenceValue EvidenceMode

func (v *evidenceValue) String() string { return string(*v) }
func (v *evidenceValue) Set(s string) error {
	switch EvidenceMode(s) {
	case EvidenceVerified, EvidenceDeclared:
		*v = evidenceValue(s)
		return nil
	}
	return fmt.Errorf("%q is not an evidence mode; use verified or declared", s)
}

// The limits of redact_patterns: every text that arrives is searched for each
// of them.
const (
	maxPatterns     = 32
	maxPatternBytes = 512
)

// patternsValue is regular expressions, one a line.
type patternsValue []*regexp.Regexp

func (v *patternsValue) String() string {
	lines := make([]string, len(*v))
	for i, re := range *v {
		lines[i] = re.String()
	}
	return strings.Join(lines, "\n")
}

func (v *patternsValue) Set(s string) error {
	var out patternsValue
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if len(line) > maxPatternBytes {
			return fmt.Errorf("the expression that begins with %q is longer than %d bytes; split it into several lines", line[:32], maxPatternBytes)
		}
		re, err := regexp.Compile(line)
		if err != nil {
			return fmt.Errorf("%q is not an RE2 expression: %w; see https://github.com/google/re2/wiki/Syntax", line, err)
		}
		if re.MatchString("") {
			return fmt.Errorf("%q matches the empty text, so it would match everywhere; make it demand at least one character", line)
		}
		out = append(out, re)
	}
	if len(out) > maxPatterns {
		return fmt.Errorf("%d expressions are too many; at most %d, each of which may have alternatives: a|b", len(out), maxPatterns)
	}
	*v = out
	return nil
}

// mask keeps of an address what helps a person recognise it: scheme and host.
// Webhook paths and user names are often secrets.
func mask(address string) string {
	u, err := url.Parse(address)
	if address == "" || err != nil {
		return ""
	}
	if u.User == nil && strings.Trim(u.Path, "/") == "" && u.RawQuery == "" && u.Fragment == "" {
		return address
	}
	return u.Scheme + "://" + u.Host + "/****"
}

// baseURL parses an address that paths are appended to.
func baseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, errors.New("must be an http or https address with a host, for example http://127.0.0.1:9000")
	case u.User != nil:
		return nil, errors.New("must not contain a user name or a password; credentials are references, see replay.credentials")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("must not have a query or a fragment")
	}
	return u, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
