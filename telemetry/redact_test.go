package telemetry_test

import (
	"regexp"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate/telemetry"
)

func redactor(extra ...string) *telemetry.Redactor {
	patterns := make([]*regexp.Regexp, len(extra))
	for i, p := range extra {
		patterns[i] = regexp.MustCompile(p)
	}
	return telemetry.NewRedactor(patterns...)
}

func logs(body string, attrs map[string]any) (plog.Logs, plog.LogRecord) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "bidding")
	rl.Resource().Attributes().PutStr("service.version", "v2")
	rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	rec.Body().SetStr(body)
	_ = rec.Attributes().FromRaw(attrs)
	return ld, rec
}

func total(found map[telemetry.Source]telemetry.Search) (n int64) {
	for _, s := range found {
		n += s.Hits
	}
	return n
}

func TestSecretsInLogBodiesAreRedacted(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, secret string }{
		{"header", "GET /x Authorization: Bearer s3cr3t-value-1 accepted", "s3cr3t-value-1"},
		{"header in JSON", `{"authorization":"Basic dXNlcjpwYXNz"}`, "dXNlcjpwYXNz"},
		{"escaped JSON", `{"headers":"{\"cookie\":\"sid=abcdef123\"}"}`, "abcdef123"},
		{"cookie", "Set-Cookie: sid=abcdef123; HttpOnly", "abcdef123"},
		{"bearer alone", "using bearer abcdefgh12345678", "abcdefgh12345678"},
		{"JWT", "got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcDEF-_123 from client", "eyJzdWIiOiIxIn0"},
		{"private key", "key -----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY----- end", "MIIEabc"},
		{"cloud key", "aws AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"},
		{"forge token", "push with ghp_" + strings.Repeat("a1B2", 9), "a1B2a1B2"},
		{"password pair", "login user=bob password=hunter22 ok", "hunter22"},
		{"named token", "refresh_token: 'abc-def-ghi'", "abc-def-ghi"},
		{"URL", "dial postgres://app:p4ssw0rd@db:5432/x", "p4ssw0rd"},
		{"configured", "account ACC-12345678 charged", "ACC-12345678"},
	}
	r := redactor(`ACC-\d{8}`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ld, rec := logs(tt.body, nil)
			found := r.Logs(ld)
			if got := rec.Body().Str(); strings.Contains(got, tt.secret) || !strings.Contains(got, telemetry.Redacted) {
				t.Errorf("body is %q", got)
			}
			if total(found) == 0 {
				t.Error("the hit was not counted")
			}
		})
	}
}

func TestHarmlessTextIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := redactor()
	for _, body := range []string{
		"evaluation finished in 3.2s, basic checks passed",
		"authorization: [REDACTED]",
		"Authorization: Bearer ***",
		"password=[REDACTED] token=<redacted>",
		"input tokens: 1234, see https://example.com/a:b",
		"the cookie banner was shown",
		"投标文件解析完成，用时 3 秒",
	} {
		ld, rec := logs(body, nil)
		if n := total(r.Logs(ld)); n != 0 || rec.Body().Str() != body {
			t.Errorf("%q became %q with %d hits", body, rec.Body().Str(), n)
		}
	}
}

func TestSecretAttributesAreRedactedByName(t *testing.T) {
	t.Parallel()
	r := redactor()
	ld, rec := logs("request", map[string]any{
		"http.request.header.authorization": []any{"anything at all"},
		"Set-Cookie":                        "a=b",
		"nested":                            map[string]any{"password": "x1"},
		"gen_ai.usage.input_tokens":         int64(12),
		"url.path":                          "/api/v1/jobs",
		telemetry.AttrTenant:                "acme",
	})
	found := r.Logs(ld)
	want := telemetry.Source{Service: "bidding", Version: "v2", Tenant: "acme"}
	if len(found) != 1 || found[want].Hits != 3 {
		t.Errorf("found %v, want 3 for %v", found, want)
	}
	raw := rec.Attributes().AsRaw()
	if raw["url.path"] != "/api/v1/jobs" || raw["gen_ai.usage.input_tokens"] != int64(12) {
		t.Errorf("harmless attributes changed: %v", raw)
	}
}

func TestCleanSourceIsReportedAsLookedAt(t *testing.T) {
	t.Parallel()
	ld, _ := logs("fine", nil)
	found := redactor().Logs(ld)
	if n, ok := found[telemetry.Source{Service: "bidding", Version: "v2"}]; !ok || n != (telemetry.Search{Items: 1}) {
		t.Errorf("found %v, want the source with zero", found)
	}
}

func TestSecretsInSpansAreRedacted(t *testing.T) {
	t.Parallel()
	td := ptrace.NewTraces()
	span := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetName("GET /x?access_token=abcdef12345")
	span.Status().SetMessage("refused: password=hunter22")
	span.Events().AppendEmpty().Attributes().PutStr("exception.message", "token=abcdef99999")
	if n := total(redactor().Traces(td)); n != 3 {
		t.Errorf("%d hits, want 3", n)
	}
	if strings.Contains(span.Name()+span.Status().Message(), "hunter22") {
		t.Error("the secret is still there")
	}
}

func BenchmarkRedactSpan(b *testing.B) {
	r := redactor()
	td := ptrace.NewTraces()
	span := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetName("POST /api/v1/evaluations")
	for _, k := range []string{"http.request.method", "http.route", "url.path", "server.address", "tenant_id", "request_id", "job_id"} {
		span.Attributes().PutStr(k, "some/value-of-"+k)
	}
	for b.Loop() {
		r.Traces(td)
	}
}
