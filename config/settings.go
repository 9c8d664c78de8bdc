package config

import (
	"os"
	"regexp"
	"strings"
)

// EvidenceMode says whether a claim in a request counts by itself.
type EvidenceMode string

// The evidence modes. [EvidenceDeclared] is for development only.
const (
	EvidenceVerified EvidenceMode = "verified"
	EvidenceDeclared EvidenceMode = "declared"
)

// Settings are the settings of one headgate process.
type Settings struct {
	// OTLPEndpoint is where Headgate sends its own telemetry beside its own
	// store; empty sends it nowhere else.
	OTLPEndpoint string
	// MetricsNamespace prefixes the names of the service's metrics.
	MetricsNamespace string
	// AlertWebhook receives alerts. Its address may contain a secret.
	AlertWebhook string
	// CanaryRatio and CanaryDurationMin (whole minutes) hold for services
	// whose description does not say otherwise.
	CanaryRatio        float64
	CanaryDurationMin  int
	RollbackMaxMinutes int
	ReadinessRequired  bool

	DataDir      string
	Listen       string
	OTLPGRPC     string
	OTLPHTTP     string
	ProxyListen  string
	EvidenceMode EvidenceMode
	// EvidenceBucket keeps evidence files in an S3-compatible bucket; empty
	// keeps them in DataDir. The others say where it is.
	EvidenceBucket   string
	EvidenceEndpoint string
	EvidenceRegion   string
	EvidencePrefix   string
	TLSCert          string
	TLSKey           string

	// Metrics, Traces and Logs are servers of somebody else's; without a URL
	// there is none. Metrics are kept there instead of in the data folder,
	// traces and logs are looked for there too.
	Metrics, Traces, Logs Backend
	// Prices is the file of the price table of model calls.
	Prices string
	// TelemetryDays and TelemetryMB bound how long and how much of metrics and
	// of logs and traces is kept; 0 MB is no bound.
	TelemetryDays, TelemetryMB int
	// RedactPatterns are what is a secret in telemetry beside the built-in
	// kinds. None matches the empty text.
	RedactPatterns []*regexp.Regexp
	// Dictionary is the folder with more metric definitions.
	Dictionary string

	// URL and TokenFile are how the client finds and persuades the server.
	URL       string
	TokenFile string

	origins map[string]string
}

// Backend is a server of somebody else's.
type Backend struct {
	// URL may contain a secret.
	URL string
	// API is what it speaks, for traces "tempo" or "jaeger", for logs "loki" or
	// "victorialogs".
	API       string
	TokenFile string
}

// DefaultSettings returns the settings of a process that was told nothing.
func DefaultSettings() Settings {
	return Settings{
		MetricsNamespace:   "bea",
		CanaryRatio:        0.1,
		CanaryDurationMin:  30,
		RollbackMaxMinutes: 30,
		TelemetryDays:      15,
		ReadinessRequired:  true,
		DataDir:            "headgate-data",
		Listen:             "127.0.0.1:8080",
		OTLPGRPC:           "127.0.0.1:4317",
		OTLPHTTP:           "127.0.0.1:4318",
		ProxyListen:        "127.0.0.1:8081",
		EvidenceMode:       EvidenceVerified,
		EvidenceEndpoint:   "https://s3.amazonaws.com",
		EvidenceRegion:     "us-east-1",
		Traces:             Backend{API: "tempo"},
		Logs:               Backend{API: "loki"},
		URL:                "http://127.0.0.1:8080",
	}
}

// Sources are where settings come from, weakest first.
type Sources struct {
	// File is a YAML file of settings; empty reads none.
	File string
	// Environ holds "NAME=value" lines, as os.Environ returns them.
	Environ []string
	// Flags holds the flags that were given, by name without dashes.
	Flags map[string]string
}

// LoadSettings puts defaults, file, environment and flags together, in this
// order. An empty variable counts as unset. Any bad value is an error that
// names the flag, the variable or the line, and all of them are reported at
// once.
func LoadSettings(src Sources) (Settings, error) {
	s := DefaultSettings()
	s.origins = map[string]string{}
	var found problems
	if src.File != "" {
		data, err := os.ReadFile(src.File)
		if err != nil {
			return Settings{}, invalidf("settings file: %w", err)
		}
		s.applyFile(src.File, data, &found)
	}
	s.applyEnviron(src.Environ, &found)
	s.applyFlags(src.Flags, &found)
	s.check(&found)
	if err := found.err(); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// Setting describes one setting for help, flags and documentation.
type Setting struct {
	// Key is the name in a settings file, Variable the environment variable
	// and Flag the flag without dashes.
	Key, Variable, Flag string
	Default             string
	Help                string
	// Client is true for a setting of the commands that ask a server; all
	// others are the server's.
	Client bool
}

// DescribeSettings returns every setting in the order of the documentation.
func DescribeSettings() []Setting {
	s := DefaultSettings()
	all := s.fields()
	out := make([]Setting, len(all))
	for i, f := range all {
		out[i] = Setting{Key: f.key, Variable: f.variable, Flag: f.flag(), Default: f.value.String(), Help: f.help, Client: f.client}
	}
	return out
}

// Value is a setting's value and where it came from.
type Value struct {
	Key, Variable string
	// Value is masked where it may contain a secret.
	Value string
	// Origin is "default", "file:line", the variable or the flag.
	Origin string
}

// Values returns every setting with its origin, for `headgate config show`.
func (s Settings) Values() []Value {
	all := s.fields()
	out := make([]Value, len(all))
	for i, f := range all {
		v := Value{Key: f.key, Variable: f.variable, Value: f.value.String(), Origin: "default"}
		if f.secret {
			v.Value = mask(v.Value)
		}
		if o, ok := s.origins[f.key]; ok {
			v.Origin = o
		}
		out[i] = v
	}
	return out
}

func (s *Settings) applyEnviron(environ []string, found *problems) {
	given := make(map[string]string, len(environ))
	for _, line := range environ {
		if name, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(value) != "" {
			given[name] = strings.TrimSpace(value)
		}
	}
	for _, f := range s.fields() {
		if v, ok := given[f.variable]; ok {
			s.set(f, v, f.variable, Problem{Field: f.variable}, found)
		}
	}
}

func (s *Settings) applyFlags(flags map[string]string, found *problems) {
	known := map[string]bool{}
	for _, f := range s.fields() {
		known[f.flag()] = true
		if v, ok := flags[f.flag()]; ok {
			s.set(f, v, "--"+f.flag(), Problem{Field: "--" + f.flag()}, found)
		}
	}
	for name := range flags {
		if !known[name] {
			found.add(Problem{Field: "--" + name, Message: "unknown setting"})
		}
	}
}

// set parses v into the field and remembers its origin; where names the place
// in case v is bad.
func (s *Settings) set(f field, v, origin string, where Problem, found *problems) {
	if err := f.value.Set(v); err != nil {
		where.Message = err.Error()
		found.add(where)
		return
	}
	s.origins[f.key] = origin
}

// check looks at what only makes sense together.
func (s *Settings) check(found *problems) {
	for i, b := range []Backend{s.Metrics, s.Traces, s.Logs} {
		if b.TokenFile != "" && b.URL == "" {
			name := []string{"metrics", "traces", "logs"}[i]
			found.add(Problem{
				Field: "HEADGATE_" + strings.ToUpper(name) + "_URL", Message: "is needed because " + name + "_token_file is set",
			})
		}
	}
	if (s.TLSCert == "") == (s.TLSKey == "") {
		return
	}
	set, unset := "tls_cert", "tls_key"
	variable := "HEADGATE_TLS_KEY"
	if s.TLSCert == "" {
		set, unset, variable = unset, set, "HEADGATE_TLS_CERT"
	}
	found.add(Problem{Field: variable, Message: "is needed because " + set + " is set; TLS takes both " + set + " and " + unset})
}
