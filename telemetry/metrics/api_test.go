package metrics_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/metrics"
)

// apiServer serves a store; the bearer token is the tenant.
func apiServer(t *testing.T, s *metrics.Store) *httptest.Server {
	t.Helper()
	h := s.Handler(func(r *http.Request) (string, error) {
		tenant, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			return "", headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive, "a credential is required")
		}
		if tenant == "operator" {
			return "", nil
		}
		return tenant, nil
	})
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func get(t *testing.T, srv *httptest.Server, token, path string, form url.Values) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/api/v1/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v any
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func twoTenants(t *testing.T, now time.Time) *metrics.Store {
	t.Helper()
	s := open(t, t.TempDir(), metrics.Options{})
	mustAppend(t, s, "", export("v1", now).
		counter("x", 1, map[string]any{"tenant_id": "acme", "acme_label": "a"}).
		counter("x", 2, map[string]any{"tenant_id": "globex", "secret_label": "globex-secret"}))
	return s
}

func TestQueryAPIAnswersAsPrometheusDoes(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(time.Now().UnixMilli())
	srv := apiServer(t, twoTenants(t, now))
	sec := fmt.Sprintf("%.3f", float64(now.UnixMilli())/1000)
	number := strings.TrimRight(strings.TrimRight(sec, "0"), ".")
	tests := []struct {
		path string
		form url.Values
		want string
	}{
		{"query", url.Values{"query": {"sum(x_total)"}, "time": {sec}},
			`{"data":{"result":[{"metric":{},"value":[` + number + `,"3"]}],"resultType":"vector"},"status":"success"}`},
		{"query", url.Values{"query": {"1/0"}, "time": {sec}},
			`{"data":{"result":[` + number + `,"+Inf"],"resultType":"scalar"},"status":"success"}`},
		{"query_range", url.Values{"query": {"max(x_total)"}, "start": {sec}, "end": {sec}, "step": {"15s"}},
			`{"data":{"result":[{"metric":{},"values":[[` + number + `,"2"]]}],"resultType":"matrix"},"status":"success"}`},
		{"label/tenant_id/values", nil, `{"data":["acme","globex"],"status":"success"}`},
		{"series", url.Values{"match[]": {`x_total{tenant_id="acme"}`, `x_total{acme_label="a"}`}},
			`{"data":[{"__name__":"x_total","acme_label":"a","deployment_environment_name":"production","instance":"i-1","job":"bidding","service_name":"bidding","service_version":"v1","tenant_id":"acme"}],"status":"success"}`},
		{"series", url.Values{"match[]": {"x_total"}, "end": {fmt.Sprint(now.Unix() - 3600)}}, `{"data":[],"status":"success"}`},
		{"metadata", url.Values{"metric": {"x_total"}}, `{"data":{"x_total":[{"help":"","type":"counter","unit":""}]},"status":"success"}`},
		{"rules", nil, `{"data":{"groups":[]},"status":"success"}`},
		{"alerts", nil, `{"data":{"alerts":[]},"status":"success"}`},
	}
	for _, tt := range tests {
		status, got := get(t, srv, "operator", tt.path, tt.form)
		// Large numbers lose their exponent form in a comparison by text.
		var a, b any
		_ = json.Unmarshal([]byte(got), &a)
		_ = json.Unmarshal([]byte(tt.want), &b)
		if diff := cmp.Diff(b, a); status != http.StatusOK || diff != "" {
			t.Errorf("%s: %d %s", tt.path, status, diff)
		}
	}
}

func TestTenantSeesOnlyItself(t *testing.T) {
	t.Parallel()
	now := time.Now()
	srv := apiServer(t, twoTenants(t, now))
	for _, query := range []string{
		`x_total`, `{__name__=~".+"}`, `x_total{tenant_id="globex"}`, `x_total{tenant_id=~".*"}`, `sum by (tenant_id, secret_label) (x_total)`,
		`max_over_time(x_total[5m])`, `x_total offset 1s or x_total`, `label_replace(x_total, "a", "$1", "secret_label", "(.*)")`,
		`max_over_time(max(x_total)[1m:10s])`, `x_total unless on() vector(0)`, `topk(1, x_total)`, `count_values("v", x_total)`,
	} {
		for _, path := range []string{"query", "query_range"} {
			form := url.Values{"query": {query}, "start": {now.Format(time.RFC3339)}, "end": {now.Add(time.Second).Format(time.RFC3339)}, "step": {"1s"}}
			status, got := get(t, srv, "acme", path, form)
			if status != http.StatusOK && status != http.StatusBadRequest || strings.Contains(got, "globex") || strings.Contains(got, `,"2"]`) {
				t.Errorf("%s %s: %d %s", path, query, status, got)
			}
		}
	}
	for path, form := range map[string]url.Values{
		"series":                    {"match[]": {"x_total", `{tenant_id="globex"}`}},
		"labels":                    nil,
		"label/tenant_id/values":    nil,
		"label/secret_label/values": {"match[]": {`{tenant_id="globex"}`}},
	} {
		status, got := get(t, srv, "acme", path, form)
		if status != http.StatusOK || strings.Contains(got, "globex") || strings.Contains(got, "secret_label") {
			t.Errorf("%s: %d %s", path, status, got)
		}
	}
	if status, got := get(t, srv, "acme", "labels", nil); status != http.StatusOK || !strings.Contains(got, "acme_label") {
		t.Errorf("own labels: %d %s", status, got)
	}
}

// What a tenant calls its metrics, and says of them, is nobody else's to read.
func TestMetadataIsTheTenantsOwn(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), metrics.Options{})
	for tenant, help := range map[string]string{"acme": "of acme", "globex": "of globex"} {
		b := export("v1", time.Now()).counter("shared", 1, nil).counter("only."+tenant, 1, nil)
		for _, m := range b.scope.Metrics().All() {
			m.SetDescription(help)
		}
		mustAppend(t, s, tenant, b)
	}
	mustAppend(t, s, "", export("v1", time.Now()).counter("plain", 1, nil))
	srv := apiServer(t, s)
	const info = `{"data":{%s},"status":"success"}`
	of := func(name, tenant string) string {
		return fmt.Sprintf(`"%s_total":[{"help":"of %s","type":"counter","unit":""}]`, name, tenant)
	}
	const both = `"shared_total":[{"help":"of acme","type":"counter","unit":""},{"help":"of globex","type":"counter","unit":""}]`
	for who, want := range map[string]string{
		"acme":     of("only_acme", "acme") + "," + of("shared", "acme"),
		"globex":   of("only_globex", "globex") + "," + of("shared", "globex"),
		"initech":  "",
		"operator": of("only_acme", "acme") + "," + of("only_globex", "globex") + `,"plain_total":[{"help":"","type":"counter","unit":""}],` + both,
	} {
		if status, got := get(t, srv, who, "metadata", nil); status != http.StatusOK || got != fmt.Sprintf(info, want) {
			t.Errorf("%s: %d %s", who, status, got)
		}
		if _, got := get(t, srv, who, "label/__name__/values", nil); who != "operator" && strings.Contains(got, "only_") != strings.Contains(got, "only_"+who) {
			t.Errorf("%s reads names of others: %s", who, got)
		}
	}
	if _, got := get(t, srv, "acme", "metadata", url.Values{"metric": {"only_globex_total"}}); got != fmt.Sprintf(info, "") {
		t.Errorf("acme asks for globex's: %s", got)
	}
}

func TestHostileTenantNameCannotWidenAQuery(t *testing.T) {
	t.Parallel()
	s := twoTenants(t, time.Now())
	q, err := metrics.Enforce(`sum(x_total)`, `acme"} or x_total{tenant_id="globex`)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Number(t.Context(), q, time.Now()); ok || err != nil {
		t.Errorf("%s found something, %v", q, err)
	}
}

func TestQueryAPIRefusals(t *testing.T) {
	t.Parallel()
	srv := apiServer(t, twoTenants(t, time.Now()))
	for _, tt := range []struct {
		token, path string
		form        url.Values
		want        int
	}{
		{"", "query", url.Values{"query": {"1"}}, http.StatusUnauthorized},
		{"operator", "query", nil, http.StatusBadRequest},
		{"operator", "query", url.Values{"query": {"sum("}}, http.StatusBadRequest},
		{"acme", "query", url.Values{"query": {"sum("}}, http.StatusBadRequest},
		{"operator", "query", url.Values{"query": {"1"}, "time": {"yesterday"}}, http.StatusBadRequest},
		{"operator", "query", url.Values{"query": {"1"}, "timeout": {"-1"}}, http.StatusBadRequest},
		{"operator", "query_range", url.Values{"query": {"1"}, "start": {"1"}, "end": {"1e9"}, "step": {"1"}}, http.StatusBadRequest},
		{"operator", "query_range", url.Values{"query": {"1"}, "start": {"1"}, "end": {"2"}, "step": {"0"}}, http.StatusBadRequest},
		{"operator", "query_range", url.Values{"query": {"1"}, "start": {"NaN"}, "end": {"2"}, "step": {"1"}}, http.StatusBadRequest},
		{"operator", "series", nil, http.StatusBadRequest},
		{"operator", "series", url.Values{"match[]": {"{"}}, http.StatusBadRequest},
	} {
		if status, body := get(t, srv, tt.token, tt.path, tt.form); status != tt.want || !strings.Contains(body, `"errorType"`) {
			t.Errorf("%s %v: %d %s", tt.path, tt.form, status, body)
		}
	}
}
