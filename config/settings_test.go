package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/headgate/headgate/config"
)

func load(t *testing.T, file string, environ []string, flags map[string]string) (config.Settings, error) {
	t.Helper()
	src := config.Sources{Environ: environ, Flags: flags}
	if file != "" {
		src.File = filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(src.File, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config.LoadSettings(src)
}

func TestContractDefaults(t *testing.T) {
	t.Parallel()
	s, err := load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Settings{
		MetricsNamespace: "bea", CanaryRatio: 0.1, CanaryDurationMin: 30, RollbackMaxMinutes: 30, TelemetryDays: 15, ReadinessRequired: true,
		DataDir: "headgate-data", Listen: "127.0.0.1:8080", OTLPGRPC: "127.0.0.1:4317", OTLPHTTP: "127.0.0.1:4318",
		ProxyListen: "127.0.0.1:8081", EvidenceMode: config.EvidenceVerified, URL: "http://127.0.0.1:8080",
		EvidenceEndpoint: "https://s3.amazonaws.com", EvidenceRegion: "us-east-1",
		Traces: config.Backend{API: "tempo"}, Logs: config.Backend{API: "loki"},
	}
	if diff := cmp.Diff(want, s, cmpopts.IgnoreUnexported(config.Settings{})); diff != "" {
		t.Error(diff)
	}
}

func TestStrongerSourceWinsAndIsNamed(t *testing.T) {
	t.Parallel()
	s, err := load(t, "# mine\ncanary_ratio: 0.2\nrollback_max_minutes: 20\nlisten: 127.0.0.1:1\nreadiness_required: off\n",
		[]string{"RELEASE_CANARY_RATIO=0.3", "HEADGATE_LISTEN=127.0.0.1:2", "ROLLBACK_MAX_MINUTES=", "OTHER=x"},
		map[string]string{"listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if s.RollbackMaxMinutes != 20 || s.CanaryRatio != 0.3 || s.Listen != "127.0.0.1:3" || s.ReadinessRequired {
		t.Errorf("got %+v", s)
	}
	origins := map[string]string{}
	for _, v := range s.Values() {
		origins[v.Key] = v.Origin
	}
	for key, want := range map[string]string{
		"data": "default", "canary_ratio": "RELEASE_CANARY_RATIO", "listen": "--listen",
	} {
		if origins[key] != want {
			t.Errorf("%s comes from %q, want %q", key, origins[key], want)
		}
	}
	if got := origins["rollback_max_minutes"]; !strings.HasSuffix(got, "settings.yaml:3") {
		t.Errorf("rollback_max_minutes comes from %q, want file and line: an empty variable counts as unset", got)
	}
}

func TestRedactPatternsAreOneALine(t *testing.T) {
	t.Parallel()
	const want = `ACC-\d{8}` + "\n" + `card (?P<s>\d{16})`
	for source, s := range map[string]func() (config.Settings, error){
		"file": func() (config.Settings, error) {
			return load(t, "redact_patterns: |\n  ACC-\\d{8}\n\n  card (?P<s>\\d{16})\n", nil, nil)
		},
		"variable": func() (config.Settings, error) {
			return load(t, "", []string{"HEADGATE_REDACT_PATTERNS=" + want}, nil)
		},
		"flag": func() (config.Settings, error) {
			return load(t, "", nil, map[string]string{"redact-patterns": want})
		},
	} {
		got, err := s()
		if err != nil || len(got.RedactPatterns) != 2 || !got.RedactPatterns[1].MatchString("card 4111111111111111") {
			t.Errorf("%s: %v, %v", source, got.RedactPatterns, err)
		}
		for _, v := range got.Values() {
			if v.Key == "redact_patterns" && v.Value != want {
				t.Errorf("%s: shown as %q, want %q", source, v.Value, want)
			}
		}
	}
}

func TestBooleans(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"true": true, "1": true, "yes": true, "on": true, "TRUE": true, " Yes ": true,
		"false": false, "0": false, "no": false, "off": false, "No": false,
		"": true, "  ": true, // unset: the default
	} {
		s, err := load(t, "", []string{"P6_READINESS_REQUIRED=" + text}, nil)
		if err != nil || s.ReadinessRequired != want {
			t.Errorf("%q: %v, %v, want %v", text, s.ReadinessRequired, err, want)
		}
	}
}

func TestBadValueIsRefusedByTheNameItWasGivenUnder(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"P6_READINESS_REQUIRED=maybe", "P6_READINESS_REQUIRED=2",
		"RELEASE_CANARY_RATIO=0", "RELEASE_CANARY_RATIO=1.01", "RELEASE_CANARY_RATIO=NaN", "RELEASE_CANARY_RATIO=inf",
		"RELEASE_CANARY_RATIO=10%", "RELEASE_CANARY_RATIO=-0.1",
		"RELEASE_CANARY_DURATION_MIN=0", "RELEASE_CANARY_DURATION_MIN=1.5", "RELEASE_CANARY_DURATION_MIN=30m",
		"ROLLBACK_MAX_MINUTES=-1", "ROLLBACK_MAX_MINUTES=99999999999999999999",
		"OBS_METRICS_NAMESPACE=9bea", "OBS_METRICS_NAMESPACE=be-a",
		"OTEL_EXPORTER_OTLP_ENDPOINT=localhost", "OBS_ALERT_WEBHOOK=ftp://x",
		"HEADGATE_LISTEN=8080", "HEADGATE_LISTEN=127.0.0.1:http", "HEADGATE_LISTEN=127.0.0.1:70000",
		"HEADGATE_EVIDENCE_MODE=trusting", "HEADGATE_TLS_KEY=key.pem",
		"HEADGATE_REDACT_PATTERNS=(", "HEADGATE_REDACT_PATTERNS=a\n(?=b)", "HEADGATE_REDACT_PATTERNS=x*", "HEADGATE_REDACT_PATTERNS=a|",
		"HEADGATE_REDACT_PATTERNS=" + strings.Repeat("a", 513), "HEADGATE_REDACT_PATTERNS=" + strings.Repeat("a\n", 33),
	} {
		_, err := load(t, "", []string{bad}, nil)
		name, _, _ := strings.Cut(bad, "=")
		name = strings.Replace(name, "HEADGATE_TLS_KEY", "HEADGATE_TLS_CERT", 1) // the one that is missing
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%s: error %v does not name the variable", bad, err)
		}
	}
}

func TestAllBadSettingsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := load(t, "canary_ration: 0.1\nlisten:\ndata: [x]\notlp_grpc: \"4317\"\n",
		[]string{"ROLLBACK_MAX_MINUTES=soon"}, map[string]string{"evidence-mode": "none", "colour": "red"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`settings.yaml:1: canary_ration: unknown setting (did you mean "canary_ratio"?)`,
		"settings.yaml:2: listen: is empty",
		"settings.yaml:3: data: must be a single value",
		`settings.yaml:4: otlp_grpc: "4317" is not an address`,
		"ROLLBACK_MAX_MINUTES: ", "--evidence-mode: ", "--colour: unknown setting",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from:\n%v", want, err)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	environ := []string{
		"OBS_ALERT_WEBHOOK=https://hooks.example.com/services/T0/B0/s3cret",
		"OTEL_EXPORTER_OTLP_ENDPOINT=https://user:s3cret@otlp.example.com",
		"HEADGATE_URL=http://127.0.0.1:9999",
	}
	s, err := load(t, "", environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, v := range s.Values() {
		if strings.Contains(v.Value, "s3cret") {
			t.Errorf("%s shows its secret: %s", v.Key, v.Value)
		}
		shown[v.Key] = v.Value
	}
	if shown["alert_webhook"] != "https://hooks.example.com/****" || shown["url"] != "http://127.0.0.1:9999" {
		t.Errorf("shown %v: want host kept and what is no secret unchanged", shown)
	}
	_, err = load(t, "", []string{"OBS_ALERT_WEBHOOK=hooks.example.com/s3cret"}, nil)
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v: want one without the value", err)
	}
}

// docs/configuration.md lists the settings; the table there is made from them.
func TestDocumentedSettings(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../docs/configuration.md", "<!-- settings -->\n", "<!-- /settings -->"
	var table strings.Builder
	table.WriteString("\n| variable | settings file | flag | default | meaning |\n|---|---|---|---|---|\n")
	for _, s := range config.DescribeSettings() {
		fallback := "unset"
		if s.Default != "" {
			fallback = "`" + s.Default + "`"
		}
		table.WriteString("| `" + s.Variable + "` | `" + s.Key + "` | `--" + s.Flag + "` | " + fallback + " | " + s.Help + " |\n")
	}
	table.WriteString("\n")
	doc := string(read(t, path))
	head, rest, found := strings.Cut(doc, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has lost its markers %q", path, begin+end)
	}
	want := head + begin + table.String() + end + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Errorf("%s is not current; run go test ./config -update\n%s", path, diff)
	}
}
