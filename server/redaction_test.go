package server_test

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/server"
)

// everywhere is telemetry of one trace with an account number wherever one is
// kept, each number another.
func everywhere(now time.Time) (bodies map[string]string, secrets []string) {
	secret := func() string {
		secrets = append(secrets, fmt.Sprintf("ACC-%08d", 31_000_000+len(secrets)))
		return secrets[len(secrets)-1]
	}
	number := func() string {
		secrets = append(secrets, fmt.Sprintf("4111%012d", len(secrets)))
		return secrets[len(secrets)-1]
	}
	text := func(key, value string) string {
		return fmt.Sprintf(`{"key":%q,"value":{"stringValue":%q}}`, key, value)
	}
	resource := func() string {
		return `{"resource":{"attributes":[` + text("service.name", "shop") + `,` + text("service.instance.id", "pod of "+secret()) + `]},`
	}
	attributes := func() string {
		return `"attributes":[` + text("account", secret()) + `,` +
			`{"key":"card","value":{"intValue":"` + number() + `"}},` +
			`{"key":"order","value":{"kvlistValue":{"values":[{"key":"accounts","value":{"arrayValue":{"values":[{"stringValue":"` + secret() + `"}]}}}]}}}]`
	}
	ids := `"traceId":"` + strings.Repeat("c", 32) + `","spanId":"00f067aa0ba902b7"`
	from, to := fmt.Sprint(now.UnixNano()), fmt.Sprint(now.UnixNano()+1000)
	return map[string]string{
		"traces": `{"resourceSpans":[` + resource() + `"scopeSpans":[{"spans":[{` + ids + `,"name":"charge ` + secret() + `","startTimeUnixNano":"` + from + `","endTimeUnixNano":"` + to + `",` + attributes() +
			`,"status":{"code":2,"message":"no funds on ` + secret() + `"},"events":[{"timeUnixNano":"` + from + `","name":"booked ` + secret() + `",` + attributes() + `}]}]}]}]}`,
		"logs": `{"resourceLogs":[` + resource() + `"scopeLogs":[{"logRecords":[` +
			`{` + ids + `,"timeUnixNano":"` + from + `","severityText":"` + secret() + `","eventName":"of ` + secret() + `","body":{"stringValue":"charged ` + secret() + `"},` + attributes() + `},` +
			`{` + ids + `,"timeUnixNano":"` + from + `","body":{"kvlistValue":{"values":[` + text("account", secret()) + `]}}}]}]}]}`,
		"metrics": `{"resourceMetrics":[` + resource() + `"scopeMetrics":[{"metrics":[` +
			`{"name":"charges","gauge":{"dataPoints":[{"asInt":"7","timeUnixNano":"` + from + `",` + attributes() + `}]}},` +
			`{"name":"charge.duration","unit":"s","histogram":{"aggregationTemporality":2,"dataPoints":[{"timeUnixNano":"` + from + `","count":"1","sum":1,"bucketCounts":["1","0"],"explicitBounds":[2],` + attributes() + `}]}}]}]}]}`,
	}, secrets
}

// What a person wrote into redact_patterns is in no file of the data folder and
// in no answer. The same telemetry to a server without the setting shows that
// this test would see it.
func TestConfiguredPatternsNeverReachTheDisk(t *testing.T) {
	t.Parallel()
	for name, patterns := range map[string][]*regexp.Regexp{
		"configured": {regexp.MustCompile(`ACC-\d{8}`), regexp.MustCompile(`\b4111(?P<s>\d{12})\b`)},
		"not":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startBare(t, func(o *server.Options) { o.Settings.RedactPatterns = patterns })
			bodies, secrets := everywhere(time.Now())
			for signal, body := range bodies {
				if status, said := w.ship(t, signal, w.token(t, access.Releaser), body); status != http.StatusOK || strings.Contains(said, "rejected") {
					t.Fatalf("%s: %d %s", signal, status, said)
				}
			}
			var kept strings.Builder // blocks and logs are compressed, so the files alone prove too little
			for _, path := range []string{
				"/api/v1/timeline?id=" + strings.Repeat("c", 32),
				"/prometheus/api/v1/series?match[]=" + url.QueryEscape(`{service_name="shop"}`),
			} {
				res, said := w.send(t, http.MethodGet, path, nil)
				if res.StatusCode != http.StatusOK {
					t.Fatalf("%s: %s", path, said)
				}
				kept.WriteString(said)
			}
			hits, _ := w.number(t, `sum(headgate_redaction_hits_total{service_name="shop"})`)
			dir := w.options.Settings.DataDir
			w.stop(t)
			if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				text, err := os.ReadFile(path)
				kept.Write(text)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for i, s := range secrets {
				if seen := strings.Contains(kept.String(), s); seen != (patterns == nil) {
					t.Errorf("secret %d of %d, %s: kept is %v", i, len(secrets), s, seen)
				}
			}
			if want := fmt.Sprint(len(secrets)); patterns != nil && hits != want {
				t.Errorf("%s hits counted, want %s", hits, want)
			}
		})
	}
}
