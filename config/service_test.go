package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMinimalDescriptionGetsDefaults(t *testing.T) {
	t.Parallel()
	s, err := config.Load("testdata/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if s.TenantHeader != "x-tenant-id" || s.SessionHeader != "x-session-id" || s.Targets.HealthPath != "/healthz" {
		t.Errorf("headers %q %q, health path %q", s.TenantHeader, s.SessionHeader, s.Targets.HealthPath)
	}
	if got := s.Components.ReleaseVersion.Actuator.Kind; got != config.ActuatorRouter {
		t.Errorf("release_version is changed by %q, want the router", got)
	}
	if !s.Rollout.HighRiskHITL || !slices.Equal(s.Rollout.TenantWhitelist, []string{"acme"}) ||
		!slices.Equal(s.Rollout.EnabledProjectSizes, headgate.ProjectSizes()) {
		t.Errorf("rollout %+v: want review enforced, every tenant and every size", s.Rollout)
	}

	s = s.Resolve(config.DefaultSettings())
	if s.Canary.Ratio != 0.1 || s.Canary.Duration != 30*time.Minute || s.Canary.MaxDuration != 2*time.Hour {
		t.Errorf("canary %+v: want the process's 10 %% for 30 minutes, held at most two hours", s.Canary)
	}
	for _, stage := range headgate.Stages() {
		if s.Deadline(stage) <= 0 {
			t.Errorf("stage %s has no deadline", stage)
		}
	}
	if s.Deadline(headgate.StageCanary) <= s.Canary.MaxDuration {
		t.Error("the canary's deadline comes before its longest hold ends")
	}
}

func TestFullDescriptionIsRead(t *testing.T) {
	t.Parallel()
	s, err := config.Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join("testdata", "replay", "suite.yaml"); s.Replay.Suite != want {
		t.Errorf("suite %q, want %q: paths are relative to the file", s.Replay.Suite, want)
	}
	if want := filepath.Join("testdata", "secrets", "globex"); s.Replay.Credentials["globex"].File != want {
		t.Errorf("credential file %q, want %q", s.Replay.Credentials["globex"].File, want)
	}
	if want := []string{"acme", "globex"}; !slices.Equal(s.Rollout.TenantWhitelist, want) {
		t.Errorf("whitelist %v, want it sorted", s.Rollout.TenantWhitelist)
	}
	if want := []headgate.ProjectSize{headgate.SizeSmall, headgate.SizeLarge}; !slices.Equal(s.Rollout.EnabledProjectSizes, want) {
		t.Errorf("sizes %v, want rollout order", s.Rollout.EnabledProjectSizes)
	}
	c := s.Resolve(config.DefaultSettings()).Canary
	if c.Ratio != 0.25 || c.Duration != 10*time.Minute || c.MaxDuration != time.Hour {
		t.Errorf("canary %+v: the description is more specific than the process and wins", c)
	}
	if got := s.RollbackDrill.Every; got.Duration() != 30*24*time.Hour || got.String() != "30d" {
		t.Errorf("a drill every %v", got)
	}
	var tiers []string
	for _, tier := range s.Resolve(config.DefaultSettings()).Rollout.Tiers {
		tiers = append(tiers, fmt.Sprint(tier.Tier, " ", tier.Share, " ", tier.Soak))
	}
	if want := []string{"whitelist 0.25 10m0s", "small 0.25 20m0s", "large 0.5 1m30s"}; !slices.Equal(tiers, want) {
		t.Errorf("tiers %v, want %v", tiers, want)
	}
	if got := s.Deadline(headgate.StageCanary); got != 2*time.Hour {
		t.Errorf("canary deadline %v, want what is written", got)
	}
}

func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	if _, err := config.Load("../examples/bidding/headgate.yaml"); err != nil {
		t.Error(err)
	}
}

func TestEveryProblemIsReportedWithItsLine(t *testing.T) {
	t.Parallel()
	_, err := config.Parse("headgate.yaml", read(t, "testdata/wrong.yaml"))
	var e *headgate.Error
	if !errors.As(err, &e) || e.Code != headgate.CodeConfigInvalid {
		t.Fatalf("error %v, want %s", err, headgate.CodeConfigInvalid)
	}
	const golden = "testdata/wrong.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(e.Message+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, golden)), e.Message+"\n"); diff != "" {
		t.Error(diff)
	}
	if list, ok := e.Details["problems"].([]config.Problem); !ok || len(list) != strings.Count(e.Message, "\n")+1 {
		t.Errorf("details %v: want one problem per line of the message", e.Details)
	}
}

// A change is one edit to testdata/minimal.yaml.
type change struct {
	name string
	// replace and with edit the text; an empty replace appends.
	replace, with string
	// schema and decoder say who must refuse the result; the decoder refuses
	// whatever the schema does.
	schema, decoder bool
	message         string
}

var changes = []change{
	{name: "nothing"},
	{name: "whole number as a share", with: "canary: {ratio: 1}"},
	{name: "fraction as a whole number", with: "canary: {consecutive_threshold: 3.0}"},
	{name: "JSON in YAML", with: `gates: {"window": "90s"}`},
	{name: "hook with address", replace: "{current: m1}", with: `{current: m1, actuator: {kind: hook, url: "http://127.0.0.1:1/m"}}`},

	{name: "unknown field", with: "canarry: {}", schema: true, decoder: true, message: `canarry: unknown field (did you mean "canary"?)`},
	{name: "unknown stage", with: "deadlines: {gated: 1m}", schema: true, decoder: true, message: `did you mean "gate_d"?`},
	{name: "missing field", replace: "owner: shop-team\n", schema: true, decoder: true, message: "owner: is missing"},
	{name: "null", replace: "shop-team", schema: true, decoder: true, message: "owner: is empty"},
	{name: "empty text", replace: "shop-team", with: `""`, schema: true, decoder: true, message: "owner: must not be empty"},
	{name: "number for text", replace: "v1.0.0}", with: "1.0}", schema: true, decoder: true, message: "put it in quotes"},
	{name: "text for number", with: `canary: {ratio: "0.1"}`, schema: true, decoder: true, message: "must be a number, not text"},
	{name: "yes for true", with: "canary: {approval_required: yes}", schema: true, decoder: true, message: "must be true or false"},
	{name: "share of zero", with: "canary: {ratio: 0}", schema: true, decoder: true, message: "must be above 0"},
	{name: "share above one", with: "canary: {ratio: 1.5}", schema: true, decoder: true, message: "must be at most 1"},
	{name: "half a failure", with: "canary: {consecutive_threshold: 1.5}", schema: true, decoder: true, message: "must be a whole number"},
	{name: "duration without unit", with: `gates: {window: "90"}`, schema: true, decoder: true, message: "for example 30s"},
	{name: "negative duration", with: `gates: {window: -5m}`, schema: true, decoder: true, message: "duration above zero"},
	{name: "list for map", with: "gates: []", schema: true, decoder: true, message: "must be a map, not a list"},
	{name: "no tenants", replace: "\n  - {id: acme, size: small}", with: " []", schema: true, decoder: true, message: "tenants: must not be empty"},
	{name: "wrong size", replace: "size: small", with: "size: tiny", schema: true, decoder: true, message: "not one of small, medium, large"},
	{name: "hook without address", replace: "{current: m1}", with: "{current: m1, actuator: {kind: hook}}", schema: true, decoder: true, message: "actuator.url: is missing"},
	{name: "secret instead of reference", with: "replay: {suite: s, tenant: acme, credentials: {acme: s3cret}}", schema: true, decoder: true, message: "must be a map, not text"},
	{name: "command line instead of arguments", with: "stages: {build: {run: make build}}", schema: true, decoder: true, message: "must be a list, not text"},

	{name: "NaN", with: "canary: {ratio: .nan}", decoder: true, message: "canary.ratio: must be a finite number"},
	{name: "infinity", with: "canary: {ratio: .inf}", decoder: true, message: "canary.ratio: must be a finite number"},
	{name: "duplicate key", with: "name: other", decoder: true, message: "name: is given twice"},
	{name: "anchor", with: "gates: &g {window: 1m}", decoder: true, message: "anchors and aliases are not read here"},
	{name: "unknown tenant in whitelist", with: "rollout: {tenant_whitelist: [acne]}", decoder: true, message: `did you mean "acme"?`},
	{name: "tenant twice", replace: "small}", with: "small}\n  - {id: acme, size: large}", decoder: true, message: `tenant "acme" is listed twice`},
	{name: "suite without tenant", with: "replay: {suite: s}", decoder: true, message: "replay.tenant: is missing"},
	{name: "other tenant is the tenant", with: "replay: {suite: s, tenant: acme, other_tenants: [acme]}", decoder: true, message: "is replay.tenant itself"},
	{name: "address without scheme", replace: "http://127.0.0.1:9000", with: "127.0.0.1:9000", decoder: true, message: "must be an http or https address"},
	{name: "address with password", replace: "http://127", with: "http://u:pw@127", decoder: true, message: "must not contain a user name"},
	{name: "candidate elsewhere", replace: "targets:", with: "targets:\n  candidate: {url: \"http://10.1.1.1:80\"}", decoder: true, message: "add it to targets.candidate_hosts"},
	{name: "wildcard host", replace: "targets:", with: "targets:\n  candidate_hosts: [\"*.example.com\"]", decoder: true, message: "is not a host"},
	{name: "longest hold below duration", with: "canary: {duration: 1h, max_duration: 1m}", decoder: true, message: "must not be shorter than canary.duration"},
	{name: "known placeholder", with: `stages: {build: {run: [make, "V={{version}}"]}}`},
	{name: "unknown placeholder", with: `stages: {build: {run: [make, "V={{verzion}}"]}}`, decoder: true, message: `stages.build.run[1]: {{verzion}} is not one of headgate, release_id, version, digest, staging_url, candidate_url (did you mean "version"?)`},
	{name: "kill below promise", with: "canary: {slo_error_rate: 0.1, kill_error_rate: 0.05}", decoder: true, message: "must be above canary.slo_error_rate"},
	{name: "duration of months", with: "gates: {window: 9999h}", decoder: true, message: "at most 28 days"},
	{name: "router for a model", replace: "{current: m1}", with: "{current: m1, actuator: {kind: router}}", decoder: true, message: "can only change release_version"},
	{name: "weights", with: "router: {gateway_api: {mode: weights, namespace: shop, route: a, tester: b}}"},
	{name: "a proxy for weights", with: "router: {gateway_api: {mode: weights, namespace: shop, route: a, proxy: \"http://p\"}}", decoder: true, message: "only for mode proxy"},
	{name: "no proxy", with: "router: {gateway_api: {namespace: shop, route: a}}", decoder: true, message: "router.gateway_api.proxy: is missing; mode proxy needs it"},
	{name: "no name of Kubernetes", with: "router: {gateway_api: {mode: weights, namespace: Shop, route: a}}", decoder: true, schema: true, message: "lower-case letters"},
	{name: "haproxy", with: "router: {haproxy: {dir: run, listen: \":8080\"}}"},
	{name: "haproxy nowhere", with: "router: {haproxy: {dir: run, listen: 8080 x}}", decoder: true, schema: true, message: "host:port"},
	{name: "haproxy without a directory", with: "router: {haproxy: {listen: \":8080\"}}", decoder: true, schema: true, message: "router.haproxy.dir: is missing"},
	{name: "haproxy and a name", replace: "http://127.0.0.1:9000\"}", with: "http://localhost:9000\"}\nrouter: {haproxy: {dir: run, listen: \":8080\"}}", decoder: true, message: "targets.stable.url: must be an address such as http://10.0.0.7:8080"},
	{name: "two routers", with: "router: {haproxy: {dir: run, listen: \":8080\"}, gateway_api: {mode: weights, namespace: shop, route: a}}", decoder: true, schema: true, message: "must have only one of gateway_api, haproxy"},
	{name: "address for a flag", replace: "{current: m1}", with: `{current: m1, actuator: {kind: flag, url: "http://a"}}`, decoder: true, message: "only for an actuator of kind hook"},
}

// The published schema and the decoder must agree: what the schema refuses the
// decoder refuses, and the decoder refuses more only where a schema has no
// words for it.
func TestSchemaAndDecoderAgree(t *testing.T) {
	t.Parallel()
	schema := compile(t)
	minimal := string(read(t, "testdata/minimal.yaml"))
	for _, tt := range changes {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := minimal + tt.with + "\n"
			if tt.replace != "" {
				text = strings.Replace(minimal, tt.replace, tt.with, 1)
			}
			_, err := config.Parse("headgate.yaml", []byte(text))
			if (err != nil) != tt.decoder {
				t.Errorf("decoder says %v, want refused = %v", err, tt.decoder)
			}
			if err != nil && !strings.Contains(err.Error(), tt.message) {
				t.Errorf("message %q does not contain %q", err, tt.message)
			}
			if err != nil && !strings.Contains(err.Error(), "headgate.yaml:") {
				t.Errorf("message %q names no line", err)
			}
			if value, ok := plain(text); ok {
				if err := schema.Validate(value); (err != nil) != tt.schema {
					t.Errorf("schema says %v, want refused = %v", err, tt.schema)
				}
			}
		})
	}
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("headgate.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("headgate.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plain reads YAML as an editor would, through JSON; what JSON cannot hold is
// not a question for a schema.
func plain(text string) (any, bool) {
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		return nil, false
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, false
	}
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(b))
	return v, err == nil
}

// Every field of the Go types is in the schema and the other way round.
func TestSchemaHasExactlyTheFields(t *testing.T) {
	t.Parallel()
	var schema map[string]any
	if err := json.Unmarshal(config.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	inGo := goPaths(reflect.TypeFor[config.Service](), "")
	inSchema := schemaPaths(schema, schema, "")
	for i, p := range inSchema {
		if strings.HasPrefix(p, "deadlines.") { // a map by stage in Go
			inSchema[i] = "deadlines"
		}
	}
	inGo = slices.DeleteFunc(inGo, func(p string) bool { // known for stable only
		return p == "targets.staging.version" || p == "targets.candidate.version"
	})
	slices.Sort(inGo)
	slices.Sort(inSchema)
	if diff := cmp.Diff(slices.Compact(inGo), slices.Compact(inSchema)); diff != "" {
		t.Errorf("Go (-) and schema (+) differ:\n%s", diff)
	}
}

func goPaths(t reflect.Type, at string) []string {
	switch {
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct,
		t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return goPaths(t.Elem(), at)
	case t.Kind() != reflect.Struct:
		return []string{at}
	}
	var out []string
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "-" {
			out = append(out, goPaths(t.Field(i).Type, strings.TrimPrefix(at+"."+name, "."))...)
		}
	}
	return out
}

func schemaPaths(root, s map[string]any, at string) []string {
	if ref, ok := s["$ref"].(string); ok {
		defs := root["$defs"].(map[string]any)
		s = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	for _, inside := range []string{"items", "additionalProperties"} {
		if sub, ok := s[inside].(map[string]any); ok {
			return schemaPaths(root, sub, at)
		}
	}
	properties, ok := s["properties"].(map[string]any)
	if !ok {
		return []string{at}
	}
	var out []string
	for name, sub := range properties {
		out = append(out, schemaPaths(root, sub.(map[string]any), strings.TrimPrefix(at+"."+name, "."))...)
	}
	return out
}

func TestParseRefusesWhatIsNotADescription(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, message string }{
		"empty":         {"", "is empty"},
		"only comments": {"# nothing\n", "is empty"},
		"not a map":     {"- a\n", "must be a map, not a list"},
		"two documents": {"a: 1\n---\nb: 2\n", "second document"},
		"syntax":        {"a: [1\n", "x.yaml:1:"},
		"tag":           {"name: !!binary aGk=\n", "tags are not read here"},
		"huge":          {strings.Repeat("#", 300<<10), "larger than"},
		"deep flow":     {strings.Repeat("[", 60<<10), "nested too deeply"},
		"deep block":    {strings.Repeat("- ", 30<<10), "nested too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Parse("x.yaml", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("error %v, want one with %q", err, tt.message)
			}
		})
	}
}

func TestLoadSaysWhichFileIsMissing(t *testing.T) {
	t.Parallel()
	_, err := config.Load(filepath.Join(t.TempDir(), "headgate.yaml"))
	if err == nil || !strings.Contains(err.Error(), "headgate.yaml") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestAllowCandidate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		hosts []string
		url   string
		ok    bool
	}{
		{nil, "http://127.0.0.1:9003", true},
		{nil, "http://127.8.8.8:1", true},
		{nil, "http://[::1]:9003", true},
		{nil, "http://localhost:9003", true},
		{nil, "http://10.0.0.1:80", false},
		{nil, "http://localhost.example.com", false},
		{nil, "http://127.0.0.1@10.0.0.1/", false},
		{nil, "file:///etc/passwd", false},
		{nil, "http://", false},
		{nil, "http://:80", false},
		{nil, "http://127.0.0.1:9003/?a=b", false},
		{[]string{"10.0.0.1:80"}, "http://10.0.0.1:80", true},
		{[]string{"10.0.0.1:80"}, "http://10.0.0.1:81", false},
		{[]string{"10.0.0.1"}, "https://10.0.0.1:81", true},
		{[]string{"Canary.internal"}, "http://canary.INTERNAL:81", true},
		{[]string{"10.0.0.1"}, "http://127.0.0.1:9003", false},
	} {
		err := config.Targets{CandidateHosts: tt.hosts}.AllowCandidate(tt.url)
		if (err == nil) != tt.ok {
			t.Errorf("hosts %v, %s: %v, want allowed = %v", tt.hosts, tt.url, err, tt.ok)
		}
	}
}

func TestSecretRefReadsWithoutTellingTheSecret(t *testing.T) {
	t.Setenv("SHOP_TOKEN", " s3cret\n")
	dir := t.TempDir()
	file, empty := filepath.Join(dir, "token"), filepath.Join(dir, "empty")
	for path, content := range map[string]string{file: "s3cret\n", empty: "\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []config.SecretRef{{Env: "SHOP_TOKEN"}, {File: file}} {
		if got, err := ref.Read(); err != nil || got != "s3cret" {
			t.Errorf("%+v: %q, %v", ref, got, err)
		}
	}
	for _, ref := range []config.SecretRef{{Env: "SHOP_TOKEN_UNSET"}, {File: empty}, {File: filepath.Join(dir, "none")}} {
		if _, err := ref.Read(); err == nil || !strings.Contains(err.Error(), ref.Env+ref.File) {
			t.Errorf("%+v: error %v does not name the place", ref, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"full", "minimal", "wrong"} {
		b, err := os.ReadFile("testdata/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a: &x [*x, .nan, !!int 3, {? [b] : c}]\n<<: *x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := config.Parse("headgate.yaml", data)
		if err == nil && (s.Name == "" || len(s.Tenants) == 0) {
			t.Errorf("accepted without name or tenants: %q", data)
		}
	})
}
